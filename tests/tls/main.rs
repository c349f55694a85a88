//! TLS: whose name is asked for and checked, what is agreed on, and what is refused.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod authority;
#[path = "../support/causes.rs"]
mod causes;
#[cfg(feature = "tonic")]
mod grpc;
mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel::{
    Balance, BuildError, Endpoint, Error, Protocol,
    client::{ConnectError, Http, HttpService, SchemeError, ServerNameError, Tls},
    discovery::{Registry, StaticList},
    node::Link,
    pool::MakeEndpoint,
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

use self::{
    authority::{Authority, any_port, guard, ring},
    causes::{caused, whole},
    server::{Server, Told},
};

const BOTH: &[&str] = &["h2", "http/1.1"];

/// A balancer over these endpoints; one that fails is not waited for.
fn over(endpoints: impl IntoIterator<Item = Endpoint>, tls: Tls) -> Balance<HttpService> {
    let http = Http::default().tls(tls.provider(ring())).unwrap();
    balanced(endpoints, http)
}

fn balanced(endpoints: impl IntoIterator<Item = Endpoint>, http: Http) -> Balance<HttpService> {
    let list = StaticList::new(endpoints).unwrap();
    Balance::builder(list).wait_for_endpoints(Duration::from_secs(2)).make(http).unwrap()
}

async fn get(balance: &Balance<HttpService>, uri: &str) -> Result<Told, Error> {
    let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    let response = balance.clone().oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body).unwrap())
}

/// R20: Host or `:authority`, SNI and the certificate are of the logical name, over either protocol.
#[tokio::test]
async fn r20_the_name_is_the_logical_one_though_an_address_is_dialled() {
    guard(async {
        let authority = Authority::new();
        for (protocols, version) in
            [(BOTH, "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
        {
            let server = Server::start(authority.server(&["users.shop"], protocols)).await;
            let tls = Tls::roots(authority.roots()).server_name("users.shop");
            let balance = over([Endpoint::new(server.address)], tls);
            // Named by the caller, and by nobody but the configuration.
            for uri in ["https://users.shop/a", "/a"] {
                let told = get(&balance, uri).await.unwrap();
                assert_eq!(told["sni"], "users.shop", "{protocols:?} {uri}");
                assert_eq!(told["host"], "users.shop", "{protocols:?} {uri}");
                assert_eq!(told["version"], version, "{protocols:?} {uri}");
            }
            if version == "HTTP/2.0" {
                assert_eq!(get(&balance, "/a").await.unwrap()["scheme"], "https");
            }
        }
    })
    .await;
}

/// R20: two servers of two names behind one balancer, by an override on each endpoint.
#[tokio::test]
async fn r20_an_endpoints_own_name_overrides() {
    guard(async {
        let authority = Authority::new();
        let one = Server::start(authority.server(&["one.shop"], BOTH)).await;
        let two = Server::start(authority.server(&["two.shop"], &["http/1.1"])).await;
        let endpoints = [
            Endpoint::new(one.address).with_server_name("one.shop"),
            Endpoint::new(two.address).with_server_name("two.shop"),
        ];
        let tls = Tls::roots(authority.roots()).server_name("neither.shop");
        let balance = over(endpoints, tls);
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let told = get(&balance, "/").await.unwrap();
            assert_eq!(told["sni"], told["host"]);
            seen.insert(told["sni"].as_str().unwrap().to_owned());
        }
        assert_eq!(Vec::from_iter(seen), ["one.shop", "two.shop"]);
    })
    .await;
}

/// R20: a server that cannot prove its name gets no request, and the error says why.
#[tokio::test]
async fn r20_a_wrong_name_or_a_stranger_is_refused() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["users.shop"], BOTH)).await;
        let bare = Endpoint::new(server.address);
        let trusting = || Tls::roots(authority.roots());
        let stranger = Authority::new();
        for (endpoint, tls) in [
            (bare.clone(), trusting().server_name("carts.shop")),
            (bare.clone().with_server_name("carts.shop"), trusting().server_name("users.shop")),
            // Without any name it is the address that the certificate would have to bear.
            (bare.clone(), trusting()),
            (bare.clone(), Tls::roots(stranger.roots()).server_name("users.shop")),
        ] {
            let balance = over([endpoint], tls);
            let error = get(&balance, "https://users.shop/").await.unwrap_err();
            assert!(error.is_unprocessed(), "{error}");
            assert!(error.to_string().contains(&server.address.to_string()), "{error}");
            let tls = caused::<rustls::Error>(&error).unwrap();
            assert!(matches!(tls, rustls::Error::InvalidCertificate(_)), "{tls}");
        }
        assert_eq!(server.requests(), 0);

        let balance = over([bare.with_server_name("no name")], trusting());
        let error = get(&balance, "/").await.unwrap_err();
        assert!(caused::<ServerNameError>(&error).is_some(), "{error:?}");
    })
    .await;
}

