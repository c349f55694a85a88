//! The contract of a tower service, towards callers and towards the services of endpoints.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    collections::HashSet,
    error::Error as StdError,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use evenkeel::{
    AtBodyEnd, AtResponse, Balance, BalanceLayer, BalancedBody, BoxError, Builder, Endpoint, Error,
    Handle, ResponseFuture, Unsent,
    discovery::{Discover, Target},
    node::LinkState,
    policy::{ByHeader, IntoPolicy, NoKey, Rendezvous, RequestKey, RoundRobin},
    pool::{Settings, Status},
};
use futures::{FutureExt, future};
use support::{
    Ask, Managed, Mood, Plain, Served, World, endpoint, in_flight, just, name, now, of, quiet, set,
};
use tower::{Service, ServiceExt, limit::ConcurrencyLimit, service_fn};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn over<D: Discover>(source: D) -> Builder<D, NoKey, AtResponse> {
    Balance::builder(source).policy(RoundRobin::new()).seed(7).complete_at_response()
}

/// Rule 1, and what callers need to hold these across awaits and threads.
#[test]
fn what_is_public_is_send_and_sync() {
    fn send<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    fn cloned<T: Clone + Send + Sync + 'static>() {}
    cloned::<Balance<Served>>();
    cloned::<Balance<Served, ByHeader, AtResponse>>();
    cloned::<Handle<ByHeader>>();
    cloned::<BalanceLayer<Target>>();
    cloned::<Status>();
    shared::<Error>();
    shared::<evenkeel::BuildError>();
    shared::<evenkeel::DiscoverError>();
    send::<Builder<Target>>();
    send::<Settings>();
    send::<ResponseFuture<Served, Ask, NoKey, AtResponse>>();
    send::<Unsent<http::Request<()>>>();
    send::<BalancedBody<http_body_util::Full<bytes::Bytes>>>();
    cloned::<AtBodyEnd>();
    let _: BoxError = Box::<dyn StdError + Send + Sync>::from("as tower's");
}

/// T1: `poll_ready` reserves nothing, however often it is asked and by whom.
#[tokio::test(start_paused = true)]
async fn t1_readiness_reserves_nothing() {
    let make = |endpoint: &Endpoint| {
        let name = endpoint.to_string();
        let answer = service_fn(move |_: ()| future::ready(Ok::<_, io::Error>(name.clone())));
        ConcurrencyLimit::new(answer, 1)
    };
    let balance = over(just(set(1..=2))).max_in_flight(2).make(make).unwrap();
    balance.ready().await.unwrap();
    let mut clones: Vec<_> = (0..1_000).map(|_| balance.clone()).collect();
    for clone in &mut clones {
        ServiceExt::<()>::ready(clone).await.unwrap();
    }
    assert_eq!(in_flight(&balance.status()), 0);
    for _ in 0..10 {
        balance.clone().oneshot(()).now_or_never().unwrap().unwrap();
    }
    drop(clones);
    // Futures that are made and dropped leak nothing either, and blame nobody.
    for _ in 0..1_000 {
        drop(balance.clone().call(()));
    }
    balance.clone().oneshot(()).now_or_never().unwrap().unwrap();
    let status = balance.status();
    assert_eq!(in_flight(&status), 0);
    assert!(status.endpoints.iter().all(|one| one.success == 1.0), "{status}");
}

/// T1: a reservation in a service that was not ready is given up as soon as the request goes out
/// elsewhere.
#[tokio::test(start_paused = true)]
async fn t1_a_service_that_was_waited_for_keeps_no_place_once_another_serves() {
    let world = World::new();
    let (feed, source) = support::feed();
    let limits: Arc<Mutex<Vec<Arc<tokio::sync::Semaphore>>>> = Arc::default();
    let made = Arc::clone(&limits);
    let plain = Plain(Arc::clone(&world));
    let make = move |endpoint: &Endpoint| {
        let semaphore = Arc::new(tokio::sync::Semaphore::new(1));
        made.lock().unwrap().push(Arc::clone(&semaphore));
        let served = evenkeel::pool::MakeEndpoint::make(
            &plain,
            endpoint,
            evenkeel::node::Link::standalone(endpoint),
        );
        ConcurrencyLimit::with_semaphore(served, semaphore)
    };
    let balance = over(source).make(make).unwrap();
    feed.say(set([1]));
    quiet().await;
    let permits = Arc::clone(&limits.lock().unwrap()[0]);
    let taken = Arc::clone(&permits).acquire_owned().await.unwrap();
    let (gate, ask) = Ask::held();
    let call = tokio::spawn(balance.clone().oneshot(ask));
    quiet().await;
    assert_eq!(of(&balance.status(), 1).in_flight, 1, "it waits for the only one");
    feed.say(set([1, 2]));
    quiet().await;
    let status = balance.status();
    assert_eq!((of(&status, 1).in_flight, of(&status, 2).in_flight), (0, 1));
    drop(taken);
    quiet().await;
    assert_eq!(permits.available_permits(), 1, "nobody sits on the permit");
    gate.send(()).unwrap();
    assert_eq!(call.await.unwrap().unwrap(), name(2));
}

