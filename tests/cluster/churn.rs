//! A thousand endpoints in a dozen slices, a hundred changes a second, and traffic.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use evenkeel::{Balance, client::HttpService, node::Clock};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt;

use super::{control_plane::say, *};

const SLICES: usize = 12;
const IN_A_SLICE: usize = 84;
/// Of those of each slice, ports at which nobody listens.
const DEAD: usize = 4;
const CHANGES_PER_SECOND: u32 = 100;

/// How long, in seconds: a minute where it counts (`EVENKEEL_CHURN_SECONDS=60`).
fn seconds() -> u64 {
    let given = std::env::var("EVENKEEL_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(10)
}

/// The slices as the test wants them: of each, which of its endpoints are ready.
struct Wanted {
    ports: Vec<u16>,
    dead_port: u16,
    ready: Vec<Vec<bool>>,
}

// === impl Wanted ===

impl Wanted {
    fn address(at: usize) -> String {
        format!("10.77.5.{}", at + 1)
    }

    fn endpoints(&self, slice: usize, dead: bool) -> Vec<Value> {
        let all = self.ready[slice].iter().enumerate();
        all.filter(|(at, _)| (*at < DEAD) == dead)
            .map(|(at, ready)| {
                json!({"addresses": [Self::address(at)],
                    "conditions": {"ready": ready, "serving": ready, "terminating": false}})
            })
            .collect()
    }

    /// The two slices with number `slice`: of those that live, and of those that are dead.
    fn objects(&self, slice: usize) -> [(String, Value); 2] {
        [(false, self.ports[slice]), (true, self.dead_port + slice as u16)].map(|(dead, port)| {
            let name = format!("cart-{slice}-{}", if dead { "dead" } else { "live" });
            let object = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "cart"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
                "endpoints": self.endpoints(slice, dead),
            });
            (name, object)
        })
    }

    fn set(&self) -> Set {
        let mut set = Set::new();
        for (slice, ready) in self.ready.iter().enumerate() {
            for (at, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                let dead = at < DEAD;
                let port = if dead { self.dead_port + slice as u16 } else { self.ports[slice] };
                set.insert(format!("{}:{port}", Self::address(at)));
            }
        }
        set
    }
}

/// A server at `port` of every address of this machine.
async fn serve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let answer = |_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"here"))))
                };
                let connection = http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    port
}

/// Memory of this process, in MB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / 1_000_000
}

async fn request(balance: Balance<HttpService>) -> Result<(), evenkeel::BoxError> {
    let request = Request::get("http://cart/").body(Empty::<Bytes>::new())?;
    let response = balance.oneshot(request).await?;
    response.into_body().collect().await?;
    Ok(())
}

/// R8, R10, R1: no request fails that a live endpoint could have served, memory is flat, and the set is
/// exact at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_thousand_endpoints_under_churn_and_traffic() {
    let Some(binaries) = binaries() else { return };
    if std::net::TcpListener::bind("10.77.5.1:0").is_err() {
        return say(
            "skipped traffic: run it where `ip route add local 10.77.5.0/24 dev lo` was done",
        );
    }
    let _one = ONE_AT_A_TIME.lock().await;
    let plane = ControlPlane::start(&binaries, false).await;
    let mut ports = Vec::new();
    for _ in 0..SLICES {
        ports.push(serve().await);
    }
    let mut wanted = Wanted { ports, dead_port: 9, ready: vec![vec![true; IN_A_SLICE]; SLICES] };
    let slices: Api<EndpointSlice> = Api::namespaced(plane.client(ADMIN), NAMESPACE);
    for slice in 0..SLICES {
        for (_, object) in wanted.objects(slice) {
            slices.create(&PostParams::default(), &self::object(object)).await.unwrap();
        }
    }
    let file = plane.kubeconfig_file(ADMIN, plane.api_address());
    let cluster = Kubernetes::kubeconfig(Some(file), None);
    let source = cluster.service(NAMESPACE, "cart").port("http");
    let balance = Balance::builder(source.clone()).http().unwrap();
    tokio::time::timeout(Duration::from_secs(30), balance.ready()).await.unwrap().unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (balance, stop, answered) = (balance.clone(), stop.clone(), answered.clone());
        clients.spawn(async move {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match request(balance.clone()).await {
                    Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            failures
        });
    }
    let clock = Clock::default();
    let (begin, mut changes, mut warm) = (clock.now(), 0_u32, None);
    let mut patches: JoinSet<()> = JoinSet::new();
    let mut pending: BTreeMap<usize, usize> = BTreeMap::new();
    while clock.now() - begin < Duration::from_secs(seconds()) {
        let slice = changes as usize % SLICES;
        // One endpoint in five is out at any time; each change takes one out and lets one in.
        let round = changes as usize / SLICES;
        for (at, ready) in wanted.ready[slice].iter_mut().enumerate() {
            *ready = (at + round) % 5 != 0;
        }
        let [(name, object), _] = wanted.objects(slice);
        // Changes of one slice are sent one after another, those of several together.
        while patches.len() >= SLICES {
            patches.join_next().await.unwrap().unwrap();
        }
        let slices = slices.clone();
        *pending.entry(slice).or_default() += 1;
        patches.spawn(async move {
            let patch = json!({"endpoints": object["endpoints"]});
            slices.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        });
        changes += 1;
        if warm.is_none() && clock.now() - begin > Duration::from_secs(seconds() / 2) {
            warm = Some(resident());
        }
        let due = begin + Duration::from_secs(1) * changes / CHANGES_PER_SECOND;
        clock.sleep(due.saturating_duration_since(clock.now())).await;
    }
    while let Some(done) = patches.join_next().await {
        done.unwrap();
    }
    let took = clock.now() - begin;
    let (warm, end) = (warm.unwrap(), resident());
    // The last word on every slice, since changes that overlapped may have come in any order.
    for slice in 0..SLICES {
        for (name, object) in wanted.objects(slice) {
            let patch = json!({"endpoints": object["endpoints"]});
            slices.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }
    }
    Updates::of(source).until(&wanted.set()).await;
    let settled = async {
        loop {
            let status = balance.status();
            let serving = status
                .endpoints
                .iter()
                .filter(|one| one.state == evenkeel::pool::EndpointState::Serving);
            if names(serving.map(|one| &one.endpoint)) == wanted.set() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled)
        .await
        .expect("the set is exact at the end");
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.join_all().await.concat();
    let answered = answered.load(Ordering::Relaxed);
    say(&format!(
        "{} endpoints in {} slices: {changes} changes in {took:.0?}, {answered} requests answered, \
         {} failed, {warm} MB half way, {end} MB at the end",
        SLICES * IN_A_SLICE,
        2 * SLICES,
        failures.len()
    ));
    assert!(failures.is_empty(), "{} of {answered}, first {:?}", failures.len(), failures.first());
    assert!(answered > 0);
    // Allocators keep some of what they had; what grows with each change would show many times over.
    assert!(end <= warm + warm / 4 + 20, "{warm} MB, then {end} MB");
}
