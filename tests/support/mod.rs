//! What the tests of the balancer share: a source fed by hand, a service that does as it is told,
//! and a client that owns its connections.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use evenkeel::{
    BoxError, Endpoint,
    discovery::{Endpoints, Update},
    node::{Clock, Dial, Link},
    pool::{EndpointStatus, MakeEndpoint, Status},
};
use futures::{Stream, stream};
use tokio::sync::{mpsc, oneshot};
use tower::Service;

pub(crate) fn endpoint(last: u16) -> Endpoint {
    let [high, low] = last.to_be_bytes();
    Endpoint::new(([10, 0, high, low], 80))
}

pub(crate) fn endpoints(lasts: impl IntoIterator<Item = u16>) -> Endpoints {
    lasts.into_iter().map(endpoint).collect()
}

pub(crate) fn set(lasts: impl IntoIterator<Item = u16>) -> Update {
    Update::Set(endpoints(lasts))
}

pub(crate) fn name(last: u16) -> String {
    endpoint(last).to_string()
}

pub(crate) fn now() -> Instant {
    Clock::default().now()
}

/// In paused time: returns when nothing is left to do now.
pub(crate) async fn quiet() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// For tests in real time, which must not hang.
pub(crate) async fn guard<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

// --- discovery ---

/// Says updates to a balancer.
#[derive(Clone)]
pub(crate) struct Feed {
    updates: mpsc::UnboundedSender<Update>,
    polls: Arc<AtomicUsize>,
}

/// A source and what feeds it. When every feed is gone, the stream ends; asked again, it panics.
pub(crate) fn feed() -> (Feed, impl Stream<Item = Update> + Send + 'static) {
    let (updates, mut fed) = mpsc::unbounded_channel();
    let polls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&polls);
    let mut ended = false;
    let source = stream::poll_fn(move |cx| {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(!ended, "polled after its end");
        let update = fed.poll_recv(cx);
        ended = matches!(update, Poll::Ready(None));
        update
    });
    (Feed { updates, polls }, source)
}

impl Feed {
    pub(crate) fn say(&self, update: Update) {
        self.updates.send(update).expect("the balancer is there");
    }

    pub(crate) fn polls(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.polls)
    }
}

/// A source that says `update` and then nothing, for ever.
pub(crate) fn just(update: Update) -> impl Stream<Item = Update> + Send + 'static {
    use futures::StreamExt;
    stream::iter([update]).chain(stream::pending())
}

// --- status ---

pub(crate) fn names(status: &Status) -> Vec<String> {
    let mut names: Vec<_> = status.endpoints.iter().map(|one| one.endpoint.to_string()).collect();
    names.sort();
    names
}

pub(crate) fn of(status: &Status, last: u16) -> EndpointStatus {
    let mut found =
        status.endpoints.iter().filter(|one| one.endpoint.addr() == endpoint(last).addr());
    let one = found.next().unwrap_or_else(|| panic!("{last} is not in {status}")).clone();
    assert!(found.next().is_none(), "{last} is twice in {status}");
    one
}

pub(crate) fn in_flight(status: &Status) -> u32 {
    status.endpoints.iter().map(|one| one.in_flight).sum()
}

// --- services ---

/// A request of the tests: answered at once, or when its gate opens.
#[derive(Debug, Default)]
pub(crate) struct Ask(Option<oneshot::Receiver<()>>);

impl Ask {
    /// A request, and what ends it.
    pub(crate) fn held() -> (oneshot::Sender<()>, Self) {
        let (gate, held) = oneshot::channel();
        (gate, Self(Some(held)))
    }
}

/// How an endpoint's service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Fine,
    /// Its readiness fails.
    Broken,
    /// It is never ready.
    Busy,
}

/// How a dial goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Road {
    UpAfter(Duration),
    FailsAfter(Duration),
    /// Nothing is ever heard of it.
    Lost,
}

/// What the services of all endpoints know, and what the test looks at.
#[derive(Default)]
pub(crate) struct World(Mutex<Inner>);

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) made: Vec<String>,
    pub(crate) moods: HashMap<String, Mood>,
    pub(crate) roads: HashMap<String, Road>,
    pub(crate) road: Option<Road>,
    pub(crate) links: HashMap<String, Link>,
    /// Every dial, and when it began.
    pub(crate) dials: Vec<(String, Instant)>,
    pub(crate) dialling: usize,
    pub(crate) most_dialling: usize,
    pub(crate) closed: Vec<String>,
    latest: HashMap<String, Weak<One>>,
    /// Services that live.
    pub(crate) live: HashMap<String, usize>,
}

/// A client that reports nothing.
pub(crate) struct Plain(pub(crate) Arc<World>);

/// A client that owns its connections.
pub(crate) struct Managed(pub(crate) Arc<World>);

/// The service of one endpoint; it answers with its name. Panics unless the very instance that is
/// called was ready.
pub(crate) struct Served {
    one: Arc<One>,
    ready: bool,
}