/// T2: `Served` panics unless the very instance that is called was ready, also after a wait.
#[tokio::test(start_paused = true)]
async fn t2_the_instance_that_was_ready_is_the_one_that_is_called() {
    let world = World::new();
    let balance = over(just(set(1..=3))).make(Plain(Arc::clone(&world))).unwrap();
    for last in 1..=3 {
        balance.clone().oneshot(Ask::default()).await.unwrap();
        world.mood(last, Mood::Busy);
    }
    let mut call = Box::pin(balance.clone().oneshot(Ask::default()));
    assert!((&mut call).now_or_never().is_none());
    for last in 1..=3 {
        world.mood(last, Mood::Fine);
    }
    let again: tokio::task::JoinHandle<_> = tokio::spawn(call);
    again.await.unwrap().unwrap();
}

/// With all services pending the first is waited for; in the others no place is kept.
#[tokio::test(start_paused = true)]
async fn with_all_pending_the_first_is_waited_for_and_the_others_keep_no_place() {
    let world = World::new();
    (1..=3).for_each(|last| world.mood(last, Mood::Busy));
    let balance = over(just(set(1..=3))).make(Plain(Arc::clone(&world))).unwrap();
    balance.ready().await.unwrap();
    let start = now();
    let mut call = Box::pin(balance.clone().oneshot(Ask::default()));
    assert!((&mut call).now_or_never().is_none());
    let status = balance.status();
    assert_eq!((in_flight(&status), status.waiting), (1, 1));
    let error = (&mut call).await.unwrap_err();
    assert_eq!(now() - start, 5 * SECOND);
    assert!(error.is_no_endpoint() && error.is_unprocessed());
    assert_eq!(error.census().unwrap().tried, 3);
    let status = balance.status();
    assert_eq!(
        (in_flight(&status), status.waiting),
        (0, 0),
        "whoever keeps the call keeps no place"
    );
    drop(call);
    // One that is pending is passed over while another is ready.
    world.mood(2, Mood::Fine);
    for _ in 0..10 {
        let answer = balance.clone().oneshot(Ask::default()).now_or_never().unwrap();
        assert_eq!(answer.unwrap(), name(2));
    }
}

/// T4: a service whose readiness fails is out, is made anew after its backoff, and serves again.
#[tokio::test(start_paused = true)]
async fn t4_a_readiness_error_rests_the_endpoint_and_makes_its_service_anew() {
    let world = World::new();
    let balance = over(just(set(1..=2))).make(Plain(Arc::clone(&world))).unwrap();
    balance.ready().await.unwrap();
    world.mood(1, Mood::Broken);
    let mut remade = Vec::new();
    let start = now();
    while now() - start < 60 * SECOND {
        assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(2));
        if world.made_of(1) > remade.len() + 1 {
            remade.push(now());
        }
        tokio::time::sleep(5 * MS).await;
    }
    let mut step: f64 = 0.25;
    let mut last = start;
    for (i, &at) in remade.iter().enumerate() {
        let took = (at - last).as_secs_f64();
        // 20 ms for the timers' grain, and for the next request to find it broken.
        assert!((0.8 * step..=1.2 * step + 0.02).contains(&took), "step {i}: {took}, not {step}");
        step = (step * 1.6).min(10.0);
        last = at;
    }
    assert!(remade.len() >= 10, "{}", remade.len());
    let status = of(&balance.status(), 1);
    assert!(matches!(status.link, LinkState::Failed { .. }));
    assert_eq!(status.last_failure.unwrap(), format!("{} is broken", name(1)));
    world.mood(1, Mood::Fine);
    tokio::time::sleep(13 * SECOND).await;
    let answers = [0; 2].map(|_| balance.clone().oneshot(Ask::default()).now_or_never().unwrap());
    assert_eq!(answers.map(Result::unwrap).into_iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!(world.made_of(2), 1);
}

