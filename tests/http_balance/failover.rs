//! Failover between tiers over HTTP/1.1, in paused time over pipes: a peer that accepts and closes has
//! a connection for a moment, and serves nobody.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Address, Balance, BoxError, Endpoint, Error, Priority,
    client::{Connected, Http, HttpService},
    discovery::StaticList,
    node::Clock,
    policy::RoundRobin,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

const MS: Duration = Duration::from_millis(1);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Serves,
    /// Accepted, and closed: a TCP proxy with nobody behind it.
    Closes,
    /// Serves, and closes what was idle for so long.
    ClosesIdle(Duration),
    Refuses,
}

#[derive(Default)]
struct Inner {
    peers: HashMap<Address, Peer>,
    dials: HashMap<Address, usize>,
    /// What serves: cut when the peer changes.
    serving: Vec<(Address, tokio::task::JoinHandle<()>)>,
}

#[derive(Clone, Default)]
struct Peers(Arc<Mutex<Inner>>);

impl Peers {
    /// From now on, and for what is connected: that is closed.
    fn set(&self, last: u8, peer: Peer) {
        let address = endpoint(last).addr().clone();
        let mut inner = self.0.lock().unwrap();
        inner.serving.retain(|(of, task)| {
            let cut = *of == address;
            if cut {
                task.abort();
            }
            !cut
        });
        inner.peers.insert(address, peer);
    }

    fn dials(&self, last: u8) -> usize {
        self.0.lock().unwrap().dials.get(endpoint(last).addr()).copied().unwrap_or(0)
    }

    fn connect(&self, address: &Address) -> Result<Connected, BoxError> {
        let mut inner = self.0.lock().unwrap();
        *inner.dials.entry(address.clone()).or_default() += 1;
        let (ours, theirs) = tokio::io::duplex(1024);
        let peer = inner.peers.get(address).copied().unwrap_or(Peer::Serves);
        let idle = match peer {
            Peer::Refuses => return Err("refused".into()),
            Peer::Closes => return Ok(Connected::new(TokioIo::new(ours))),
            Peer::Serves => Duration::from_secs(3_600),
            Peer::ClosesIdle(idle) => idle,
        };
        let serving = tokio::spawn(serve(theirs, address.to_string(), idle));
        inner.serving.push((address.clone(), serving));
        Ok(Connected::new(TokioIo::new(ours)))
    }
}

async fn serve(stream: tokio::io::DuplexStream, name: String, idle: Duration) {
    let asked = tokio::sync::Notify::new();
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        asked.notify_one();
        let body = Full::new(Bytes::from(name.clone()));
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    loop {
        tokio::select! {
            _ = &mut served => return,
            () = asked.notified() => {}
            () = tokio::time::sleep(idle) => return,
        }
    }
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint::new(([10, 0, 0, last], 80))
}

/// 1 before 2.
fn balanced(peers: &Peers, lasts: &[u8]) -> Balance<HttpService> {
    let list = lasts.iter().enumerate().map(|(at, &last)| {
        let priority = u32::try_from(at).unwrap();
        endpoint(last).with_priority(Priority(priority))
    });
    let peers = peers.clone();
    let http = Http::default().connector(move |address: &Address| {
        let connected = peers.connect(address);
        async move { connected }
    });
    Balance::builder(StaticList::new(list).unwrap())
        .policy(RoundRobin::new())
        .seed(7)
        .make(http)
        .unwrap()
}

/// A request that nobody may repeat; who answered it.
async fn post(balance: &Balance<HttpService>) -> Result<String, Error> {
    let request = Request::post("http://users/").body(Full::new(Bytes::from("once"))).unwrap();
    let response = tower::ServiceExt::oneshot(balance.clone(), request).await?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// So many, one every 20 ms: how many failed, and who answered the others.
async fn posts(balance: &Balance<HttpService>, count: usize) -> (usize, HashMap<String, usize>) {
    let (mut failed, mut answered) = (0, HashMap::new());
    for _ in 0..count {
        match post(balance).await {
            Ok(name) => *answered.entry(name).or_default() += 1,
            Err(_) => failed += 1,
        }
        tokio::time::sleep(20 * MS).await;
    }
    (failed, answered)
}

fn only(last: u8, count: usize) -> HashMap<String, usize> {
    HashMap::from([(endpoint(last).to_string(), count)])
}

/// The last second thought of a tier is its own connection: one that was closed before it carried
/// anything is no sign of life, however often there is one.
#[tokio::test(start_paused = true)]
async fn a_primary_that_accepts_and_closes_takes_no_traffic_from_the_backup() {
    let peers = Peers::default();
    peers.set(1, Peer::Closes);
    let balance = balanced(&peers, &[1, 2]);
    tokio::time::sleep(100 * MS).await;
    assert_eq!(posts(&balance, 3_000).await, (0, only(2, 3_000)), "from the beginning");
    assert!(peers.dials(1) > 6, "it is tried again and again, and rarely: {}", peers.dials(1));
    assert!(peers.dials(1) < 40, "{}", peers.dials(1));

    peers.set(1, Peer::Serves);
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(posts(&balance, 200).await, (0, only(1, 200)), "it serves again");

    // At the end of what had served, one request finds out, whom nobody can save.
    peers.set(1, Peer::Closes);
    let (failed, answered) = posts(&balance, 3_000).await;
    assert!(failed <= 1, "{failed} failed");
    assert_eq!(answered, only(2, 3_000 - failed));
}

/// Servers close what lies idle, some of them soon: one that serves is none the worse for it.
#[tokio::test(start_paused = true)]
async fn a_server_that_closes_idle_connections_soon_serves_all_the_same() {
    let peers = Peers::default();
    peers.set(1, Peer::ClosesIdle(300 * MS));
    let balance = balanced(&peers, &[1]);
    // Before any request: its first connections carry nothing.
    for pause in [5_000, 0, 250, 500, 5_000, 60_000] {
        tokio::time::sleep(pause * MS).await;
        let start = Clock::default().now();
        assert_eq!(post(&balance).await.unwrap(), endpoint(1).to_string(), "after {pause} ms");
        let now = Clock::default().now();
        assert_eq!(now, start, "nobody waits for a backoff: after {pause} ms");
    }
    // And the same after it was away.
    peers.set(1, Peer::Refuses);
    assert!(post(&balance).await.is_err());
    peers.set(1, Peer::ClosesIdle(300 * MS));
    tokio::time::sleep(Duration::from_secs(60)).await;
    for pause in [0, 400, 5_000, 60_000] {
        tokio::time::sleep(pause * MS).await;
        assert_eq!(posts(&balance, 10).await, (0, only(1, 10)), "after {pause} ms");
    }

    // For a server that may be none, the backoff is shortened no more than that.
    let peers = Peers::default();
    peers.set(1, Peer::Closes);
    let balance = balanced(&peers, &[1]);
    for _ in 0..3 {
        let before = peers.dials(1);
        assert!(post(&balance).await.is_err());
        let dials = peers.dials(1) - before;
        // A dial a backoff, and one between; in the 5 s that a request waits at most, five backoffs of
        // 0.2 s and more, each longer than the last.
        assert!(dials <= 12, "{dials} dials");
    }

    // Before a backup as well: what has carried a request was good.
    let peers = Peers::default();
    peers.set(1, Peer::ClosesIdle(300 * MS));
    let balance = balanced(&peers, &[1, 2]);
    for pause in [0, 400, 5_000] {
        tokio::time::sleep(pause * MS).await;
        assert_eq!(posts(&balance, 10).await, (0, only(1, 10)), "after {pause} ms");
    }
}
