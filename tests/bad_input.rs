//! What is wrong is said at the door, with its name; and what the layer does to a request.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "here it stands still")]
#[path = "support/hand_time.rs"]
mod hand_time;
mod support;

use std::{
    error::Error as StdError,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Address, Balance, BuildError, Endpoint, LayerError, ListErrorReason,
    discovery::{Registry, StaticList},
    node::LinkState,
    policy::{Random, Rendezvous, RoundRobin},
    pool::Settings,
};
use futures::{FutureExt, future};
use hand_time::HandTime;
use http::{Request, Response, Uri, header};
use http_body_util::Empty;
use support::{Ask, Managed, Plain, World, endpoint, just, name, names, now, of, quiet, set};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// A target that does not parse says what was wrong with it, and where.
#[test]
fn a_bad_target_is_a_typed_error() {
    for (target, reason) in [
        ("static://", ListErrorReason::EmptyList),
        ("static://10.0.0.1:80,nonsense:80:80", ListErrorReason::Address),
        ("static://10.0.0.1:80,10.0.0.1:80", ListErrorReason::Duplicate),
        ("static://10.0.0.1:0", ListErrorReason::PortZero),
        ("static://localhost:80", ListErrorReason::Name),
    ] {
        match Balance::to(target).unwrap_err() {
            BuildError::List(error) => assert_eq!(error.reason, reason, "{target}"),
            other => panic!("{target}: {other}"),
        }
    }
    let error = Balance::to("zookeeper://a").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no source serves the scheme `zookeeper` of the target `zookeeper://a`: there are `static`, `dns`, `srv` and `k8s`"
    );
    for empty in ["", " ", "10.0.0.1:80"] {
        assert!(matches!(Balance::to(empty).unwrap_err(), BuildError::Target { .. }), "{empty:?}");
    }
    assert_eq!(StaticList::new([]).unwrap_err().reason, ListErrorReason::EmptyList);
    let zero = Endpoint::new(Address::name("db", 0));
    assert_eq!(
        Registry::new().register(zero).unwrap_err().to_string(),
        "`db:0` has port 0, which cannot be dialled"
    );
}

/// Outside a runtime there is nobody to run the balancer; the layer says so before it is used.
#[test]
fn without_a_runtime_is_a_typed_error() {
    let error = Balance::to("static://10.0.0.1:80").unwrap().make(Plain(World::new())).unwrap_err();
    assert!(matches!(error, BuildError::NoRuntime), "{error}");
    let error = Balance::to("static://10.0.0.1:80").unwrap().layer().unwrap_err();
    assert!(matches!(error, BuildError::NoRuntime), "{error}");
}

/// A runtime may have no timers, on which calls wait; a clock of one's own needs none.
#[test]
fn a_runtime_without_timers_is_a_typed_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let builder = || Balance::to("static://10.0.0.1:80").unwrap();
    let error = builder().make(Plain(World::new())).unwrap_err();
    assert!(matches!(error, BuildError::NoTimers), "{error}");
    let error = builder().layer().unwrap_err();
    assert!(matches!(error, BuildError::NoTimers), "{error}");
    let builder = builder().clock(HandTime::new().clock()).complete_at_response();
    let call = builder.make(Plain(World::new())).unwrap().oneshot(Ask::default());
    assert_eq!(runtime.block_on(call).unwrap(), name(1));
}

