//! reqwest's requests over a balancer, against real servers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "reqwest")]

#[path = "support/causes.rs"]
mod causes;

use std::{
    error::Error as StdError,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use evenkeel::{
    Balance, Endpoint, Error,
    client::{ReqwestClient, SendError, SendWith},
    policy::RoundRobin,
};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;
use tower_http::{decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer};

use self::causes::caused;

async fn guard<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

/// A client as users have it. Its TLS is not used here, but it wants to have a provider.
fn plain() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A server that tells what it was asked; dropped, it is gone.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let app = Router::new()
            .route("/told/{*rest}", any(told))
            .route("/echo", post(|body: Body| async { Response::new(body) }))
            .route("/moved", get(moved))
            .route("/login", get(login))
            .route("/zipped", get(zipped))
            .route("/hangs", get(std::future::pending::<()>))
            .route("/stalls", get(stalls))
            .route("/breaks", get(breaks))
            .route(
                "/status/{code}",
                get(|Path(code)| async move { StatusCode::from_u16(code).unwrap() }),
            )
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&requests), count))
            .with_state(address);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, requests, task }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// A client of this server alone.
    fn client(&self) -> ReqwestClient {
        Balance::to(&format!("static://{}", self.address)).unwrap().reqwest(plain()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn count(
    State(requests): State<Arc<AtomicUsize>>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    requests.fetch_add(1, Ordering::SeqCst);
    next.run(request).await
}

/// The request, as the server saw it.
async fn told(
    State(address): State<SocketAddr>,
    method: axum::http::Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> String {
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
        .collect();
    json!({
        "server": address.to_string(),
        "method": method.as_str(),
        "uri": uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    })
    .to_string()
}

async fn moved() -> Response {
    (StatusCode::FOUND, [(header::LOCATION, "http://users/told/there?x=1")]).into_response()
}

async fn login() -> Response {
    let set = [(header::SET_COOKIE, "session=7; Path=/told"), (header::LOCATION, "/told/home")];
    (StatusCode::SEE_OTHER, set).into_response()
}

async fn zipped(headers: HeaderMap) -> Response {
    assert!(headers[header::ACCEPT_ENCODING].to_str().unwrap().contains("gzip"));
    // `printf evenkeel | gzip -n9`
    let body: &[u8] = &[
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0x4b, 0x2d, 0x4b, 0xcd, 0xcb, 0x4e, 0x4d, 0xcd, 1, 0,
        0x3a, 0x08, 0x1f, 0xf2, 8, 0, 0, 0,
    ];
    ([(header::CONTENT_ENCODING, "gzip")], body).into_response()
}

async fn stalls() -> Body {
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
    Body::from_stream(first.chain(stream::pending()))
}

async fn breaks() -> Body {
    let first = stream::iter([Ok(Bytes::from_static(b"first"))]);
    // The server sends what it has where the body is pending, and nothing of one that broke before.
    let end = stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("that is all"))
    });
    Body::from_stream(first.chain(end))
}

fn cause<'a>(error: &'a (dyn StdError + 'static)) -> &'a Error {
    caused(error).unwrap_or_else(|| panic!("no balancer's error in {error:?}"))
}

/// R20: the URL's name reaches the server, while address and port come from discovery.
#[tokio::test]
async fn r20_the_urls_name_is_the_host_and_discovery_has_the_port() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        for (url, host) in
            [("http://users/told/a?b=c", "users"), ("http://users:81/told/a", "users:81")]
        {
            let answer = users.get(url).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.url().as_str(), url);
            assert_eq!(answer.version(), http::Version::HTTP_11);
            let endpoint = answer.extensions().get::<Endpoint>().unwrap().to_string();
            assert_eq!(endpoint, server.address.to_string());
            let seen: Value = answer.json().await.unwrap();
            assert_eq!(seen["headers"]["host"], host);
            assert_eq!(
                seen["uri"],
                url.split_once("/told").map(|(_, rest)| format!("/told{rest}")).unwrap()
            );
            assert_eq!(seen["headers"]["accept"], "*/*");
        }
        // A fragment stays with the caller.
        let answer = users.get("http://users/told/a#part").send().await.unwrap();
        assert_eq!(answer.url().as_str(), "http://users/told/a#part");
        assert_eq!(answer.json::<Value>().await.unwrap()["uri"], "/told/a");
    })
    .await;
}

