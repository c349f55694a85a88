//! A thousand endpoints in a dozen slices, a hundred changes a second, and traffic.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use evenkeel::{Balance, client::HttpService, node::Clock, pool::EndpointState};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt;

use super::{control_plane::say, skip::skipped, *};

const SLICES: usize = 12;
const IN_A_SLICE: usize = 84;
/// Of those of each slice, ports at which nobody listens.
const DEAD: usize = 4;
const CHANGES_PER_SECOND: usize = 100;

/// How many changes: a minute's where it counts (`EVENKEEL_CHURN_SECONDS=60`).
fn changes() -> usize {
    let given = std::env::var("EVENKEEL_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(10) * CHANGES_PER_SECOND
}

/// One slice with its endpoints, as the test wants it.
struct Wanted {
    name: String,
    port: u16,
    /// The last part of the address of the first endpoint.
    first: usize,
    ready: Vec<bool>,
}

// === impl Wanted ===

impl Wanted {
    fn new(name: String, port: u16, first: usize, endpoints: usize) -> Self {
        Self { name, port, first, ready: vec![true; endpoints] }
    }

    fn address(&self, at: usize) -> String {
        format!("10.77.5.{}", self.first + at)
    }

    fn conditions(&self, at: usize) -> Value {
        json!({"ready": self.ready[at], "serving": self.ready[at], "terminating": false})
    }

    fn object(&self) -> EndpointSlice {
        let endpoint =
            |at| json!({"addresses": [self.address(at)], "conditions": self.conditions(at)});
        object(json!({
            "metadata": {"name": self.name, "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": self.port, "protocol": "TCP"}],
            "endpoints": (0..self.ready.len()).map(endpoint).collect::<Vec<_>>(),
        }))
    }

    /// Takes one endpoint out and, once a fifth are out, lets one in again: change number `round`.
    fn change(&mut self, round: usize) -> Value {
        let count = self.ready.len();
        let (out, back) = (round % count, (round + count - count / 5) % count);
        self.ready[out] = false;
        self.ready[back] = true;
        let replace = |at: usize| {
            json!({"op": "replace", "path": format!("/endpoints/{at}/conditions"),
                "value": self.conditions(at)})
        };
        json!([replace(out), replace(back)])
    }

    fn set(&self) -> Set {
        let ready = (0..self.ready.len()).filter(|at| self.ready[*at]);
        ready.map(|at| format!("{}:{}", self.address(at), self.port)).collect()
    }
}

/// Sends a JSON patch, and does not read the slice that comes back: that costs more than all the rest.
async fn patch(client: &Client, name: &str, patch: &Value) {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{name}");
    let request = Request::patch(path)
        .header("content-type", "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .unwrap();
    client.request_text(request).await.unwrap();
}

/// Changes one slice `changes` times, each when it is due: one of `SLICES` that take turns.
async fn churn(
    client: Client,
    mut wanted: Wanted,
    turn: usize,
    changes: usize,
    begin: Instant,
) -> Wanted {
    let clock = Clock::default();
    for round in 0..changes {
        let number = (round * SLICES + turn) as u32;
        let due = begin + Duration::from_secs(1) * number / CHANGES_PER_SECOND as u32;
        clock.sleep(due.saturating_duration_since(clock.now())).await;
        let change = wanted.change(round);
        patch(&client, &wanted.name, &change).await;
    }
    wanted
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

/// Requests, one after another, until `stop`: how many were answered, and why others were not.
async fn requests(
    balance: Balance<HttpService>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match request(balance.clone()).await {
            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) => failures.push(error.to_string()),
        }
        // Some pace, so that this machine has time for the API server as well.
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    failures
}

/// R8, R10, R1: no request fails that a live endpoint could have served, memory is flat, and the set is
/// exact at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_thousand_endpoints_under_churn_and_traffic() {
    let Some(binaries) = binaries() else { return };
    if std::net::TcpListener::bind("10.77.5.1:0").is_err() {
        return skipped("run it where `ip route add local 10.77.5.0/24 dev lo` was done");
    }
    let _one = ONE_AT_A_TIME.lock().await;
    let plane = ControlPlane::start(&binaries, false).await;
    let client = plane.client(ADMIN);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let (mut live, mut dead) = (Vec::new(), Vec::new());
    for slice in 0..SLICES {
        let name = format!("cart-{slice}");
        live.push(Wanted::new(format!("{name}-live"), serve().await, DEAD + 1, IN_A_SLICE - DEAD));
        dead.push(Wanted::new(format!("{name}-dead"), 9 + slice as u16, 1, DEAD));
    }
    for wanted in live.iter().chain(&dead) {
        slices.create(&PostParams::default(), &wanted.object()).await.unwrap();
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
        clients.spawn(requests(balance.clone(), stop.clone(), answered.clone()));
    }
    // An updater a slice, so that the changes of one come in their order and those of several together.
    let (clock, start) = (Clock::default(), resident());
    let (begin, each) = (clock.now(), changes().div_ceil(SLICES));
    let mut updaters = JoinSet::new();
    for (turn, wanted) in live.into_iter().enumerate() {
        updaters.spawn(churn(client.clone(), wanted, turn, each, begin));
    }
    clock.sleep(Duration::from_secs(1) * (changes() / CHANGES_PER_SECOND / 2) as u32).await;
    let warm = resident();
    let live = updaters.join_all().await;
    let took = (clock.now() - begin).as_secs_f64();
    let end = resident();
    let wanted: Set = live.iter().chain(&dead).flat_map(Wanted::set).collect();
    Updates::of(source).until(&wanted).await;
    let settled = async {
        loop {
            let status = balance.status();
            let serving = status.endpoints.iter().filter(|one| one.state == EndpointState::Serving);
            if names(serving.map(|one| &one.endpoint)) == wanted {
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
    let changes = each * SLICES;
    say(&format!(
        "{} endpoints in {} slices: {changes} changes in {took:.1} s, {:.0} a second; {answered} \
         requests answered, {} failed; {start} MB at the start, {warm} half way, {end} at the end",
        SLICES * IN_A_SLICE,
        2 * SLICES,
        changes as f64 / took,
        failures.len()
    ));
    assert!(failures.is_empty(), "{} of {answered}, first {:?}", failures.len(), failures.first());
    assert!(answered > 0);
    // Allocators keep some of what they had; what grows with each change would show many times over.
    assert!(end <= warm + warm / 4 + 20, "{warm} MB, then {end} MB");
}