/// T4: also that of a client that owns its connections, which no dial would mend.
#[tokio::test(start_paused = true)]
async fn t4_a_readiness_error_makes_the_service_of_a_managed_client_anew() {
    is_made_anew_once(RoundRobin::new()).await;
    is_made_anew_once(Rendezvous::by(|_: &Ask| None)).await;
}

async fn is_made_anew_once<P>(policy: P)
where
    P: IntoPolicy,
    P::Key: RequestKey<Ask>,
{
    let world = World::new();
    let make = Managed(Arc::clone(&world));
    let balance = over(just(set(1..=2))).policy(policy).make(make).unwrap();
    let reach = async || {
        let start = now();
        while balance.clone().oneshot(Ask::default()).await.unwrap() != name(1) {
            assert!(now() - start < SECOND, "{:?}", of(&balance.status(), 1));
            tokio::time::sleep(5 * MS).await;
        }
    };
    reach().await;
    world.spoil(1);
    reach().await;
    assert_eq!((world.made_of(1), world.made_of(2)), (2, 1));
    assert_eq!(of(&balance.status(), 1).link, LinkState::Up);
}

/// T4: what the client before says later is not said of the one that took its place, and what runs on it
/// has the time to drain.
#[tokio::test(start_paused = true)]
async fn t4_the_client_of_a_service_that_was_made_anew_has_no_say_any_more() {
    let world = World::new();
    let make = Managed(Arc::clone(&world));
    let balance = over(just(set([1]))).drain_timeout(5 * SECOND).make(make).unwrap();
    let (gate, ask) = Ask::held();
    let running = tokio::spawn(balance.clone().oneshot(ask));
    balance.ready().await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    let before = world.link(1);
    world.spoil(1);
    balance.clone().oneshot(Ask::default()).await.unwrap_err();
    before.up();
    assert!(matches!(of(&balance.status(), 1).link, LinkState::Failed { .. }));
    balance.ready().await.unwrap();
    assert_eq!(world.made_of(1), 2);
    before.failed("late");
    assert_eq!(of(&balance.status(), 1).link, LinkState::Up);
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));

    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(world.closed().len(), 0);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(world.closed(), [name(1)]);
    gate.send(()).unwrap();
    assert_eq!(running.await.unwrap().unwrap(), name(1));
}

/// T4: with a single endpoint the call that found it broken fails at once with the cause; later ones
/// wait until it is made anew, within `wait_for_endpoints`.
#[tokio::test(start_paused = true)]
async fn t4_a_single_broken_endpoint_is_waited_for_by_those_who_did_not_try_it() {
    let world = World::new();
    world.mood(1, Mood::Broken);
    let balance = over(just(set([1]))).make(Plain(Arc::clone(&world))).unwrap();
    balance.ready().await.unwrap();
    let error = balance.clone().oneshot(Ask::default()).now_or_never().unwrap().unwrap_err();
    assert!(error.is_no_endpoint() && error.is_unprocessed());
    assert_eq!(error.endpoint(), Some(&endpoint(1)));
    assert_eq!(error.source().unwrap().to_string(), format!("{} is broken", name(1)));
    world.mood(1, Mood::Fine);
    let start = now();
    assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(1));
    assert!((200 * MS..=302 * MS).contains(&(now() - start)), "{:?}", now() - start);
    assert_eq!(world.made(), 2);
}

/// One balancer takes any request type that its services take.
#[tokio::test(start_paused = true)]
async fn one_balancer_serves_several_request_types() {
    #[derive(Clone)]
    struct Both;
    impl Service<u8> for Both {
        type Response = &'static str;
        type Error = io::Error;
        type Future = future::Ready<io::Result<&'static str>>;
        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: u8) -> Self::Future {
            future::ready(Ok("number"))
        }
    }
    impl Service<String> for Both {
        type Response = usize;
        type Error = Unsent<String>;
        type Future = future::Ready<Result<usize, Unsent<String>>>;
        fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Unsent<String>>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, text: String) -> Self::Future {
            future::ready(Ok(text.len()))
        }
    }
    let mut balance = over(just(set([1]))).make(|_: &Endpoint| Both).unwrap();
    assert_eq!(balance.call(7_u8).await.unwrap(), "number");
    assert_eq!(balance.call("four".to_owned()).await.unwrap(), 4);
}

