//! Calls that wait at a cap, and the places that become free.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use evenkeel::{
    Balance, Endpoint, Error,
    discovery::Update,
    node::Link,
    policy::{Keyed, Pick, PickContext, Picker, Policy, Rendezvous, RoundRobin, Tier},
    pool::{MakeEndpoint, Settings, TestBed},
};
use futures::{FutureExt, future::join_all};
use tokio::{sync::oneshot, task::JoinHandle};
use tower::{ServiceExt, util::MapRequest};

use crate::{
    Balancer, SECOND,
    support::{
        self, Ask, Feed, Managed, Mood, Plain, Road, World, endpoints, feed, guard, in_flight,
        name, now, quiet, set,
    },
};

type Call = tower::util::Oneshot<Balancer, Ask>;
type Answer = Result<String, Error>;
type Served = JoinHandle<Answer>;

/// Endpoints of which each takes one request at a time, and one more, 99, whose dial never ends, so
/// that there is something to wait for.
struct Scene {
    world: Arc<World>,
    feed: Feed,
    balance: Balancer,
}

/// A call that is polled by hand, and counts how often it is woken.
struct Waiter {
    call: Pin<Box<dyn Future<Output = Answer>>>,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Scene {
    async fn of(endpoints: u16) -> Self {
        let world = World::new();
        world.roads(Road::UpAfter(Duration::ZERO));
        world.road(99, Road::Lost);
        let (feed, source) = feed();
        let balance = Balance::builder(source)
            .policy(RoundRobin::new())
            .max_in_flight(1)
            .wait_for_endpoints(1_000 * SECOND)
            .complete_at_response()
            .make(Managed(Arc::clone(&world)))
            .unwrap();
        feed.say(listed(endpoints));
        quiet().await;
        Self { world, feed, balance }
    }

    /// Takes a place, and says on which endpoint; what it holds ends with the gate.
    async fn take(&self) -> (String, oneshot::Sender<()>, Served) {
        let before = self.balance.status();
        let (gate, ask) = Ask::held();
        let served = tokio::spawn(self.balance.clone().oneshot(ask));
        quiet().await;
        let after = self.balance.status();
        let mut pairs = before.endpoints.iter().zip(&after.endpoints);
        let taken = pairs.find(|(before, after)| after.in_flight > before.in_flight);
        (taken.unwrap().1.endpoint.to_string(), gate, served)
    }

    fn waiter(&self, ask: Ask) -> Waiter {
        Waiter::new(self.balance.clone().oneshot(ask))
    }

    /// Those of `waiters` that have been woken, and how often.
    async fn woken(waiters: &VecDeque<Waiter>) -> Vec<u32> {
        quiet().await;
        waiters.iter().map(|waiter| waiter.wakes.0.load(Ordering::SeqCst)).collect()
    }
}

impl Waiter {
    fn new(call: impl Future<Output = Answer> + 'static) -> Self {
        let mut waiter = Self { call: Box::pin(call), wakes: Arc::default() };
        assert!(waiter.poll().is_none());
        waiter
    }

    fn poll(&mut self) -> Option<Answer> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        match self.call.as_mut().poll(&mut Context::from_waker(&waker)) {
            std::task::Poll::Ready(result) => Some(result),
            std::task::Poll::Pending => None,
        }
    }
}

fn listed(endpoints: u16) -> Update {
    set((1..=endpoints).chain([99]))
}

/// A call that waits while all places are taken has one as soon as it is free, in the order in which
/// they came, and not only when a connection comes up.
#[tokio::test(start_paused = true)]
async fn r9_a_place_that_becomes_free_goes_to_the_first_who_waits() {
    let scene = Scene::of(1).await;
    let (_, gate, held) = scene.take().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let calls: Vec<_> = (0..50)
        .map(|i| {
            let (order, balance) = (Arc::clone(&order), scene.balance.clone());
            tokio::spawn(async move {
                let answer = balance.oneshot(Ask::default()).await.unwrap();
                order.lock().unwrap().push(i);
                answer
            })
        })
        .collect();
    quiet().await;
    assert_eq!(scene.balance.status().waiting, 50);
    let start = now();
    drop(gate);
    for call in join_all(calls).await {
        assert_eq!(call.unwrap(), name(1));
    }
    assert_eq!(now(), start, "nobody waited for a clock");
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    assert!(held.await.unwrap().is_err());
    assert_eq!((scene.balance.status().waiting, in_flight(&scene.balance.status())), (0, 0));
}

