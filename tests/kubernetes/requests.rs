//! R5, R8, R12: what requests, logs, gauges and the status show of a source that has trouble, and how
//! soon: in paused time, against the server in memory.

use std::{convert::Infallible, future::Ready, task::Poll};

use evenkeel::{
    AtResponse, Balance, Builder, discovery::OnEmpty, node::Clock, policy::NoKey,
    policy::RoundRobin,
};
use tower::{Service, ServiceExt};

use super::{
    api_server::{Fault, Verb},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

/// Says the name of its endpoint, without a network.
#[derive(Clone, Debug)]
pub(super) struct Naming(String);

pub(super) type Named = Balance<Naming, NoKey, AtResponse>;

impl Service<()> for Naming {
    type Response = String;
    type Error = Infallible;
    type Future = Ready<Result<String, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: ()) -> Self::Future {
        std::future::ready(Ok(self.0.clone()))
    }
}

/// Whose requests wait for a bit less than a second.
pub(super) fn naming(builder: Builder<KubernetesService>) -> Named {
    builder
        .policy(RoundRobin::new())
        .wait_for_endpoints(SECOND * 9 / 10)
        .complete_at_response()
        .make(|endpoint: &Endpoint| Naming(endpoint.to_string()))
        .expect("a runtime is here")
}

/// Of a refusal, within a second: one WARN that names verb, resource and namespace, the gauge, the
/// status, and the error of a request that waited since `begin`.
#[cfg(feature = "metrics")]
async fn shows_within_a_second(
    verb: &str,
    begin: std::time::Instant,
    balance: &Named,
    logged: &logged::Logged,
    gauges: &gauges::Gauges,
) {
    let now = || Clock::default().now();
    let waiting = tokio::spawn(balance.clone().oneshot(()));
    let says = format!("cannot {verb} endpointslices.discovery.k8s.io in namespace `shop`: 403: ");
    until("the status", || {
        let error = balance.status().discovery.error;
        error.is_some_and(|error| error.to_string().starts_with(&says))
    })
    .await;
    assert!(now() - begin < SECOND, "{:?}", now() - begin);
    // The pool has a word of its own that discovery failed.
    let mut warnings = logged.warnings(&says);
    warnings.retain(|warning| warning.contains("no watch of EndpointSlices"));
    let [warning] = &warnings[..] else { panic!("once: {warnings:?}") };
    let verb = format!("verb=\"{verb}\"");
    for part in [&*verb, "resource=\"endpointslices.discovery.k8s.io\"", "namespace=shop"] {
        assert!(warning.contains(part), "{part} in {warning}");
    }
    let failing = || gauges.of("k8s://shop/cart:http").map(|(failing, _)| failing);
    assert_eq!(failing(), Some(1.0));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains(&says), "{error}");
    assert!(error.to_string().contains("k8s://shop/cart:http"), "{error}");
    assert!(error.discovery().is_some());
    assert!(now() - begin < SECOND, "{:?}", now() - begin);
}

/// R12: a list that is refused from the start.
#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn r12_a_refused_list_shows_everywhere_within_a_second() {
    let (logged, gauges) = (logged::Logged::start(), gauges::Gauges::default());
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::List, Fault::Status(403));
    let begin = Clock::default().now();
    let balance = gauges.with(|| naming(Balance::builder(source(&api)).metrics()));
    shows_within_a_second("list", begin, &balance, &logged, &gauges).await;
    api.heal();
    let gone = || gauges.of("k8s://shop/cart:http") == Some((0.0, 1.0));
    until("it is allowed", || gone() && balance.status().discovery.error.is_none()).await;
    assert_eq!(balance.oneshot(()).await.unwrap(), "10.0.0.1:8080");
}