/// Settings out of range are refused when the balancer is built.
#[tokio::test]
async fn settings_out_of_range_are_typed_errors() {
    let setting = |error| match error {
        BuildError::Setting { setting, .. } => setting,
        other => panic!("{other}"),
    };
    let builder = || Balance::builder(just(set([1]))).complete_at_response();
    let error = builder().attempt_timeout(Duration::ZERO).make(Plain(World::new())).unwrap_err();
    assert_eq!(setting(error), "attempt_timeout");
    let error = builder().max_in_flight(0).make(Plain(World::new())).unwrap_err();
    assert_eq!(setting(error), "max_in_flight");
    let error = builder().policy(Rendezvous::by_header("no header")).make(Plain(World::new()));
    assert_eq!(
        error.unwrap_err().to_string(),
        "`no header` is no valid header name for a request key"
    );
    // Nonsense that has a meaning is taken: the longest time there is.
    let balance = builder()
        .wait_for_endpoints(Duration::MAX)
        .attempt_timeout(Duration::MAX)
        .drain_timeout(Duration::MAX)
        .keep_connected(usize::MAX)
        .max_waiting(usize::MAX)
        .make(Plain(World::new()))
        .unwrap();
    assert_eq!(balance.oneshot(Ask::default()).await.unwrap(), name(1));
}

/// An update of settings with one mistake changes nothing of what it names.
#[tokio::test(start_paused = true)]
async fn settings_with_a_mistake_change_nothing() {
    let balance = Balance::builder(just(set([])))
        .wait_for_endpoints(SECOND)
        .policy(RoundRobin::new())
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    let handle = balance.handle();
    let wrong = Settings::new().wait_for_endpoints(Duration::ZERO).max_in_flight(0);
    assert!(matches!(handle.update(wrong).unwrap_err(), BuildError::Setting { .. }));
    quiet().await;
    let start = now();
    assert!(balance.clone().oneshot(Ask::default()).await.unwrap_err().is_no_endpoint());
    assert_eq!(now() - start, SECOND);
    handle.update(Settings::new()).unwrap();
    quiet().await;
    let start = now();
    balance.clone().oneshot(Ask::default()).await.unwrap_err();
    assert_eq!(now() - start, SECOND, "no change is none");
}

/// Another policy over the same nodes: their counts, services and connections stay. The key's type
/// is part of the balancer's, so a policy by another key does not compile.
#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_nodes() {
    let world = World::new();
    let balance = Balance::builder(just(set(1..=3)))
        .policy(Random)
        .seed(7)
        .complete_at_response()
        .make(Managed(Arc::clone(&world)))
        .unwrap();
    balance.ready().await.unwrap();
    tokio::time::sleep(SECOND).await;
    let (gate, ask) = Ask::held();
    let held = tokio::spawn(balance.clone().oneshot(ask));
    quiet().await;
    balance.handle().update(Settings::new().policy(RoundRobin::new())).unwrap();
    quiet().await;
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(balance.clone().oneshot(Ask::default()).await.unwrap());
    }
    assert_eq!(turns[..3], turns[3..]);
    let status = balance.status();
    assert_eq!(status.endpoints.iter().map(|one| one.in_flight).sum::<u32>(), 1);
    assert_eq!((world.made(), world.dials()), (3, 3));
    gate.send(()).unwrap();
    held.await.unwrap().unwrap();

    // One setting alone leaves the policy as it is.
    balance.update(Settings::new().max_in_flight(5)).unwrap();
    quiet().await;
    let next = balance.clone().oneshot(Ask::default()).await.unwrap();
    assert_eq!(next, turns[0]);
}

/// R25: printed, the status is a table that a person can read.
#[tokio::test(start_paused = true)]
async fn r25_the_status_is_a_table() {
    let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80;weight=0")
        .unwrap()
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    balance.ready().await.unwrap();
    let text = balance.status().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0]
            .starts_with("static://10.0.0.1:80,10.0.0.2:80;weight=0: 2 endpoints, 0 calls waiting"),
        "{text}"
    );
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1])[..4], ["10.0.0.1:80", "Serving", "unreported", "0"]);
    assert_eq!(words(lines[2])[..2], ["10.0.0.2:80", "LeftOut"]);
}

// --- the layer ---

type Seen = Arc<Mutex<Vec<(Uri, Option<String>)>>>;