/// Who waits has a place on whichever of several full endpoints has one first.
#[tokio::test(start_paused = true)]
async fn r9_a_place_on_any_endpoint_will_do() {
    let scene = Scene::of(3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(scene.take().await);
    }
    let calls = (0..3).map(|_| {
        let (gate, ask) = Ask::held();
        (gate, tokio::spawn(scene.balance.clone().oneshot(ask)))
    });
    let calls: Vec<_> = calls.collect();
    quiet().await;
    assert_eq!(scene.balance.status().waiting, 3);
    // In another order than they were taken in.
    held.rotate_left(1);
    let mut places = Vec::new();
    for (at, (place, gate, _)) in held.into_iter().enumerate() {
        gate.send(()).unwrap();
        quiet().await;
        let status = scene.balance.status();
        assert_eq!(
            (status.waiting, in_flight(&status)),
            (2 - at, 3),
            "it has the place on {place}"
        );
        places.push(place);
    }
    for ((gate, call), place) in calls.into_iter().zip(&places) {
        gate.send(()).unwrap();
        assert_eq!(call.await.unwrap().unwrap(), *place, "the first that came has the first place");
    }
    places.sort();
    assert_eq!(places, [name(1), name(2), name(3)]);
}

/// No herd: a place that becomes free wakes one of those who wait. One that goes before it has looked
/// leaves it to the next, and one that was too late keeps its turn.
#[tokio::test(start_paused = true)]
async fn t6_a_place_that_becomes_free_wakes_one_and_is_passed_on() {
    let scene = Scene::of(1).await;
    let (_, gate, _) = scene.take().await;
    let mut gates = VecDeque::new();
    let mut waiters: VecDeque<_> = (0..6)
        .map(|_| {
            let (gate, ask) = Ask::held();
            gates.push_back(gate);
            scene.waiter(ask)
        })
        .collect();
    assert_eq!(Scene::woken(&waiters).await, [0; 6]);
    drop(gate);
    assert_eq!(Scene::woken(&waiters).await, [1, 0, 0, 0, 0, 0]);
    // It goes without a look: the next is told.
    waiters.pop_front();
    assert_eq!(Scene::woken(&waiters).await, [1, 0, 0, 0, 0]);
    assert!(waiters[0].poll().is_none());
    assert_eq!(in_flight(&scene.balance.status()), 1);
    assert_eq!(Scene::woken(&waiters).await, [1, 0, 0, 0, 0], "who has a place wakes nobody");
    // Dropped with the place, it leaves that to the next.
    waiters.pop_front();
    assert_eq!(Scene::woken(&waiters).await, [1, 0, 0, 0]);
    // A call that comes now is faster. Who was told finds nothing, wakes nobody, and is told again.
    let (place, gate, _) = scene.take().await;
    assert_eq!(place, name(1));
    assert!(waiters[0].poll().is_none());
    assert_eq!(Scene::woken(&waiters).await, [1, 0, 0, 0]);
    drop(gate);
    assert_eq!(Scene::woken(&waiters).await, [2, 0, 0, 0]);
    assert!(waiters[0].poll().is_none());
    gates.drain(..3);
    quiet().await;
    assert_eq!(Scene::woken(&waiters).await, [3, 0, 0, 0], "its gate has opened");
    assert!(waiters[0].poll().is_some());
    assert_eq!(Scene::woken(&waiters).await, [3, 1, 0, 0]);
    drop(waiters);
    assert_eq!((scene.balance.status().waiting, in_flight(&scene.balance.status())), (0, 0));
}

