//! Sets of thousands of endpoints: no task has to wait for all of one, and requests see all or nothing.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use evenkeel::{
    Balance, Endpoint, Handle,
    discovery::Update,
    node::{Dial, Link},
    pool::{MakeEndpoint, Settings, Subset},
};
use tokio::task::yield_now;

/// What the pool works on before it lets others have their turn, as `pool::turns` has it.
const PORTION: usize = 64;
const MANY: usize = 4_000;

/// Counts what is made of endpoints and what is closed.
#[derive(Default)]
struct Work {
    made: AtomicUsize,
    closed: AtomicUsize,
}

struct Counting(Arc<Work>);

struct Client(Arc<Work>);

impl Dial for Client {
    fn dial(&self) {}

    fn close(&self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl MakeEndpoint for Counting {
    type Service = Arc<Client>;

    fn make(&self, _: &Endpoint, link: Link) -> Arc<Client> {
        self.0.made.fetch_add(1, Ordering::SeqCst);
        let client = Arc::new(Client(Arc::clone(&self.0)));
        let dial: Arc<dyn Dial> = client.clone();
        link.manage(Arc::downgrade(&dial));
        client
    }
}

fn endpoints(block: u8, count: usize) -> impl Iterator<Item = Endpoint> {
    let first = u32::from(Ipv4Addr::new(10, block, 0, 0));
    (first..).take(count).map(|ip| Endpoint::from(SocketAddr::from((Ipv4Addr::from(ip), 80))))
}

/// Has its turn again and again until `done`, and says how much work others did at most between two
/// turns, and how many endpoints a status ever showed.
async fn watch(
    work: &Work,
    handle: &Handle,
    done: impl Fn(&[usize]) -> bool,
) -> (usize, Vec<usize>) {
    let total = || work.made.load(Ordering::SeqCst) + work.closed.load(Ordering::SeqCst);
    let (mut most, mut before, mut seen) = (0, total(), Vec::new());
    while !done(&seen) {
        yield_now().await;
        let now = total();
        most = most.max(now - before);
        before = now;
        let shown = handle.status().endpoints.len();
        if seen.last() != Some(&shown) {
            seen.push(shown);
        }
    }
    (most, seen)
}

/// Thousands of endpoints come, are replaced by others, and go: each time the one thread there is has
/// turns for others after every portion, and each set is published as one snapshot.
#[tokio::test(start_paused = true)]
async fn r8_t16_a_large_set_holds_no_worker_and_is_seen_whole() {
    let work = Arc::new(Work::default());
    let (say, source) = futures::channel::mpsc::unbounded();
    let say = |block| say.unbounded_send(Update::Set(endpoints(block, MANY).collect())).unwrap();
    let balance =
        Balance::builder(source).keep_connected(0).make(Counting(Arc::clone(&work))).unwrap();
    let handle = balance.handle();
    say(1);
    let (most, seen) = watch(&work, &handle, |seen| seen.last() == Some(&MANY)).await;
    assert_eq!((most, seen), (PORTION, vec![0, MANY]));

    say(2);
    let all_closed = |_: &[usize]| work.closed.load(Ordering::SeqCst) == MANY;
    let (most, seen) = watch(&work, &handle, all_closed).await;
    assert_eq!((most, seen), (PORTION, vec![MANY]));
    assert_eq!(work.made.load(Ordering::SeqCst), 2 * MANY);
    let shown = handle.status().endpoints;
    assert!(shown.iter().all(|one| one.endpoint.to_string().starts_with("10.2.")));

    handle.update(Settings::new().subset(Subset::random(MANY / 2))).unwrap();
    let half_closed = |_: &[usize]| work.closed.load(Ordering::SeqCst) == MANY + MANY / 2;
    let (most, seen) = watch(&work, &handle, half_closed).await;
    assert_eq!((most, seen), (PORTION, vec![MANY]), "what is outside is shown, too");
}