/// A client that dials what the URI says, and what it was asked.
fn dialling() -> (
    Seen,
    impl Service<Request<()>, Response = Response<Empty<Bytes>>, Error = io::Error, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static,
) {
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    let client = service_fn(move |request: Request<()>| {
        let host =
            request.headers().get(header::HOST).map(|host| host.to_str().unwrap().to_owned());
        log.lock().unwrap().push((request.uri().clone(), host));
        future::ready(Ok(Response::new(Empty::new())))
    });
    (seen, client)
}

fn to(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

/// Rule 15: the URI points at the endpoint, and the name that the caller used stays as the Host.
#[tokio::test]
async fn r20_the_layer_points_the_uri_at_the_endpoint_and_keeps_the_name() {
    let (seen, client) = dialling();
    let layer = Balance::to("static://10.0.0.1:8080").unwrap().layer().unwrap();
    let service = layer.layer(client);
    let given = Request::get("http://users/").header("host", "given").body(()).unwrap();
    let requests = [
        to("http://users/v1/42?all=1"),
        to("http://users:81/"),
        to("http://name:word@users"),
        given,
        to("/v1/only-a-path"),
    ];
    for request in requests {
        service.clone().oneshot(request).await.unwrap();
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let seen: Vec<_> = seen.iter().map(|(uri, host)| (uri.to_string(), host.as_deref())).collect();
    let at = |path: &str| format!("http://10.0.0.1:8080{path}");
    assert_eq!(
        seen,
        [
            (at("/v1/42?all=1"), Some("users")),
            (at("/"), Some("users:81")),
            (at("/"), Some("users")),
            (at("/"), Some("given")),
            (at("/v1/only-a-path"), None),
        ]
    );
}

/// The layer cannot serve https: it says so, sends nothing, tries no other endpoint, blames none.
#[tokio::test]
async fn https_through_the_layer_is_a_typed_error() {
    let (seen, client) = dialling();
    let layer = Balance::to("static://10.0.0.1:80,10.0.0.2:80").unwrap().layer().unwrap();
    let service = layer.layer(client);
    service.ready().await.unwrap();
    let call = service.clone().oneshot(to("https://users/"));
    let error = call.now_or_never().unwrap().unwrap_err();
    assert!(error.is_unprocessed() && error.endpoint().is_some() && !error.is_no_endpoint());
    let source = error.source().unwrap().downcast_ref::<LayerError>().unwrap();
    assert!(matches!(source, LayerError::Https));
    assert!(source.to_string().contains("`Builder::http`"), "{source}");
    assert!(seen.lock().unwrap().is_empty());
    let status = service.status();
    assert!(status.endpoints.iter().all(|one| one.success == 1.0 && one.in_flight == 0));
    assert!(status.endpoints.iter().all(|one| one.link == LinkState::Unreported));
}

/// Nor can a URI name a Unix socket.
#[tokio::test]
async fn a_unix_endpoint_through_the_layer_is_a_typed_error() {
    let (seen, client) = dialling();
    let layer = Balance::to("static://unix:/run/app.sock").unwrap().layer().unwrap();
    let service = layer.layer(client);
    service.ready().await.unwrap();
    let error = service.clone().oneshot(to("http://users/")).await.unwrap_err();
    assert!(error.is_unprocessed());
    let source = error.source().unwrap().downcast_ref::<LayerError>().unwrap();
    assert_eq!(source.to_string(), "the endpoint `unix:/run/app.sock` cannot be named by a URI");
    assert!(seen.lock().unwrap().is_empty());
}

/// A layer makes a balancer for each client, and the runtime is the one that it was built in.
#[tokio::test]
async fn a_layer_makes_a_balancer_for_each_client() {
    let registry = Registry::new();
    let _one = registry.register(endpoint(1)).unwrap();
    let layer = Balance::builder(registry).layer().unwrap();
    let services = [layer.layer(dialling().1), layer.clone().layer(dialling().1)];
    for service in services {
        service.clone().oneshot(to("http://users/")).await.unwrap();
        assert_eq!(names(&service.status()), [name(1)]);
        assert!(of(&service.status(), 1).success == 1.0);
    }
}