/// A call that has tried an endpoint is not told of places there.
#[tokio::test(start_paused = true)]
async fn r9_a_place_is_no_news_to_those_who_have_tried_its_endpoint() {
    let scene = Scene::of(2).await;
    scene.balance.update(Settings::new().max_in_flight(2)).unwrap();
    quiet().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(scene.take().await);
    }
    // The last place is on an endpoint that is not ready: a call keeps it in case that becomes so, and
    // waits for one on the other.
    let busy = scene.balance.status().endpoints.iter().position(|one| one.in_flight == 1).unwrap();
    let busy = u16::try_from(busy + 1).unwrap();
    scene.world.mood(busy, Mood::Busy);
    let mut waiters = VecDeque::from([scene.waiter(Ask::default())]);
    assert_eq!(in_flight(&scene.balance.status()), 4);
    scene.world.mood(busy, Mood::Fine);
    waiters.push_back(scene.waiter(Ask::default()));
    let at = held.iter().position(|(place, ..)| *place == name(busy)).unwrap();
    held.swap_remove(at).1.send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [0, 1]);
    assert_eq!(waiters[1].poll().unwrap().unwrap(), name(busy));
    waiters.pop_back();
    scene.world.mood(busy, Mood::Busy);
    let (place, gate, _) = held.pop().unwrap();
    assert_ne!(place, name(busy));
    gate.send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [1]);
    assert_eq!(waiters[0].poll().unwrap().unwrap(), place);
}

/// A call that was told of a place, and found that it was of no use, is no newcomer.
#[tokio::test(start_paused = true)]
async fn r9_who_waits_again_keeps_its_turn() {
    let scene = Scene::of(2).await;
    let (place, gate, _) = scene.take().await;
    let (other, other_gate, _) = scene.take().await;
    let waiters = [(); 2].map(|()| scene.waiter(Ask::default()));
    let mut waiters = VecDeque::from(waiters);
    scene.world.look().moods.insert(place, Mood::Busy);
    gate.send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [1, 0]);
    assert!(waiters[0].poll().is_none(), "the service there is not ready");
    other_gate.send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [2, 0]);
    assert_eq!(waiters[0].poll().unwrap().unwrap(), other);
}

/// Requests with a key, each to a service that does not look at it.
struct WithKey(Managed);

type Keyless = fn((u64, Ask)) -> Ask;

impl MakeEndpoint for WithKey {
    type Service = MapRequest<support::Served, Keyless>;

    fn make(&self, endpoint: &Endpoint, link: Link) -> Self::Service {
        MapRequest::new(self.0.make(endpoint, link), |(_, ask)| ask)
    }
}

/// A key that leads to endpoints in this order.
fn key_to(order: &[u16]) -> u64 {
    let leads = |key: u64| {
        (0..order.len()).all(|at| {
            let bed = TestBed::new(Rendezvous, endpoints(order[at..].iter().copied())).unwrap();
            bed.pick(Some(key)).unwrap().endpoint() == support::endpoint(order[at])
        })
    };
    (0..1_000).find(|&key| leads(key)).unwrap()
}