#[tokio::test]
async fn every_method_of_the_request_builder_is_forwarded() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        let request = users
            .post("http://users/told/a")
            .header("x-one", "1")
            .headers(HeaderMap::from_iter([(
                header::HeaderName::from_static("x-two"),
                header::HeaderValue::from_static("2"),
            )]))
            .bearer_auth("secret")
            .query(&[("q", "a b")])
            .json(&json!({"name": "ann"}))
            .timeout(Duration::from_secs(30))
            .version(http::Version::HTTP_11);
        let again = request.try_clone().unwrap();
        for request in [request, again] {
            let seen: Value = request.send().await.unwrap().json().await.unwrap();
            assert_eq!(seen["method"], "POST");
            assert_eq!(seen["uri"], "/told/a?q=a+b");
            assert_eq!(seen["headers"]["x-one"], "1");
            assert_eq!(seen["headers"]["x-two"], "2");
            assert_eq!(seen["headers"]["authorization"], "Bearer secret");
            assert_eq!(seen["headers"]["content-type"], "application/json");
            assert_eq!(seen["headers"]["content-length"], "14");
            assert_eq!(seen["body"], r#"{"name":"ann"}"#);
        }

        let seen: Value = users
            .put("http://users/told/a")
            .basic_auth("ann", Some("pw"))
            .form(&[("k", "v")])
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(seen["headers"]["authorization"], "Basic YW5uOnB3");
        assert_eq!((&seen["method"], &seen["body"]), (&json!("PUT"), &json!("k=v")));

        let form = reqwest::multipart::Form::new().text("part", "whole");
        let sent = users.patch("http://users/told/a").multipart(form).send().await.unwrap();
        let seen: Value = sent.json().await.unwrap();
        assert!(
            seen["headers"]["content-type"].as_str().unwrap().starts_with("multipart/form-data")
        );
        assert!(seen["body"].as_str().unwrap().contains("whole"));

        for (request, method) in [
            (users.delete("http://users/told/a"), "DELETE"),
            (users.request(reqwest::Method::OPTIONS, "http://users/told/a"), "OPTIONS"),
            (users.get("http://users/told/a").map(|builder| builder.body("x")), "GET"),
        ] {
            let seen: Value = request.send().await.unwrap().json().await.unwrap();
            assert_eq!(seen["method"], method);
        }
        assert_eq!(users.head("http://users/told/a").send().await.unwrap().status(), 200);
        let built = users.get("http://users/told/a").build().unwrap();
        assert_eq!(users.execute(built).await.unwrap().status(), 200);
        let (_, built) = users.get("http://users/told/a").build_split();
        assert_eq!(users.clone().oneshot(built.unwrap()).await.unwrap().status(), 200);
        // Credentials in the URL are a header, and no part of the Host.
        let sent = plain().get("http://ann:pw@users/told/a").send_with(&users).await.unwrap();
        let seen: Value = sent.json().await.unwrap();
        assert_eq!(seen["headers"]["host"], "users");
        assert_eq!(seen["headers"]["authorization"], "Basic YW5uOnB3");
    })
    .await;
}

/// R1: a live endpoint and one that refuses; both ways to send.
#[tokio::test]
async fn r1_nothing_fails_beside_an_endpoint_that_refuses() {
    guard(async {
        let server = Server::start().await;
        let client = plain();
        let users = Balance::to(&format!("static://{},127.0.0.1:1", server.address))
            .unwrap()
            .policy(RoundRobin::new())
            .reqwest(client.clone())
            .unwrap();
        let all = stream::iter(0..500).map(|number| {
            let url = format!("http://users/told/{number}");
            let post = client.post(&url).body(number.to_string()).send_with(&users);
            let get = users.get(&url).send();
            async move { (post.await.is_ok(), get.await.is_ok()) }
        });
        let bad = all.buffer_unordered(16).filter(|ok| std::future::ready(*ok != (true, true)));
        assert_eq!(bad.count().await, 0);
        assert_eq!(server.requests(), 1_000);
    })
    .await;
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        // Each part goes out only once the one before has come back.
        let (send, sent) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(sent));
        send.send(Ok("one".into())).await.unwrap();
        let answer = users.post("http://users/echo").body(body).send().await.unwrap();
        let mut parts = answer.bytes_stream().boxed();
        for next in ["two", "three"] {
            assert!(!parts.next().await.unwrap().unwrap().is_empty());
            send.send(Ok(next.into())).await.unwrap();
        }
        drop(send);
        let rest: Vec<_> = parts.map(|part| part.unwrap()).collect().await;
        assert_eq!(rest.concat(), b"three");
        assert_eq!(users.status().endpoints[0].in_flight, 0);
    })
    .await;
}