/// An address in the certificate serves where there is no name.
#[tokio::test]
async fn an_address_is_checked_where_there_is_no_name() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["127.0.0.1"], BOTH)).await;
        let balance = over([Endpoint::new(server.address)], Tls::roots(authority.roots()));
        let told = get(&balance, "/").await.unwrap();
        assert_eq!(told["host"], server.address.to_string());
        assert!(told["sni"].is_null(), "SNI is for names alone (RFC 6066)");
    })
    .await;
}

#[tokio::test]
async fn what_discovery_says_of_the_protocol_is_all_that_is_offered() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["users.shop"], BOTH)).await;
        let tls = || Tls::roots(authority.roots()).server_name("users.shop");
        for (protocol, version) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2.0")] {
            let balance = over([Endpoint::new(server.address).with_protocol(protocol)], tls());
            assert_eq!(get(&balance, "/").await.unwrap()["version"], version);
        }
        // A server that speaks nothing of it says so in the handshake.
        let old = Server::start(authority.server(&["users.shop"], &["http/1.1"])).await;
        let http = Http::default().http2_prior_knowledge().tls(tls().provider(ring())).unwrap();
        let balance = balanced([Endpoint::new(old.address)], http);
        let error = get(&balance, "/").await.unwrap_err();
        let tls = caused::<rustls::Error>(&error).unwrap();
        let refused = rustls::AlertDescription::NoApplicationProtocol;
        assert_eq!(*tls, rustls::Error::AlertReceived(refused));
    })
    .await;
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.asking_server(&["users.shop"])).await;
        let tls = || Tls::roots(authority.roots()).server_name("users.shop");
        let (chain, key) = authority.certify(&["a.client"]);
        let balance = over([Endpoint::new(server.address)], tls().client_certificate(chain, key));
        assert_eq!(get(&balance, "/").await.unwrap()["client_certificates"], 1);

        // Without one nothing is served; in TLS 1.3 the client learns it only after its handshake, and
        // with it whoever asks why: the call and the status.
        let required = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let endpoint = Endpoint::new(server.address).with_protocol(protocol);
            let balance = over([endpoint], tls());
            for _ in 0..3 {
                let error = get(&balance, "/").await.unwrap_err();
                let said = whole(&error);
                assert!(said.contains(&required.to_string()), "{protocol:?}: {said}");
            }
            let failure = balance.status().endpoints[0].last_failure.clone().unwrap();
            assert!(failure.contains(&required.to_string()), "{protocol:?}: {failure}");
        }
        assert_eq!(server.requests(), 1);
    })
    .await;
}

/// R20: neither secret by accident nor in the open by accident.
#[tokio::test]
async fn r20_a_scheme_that_the_transport_does_not_speak_is_a_typed_error() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["users.shop"], BOTH)).await;
        let tls = Tls::roots(authority.roots()).server_name("users.shop");
        let secret = over([Endpoint::new(server.address)], tls);
        let open = balanced([Endpoint::new(server.address)], Http::default());
        for (balance, uri, message) in [
            (secret, "http://users.shop/", "this transport speaks `https`, and not `http`"),
            (
                open,
                "https://users.shop/",
                "this transport speaks `http`, and not `https`; `Builder::https` does, and with \
                 reqwest `ReqwestClient::over` such a balancer",
            ),
        ] {
            let error = get(&balance, uri).await.unwrap_err();
            assert!(error.is_unprocessed(), "{error}");
            let scheme = caused::<SchemeError>(&error).unwrap();
            assert_eq!(scheme.to_string(), message);
        }
        assert_eq!(server.requests(), 0);
    })
    .await;
}

/// R2: a peer that accepts and then says nothing holds up nobody for longer than the connect timeout.
#[tokio::test]
async fn r2_a_handshake_has_its_time_within_the_connect_timeout() {
    guard(async {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = Authority::new();
        let tls = Tls::roots(authority.roots()).server_name("users.shop").provider(ring());
        let http = Http::default().connect_timeout(Duration::from_millis(100)).tls(tls).unwrap();
        let endpoint = Endpoint::new(silent.local_addr().unwrap());
        let mut service = http.make(&endpoint, Link::standalone(&endpoint));
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        let unsent = service.call(request).await.unwrap_err();
        assert!(unsent.request().is_some());
        assert!(unsent.cause().downcast_ref::<ConnectError>().unwrap().is_timeout());
    })
    .await;
}

