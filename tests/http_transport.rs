//! The plain HTTP transport, over real sockets for order and counts and over pipes in paused time
//! for timers. The names of the tests carry the requirement that they show.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Address, BoxError, Endpoint, Protocol, Unsent,
    client::{Connect, ConnectError, Connected, Http, HttpBody, HttpService, SchemeError},
    node::{Clock, Link, LinkState},
    pool::MakeEndpoint,
};
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc, oneshot},
    task::JoinHandle,
};
use tower::Service;

type Sent<B = String> = Result<Response<HttpBody>, Unsent<Request<B>>>;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// No test may hang; over real sockets only, since paused time would jump here.
async fn guarded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs")
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address)
}

fn some_endpoint() -> Endpoint {
    Endpoint::new(([10, 0, 0, 1], 80))
}

fn make(http: &Http, endpoint: &Endpoint) -> (HttpService, Link) {
    let link = Link::standalone(endpoint);
    (http.make(endpoint, link.clone()), link)
}

fn get(path: &str) -> Request<String> {
    Request::get(path).body(String::new()).unwrap()
}

fn call(service: &HttpService, request: Request<String>) -> JoinHandle<Sent> {
    tokio::spawn(service.clone().call(request))
}

async fn text(response: Response<HttpBody>) -> String {
    let bytes = response.into_body().collect().await.expect("the body").to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn ask(service: &HttpService, path: &str) -> String {
    text(service.clone().call(get(path)).await.expect("an answer")).await
}

/// Waits for what other tasks do, and which nothing announces.
async fn until(what: impl Fn() -> bool) {
    for round in 0..30_000 {
        if what() {
            return;
        }
        match round {
            // In paused time everything that is ready runs before a millisecond passes.
            0..100 => tokio::task::yield_now().await,
            _ => Clock::default().sleep(Duration::from_millis(1)).await,
        }
    }
    panic!("it did not come to pass");
}

/// Reads one request without a body, to the end of its head.
async fn read_head(io: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

// === pipes instead of sockets ===

type Pipe = Result<TokioIo<DuplexStream>, BoxError>;

/// Every dial asks here, and is answered when the test says so.
struct Dials(mpsc::UnboundedReceiver<oneshot::Sender<Pipe>>);

impl Dials {
    fn new() -> (impl Connect, Self) {
        let (asked, dials) = mpsc::unbounded_channel();
        let connect = move |_: &Address| {
            let (answer, pipe) = oneshot::channel();
            asked.send(answer).expect("the test listens");
            async move { Ok(Connected::new(pipe.await??)) }
        };
        (connect, Self(dials))
    }

    async fn next(&mut self) -> oneshot::Sender<Pipe> {
        self.0.recv().await.expect("a dial")
    }

    async fn accept(&mut self) -> DuplexStream {
        accept(self.next().await)
    }
}

fn accept(dial: oneshot::Sender<Pipe>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    assert!(dial.send(Ok(TokioIo::new(ours))).is_ok(), "the dial waits");
    theirs
}

// === servers ===

struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve<F, Fut>(http2: bool, answer: F) -> Server
where
    F: Fn(Request<hyper::body::Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let io = TokioIo::new(stream);
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(io, service).await;
                }
            });
        }
    });
    Server { address, accepted }
}

impl Server {
    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn http2() -> Http {
    Http::default().http2_prior_knowledge()
}

// === HTTP/1.1: connections and who gets them ===

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    guarded(async {
        let server =
            serve(false, |request| async move { Response::new(request.uri().to_string().into()) })
                .await;
        let (service, link) = make(&Http::default(), &endpoint(server.address));
        assert_eq!(link.state(), LinkState::Idle);
        for path in ["/a", "/b", "/c"] {
            assert_eq!(ask(&service, path).await, path);
        }
        assert_eq!(server.accepted(), 1);
        assert_eq!(link.state(), LinkState::Up);
    })
    .await;
}

