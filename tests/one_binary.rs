//! R24: reqwest, kube, tonic and the transport in one program, all with TLS.
//!
//! rustls panics in a program in which two of its dependencies have each chosen a cryptography and
//! nobody has installed one. The crate chooses none, so one line of the program's own is enough.

#![cfg(all(feature = "tls", feature = "tonic", feature = "reqwest", feature = "kubernetes"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "shared with the tests of TLS")]
#[path = "tls/authority.rs"]
mod authority;
#[allow(dead_code, reason = "shared with the tests of TLS")]
#[path = "tls/server.rs"]
mod server;

use std::sync::Arc;

use bytes::Bytes;
use evenkeel::{
    Balance,
    client::{Http, ReqwestClient, Tls, TonicChannel},
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceExt};

use self::{
    authority::{Authority, any_port, guard},
    server::Server,
};

const NAME: &str = "users.shop";

/// A gRPC server with TLS, of the standard health service.
async fn grpc_server(authority: &Authority) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = authority.server(&[NAME], &["h2"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (_reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, health) = (acceptor.clone(), health.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    health.clone().call(request.map(tonic::body::Body::new))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn r24_all_clients_in_one_program_with_one_cryptography() {
    // The one line.
    rustls::crypto::ring::default_provider().install_default().unwrap();

    guard(async {
        let authority = Authority::new();
        let server =
            Server::start(authority.server(&[NAME, "127.0.0.1"], &["h2", "http/1.1"])).await;
        let target = format!("static://{}", server.address);
        let http = || Http::default().tls(Tls::roots(authority.roots()).server_name(NAME)).unwrap();
        let url = format!("https://{NAME}/");

        // The transport.
        let balance = Balance::to(&target).unwrap().make(http()).unwrap();
        let request = Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
        let answer = balance.clone().oneshot(request).await.unwrap();
        assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());

        // reqwest over it, and reqwest alone.
        let root = reqwest::Certificate::from_der(&authority.root()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .resolve(NAME, server.address)
            .no_proxy()
            .build()
            .unwrap();
        let users = ReqwestClient::over(client.clone(), balance);
        let told: server::Told = users.get(&url).send().await.unwrap().json().await.unwrap();
        assert_eq!(told["sni"], NAME);
        let direct = client.get(format!("https://{NAME}:{}/", server.address.port()));
        assert_eq!(direct.send().await.unwrap().status(), 200);

        // tonic over it.
        let grpc = format!("static://{}", grpc_server(&authority).await);
        let channel = TonicChannel::over(Balance::to(&grpc).unwrap().make(http()).unwrap());
        let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(health.into_inner().status, 1);

        // kube, as the source for Kubernetes uses it.
        let address = format!("https://{}/", server.address);
        let mut config = kube::Config::new(address.parse().unwrap());
        config.root_cert = Some(vec![authority.root().to_vec()]);
        let kube = kube::Client::try_from(config).unwrap();
        let request = Request::get("/version").body(Vec::new()).unwrap();
        assert!(kube.request_text(request).await.unwrap().contains("sni"));
    })
    .await;
}