/// R24: with no cryptography installed and none handed in there is an error, and no panic. No other
/// test of this binary installs any.
#[tokio::test]
async fn r24_without_cryptography_there_is_a_typed_error() {
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    let error = Http::default().tls(Tls::webpki()).unwrap_err();
    assert!(matches!(error, BuildError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("install a rustls `CryptoProvider`"), "{error}");
}

/// What the platform trusts is read once, since that takes a worker's time, and not again until it
/// succeeded. Where it stands is told by the environment, which is the process's, so the test runs itself
/// in another.
#[tokio::test]
async fn what_the_platform_trusts_is_read_once() {
    const FILE: &str = "SSL_CERT_FILE";
    const INSIDE: &str = "EVENKEEL_TEST_PLATFORM";
    let Some(file) = std::env::var_os(INSIDE) else {
        let file = std::env::temp_dir().join(format!("evenkeel-{}.pem", std::process::id()));
        let status = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_the_platform_trusts_is_read_once"])
            .env(FILE, &file)
            .env(INSIDE, &file)
            .env_remove("SSL_CERT_DIR")
            .status();
        assert!(guard(status).await.unwrap().success());
        return;
    };
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["users.shop"], BOTH)).await;
        let platform = || Http::default().tls(Tls::platform().provider(ring()));
        let error = platform().unwrap_err();
        assert!(error.to_string().contains("the platform has no root certificate"), "{error}");
        std::fs::write(&file, authority.pem()).unwrap();
        assert!(platform().is_ok());
        std::fs::remove_file(&file).unwrap();
        let endpoint = Endpoint::new(server.address).with_server_name("users.shop");
        let balance = balanced([endpoint], platform().expect("no file is read any more"));
        assert_eq!(get(&balance, "/").await.unwrap()["sni"], "users.shop");
    })
    .await;
}

/// An idle HTTP/1.1 connection is kept and used again: what TLS sends unasked, before the first response,
/// is no sign of its end. The connection may still be under way back when the next request comes, and so
/// there may be a second; of two, one lies idle.
#[tokio::test]
async fn an_idle_connection_serves_the_next_request() {
    guard(async {
        let authority = Authority::new();
        let server = Server::start(authority.server(&["users.shop"], &["http/1.1"])).await;
        let tls = Tls::roots(authority.roots()).server_name("users.shop");
        let balance = over([Endpoint::new(server.address)], tls);
        for _ in 0..20 {
            get(&balance, "/").await.unwrap();
        }
        assert!(server.accepted() <= 2, "{} connections for 20 requests", server.accepted());
    })
    .await;
}

/// R14: the connection of an endpoint that is removed ends with TLS's close_notify, over either protocol,
/// so that no server takes it for cut short.
#[tokio::test]
async fn r14_a_removed_endpoint_hears_close_notify() {
    guard(async {
        let authority = Authority::new();
        for protocol in BOTH {
            let config = authority.server(&["users.shop"], &[protocol]);
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind(any_port()).await.unwrap();
            let registry = Registry::new();
            let endpoint = Endpoint::new(listener.local_addr().unwrap());
            let registration = registry.register(endpoint).unwrap();
            let tls = Tls::roots(authority.roots()).server_name("users.shop").provider(ring());
            let balance =
                Balance::builder(registry).make(Http::default().tls(tls).unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            if *protocol == "h2" {
                // SETTINGS, which make the connection be up.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                stream.flush().await.unwrap();
            }
            balance.ready().await.unwrap();
            drop(registration);
            // Without close_notify it ends with an error.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
    })
    .await;
}

/// R2: an address at which TLS hangs, fails, or proves another's name hides none of the endpoint's others.
#[tokio::test]
async fn r2_an_address_that_accepts_without_tls_hides_no_other() {
    guard(async {
        let authority = Authority::new();
        let good = Server::start(authority.server(&["users.shop"], BOTH)).await;
        let other = Server::start(authority.server(&["carts.shop"], BOTH)).await;
        let silent = TcpListener::bind(any_port()).await.unwrap();
        for first in [other.address, silent.local_addr().unwrap()] {
            let endpoint = Endpoint::new(first).with_more_addresses([good.address.into()]);
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let tls = Tls::roots(authority.roots()).server_name("users.shop");
                let balance = over([endpoint.clone().with_protocol(protocol)], tls);
                assert_eq!(get(&balance, "/").await.unwrap()["sni"], "users.shop", "{first}");
            }
        }
        assert_eq!(good.requests(), 4);
    })
    .await;
}