// --- errors of the client's ---

/// Not `Clone`: what is picked again is the very request.
#[derive(Debug)]
struct Precious(u32);

#[derive(Debug, thiserror::Error)]
#[error("the client's own error")]
struct Own(#[source] io::Error);

/// Rule 3: a request that comes back goes to another node, to each at most once; the error after the
/// last keeps cause and endpoint.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_back_goes_to_each_other_node_once() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    let make = move |endpoint: &Endpoint| {
        let (name, log) = (endpoint.to_string(), Arc::clone(&log));
        service_fn(move |request: Precious| {
            log.lock().unwrap().push(name.clone());
            let works = request.0 > 0 && name == support::name(3);
            let result = if works {
                Ok(request.0)
            } else {
                Err(Unsent::returned(request, Own(io::Error::other("no stream left"))))
            };
            future::ready(result)
        })
    };
    let balance = over(just(set(1..=4))).make(make).unwrap();
    balance.ready().await.unwrap();
    for _ in 0..8 {
        assert_eq!(balance.clone().oneshot(Precious(9)).await.unwrap(), 9);
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert_eq!(asked.last(), Some(&name(3)));
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "{asked:?}");
    }
    let start = now();
    let error = balance.clone().oneshot(Precious(0)).await.unwrap_err();
    assert_eq!(now(), start, "nothing is left to hope for");
    let asked = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), 4);
    assert_eq!(asked.len(), 4);
    assert!(error.is_no_endpoint() && error.is_unprocessed());
    assert_eq!(error.census().unwrap().tried, 4);
    assert_eq!(error.endpoint().map(ToString::to_string).as_ref(), asked.last());
    assert!(error.source().unwrap().downcast_ref::<Own>().is_some());
    let status = balance.status();
    assert_eq!(in_flight(&status), 0);
    assert!(status.endpoints.iter().all(|one| one.success == 1.0), "nobody is to blame");
}

/// Rule 3 holds also for a call that outlives the last handle: it can still be picked again. With the
/// last call the balancer's task goes.
#[tokio::test(start_paused = true)]
async fn a_call_that_outlives_the_last_handle_is_picked_again() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let make = |endpoint: &Endpoint| {
        let name = endpoint.to_string();
        service_fn(move |request: Precious| {
            let name = name.clone();
            async move {
                tokio::time::sleep(SECOND).await;
                match name == support::name(2) {
                    true => Ok(request.0),
                    false => Err(Unsent::returned(request, io::Error::other("no stream left"))),
                }
            }
        })
    };
    let balance = over(just(set(1..=2))).make(make).unwrap();
    balance.ready().await.unwrap();
    let calls: Vec<_> = (0..2).map(|at| balance.clone().oneshot(Precious(at))).collect();
    drop(balance);
    let answers = future::join_all(calls.into_iter().map(|call| call.map(Result::unwrap))).await;
    assert_eq!(answers, [0, 1]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(tasks(), 0);
}

/// A response that stays open holds the balancer's task no longer than it would hold an endpoint
/// that discovery removed; and a call that is given back after that says why it goes no further.
#[tokio::test(start_paused = true)]
async fn what_outlives_the_last_handle_holds_its_task_for_the_drain_timeout_at_most() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let make = |_: &Endpoint| {
        service_fn(|request: Precious| async move {
            tokio::time::sleep(30 * SECOND).await;
            Err::<(), _>(Unsent::returned(request, Own(io::Error::other("no stream left"))))
        })
    };
    let balance = over(just(set(1..=2))).drain_timeout(5 * SECOND).make(make).unwrap();
    balance.ready().await.unwrap();
    let mut call = Box::pin(balance.clone().oneshot(Precious(1)));
    assert!(call.as_mut().now_or_never().is_none());
    drop(balance);
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(tasks(), 1, "the request may come back");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(tasks(), 0);
    let error = call.await.unwrap_err();
    assert!(error.is_closed() && error.is_unprocessed(), "{error:?}");
    assert!(error.endpoint().is_some() && error.source().unwrap().downcast_ref::<Own>().is_some());
}