/// A call by key that was led past full endpoints to one whose dial takes its time has the first place
/// on one of those; on what lies behind it has none, and is not told.
#[tokio::test(start_paused = true)]
async fn r9_a_call_by_key_has_the_place_that_becomes_free_on_its_own_endpoint() {
    let world = World::new();
    world.roads(Road::UpAfter(Duration::ZERO));
    world.road(99, Road::Lost);
    let balance = Balance::builder(crate::just(set([1, 2, 99])))
        .policy(Rendezvous::by(|(key, _): &(u64, Ask)| Some(*key)))
        .max_in_flight(1)
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(WithKey(Managed(Arc::clone(&world))))
        .unwrap();
    balance.ready().await.unwrap();
    quiet().await;
    let mut gates = VecDeque::new();
    for order in [[1, 2, 99], [2, 1, 99]] {
        let (gate, ask) = Ask::held();
        tokio::spawn(balance.clone().oneshot((key_to(&order), ask)));
        gates.push_back(gate);
    }
    quiet().await;
    assert_eq!(in_flight(&balance.status()), 2);
    let orders = [[99, 1, 2], [1, 99, 2], [2, 1, 99]];
    let mut waiters: VecDeque<_> = orders
        .map(|order| Waiter::new(balance.clone().oneshot((key_to(&order), Ask::default()))))
        .into();
    assert_eq!(balance.status().waiting, 3);
    gates.pop_back().unwrap().send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [0, 0, 1]);
    assert_eq!(waiters.pop_back().unwrap().poll().unwrap().unwrap(), name(2));
    gates.pop_back().unwrap().send(()).unwrap();
    assert_eq!(Scene::woken(&waiters).await, [0, 1]);
    assert_eq!(waiters.pop_back().unwrap().poll().unwrap().unwrap(), name(1));
    world.link(99).up();
    assert_eq!(Scene::woken(&waiters).await, [1]);
    assert_eq!(waiters.pop_back().unwrap().poll().unwrap().unwrap(), name(99));
    assert_eq!((balance.status().waiting, in_flight(&balance.status())), (0, 0));
}

/// A place on an endpoint that is no longer listed is none. One on what comes in its stead is, and so
/// is one on the same once it is listed again.
#[tokio::test(start_paused = true)]
async fn r9_who_waits_at_an_endpoint_that_goes_has_the_next() {
    for (then, free_by_then) in [(set([2, 99]), true), (listed(1), true), (listed(1), false)] {
        let scene = Scene::of(1).await;
        let (_, gate, held) = scene.take().await;
        let call = tokio::spawn(scene.balance.clone().oneshot(Ask::default()));
        scene.feed.say(set([99]));
        quiet().await;
        if free_by_then {
            gate.send(()).unwrap();
            held.await.unwrap().unwrap();
            quiet().await;
            assert_eq!(scene.balance.status().waiting, 1, "there is no place for it");
            scene.feed.say(then);
        } else {
            scene.feed.say(then);
            quiet().await;
            assert_eq!(scene.balance.status().waiting, 1, "there is no place for it yet");
            gate.send(()).unwrap();
        }
        call.await.unwrap().unwrap();
        assert_eq!((scene.balance.status().waiting, in_flight(&scene.balance.status())), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn r9_who_waits_at_a_cap_that_is_raised_has_a_place() {
    for cap in [Some(2), None] {
        let scene = Scene::of(1).await;
        let _held = scene.take().await;
        let calls: Vec<_> =
            (0..5).map(|_| tokio::spawn(scene.balance.clone().oneshot(Ask::default()))).collect();
        quiet().await;
        assert_eq!(scene.balance.status().waiting, 5);
        scene.balance.update(Settings::new().max_in_flight(cap)).unwrap();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), name(1));
        }
    }
}

/// What a picker refuses to one goes to the next, and a word that nobody can use ends.
#[tokio::test(start_paused = true)]
async fn r9_a_place_that_the_first_cannot_use_goes_to_the_next() {
    const REFUSED: u64 = 0;
    #[derive(Clone)]
    struct Choosy;
    impl Policy for Choosy {
        fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
            Arc::new(Choosy)
        }
    }
    impl Picker for Choosy {
        fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
            if cx.key() != Some(REFUSED) && cx.accepts(0) { Pick::Use(0) } else { Pick::Wait }
        }
    }
    type Work = (u64, Option<oneshot::Receiver<()>>);
    let balance = Balance::builder(crate::just(set([1])))
        .policy(Keyed::by_fn(Choosy, |(key, _): &Work| Some(*key)))
        .max_in_flight(1)
        .complete_at_response()
        .make(|_: &Endpoint| {
            tower::service_fn(|(key, gate): Work| async move {
                if let Some(gate) = gate {
                    let _ = gate.await;
                }
                Ok::<_, std::io::Error>(key)
            })
        })
        .unwrap();
    balance.ready().await.unwrap();
    let (gate, held) = oneshot::channel();
    let held = tokio::spawn(balance.clone().oneshot((1, Some(held))));
    quiet().await;
    let mut calls: Vec<_> = [REFUSED, REFUSED, 2, REFUSED, 3]
        .map(|key| tokio::spawn(balance.clone().oneshot((key, None))))
        .into();
    quiet().await;
    assert_eq!(balance.status().waiting, 5);
    let start = now();
    drop(gate);
    assert_eq!(held.await.unwrap().unwrap(), 1);
    assert_eq!(calls.remove(4).await.unwrap().unwrap(), 3);
    assert_eq!(calls.remove(2).await.unwrap().unwrap(), 2);
    assert_eq!(now(), start);
    quiet().await;
    assert_eq!((balance.status().waiting, in_flight(&balance.status())), (3, 0));
    assert_eq!(balance.clone().oneshot((4, None)).await.unwrap(), 4);
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().is_no_endpoint());
    }
}