#[tokio::test]
async fn requests_at_the_same_time_each_have_a_connection() {
    guarded(async {
        let all = Arc::new(Barrier::new(20));
        let server = serve(false, move |_| {
            let all = Arc::clone(&all);
            async move {
                all.wait().await;
                Response::new("ok".into())
            }
        })
        .await;
        let (service, _) = make(&Http::default(), &endpoint(server.address));
        let calls: Vec<_> = (0..20).map(|_| call(&service, get("/"))).collect();
        for call in calls {
            assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
        }
        assert_eq!(server.accepted(), 20);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r4_a_request_takes_a_returned_connection_before_its_own_is_made() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let first = call(&service, get("/first"));
    let mut one = dials.accept().await;
    read_head(&mut one).await.unwrap();
    let second = call(&service, get("/second"));
    let slow = dials.next().await;
    one.write_all(ANSWER).await.unwrap();
    assert_eq!(text(first.await.unwrap().unwrap()).await, "ok");
    assert!(read_head(&mut one).await.unwrap().starts_with("GET /second "));
    // The dial that was overtaken goes on, and its connection is there for the next.
    let mut two = accept(slow);
    let third = call(&service, get("/third"));
    assert!(read_head(&mut two).await.unwrap().starts_with("GET /third "));
    two.write_all(ANSWER).await.unwrap();
    one.write_all(ANSWER).await.unwrap();
    assert_eq!(text(second.await.unwrap().unwrap()).await, "ok");
    assert_eq!(text(third.await.unwrap().unwrap()).await, "ok");
    assert!(dials.0.try_recv().is_err(), "no third dial");
}

#[tokio::test(start_paused = true)]
async fn a_request_takes_a_new_connection_before_one_is_returned() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let _first = call(&service, get("/first"));
    let mut one = dials.accept().await;
    read_head(&mut one).await.unwrap();
    let second = call(&service, get("/second"));
    let mut two = dials.accept().await;
    assert!(read_head(&mut two).await.unwrap().starts_with("GET /second "));
    two.write_all(ANSWER).await.unwrap();
    assert_eq!(text(second.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_connection_comes_back_at_the_end_of_the_body_and_not_before() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let first = call(&service, get("/first"));
    let mut one = dials.accept().await;
    read_head(&mut one).await.unwrap();
    one.write_all(&ANSWER[..ANSWER.len() - 1]).await.unwrap();
    let first = first.await.unwrap().unwrap();
    let second = call(&service, get("/second"));
    let _slow = dials.next().await;
    one.write_all(b"k").await.unwrap();
    assert_eq!(text(first).await, "ok");
    assert!(read_head(&mut one).await.unwrap().starts_with("GET /second "));
    drop(second);
}

/// Servers close idle connections without a word (`Connection: close`); none of those is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_a_connection_that_the_server_closed_is_not_handed_out() {
    guarded(async {
        let (listener, address) = listen().await;
        let (closed, mut closes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if read_head(&mut stream).await.is_ok() {
                    stream.write_all(ANSWER).await.unwrap();
                }
                drop(stream);
                closed.send(()).unwrap();
            }
        });
        let (service, _) = make(&Http::default(), &endpoint(address));
        for _ in 0..300 {
            assert_eq!(ask(&service, "/").await, "ok");
            closes.recv().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_in_time_and_the_link_rests() {
    let (connect, mut dials) = Dials::new();
    let http = Http::default().connector(connect).idle_timeout(Duration::from_secs(90));
    let (service, link) = make(&http, &some_endpoint());
    let clock = Clock::default();
    let calls = [call(&service, get("/")), call(&service, get("/"))];
    let (mut one, mut two) = (dials.accept().await, dials.accept().await);
    for pipe in [&mut one, &mut two] {
        read_head(pipe).await.unwrap();
        pipe.write_all(ANSWER).await.unwrap();
    }
    for call in calls {
        text(call.await.unwrap().unwrap()).await;
    }
    // One is used again after a minute, and lives that much longer.
    clock.sleep(Duration::from_secs(60)).await;
    let start = clock.now();
    let again = call(&service, get("/"));
    let first_is_used = tokio::select! {
        head = read_head(&mut one) => head.is_ok(),
        head = read_head(&mut two) => head.is_err(),
    };
    let (mut used, mut unused) = if first_is_used { (one, two) } else { (two, one) };
    used.write_all(ANSWER).await.unwrap();
    text(again.await.unwrap().unwrap()).await;

    assert_eq!(unused.read(&mut [0]).await.unwrap(), 0);
    let seconds = || clock.now().saturating_duration_since(start).as_secs_f64().round();
    assert_eq!(seconds(), 30.0);
    assert_eq!(link.state(), LinkState::Up);
    assert_eq!(used.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(seconds(), 90.0);
    until(|| link.state() == LinkState::Resting).await;

    // The next request dials, and the link counts as up meanwhile.
    let next = call(&service, get("/"));
    let dial = dials.next().await;
    assert_eq!(link.state(), LinkState::Resting);
    let mut pipe = accept(dial);
    read_head(&mut pipe).await.unwrap();
    assert_eq!(link.state(), LinkState::Up);
    pipe.write_all(ANSWER).await.unwrap();
    text(next.await.unwrap().unwrap()).await;
    // The server closes this one.
    drop(pipe);
    until(|| link.state() == LinkState::Resting).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_so_many_lie_idle() {
    let (connect, mut dials) = Dials::new();
    let http = Http::default().connector(connect).max_idle(1);
    let (service, link) = make(&http, &some_endpoint());
    let calls = [call(&service, get("/")), call(&service, get("/"))];
    let (mut one, mut two) = (dials.accept().await, dials.accept().await);
    for pipe in [&mut one, &mut two] {
        read_head(pipe).await.unwrap();
        pipe.write_all(ANSWER).await.unwrap();
    }
    for call in calls {
        text(call.await.unwrap().unwrap()).await;
    }
    let closed = tokio::select! {
        read = one.read_u8() => read,
        read = two.read_u8() => read,
    };
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(link.state(), LinkState::Up);
}

// === dials that fail ===

#[tokio::test]
async fn r1_a_refused_request_comes_back_and_the_link_says_failed() {
    guarded(async {
        let (listener, address) = listen().await;
        drop(listener);
        for http in [Http::default(), http2()] {
            let (mut service, link) = make(&http, &endpoint(address));
            let request = Request::post("http://users/a?b").body("body".to_owned()).unwrap();
            let unsent = service.call(request).await.unwrap_err();
            assert!(matches!(link.state(), LinkState::Failed { .. }));
            assert!(unsent.is_unprocessed());
            let (request, cause) = unsent.into_parts();
            let request = request.expect("it was never sent");
            assert_eq!(request.uri(), "http://users/a?b");
            assert!(request.headers().is_empty());
            assert_eq!(request.body(), "body");
            let cause = cause.downcast_ref::<ConnectError>().unwrap();
            let io = std::error::Error::source(cause).unwrap().downcast_ref::<std::io::Error>();
            assert_eq!(io.unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r2_a_dial_that_hangs_ends_at_the_connect_timeout() {
    let clock = Clock::default();
    for answers in [false, true] {
        // HTTP/1.1 whose SYN is swallowed; HTTP/2 that is accepted and then never hears a word.
        let (connect, mut dials) = Dials::new();
        let http = if answers { http2() } else { Http::default() };
        let (service, link) = make(&http.connector(connect), &some_endpoint());
        let start = clock.now();
        let calls = [call(&service, get("/")), call(&service, get("/"))];
        let dial = dials.next().await;
        let frozen = if answers { (None, Some(accept(dial))) } else { (Some(dial), None) };
        for call in calls {
            let unsent = call.await.unwrap().unwrap_err();
            assert!(unsent.request().is_some());
            assert!(unsent.cause().downcast_ref::<ConnectError>().unwrap().is_timeout());
        }
        let took = clock.now().saturating_duration_since(start);
        assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1005), "{took:?}");
        assert!(matches!(link.state(), LinkState::Failed { .. }));
        if let (_, Some(mut frozen)) = frozen {
            // Its own GOAWAY or not: the stream is let go of.
            frozen.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_address_of_an_endpoint_has_its_share_of_the_time() {
    let http = Http::default().connector(|address: &Address| {
        let port = address.port();
        async move {
            match port {
                Some(1) => std::future::pending().await,
                Some(2) => Err("refused".into()),
                _ => {
                    let (ours, theirs) = tokio::io::duplex(64);
                    tokio::spawn(async move {
                        let mut theirs = theirs;
                        read_head(&mut theirs).await.unwrap();
                        theirs.write_all(ANSWER).await.unwrap();
                    });
                    Ok::<_, BoxError>(Connected::new(TokioIo::new(ours)))
                }
            }
        }
    });
    let more = [2, 3].map(|port| Address::from(([10, 0, 0, 1], port)));
    let endpoint = Endpoint::new(([10, 0, 0, 1], 1)).with_more_addresses(more);
    let (service, _) = make(&http, &endpoint);
    assert_eq!(ask(&service, "/").await, "ok");
}

#[tokio::test(start_paused = true)]
async fn t6_a_dial_outlives_the_request_that_asked_for_it() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let given_up = call(&service, get("/given-up"));
    let dial = dials.next().await;
    assert_eq!(link.state(), LinkState::Connecting);
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let mut pipe = accept(dial);
    until(|| link.state() == LinkState::Up).await;
    let next = call(&service, get("/next"));
    assert!(read_head(&mut pipe).await.unwrap().starts_with("GET /next "));
    pipe.write_all(ANSWER).await.unwrap();
    assert_eq!(text(next.await.unwrap().unwrap()).await, "ok");
    assert!(dials.0.try_recv().is_err(), "one dial was enough");
}

#[tokio::test(start_paused = true)]
async fn t6_a_connection_granted_to_a_request_that_gave_up_goes_to_the_next() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    // Not a task: it is polled once, then never again.
    let mut given_up = Box::pin(service.clone().call(get("/given-up")));
    assert!(futures::poll!(&mut given_up).is_pending());
    let mut pipe = dials.accept().await;
    until(|| link.state() == LinkState::Up).await;
    drop(given_up);
    let next = call(&service, get("/next"));
    assert!(read_head(&mut pipe).await.unwrap().starts_with("GET /next "));
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_is_no_flood_of_dials() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let calls: Vec<_> = (0..100).map(|_| call(&service, get("/"))).collect();
    let mut answered = 0;
    let mut waiting = Vec::new();
    while answered < 100 {
        until(|| waiting.len() + dials.0.len() >= 64.min(100 - answered)).await;
        while let Ok(dial) = dials.0.try_recv() {
            waiting.push(dial);
        }
        assert!(waiting.len() <= 64, "{}", waiting.len());
        let mut pipe = accept(waiting.pop().unwrap());
        read_head(&mut pipe).await.unwrap();
        // Without keep-alive, so that each needs a connection of its own.
        let close = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        pipe.write_all(close.as_bytes()).await.unwrap();
        answered += 1;
    }
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
    }
}

// === connections that break ===

#[tokio::test]
async fn t14_a_reset_connection_is_ambiguous_and_not_at_rest() {
    guarded(async {
        for after_head in [false, true] {
            let (listener, address) = listen().await;
            let (service, link) = make(&Http::default(), &endpoint(address));
            let call = call(&service, get("/"));
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            if after_head {
                stream.write_all(&ANSWER[..ANSWER.len() - 1]).await.unwrap();
            }
            let call = if after_head { Err(call.await.unwrap().unwrap()) } else { Ok(call) };
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
            match call {
                Ok(call) => assert!(!call.await.unwrap().unwrap_err().is_unprocessed()),
                Err(response) => assert!(response.into_body().collect().await.is_err()),
            }
            // It had only just come up, so that is a failure with a backoff.
            until(|| matches!(link.state(), LinkState::Failed { .. })).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn t14_a_connection_that_breaks_mid_request_is_ambiguous_and_lost() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    // It had lasted, so the pool may dial again at once.
    Clock::default().sleep(Duration::from_secs(2)).await;
    drop(pipe);
    let unsent = call.await.unwrap().unwrap_err();
    assert!(!unsent.is_unprocessed() && unsent.request().is_none());
    until(|| link.state() == LinkState::Idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_is_no_broken_connection() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    call.abort();
    assert_eq!(pipe.read(&mut [0]).await.unwrap(), 0, "HTTP/1.1 has no other way to cancel");
    until(|| link.state() == LinkState::Resting).await;
}

// === HTTP/2 ===

#[tokio::test(start_paused = true)]
async fn r2_http2_is_up_after_the_peers_first_frame_and_not_before() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    let mut preface = [0; 24];
    pipe.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    Clock::default().sleep(Duration::from_millis(900)).await;
    assert_eq!(link.state(), LinkState::Connecting);
    pipe.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    until(|| link.state() == LinkState::Up).await;
    drop(pipe);
    call.await.unwrap().unwrap_err();
    // Lost as soon as it was up: that is a failure, and backs off.
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_protocol_is_no_http2_server() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    pipe.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    drop(pipe);
    assert!(call.await.unwrap().unwrap_err().request().is_some());
    assert!(matches!(link.state(), LinkState::Failed { .. }));
}

#[tokio::test]
async fn http2_requests_share_a_connection() {
    guarded(async {
        let all = Arc::new(Barrier::new(20));
        let server = serve(true, move |request| {
            let all = Arc::clone(&all);
            async move {
                all.wait().await;
                Response::new(request.uri().to_string().into())
            }
        })
        .await;
        let endpoint =
            endpoint(server.address).with_protocol(Protocol::Http2).with_server_name("users.shop");
        let (service, link) = make(&Http::default(), &endpoint);
        let calls: Vec<_> = (0..20).map(|_| call(&service, get("/a"))).collect();
        for call in calls {
            assert_eq!(text(call.await.unwrap().unwrap()).await, "http://users.shop/a");
        }
        assert_eq!(server.accepted(), 1);
        assert_eq!(link.state(), LinkState::Up);
    })
    .await;
}

#[tokio::test]
async fn http2_requests_leave_what_belongs_to_http1_behind() {
    guarded(async {
        let server = serve(true, |request| async move {
            Response::new(format!("{} {:?}", request.uri(), request.headers()).into())
        })
        .await;
        let (mut service, _) = make(&http2(), &endpoint(server.address));
        let request = Request::get("/a")
            .header("host", "users.shop")
            .header("connection", "keep-alive, x-hop")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "websocket")
            .header("x-hop", "1")
            .header("x-kept", "1")
            .body(String::new())
            .unwrap();
        let seen = text(service.call(request).await.unwrap()).await;
        assert_eq!(seen, r#"http://users.shop/a {"x-kept": "1"}"#);
        let request = Request::options("*").body(String::new()).unwrap();
        assert!(service.call(request).await.is_ok());
    })
    .await;
}

/// The peer's GOAWAY is in the pipe and nobody has read it when the request comes.
#[tokio::test(start_paused = true)]
async fn a_request_that_hyper_hands_back_is_sent_on_a_new_connection() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let mut next = service.clone().call(get("/"));
    for _ in 0..3 {
        let call = tokio::spawn(next);
        let mut peer = h2::server::handshake(dials.accept().await).await.unwrap();
        let (_, mut respond) = peer.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        assert!(peer.accept().now_or_never().is_none());
        call.await.unwrap().unwrap();
        // No task but this one runs until hyper has the next request.
        peer.abrupt_shutdown(h2::Reason::NO_ERROR);
        let _ = peer.accept().now_or_never();
        next = service.clone().call(get("/"));
        assert!((&mut next).now_or_never().is_none());
        assert!(dials.0.try_recv().is_err(), "it is with the old connection");
    }
}

/// R14: what runs on a connection that goes away is answered, and what comes later does not wait.
#[tokio::test]
async fn r14_a_goaway_replaces_the_connection_at_once() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, link) = make(&http2(), &endpoint(address));
        let running = call(&service, get("/running"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut old = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = old.accept().await.unwrap().unwrap();
        old.graceful_shutdown();
        let old = tokio::spawn(async move { while old.accept().await.is_some() {} });
        // Without a new request, the link says so.
        until(|| link.state() != LinkState::Up).await;

        let next = call(&service, get("/next"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut new = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond_next) = new.accept().await.unwrap().unwrap();
        let new = tokio::spawn(async move { while new.accept().await.is_some() {} });
        assert_eq!(request.uri().path(), "/next");
        respond_next.send_response(Response::new(()), true).unwrap();
        assert!(next.await.unwrap().is_ok());
        assert_eq!(link.state(), LinkState::Up);

        respond.send_response(Response::new(()), true).unwrap();
        assert!(running.await.unwrap().is_ok());
        old.await.unwrap();
        assert_eq!(link.state(), LinkState::Up, "the end of the old one is no news");
        drop(service);
        new.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r14_a_stream_above_the_last_of_a_goaway_is_unprocessed() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    pipe.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    until(|| link.state() == LinkState::Up).await;
    // Its preface and HEADERS have arrived, and time stands still until nothing moves.
    Clock::default().sleep(Duration::from_millis(1)).await;
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    pipe.write_all(&goaway).await.unwrap();
    let unsent = call.await.unwrap().unwrap_err();
    assert!(unsent.is_unprocessed() && unsent.request().is_none(), "{unsent:?}");
}

#[tokio::test]
async fn a_refused_stream_is_unprocessed_and_a_reset_one_ambiguous() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, _) = make(&http2(), &endpoint(address));
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let refuse = request.uri().path() == "/refuse";
                let reason = if refuse { h2::Reason::REFUSED_STREAM } else { h2::Reason::CANCEL };
                respond.send_reset(reason);
            }
        });
        let refused = service.clone().call(get("/refuse")).await.unwrap_err();
        assert!(refused.is_unprocessed() && refused.request().is_none());
        let reset = service.clone().call(get("/reset")).await.unwrap_err();
        assert!(!reset.is_unprocessed());
        drop(service);
        server.await.unwrap();
    })
    .await;
}

// === bodies, names, upgrades, Unix sockets ===

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    guarded(async {
        for http2 in [false, true] {
            let (listener, address) = listen().await;
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    Ok::<_, Infallible>(Response::new(request.into_body()))
                });
                let io = TokioIo::new(stream);
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(io, echo).await.unwrap();
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(io, echo).await.unwrap();
                }
            });
            let http = if http2 { self::http2() } else { Http::default() };
            let (mut service, _) = make(&http, &endpoint(address));
            let (feed, fed) = futures::channel::mpsc::unbounded();
            let request = Request::post("/").body(StreamBody::new(fed)).unwrap();
            let mut body = service.call(request).await.unwrap().into_body();
            for word in ["one", "two", "three"] {
                // Each is answered before the next is sent.
                feed.unbounded_send(Ok::<_, BoxError>(Frame::data(Bytes::from(word)))).unwrap();
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), word);
            }
            drop(feed);
            assert!(body.collect().await.unwrap().to_bytes().is_empty());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r20_the_head_on_the_wire_is_in_origin_form_with_the_callers_name() {
    let (connect, mut dials) = Dials::new();
    let endpoint = some_endpoint().with_server_name("users.shop");
    let (service, _) = make(&Http::default().connector(connect), &endpoint);
    let mut pipe: Option<DuplexStream> = None;
    for (uri, target, host) in [
        ("http://caller.name:81/a?b", "/a?b", "caller.name:81"),
        ("http://caller.name", "/", "caller.name"),
        ("/a", "/a", "users.shop"),
    ] {
        let mut request = get(uri);
        *request.version_mut() = http::Version::HTTP_2;
        let call = call(&service, request);
        if pipe.is_none() {
            pipe = Some(dials.accept().await);
        }
        let pipe = pipe.as_mut().unwrap();
        let head = read_head(pipe).await.unwrap();
        assert_eq!(head, format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        pipe.write_all(ANSWER).await.unwrap();
        text(call.await.unwrap().unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn https_is_refused_without_a_dial() {
    let (connect, mut dials) = Dials::new();
    let (mut service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let unsent = service.call(get("https://users/")).await.unwrap_err();
    assert!(unsent.is_unprocessed() && unsent.request().is_none());
    assert_eq!(unsent.cause().downcast_ref::<SchemeError>().unwrap().scheme(), "https");
    assert!(dials.0.try_recv().is_err());
    assert_eq!(link.state(), LinkState::Idle);
}

#[tokio::test(start_paused = true)]
async fn t5_an_upgraded_connection_is_the_callers() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let request = Request::get("/chat")
        .header("connection", "upgrade")
        .header("upgrade", "chat")
        .body(String::new())
        .unwrap();
    let call = call(&service, request);
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
    pipe.write_all(switch.as_bytes()).await.unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    upgraded.write_all(b"hi").await.unwrap();
    let mut bytes = [0; 2];
    pipe.read_exact(&mut bytes).await.unwrap();
    pipe.write_all(b"ho").await.unwrap();
    upgraded.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ho");
    until(|| link.state() == LinkState::Resting).await;
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_spoken_to() {
    guarded(async {
        let path = std::env::temp_dir().join(format!("evenkeel-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (service, _) = make(&Http::default(), &Endpoint::new(Address::unix(&path)));
        for _ in 0..2 {
            // Closed without a word in between, and found out as on TCP.
            let call = call(&service, get("/"));
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(read_head(&mut stream).await.unwrap().contains("host: localhost\r\n"));
            stream.write_all(ANSWER).await.unwrap();
            assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
        }
        std::fs::remove_file(&path).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_name_is_resolved() {
    guarded(async {
        let server = serve(false, |request| async move {
            Response::new(format!("{:?}", request.headers()["host"]).into())
        })
        .await;
        let port = server.address.port();
        let endpoint = Endpoint::new(Address::name("localhost", port));
        let (service, _) = make(&Http::default(), &endpoint);
        assert_eq!(ask(&service, "/").await, format!("\"localhost:{port}\""));
    })
    .await;
}

// === the end ===

#[tokio::test(start_paused = true)]
async fn no_task_is_left_when_the_last_handle_is_dropped() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // A dial on its way, an idle connection, and one whose response is not at its end.
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let calls = [call(&service, get("/")), call(&service, get("/"))];
    let (mut idle, mut running) = (dials.accept().await, dials.accept().await);
    for pipe in [&mut idle, &mut running] {
        read_head(pipe).await.unwrap();
    }
    idle.write_all(ANSWER).await.unwrap();
    running.write_all(&ANSWER[..ANSWER.len() - 1]).await.unwrap();
    let mut bodies = Vec::new();
    for call in calls {
        bodies.push(call.await.unwrap().unwrap());
    }
    let mut given_up = Box::pin(service.clone().call(get("/")));
    let _ = futures::poll!(&mut given_up);
    drop(given_up);
    assert!(tasks() > 0);
    drop(service);
    running.write_all(b"k").await.unwrap();
    for body in bodies {
        assert_eq!(text(body).await, "ok");
    }
    until(|| tasks() == 0).await;
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);

    // HTTP/2: idle, and in the middle of its handshake.
    for up in [true, false] {
        let (connect, mut dials) = Dials::new();
        let (service, link) = make(&http2().connector(connect), &some_endpoint());
        let mut given_up = Box::pin(service.clone().call(get("/")));
        assert!(futures::poll!(&mut given_up).is_pending());
        let mut pipe = dials.accept().await;
        if up {
            pipe.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            until(|| link.state() == LinkState::Up).await;
        } else {
            pipe.read_exact(&mut [0; 24]).await.unwrap();
        }
        drop((given_up, service));
        until(|| tasks() == 0).await;
        pipe.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_given_to_a_connection_is_closed_with_it() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, _) = make(&Http::default(), &endpoint(address));
        let call = call(&service, get("/"));
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        text(call.await.unwrap().unwrap()).await;
        drop(service);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}