struct One {
    name: String,
    spoilt: AtomicBool,
    world: Arc<World>,
    /// Set for a managed client.
    link: Option<Link>,
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn look(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mood(&self, last: u16, mood: Mood) {
        self.look().moods.insert(name(last), mood);
    }

    /// Breaks the service of an endpoint for good: only a new one can serve.
    pub(crate) fn spoil(&self, last: u16) {
        let latest = self.look().latest.get(&name(last)).and_then(Weak::upgrade);
        latest.expect("it was made").spoilt.store(true, Ordering::SeqCst);
    }

    pub(crate) fn road(&self, last: u16, road: Road) {
        self.look().roads.insert(name(last), road);
    }

    pub(crate) fn roads(&self, road: Road) {
        self.look().road = Some(road);
    }

    pub(crate) fn link(&self, last: u16) -> Link {
        self.look().links[&name(last)].clone()
    }

    pub(crate) fn made(&self) -> usize {
        self.look().made.len()
    }

    pub(crate) fn made_of(&self, last: u16) -> usize {
        self.look().made.iter().filter(|made| **made == name(last)).count()
    }

    pub(crate) fn dials(&self) -> usize {
        self.look().dials.len()
    }

    pub(crate) fn dials_of(&self, last: u16) -> Vec<Instant> {
        let inner = self.look();
        inner.dials.iter().filter(|(of, _)| *of == name(last)).map(|(_, at)| *at).collect()
    }

    pub(crate) fn closed(&self) -> Vec<String> {
        self.look().closed.clone()
    }

    /// Endpoints with a service that lives.
    pub(crate) fn live(&self) -> usize {
        self.look().live.values().filter(|count| **count > 0).count()
    }

    fn make(self: &Arc<Self>, endpoint: &Endpoint, link: Option<Link>) -> Arc<One> {
        let name = endpoint.to_string();
        let mut inner = self.look();
        inner.made.push(name.clone());
        *inner.live.entry(name.clone()).or_default() += 1;
        let spoilt = AtomicBool::new(false);
        let one = Arc::new(One { name: name.clone(), spoilt, world: Arc::clone(self), link });
        inner.latest.insert(name, Arc::downgrade(&one));
        one
    }
}

// === impl MakeEndpoint ===

impl MakeEndpoint for Plain {
    type Service = Served;

    fn make(&self, endpoint: &Endpoint, _link: Link) -> Served {
        Served { one: self.0.make(endpoint, None), ready: false }
    }
}

impl MakeEndpoint for Managed {
    type Service = Served;

    fn make(&self, endpoint: &Endpoint, link: Link) -> Served {
        let one = self.0.make(endpoint, Some(link.clone()));
        let dial: Weak<dyn Dial> = Arc::downgrade(&one) as Weak<dyn Dial>;
        link.manage(dial);
        self.0.look().links.insert(one.name.clone(), link);
        Served { one, ready: false }
    }
}

impl One {
    fn mood(&self) -> Mood {
        if self.spoilt.load(Ordering::SeqCst) {
            return Mood::Broken;
        }
        self.world.look().moods.get(&self.name).copied().unwrap_or(Mood::Fine)
    }
}

impl Dial for One {
    fn dial(&self) {
        let mut inner = self.world.look();
        inner.dials.push((self.name.clone(), now()));
        inner.dialling += 1;
        inner.most_dialling = inner.most_dialling.max(inner.dialling);
        let default = inner.road.unwrap_or(Road::UpAfter(Duration::from_millis(10)));
        let road = inner.roads.get(&self.name).copied().unwrap_or(default);
        drop(inner);
        let (after, up) = match road {
            Road::UpAfter(after) => (after, true),
            Road::FailsAfter(after) => (after, false),
            Road::Lost => return,
        };
        let (Some(link), world) = (self.link.clone(), Arc::clone(&self.world)) else { return };
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            world.look().dialling -= 1;
            if up {
                link.up();
            } else {
                link.failed(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            }
        });
    }

    fn close(&self) {
        self.world.look().closed.push(self.name.clone());
    }
}

impl Drop for One {
    fn drop(&mut self) {
        *self.world.look().live.entry(self.name.clone()).or_default() -= 1;
    }
}

// === impl Served ===

impl Clone for Served {
    fn clone(&self) -> Self {
        Self { one: Arc::clone(&self.one), ready: false }
    }
}

impl Service<Ask> for Served {
    type Response = String;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.one.mood() {
            Mood::Fine => {
                self.ready = true;
                Poll::Ready(Ok(()))
            }
            Mood::Broken => Poll::Ready(Err(format!("{} is broken", self.one.name).into())),
            Mood::Busy => Poll::Pending,
        }
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        let one = Arc::clone(&self.one);
        Box::pin(async move {
            if let Some(held) = ask.0 {
                held.await.map_err(|_| "the gate was dropped")?;
            }
            Ok(one.name.clone())
        })
    }
}