#[tokio::test]
async fn a_timeout_covers_the_head_and_the_body() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        let limit = Duration::from_millis(150);
        // On a connection that is there, the server surely has the request that is given up.
        users.get("http://users/told/a").send().await.unwrap().bytes().await.unwrap();
        let error = users.get("http://users/hangs").timeout(limit).send().await.unwrap_err();
        assert!(error.is_timeout() && !error.is_unprocessed(), "{error}");
        assert_eq!(error.endpoint().unwrap().to_string(), server.address.to_string());
        assert_eq!(
            error.to_string(),
            format!("the call was not complete within 150ms at endpoint {}", server.address)
        );

        // The client's own, where the request has none; and a request's own goes first.
        let (patient, users) = (users.clone(), users.timeout(limit));
        let error = users.get("http://users/hangs").send().await.unwrap_err();
        assert!(error.is_timeout());
        // On a busy machine even the head may come too late, and then a longer limit is what to try.
        let mut longer = limit;
        let error = loop {
            match patient.clone().timeout(longer).get("http://users/stalls").send().await {
                Ok(answer) => break answer.bytes().await.unwrap_err(),
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
            longer *= 2;
        };
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(cause(&error).endpoint().unwrap().to_string(), server.address.to_string());
        let long = Duration::from_secs(3600);
        let mut answer = users.get("http://users/stalls").timeout(long).send().await.unwrap();
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
        // Well beyond the client's own limit nothing ends it; a slow machine only makes this longer.
        tokio::time::timeout(limit * 3, answer.chunk()).await.expect_err("an hour is left");
        drop(answer);
        assert_eq!(users.status().endpoints[0].in_flight, 0);
    })
    .await;
}

/// R25: what went wrong, and where.
#[tokio::test]
async fn r25_errors_are_typed_and_name_the_endpoint() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        let error = users.get("no url").send().await.unwrap_err();
        assert!(matches!(&error, SendError::Request(error) if error.is_builder()), "{error:?}");
        let error = users.get("https://users/told/a").send().await.unwrap_err();
        let scheme = error.balance().unwrap().source().unwrap();
        assert!(scheme.is::<evenkeel::client::SchemeError>(), "{scheme}");
        assert_eq!(server.requests(), 0);

        let answer = users.get("http://users/breaks").send().await.unwrap();
        let error = answer.bytes().await.unwrap_err();
        let error = cause(&error);
        assert!(error.is_ambiguous(), "{error}");
        assert_eq!(error.endpoint().unwrap().to_string(), server.address.to_string());

        let nobody = Balance::to("static://127.0.0.1:1")
            .unwrap()
            .wait_for_endpoints(Duration::ZERO)
            .reqwest(plain())
            .unwrap();
        let error = nobody.get("http://users/").send().await.unwrap_err();
        assert!(error.is_unprocessed(), "{error}");
        assert!(error.balance().unwrap().is_no_endpoint(), "{error}");

        // A status is an answer; `error_for_status` is reqwest's own.
        let answer = users.get("http://users/status/503").send().await.unwrap();
        let error = answer.error_for_status().unwrap_err();
        assert_eq!(error.url().unwrap().as_str(), "http://users/status/503");
    })
    .await;
}

