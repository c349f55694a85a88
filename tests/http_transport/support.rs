//! What the tests of the transport share: pipes that answer when the test says so, and servers.

pub(crate) use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use bytes::Bytes;
pub(crate) use evenkeel::{
    Address, BoxError, Endpoint, Protocol, Unsent,
    client::{
        Connect, ConnectError, Connected, Http, HttpBody, HttpService, ProtocolError, SchemeError,
    },
    node::{Clock, Link, LinkState},
    pool::MakeEndpoint,
};
pub(crate) use futures::FutureExt;
pub(crate) use http::{Request, Response, StatusCode};
pub(crate) use http_body_util::{BodyExt, Full, StreamBody};
pub(crate) use hyper::{body::Frame, service::service_fn};
pub(crate) use hyper_util::rt::{TokioExecutor, TokioIo};
pub(crate) use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc, oneshot},
    task::JoinHandle,
};
pub(crate) use tower::Service;

pub(crate) type Sent<B = String> = Result<Response<HttpBody>, Unsent<Request<B>>>;

pub(crate) const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The same of a server that closes after it.
pub(crate) const LAST_ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

/// No test may hang; over real sockets only, since paused time would jump here.
pub(crate) async fn guarded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs")
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address)
}

pub(crate) fn some_endpoint() -> Endpoint {
    Endpoint::new(([10, 0, 0, 1], 80))
}

pub(crate) fn make(http: &Http, endpoint: &Endpoint) -> (HttpService, Link) {
    let link = Link::standalone(endpoint);
    (http.make(endpoint, link.clone()), link)
}

pub(crate) fn get(path: &str) -> Request<String> {
    Request::get(path).body(String::new()).unwrap()
}

pub(crate) fn call(service: &HttpService, request: Request<String>) -> JoinHandle<Sent> {
    tokio::spawn(service.clone().call(request))
}

pub(crate) async fn text(response: Response<HttpBody>) -> String {
    let bytes = response.into_body().collect().await.expect("the body").to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) async fn ask(service: &HttpService, path: &str) -> String {
    text(service.clone().call(get(path)).await.expect("an answer")).await
}

/// Waits for what other tasks do, and which nothing announces.
pub(crate) async fn until(what: impl Fn() -> bool) {
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
pub(crate) async fn read_head(io: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

// === pipes instead of sockets ===

pub(crate) type Pipe = Result<TokioIo<DuplexStream>, BoxError>;

/// Every dial asks here, and is answered when the test says so.
pub(crate) struct Dials(pub(crate) mpsc::UnboundedReceiver<oneshot::Sender<Pipe>>);

impl Dials {
    pub(crate) fn new() -> (impl Connect, Self) {
        let (asked, dials) = mpsc::unbounded_channel();
        let connect = move |_: &Address| {
            let (answer, pipe) = oneshot::channel();
            asked.send(answer).expect("the test listens");
            async move { Ok(Connected::new(pipe.await??)) }
        };
        (connect, Self(dials))
    }

    pub(crate) async fn next(&mut self) -> oneshot::Sender<Pipe> {
        self.0.recv().await.expect("a dial")
    }

    pub(crate) async fn accept(&mut self) -> DuplexStream {
        accept(self.next().await)
    }
}

pub(crate) fn accept(dial: oneshot::Sender<Pipe>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    assert!(dial.send(Ok(TokioIo::new(ours))).is_ok(), "the dial waits");
    theirs
}

/// One HTTP/1.1 request that runs, for as long as its pipe lives.
pub(crate) async fn one_running(
    dials: &mut Dials,
    service: &HttpService,
) -> (JoinHandle<Sent>, DuplexStream) {
    let running = call(service, get("/running"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    (running, pipe)
}

/// A connection of HTTP/1.1 that has served a request and lies idle.
pub(crate) async fn one_idle(dials: &mut Dials, service: &HttpService) -> DuplexStream {
    let (running, mut pipe) = one_running(dials, service).await;
    pipe.write_all(ANSWER).await.unwrap();
    text(running.await.unwrap().unwrap()).await;
    pipe
}

/// Two of them.
pub(crate) async fn two_idle(dials: &mut Dials, service: &HttpService) -> [DuplexStream; 2] {
    let calls = [call(service, get("/")), call(service, get("/"))];
    let mut pipes = [dials.accept().await, dials.accept().await];
    for pipe in &mut pipes {
        read_head(pipe).await.unwrap();
        pipe.write_all(ANSWER).await.unwrap();
    }
    for call in calls {
        text(call.await.unwrap().unwrap()).await;
    }
    pipes
}

// === servers ===

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) async fn serve<F, Fut>(http2: bool, answer: F) -> Server
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
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub(crate) fn http2() -> Http {
    Http::default().http2_prior_knowledge()
}
