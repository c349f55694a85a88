//! Balances over the pods behind a Kubernetes Service, and shows what it sees of them.
//!
//! ```sh
//! cargo run --release --features kubernetes --example kubernetes                   # an embedded API server
//! cargo run --release --features kubernetes --example kubernetes k8s://shop/cart:http   # the real thing
//! ```
//!
//! Without an argument it starts a small API server and a few HTTP servers in this process, and plays
//! a rollout: pods come, become ready, terminate and go. With one it goes to the cluster of the current
//! kubeconfig (or that of the pod that it runs in), and prints each change for a minute.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../../tests/kubernetes/api_server/mod.rs"]
mod api_server;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Balance, BoxError, client::HttpService, discovery::kubernetes::Kubernetes, policy::RoundRobin,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

use api_server::ApiServer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // rustls takes one for the process; the library chooses none.
    api_server::install_provider();
    match std::env::args().nth(1) {
        Some(target) => watch(&target).await,
        None => play().await,
    }
}

/// A real cluster, for a minute.
async fn watch(target: &str) -> Result<(), BoxError> {
    let balance = Balance::to(target)?.http()?;
    let mut shown = String::new();
    for _ in 0..240 {
        let status = balance.status();
        let listed: Vec<_> = status.endpoints.iter().map(|one| one.endpoint.to_string()).collect();
        let now = format!("{listed:?} {:?}", status.discovery.error);
        if now != shown {
            println!("{status}\n");
            shown = now;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// A rollout, against an API server in this process.
async fn play() -> Result<(), BoxError> {
    let api = ApiServer::start().await;
    // All of 127.0.0.0/8 is this machine: pods with addresses of their own, at one port.
    let (old, new) = (["127.0.1.1", "127.0.1.2"], ["127.0.2.1", "127.0.2.2", "127.0.2.3"]);
    let port = serve(&old, 0).await?;
    serve(&new, port).await?;
    let publish = |name: &str, pods: &[(&str, &str)]| {
        api.put("shop", name, slice(port, pods));
    };

    let cluster = Kubernetes::new(api.client(None));
    let cart = cluster.service("shop", "cart").port("http");
    println!("{cart}, an API server at {}\n", api.url());
    let balance = Balance::builder(cart).policy(RoundRobin::new()).measure_latency(true).http()?;

    publish("cart-old", &[(old[0], "ready"), (old[1], "ready")]);
    balance.ready().await?;
    step(&balance, "two pods, both ready").await?;

    publish("cart-new", &[(new[0], "ready"), (new[1], "starting"), (new[2], "starting")]);
    step(&balance, "a rollout begins: one of three new pods is ready").await?;

    publish("cart-new", &[(new[0], "ready"), (new[1], "ready"), (new[2], "ready")]);
    publish("cart-old", &[(old[0], "terminating"), (old[1], "terminating")]);
    step(&balance, "all new pods are ready, the old ones terminate").await?;

    api.delete("shop", "cart-old");
    publish("cart-new", &[(new[0], "terminating"), (new[1], "starting"), (new[2], "starting")]);
    step(&balance, "a bad night: one terminates and none is ready; the last resort serves").await?;

    publish("cart-new", &[(new[0], "ready"), (new[1], "ready"), (new[2], "ready")]);
    step(&balance, "back again").await?;

    api.fail(api_server::Verb::Watch, api_server::Fault::Status(403));
    api.cut_watches();
    tokio::time::sleep(Duration::from_secs(2)).await;
    step(&balance, "the right to watch is withdrawn: what was seen stands").await?;
    if let Some(error) = balance.status().discovery.error {
        println!("status() says: {error}\n");
    }
    api.delete("shop", "cart-new");
    println!("{}", balance.status());
    Ok(())
}

/// Waits until the change is through, and then says where 60 requests went.
async fn step(balance: &Balance<HttpService>, what: &str) -> Result<(), BoxError> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("{what}");
    let mut answered = BTreeMap::new();
    for _ in 0..60 {
        let request = Request::get("http://cart/").body(Empty::<Bytes>::new())?;
        let response = balance.clone().oneshot(request).await?;
        *answered.entry(response.body().endpoint().to_string()).or_insert(0) += 1;
        response.into_body().collect().await?;
    }
    println!("  {:<22} {:>8}", "endpoint", "requests");
    for (endpoint, requests) in answered {
        println!("  {endpoint:<22} {requests:>8}");
    }
    println!();
    Ok(())
}

/// HTTP servers at `port` of each address, or at any that is free on all of them.
async fn serve(addresses: &[&str], port: u16) -> Result<u16, BoxError> {
    let mut port = port;
    for address in addresses {
        let listener = TcpListener::bind(SocketAddr::new(address.parse()?, port)).await?;
        port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let service = service_fn(|_: Request<hyper::body::Incoming>| async {
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(
                            "hello",
                        ))))
                    });
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
    }
    Ok(port)
}

/// A slice as the EndpointSlice controller would write it.
fn slice(port: u16, pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|(address, state)| {
            json!({"addresses": [address], "conditions": {
                "ready": *state == "ready",
                "serving": *state != "starting",
                "terminating": *state == "terminating",
            }})
        })
        .collect();
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "cart"}}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    })
}