/// Rule 3: what may have been processed is sent once, and names its endpoint and its cause.
#[tokio::test(start_paused = true)]
async fn what_is_ambiguous_or_lost_is_not_picked_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let make = move |_: &Endpoint| {
        let count = Arc::clone(&count);
        service_fn(move |request: Precious| {
            count.fetch_add(1, Ordering::SeqCst);
            let cause = Own(io::Error::from(io::ErrorKind::ConnectionReset));
            future::ready(Err::<(), _>(match request.0 {
                0 => Unsent::<Precious>::ambiguous(cause),
                _ => Unsent::unprocessed(cause),
            }))
        })
    };
    let balance = over(just(set(1..=4))).make(make).unwrap();
    balance.ready().await.unwrap();
    for (request, unprocessed) in [(0, false), (1, true)] {
        calls.store(0, Ordering::SeqCst);
        let error = balance.clone().oneshot(Precious(request)).await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!((error.is_unprocessed(), error.is_ambiguous()), (unprocessed, !unprocessed));
        assert!(error.endpoint().is_some() && !error.is_no_endpoint());
        assert!(error.source().unwrap().downcast_ref::<Own>().is_some());
    }
    let blamed = balance.status().endpoints.iter().filter(|one| one.success < 1.0).count();
    assert_eq!(blamed, 1, "what was never processed blames nobody");
}

/// R1: whatever the client, a refused connection in the chain of its error rests the endpoint, and
/// says that nothing was processed; also where the request comes back.
#[tokio::test(start_paused = true)]
async fn r1_a_refused_connection_anywhere_in_the_chain_rests_the_endpoint() {
    let refused = || Own(io::Error::from(io::ErrorKind::ConnectionRefused));
    let make = move |endpoint: &Endpoint| {
        let fine = endpoint.addr() == support::endpoint(2).addr();
        service_fn(move |_: Precious| {
            future::ready(if fine { Ok(()) } else { Err(BoxError::from(refused())) })
        })
    };
    let balance = over(just(set(1..=2))).make(make).unwrap();
    balance.ready().await.unwrap();
    let failed = [1, 2].map(|i| balance.clone().oneshot(Precious(i)).now_or_never().unwrap());
    let errors: Vec<_> = failed.into_iter().filter_map(Result::err).collect();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.is_unprocessed());
    assert_eq!(error.endpoint(), Some(&endpoint(1)));
    assert!(error.source().unwrap().downcast_ref::<Own>().is_some());
    assert!(matches!(of(&balance.status(), 1).link, LinkState::Failed { .. }));
    for i in 0..100 {
        balance.clone().oneshot(Precious(i)).now_or_never().unwrap().unwrap();
    }

    let make = move |endpoint: &Endpoint| {
        let fine = endpoint.addr() == support::endpoint(2).addr();
        service_fn(move |request: Precious| {
            future::ready(if fine { Ok(()) } else { Err(Unsent::returned(request, refused())) })
        })
    };
    let balance = over(just(set(1..=2))).make(make).unwrap();
    balance.ready().await.unwrap();
    for i in 0..2 {
        balance.clone().oneshot(Precious(i)).now_or_never().unwrap().unwrap();
    }
    assert!(matches!(of(&balance.status(), 1).link, LinkState::Failed { .. }));
}

/// T14: the error of a balancer within says itself whether it is known what became of the request, and
/// not the refusal that may be its cause: that of a later hop, say.
#[tokio::test(start_paused = true)]
async fn t14_an_ambiguous_error_of_a_balancer_within_stays_ambiguous() {
    let refused = || Own(io::Error::from(io::ErrorKind::ConnectionRefused));
    let later = move |_: &Endpoint| {
        service_fn(move |_: Precious| {
            future::ready(Err::<(), _>(Unsent::<Precious>::ambiguous(refused())))
        })
    };
    let within = over(just(set(1..=1))).make(later).unwrap();
    within.ready().await.unwrap();
    let balance = over(just(set(1..=1))).make(move |_: &Endpoint| within.clone()).unwrap();
    balance.ready().await.unwrap();
    let error = balance.clone().oneshot(Precious(0)).await.unwrap_err();
    assert!(error.source().unwrap().downcast_ref::<Error>().unwrap().is_ambiguous());
    assert!(error.is_ambiguous(), "{error}");
    assert!(!matches!(of(&balance.status(), 1).link, LinkState::Failed { .. }));
}
