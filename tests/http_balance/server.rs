//! Real servers on loopback, and what they saw.

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
use evenkeel::Endpoint;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long anything may take before a test is taken to hang.
const HANG: Duration = Duration::from_secs(60);

/// What a server saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) accepted: AtomicUsize,
    pub(crate) closed: AtomicUsize,
    pub(crate) requests: AtomicUsize,
}

/// A running server; dropped, it and its connections are gone at once.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    changed: watch::Receiver<()>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// A server of HTTP/1.1 that answers each request with its own address.
    pub(crate) async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), false).await
    }

    /// The same of HTTP/2 by prior knowledge.
    pub(crate) async fn start_http2() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), true).await
    }

    /// The same, that says GOAWAY on each connection after so many requests.
    pub(crate) async fn start_http2_for(requests: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (change, changed) = watch::channel(());
        let mut tasks = JoinSet::new();
        let seen_by_task = Arc::clone(&seen);
        tasks.spawn(async move {
            let _change = change;
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_by_task.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(until_goaway(stream, address, requests));
            }
        });
        Self { address, seen, changed, _tasks: tasks }
    }

    pub(crate) async fn at(address: SocketAddr, http2: bool) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = move |_: Request<Incoming>| async move {
            Some(Response::new(Full::new(Bytes::from(address.to_string())).boxed_unsync()))
        };
        Self::serve(listener, http2, answer)
    }

    /// A server of HTTP/1.1 with answers of one's own; `None` cuts the connection instead.
    pub(crate) async fn answering<A, F>(answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, false, answer)
    }

    pub(crate) fn serve<A, F>(listener: TcpListener, http2: bool, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (change, changed) = watch::channel(());
        let mut tasks = JoinSet::new();
        let (seen_by_task, change) = (Arc::clone(&seen), Arc::new(change));
        tasks.spawn(async move {
            // Dropped with this task, and its connections with it.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_by_task.accepted.fetch_add(1, Ordering::SeqCst);
                change.send_replace(());
                let connection = connection(
                    stream,
                    http2,
                    answer.clone(),
                    Arc::clone(&seen_by_task),
                    change.clone(),
                );
                connections.spawn(connection);
            }
        });
        Self { address, seen, changed, _tasks: tasks }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// Waits until what the server saw is as asked.
    pub(crate) async fn until(&self, what: impl Fn(&Seen) -> bool) {
        let mut changed = self.changed.clone();
        within(changed.wait_for(|()| what(&self.seen))).await.unwrap();
    }
}

async fn connection<A, F>(
    stream: TcpStream,
    http2: bool,
    answer: A,
    seen: Arc<Seen>,
    change: Arc<watch::Sender<()>>,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Response<Body>>> + Send + 'static,
{
    let service = service_fn(|request| {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        change.send_replace(());
        let answer = answer(request);
        async move { answer.await.ok_or("cut") }
    });
    let io = TokioIo::new(stream);
    // An error is how a client that goes away looks from here.
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
    seen.closed.fetch_add(1, Ordering::SeqCst);
    change.send_replace(());
}

async fn until_goaway(stream: TcpStream, address: SocketAddr, requests: usize) {
    let left = AtomicUsize::new(requests);
    let enough = tokio::sync::Notify::new();
    let service = service_fn(|_: Request<Incoming>| {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            enough.notify_one();
        }
        let body = Full::new(Bytes::from(address.to_string()));
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = enough.notified() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// A port where nobody listens.
pub(crate) async fn refusing_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A guard against hangs; no statement about speed.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}