#[tokio::test]
async fn what_a_client_does_above_requests_is_had_by_layers_and_options() {
    guard(async {
        let server = Server::start().await;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "shop/1".parse().unwrap());
        headers.append("x-many", "1".parse().unwrap());
        headers.insert(header::ACCEPT, "text/plain".parse().unwrap());
        headers.insert(header::HOST, "users.shop".parse().unwrap());
        let users = server
            .client()
            .default_headers(headers)
            .layer(DecompressionLayer::new())
            .layer(FollowRedirectLayer::new());
        let sent = users.get("http://users/told/a").header("x-many", "mine").send().await.unwrap();
        let seen: Value = sent.json().await.unwrap();
        assert_eq!(seen["headers"]["user-agent"], "shop/1");
        assert_eq!(seen["headers"]["x-many"], "mine");
        assert_eq!(seen["headers"]["accept"], "text/plain");
        assert_eq!(seen["headers"]["host"], "users.shop");

        let answer = users.get("http://users/moved#part").send().await.unwrap();
        assert_eq!(answer.url().as_str(), "http://users/told/there?x=1#part");
        assert_eq!(answer.status(), 200);

        let answer = users.get("http://users/zipped").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "evenkeel");

        // Without the layer a redirect is an answer.
        let answer = server.client().get("http://users/moved").send().await.unwrap();
        assert_eq!(answer.status(), 302);
        assert_eq!(answer.url().as_str(), "http://users/moved");
    })
    .await;
}

/// Cookies are set on one hop, and sent on the next, whichever endpoint it goes to.
#[cfg(feature = "cookies")]
#[tokio::test]
async fn cookies_are_kept_for_the_name_that_all_endpoints_share() {
    guard(async {
        let servers = [Server::start().await, Server::start().await];
        let target = format!("static://{},{}", servers[0].address, servers[1].address);
        let users = Balance::to(&target)
            .unwrap()
            .policy(RoundRobin::new())
            .reqwest(plain())
            .unwrap()
            .layer(evenkeel::client::Cookies::default())
            .layer(FollowRedirectLayer::new());
        let answer = users.get("http://users/login").send().await.unwrap();
        assert_eq!(answer.url().as_str(), "http://users/told/home");
        let seen: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(seen["headers"]["cookie"], "session=7");
        let mut answered_by = std::collections::BTreeSet::new();
        for (url, cookie) in [
            ("http://users/told/a", json!("session=7")),
            ("http://users/told/b", json!("session=7")),
            ("http://others/told/a", Value::Null),
        ] {
            let answer = users.get(url).send().await.unwrap();
            let seen: Value = answer.json().await.unwrap();
            assert_eq!(seen["headers"]["cookie"], cookie, "{url}");
            answered_by.insert(seen["server"].to_string());
        }
        assert_eq!(answered_by.len(), 2);
    })
    .await;
}

/// No proxy of the environment gets between. The environment is the process's, so the test runs
/// itself in another.
#[tokio::test]
async fn no_proxy_variable_overrides_an_endpoint() {
    const INSIDE: &str = "EVENKEEL_TEST_BEHIND_A_PROXY";
    let proxied = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    if std::env::var_os(INSIDE).is_none() {
        let status = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "no_proxy_variable_overrides_an_endpoint"])
            .envs(proxied.map(|name| (name, "http://127.0.0.1:1")))
            .env(INSIDE, "1")
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .status();
        assert!(guard(status).await.unwrap().success());
        return;
    }
    guard(async {
        assert_eq!(std::env::var("HTTP_PROXY").unwrap(), "http://127.0.0.1:1");
        let server = Server::start().await;
        let answer = server.client().get("http://users/told/a").send().await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["server"], server.address.to_string());
    })
    .await;
}

/// T5: a body that is dropped unread ends its request.
#[tokio::test]
async fn t5_a_response_that_is_dropped_ends_its_request() {
    guard(async {
        let server = Server::start().await;
        let users = server.client();
        let answer = users.get("http://users/stalls").send().await.unwrap();
        assert_eq!(users.status().endpoints[0].in_flight, 1);
        drop(answer);
        assert_eq!(users.status().endpoints[0].in_flight, 0);
        let collected = users.get("http://users/told/a").send().await.unwrap();
        let body = http::Response::<reqwest::Body>::from(collected).into_body();
        assert!(!body.collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(users.status().endpoints[0].in_flight, 0);
    })
    .await;
}