/// R12: a watch that was broken and is refused when it is to go on, of a Service that has nothing
/// ready, so that requests wait.
#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn r12_a_refused_watch_shows_everywhere_within_a_second() {
    let (logged, gauges) = (logged::Logged::start(), gauges::Gauges::default());
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [unready("10.0.0.1")]));
    let balance = gauges.with(|| naming(Balance::builder(source(&api)).metrics()));
    until("the watch", || api.open_watches() == 1).await;
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(gauges.of("k8s://shop/cart:http"), Some((0.0, 0.0)));
    api.fail(Verb::Watch, Fault::Status(403));
    api.cut_watches();
    shows_within_a_second("watch", Clock::default().now(), &balance, &logged, &gauges).await;
    api.heal();
    let gone = || gauges.of("k8s://shop/cart:http") == Some((0.0, 0.0));
    until("it is allowed", || gone() && balance.status().discovery.error.is_none()).await;
}

/// R5: a day without an API server takes nothing away, and the age of what is used shows.
#[tokio::test(start_paused = true)]
async fn r5_a_day_without_an_api_server_takes_nothing_away() {
    let mut api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let balance = naming(Balance::builder(source(&api)));
    balance.ready().await.unwrap();
    until("the watch", || api.open_watches() == 1).await;
    api.kill().await;
    tokio::time::sleep(86_400 * SECOND).await;
    assert_eq!(balance.clone().oneshot(()).await.unwrap(), "10.0.0.1:8080");
    let discovery = balance.status().discovery;
    assert!(discovery.answered.unwrap() >= 86_400 * SECOND, "{discovery:?}");
    let error = discovery.error.unwrap().to_string();
    assert!(error.starts_with("cannot watch endpointslices"), "{error}");
    api.restart().await;
    until("the watch", || balance.status().discovery.error.is_none()).await;
    assert!(balance.status().discovery.answered.unwrap() < 60 * SECOND);
}

/// R5: when the last endpoint goes, requests fail by default rather than go to an address that may be
/// another pod's by now; and go on to it where that was asked for.
#[tokio::test(start_paused = true)]
async fn r5_the_last_endpoint_that_goes_is_not_used_unless_so_wished() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let default = naming(Balance::builder(source(&api)));
    let keeping = naming(Balance::builder(source(&api)).on_empty(OnEmpty::Keep));
    for balance in [&default, &keeping] {
        assert_eq!(balance.clone().oneshot(()).await.unwrap(), "10.0.0.1:8080");
        until("the watch", || api.open_watches() >= 1).await;
    }
    api.put("shop", "cart-a", slice("cart", [unready("10.0.0.1")]));
    for balance in [&default, &keeping] {
        until("it is known", || balance.status().discovery.empty.is_some()).await;
    }
    let error = default.clone().oneshot(()).await.unwrap_err().to_string();
    assert!(error.contains("has no endpoint that is ready, of 1 that are known"), "{error}");
    assert_eq!(keeping.oneshot(()).await.unwrap(), "10.0.0.1:8080");
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(default.oneshot(()).await.unwrap(), "10.0.0.2:8080");
}

/// R8: whatever a source is at, its tasks end within a second of the last of its balancers.
#[tokio::test(start_paused = true)]
async fn r8_nothing_is_left_of_balancers_that_are_gone() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let before = tasks();
    for fault in [
        None,
        Some((Verb::List, Fault::Hang)),
        Some((Verb::Watch, Fault::Hang)),
        Some((Verb::List, Fault::Status(403))),
        Some((Verb::Watch, Fault::EndAtOnce)),
    ] {
        if let Some((verb, fault)) = fault {
            api.fail(verb, fault);
        }
        let all: Vec<_> = (0..50).map(|_| naming(Balance::builder(source(&api)))).collect();
        tokio::time::sleep(20 * SECOND).await;
        assert!(tasks() >= before + 100, "drivers and watches: {}", tasks());
        drop(all);
        tokio::time::sleep(SECOND / 2).await;
        // The server's part of a watch ends when it has something to say.
        api.bookmark();
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(tasks(), before, "{fault:?}");
        api.heal();
    }
}