/// Any endpoint that has room, or else a wait, and something that happens between the two.
#[derive(Clone)]
struct Patient<F>(F);

impl<F: Fn() + Clone + Send + Sync + 'static> Policy for Patient<F> {
    fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(self.clone())
    }
}

impl<F: Fn() + Send + Sync + 'static> Picker for Patient<F> {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let Some(index) = cx.any_accepted() else {
            self.0();
            return Pick::Wait;
        };
        Pick::Use(index)
    }
}

/// A place that becomes free after a call has looked and before it waits is found.
#[tokio::test(start_paused = true)]
async fn r9_a_place_that_becomes_free_during_the_look_is_found() {
    let held: Arc<Mutex<Option<Pin<Box<Call>>>>> = Arc::default();
    let leave = {
        let (held, refused) = (Arc::clone(&held), Arc::new(AtomicU32::new(0)));
        move || {
            // First the call itself finds nothing, and then the look before it waits.
            if refused.fetch_add(1, Ordering::SeqCst) == 1 {
                let last = held.lock().unwrap().take();
                drop(last);
            }
        }
    };
    let balance = Balance::builder(crate::just(set([1])))
        .policy(Patient(leave))
        .max_in_flight(1)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    balance.ready().await.unwrap();
    let (_gate, ask) = Ask::held();
    let mut call = Box::pin(balance.clone().oneshot(ask));
    assert!((&mut call).now_or_never().is_none());
    *held.lock().unwrap() = Some(call);
    assert_eq!(in_flight(&balance.status()), 1);
    let call = balance.clone().oneshot(Ask::default());
    assert_eq!(call.now_or_never().unwrap().unwrap(), name(1));
    assert!(held.lock().unwrap().is_none());
}

/// No place is missed, with callers on four threads that come, wait, go in the middle of a wait, and
/// hold their places for a while. All is up, so nothing but a place wakes them: a call that waits while
/// one is free would wait for 1,000 s, and the guard ends the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r9_no_place_that_becomes_free_is_missed() {
    let balance = Balance::builder(crate::just(set(1..=2)))
        .policy(Patient(|| ()))
        .max_in_flight(1)
        .wait_for_endpoints(1_000 * SECOND)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    guard(balance.ready()).await.unwrap();
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for turn in 0..300 {
                    let (gate, ask) = Ask::held();
                    let mut call = Box::pin(balance.clone().oneshot(ask));
                    if (caller + turn) % 5 == 0 {
                        // Polled, perhaps woken, and gone.
                        let _ = (&mut call).now_or_never();
                        tokio::task::yield_now().await;
                        continue;
                    }
                    let hold = tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        let _ = gate.send(());
                    });
                    call.await.unwrap();
                    hold.await.unwrap();
                }
            })
        })
        .collect();
    for caller in guard(join_all(callers)).await {
        caller.unwrap();
    }
    assert_eq!((balance.status().waiting, in_flight(&balance.status())), (0, 0));
}
