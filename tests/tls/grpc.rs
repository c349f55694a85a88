//! gRPC over TLS: HTTP/2, or a typed error.

use std::{convert::Infallible, time::Duration};

use evenkeel::{
    Balance, Error,
    client::{Http, ProtocolError, Tls, TonicChannel},
    node::LinkState,
    policy::RoundRobin,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::Service;

use super::{
    BOTH,
    authority::{Authority, any_port, guard, ring},
    causes::caused,
    server::Server,
};

async fn check(channel: TonicChannel) -> Result<i32, Status> {
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status)
}

fn protocol(status: &Status) -> ProtocolError {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let error = std::error::Error::source(status).unwrap().downcast_ref::<Error>().unwrap();
    assert!(error.is_unprocessed(), "{error}");
    *caused(error).unwrap_or_else(|| panic!("another cause: {error:?}"))
}

/// tonic's health service over TLS.
async fn serve(listener: TcpListener, config: ServerConfig) {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let mut connections = JoinSet::new();
    loop {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let health = health.clone();
        let service = hyper::service::service_fn(move |request: http::Request<_>| {
            let answer = health.clone().call(request);
            async move { Ok::<_, Infallible>(answer.await.unwrap()) }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

#[tokio::test]
async fn r20_a_channel_over_tls_asks_for_the_targets_name_and_speaks_http2() {
    guard(async {
        let authority = Authority::new();
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let target = format!("static://{};name=cart.shop", listener.local_addr().unwrap());
        let _serving =
            JoinSet::from_iter([serve(listener, authority.server(&["cart.shop"], BOTH))]);
        let tls = Tls::roots(authority.roots()).provider(ring());
        let channel = Balance::to(&target).unwrap().tonic_tls(tls).unwrap();
        assert_eq!(check(channel).await.unwrap(), 1);
    })
    .await;
}

/// R24: in the handshake, whether the server says that it does not speak HTTP/2 or says nothing.
#[tokio::test]
async fn r24_a_server_that_does_not_agree_to_http2_is_a_typed_error_of_the_dial() {
    guard(async {
        let authority = Authority::new();
        for protocols in [&[][..], &["http/1.1"]] {
            let server = Server::start(authority.server(&["cart.shop"], protocols)).await;
            let tls = Tls::roots(authority.roots()).provider(ring()).server_name("cart.shop");
            let channel = Balance::to(&format!("static://{}", server.address))
                .unwrap()
                .wait_for_endpoints(Duration::from_secs(2))
                .tonic_tls(tls)
                .unwrap();
            let status = check(channel).await.unwrap_err();
            assert_eq!(protocol(&status), ProtocolError::NotAgreed, "{protocols:?}");
            assert!(status.message().contains("does not agree to HTTP/2"), "{status}");
            assert_eq!(server.requests(), 0);
        }
    })
    .await;
}

/// R24: and if a channel is put over what may fall back to HTTP/1.1, no call goes out over it.
#[tokio::test]
async fn r24_no_call_of_grpc_goes_over_http1() {
    guard(async {
        let authority = Authority::new();
        let secret = Server::start(authority.server(&["cart.shop"], &[])).await;
        let tls = Tls::roots(authority.roots()).provider(ring()).server_name("cart.shop");
        let target = format!("static://{}", secret.address);
        let made = Balance::to(&target).unwrap().make(Http::default().tls(tls).unwrap()).unwrap();
        let channel = TonicChannel::over(made);
        for _ in 0..5 {
            let status = check(channel.clone()).await.unwrap_err();
            assert_eq!(protocol(&status), ProtocolError::GrpcOverHttp1);
            assert!(status.message().contains("gRPC needs HTTP/2"), "{status}");
        }
        assert_eq!(channel.status().endpoints[0].in_flight, 0);
        assert_eq!((secret.requests(), secret.accepted()), (0, 1), "the connection is kept");
    })
    .await;
}

/// R24, rule 3: an endpoint that speaks HTTP/1.1 alone fails no call that another can take.
#[tokio::test]
async fn r24_a_call_of_grpc_goes_to_the_endpoint_that_speaks_http2() {
    guard(async {
        let authority = Authority::new();
        let old = Server::start(authority.server(&["cart.shop"], &["http/1.1"])).await;
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let target = format!("static://{},{}", old.address, listener.local_addr().unwrap());
        let _serving =
            JoinSet::from_iter([serve(listener, authority.server(&["cart.shop"], BOTH))]);
        let tls = Tls::roots(authority.roots()).provider(ring()).server_name("cart.shop");
        let made = Balance::to(&target)
            .unwrap()
            .policy(RoundRobin::new())
            .make(Http::default().tls(tls).unwrap())
            .unwrap();
        let channel = TonicChannel::over(made);
        let up = |status: evenkeel::pool::Status| {
            status.endpoints.iter().all(|one| one.link == LinkState::Up)
        };
        while !up(channel.status()) {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            assert_eq!(check(channel.clone()).await.unwrap(), 1);
        }
        assert_eq!((old.requests(), old.accepted()), (0, 1));
    })
    .await;
}
