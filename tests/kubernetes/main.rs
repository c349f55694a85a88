//! The Kubernetes source against an API server in the process that speaks list and watch over real
//! HTTP, and fails as real ones do.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod api_server;
mod balancing;
mod conditions;
mod configured;
mod faults;
#[cfg(feature = "metrics")]
#[path = "../support/gauges.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod gauges;
mod logged;
mod merging;
mod requests;
mod time;

use std::{pin::Pin, time::Duration};

use api_server::ApiServer;
use evenkeel::{
    Endpoint,
    discovery::{
        Discover, RefreshHandle, Update,
        kubernetes::{Kubernetes, KubernetesService},
        refresh,
    },
};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

/// In real time, over real sockets: a guard against hanging, and no bound on what is tested.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

/// Waits until `done`, looking again and again.
async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
        panic!("waited in vain: {what}");
    }
}

/// A slice of the Service `service` with one port, `http` 8080.
fn slice(service: &str, endpoints: impl IntoIterator<Item = Value>) -> Value {
    slice_with(service, json!([{"name": "http", "port": 8080, "protocol": "TCP"}]), endpoints)
}

fn slice_with(service: &str, ports: Value, endpoints: impl IntoIterator<Item = Value>) -> Value {
    let endpoints: Vec<_> = endpoints.into_iter().collect();
    let first =
        endpoints.first().and_then(|one| one["addresses"][0].as_str().map(ToOwned::to_owned));
    let family = match first {
        Some(address) if address.contains(':') => "IPv6",
        _ => "IPv4",
    };
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })
}

/// An endpoint of a slice that is ready.
fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

fn unready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": false, "terminating": false}})
}

fn terminating(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": true, "terminating": true}})
}

/// The address with the number `index` in 10.0.0.0/8.
fn ip(index: usize) -> String {
    format!("10.{}.{}.{}", index >> 16, index >> 8 & 255, index & 255)
}

/// What a source says.
struct Updates {
    stream: Pin<Box<dyn Stream<Item = Update> + Send>>,
    refresh: RefreshHandle,
    guard: Duration,
}

impl Updates {
    fn of(source: impl Discover) -> Self {
        let (refresh, requests) = refresh::channel();
        let guard = Duration::from_secs(60);
        Self { stream: Box::pin(source.watch(requests)), refresh, guard }
    }

    /// For paused time, of which there is enough.
    fn patient(source: KubernetesService) -> Self {
        Self { guard: Duration::from_secs(86_400), ..Self::of(source) }
    }

    async fn next(&mut self) -> Update {
        let next = tokio::time::timeout(self.guard, self.stream.next()).await;
        next.expect("hangs").expect("the stream never ends")
    }

    /// The next update, which must be a set: its addresses.
    async fn set(&mut self) -> Vec<String> {
        match self.next().await {
            Update::Set(set) => names(&set),
            other => panic!("expected a set: {other:?}"),
        }
    }

    /// Goes on until a set is said that is `expected`.
    async fn until_set(&mut self, expected: &[&str]) {
        loop {
            if let Update::Set(set) = self.next().await {
                if names(&set) == expected {
                    return;
                }
            }
        }
    }

    /// The next update, which must be an empty set: why.
    async fn empty(&mut self) -> String {
        match self.next().await {
            Update::Empty(reason) => reason.to_string(),
            other => panic!("expected empty: {other:?}"),
        }
    }

    /// The next update, which must be a set in doubt: its addresses, and the error.
    async fn partial(&mut self) -> (Vec<String>, String) {
        match self.next().await {
            Update::Partial(set, error) => (names(&set), error.to_string()),
            other => panic!("expected a part: {other:?}"),
        }
    }

    /// Goes on until a set in doubt is said: its addresses, and the error.
    async fn until_partial(&mut self) -> (Vec<String>, String) {
        loop {
            if let Update::Partial(set, error) = self.next().await {
                return (names(&set), error.to_string());
            }
        }
    }

    async fn failed(&mut self) -> String {
        match self.next().await {
            Update::Failed(error) => error.to_string(),
            other => panic!("expected a failure: {other:?}"),
        }
    }

    /// Nothing is said for a while, in which something was the case elsewhere: see the caller.
    fn says_nothing(&mut self) -> bool {
        use futures::FutureExt;
        self.stream.next().now_or_never().is_none()
    }
}

fn names<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<String> {
    let mut names: Vec<_> = endpoints.into_iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn cluster(api: &ApiServer) -> Kubernetes {
    Kubernetes::new(api.client(None))
}

fn source(api: &ApiServer) -> KubernetesService {
    cluster(api).service("shop", "cart").port("http")
}

/// A server with one ready pod, and a source that watches it.
async fn watched_by(api: ApiServer) -> (ApiServer, Updates) {
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut updates =
        if api.in_memory { Updates::patient(source(&api)) } else { Updates::of(source(&api)) };
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    (api, updates)
}
