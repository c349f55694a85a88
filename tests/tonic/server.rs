//! A real gRPC server on loopback, which does as the item's name says.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

use crate::shop::{
    Item, ListRequest, Total,
    cart_server::{Cart, CartServer},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a server saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    pub(crate) last: Mutex<Option<(MetadataMap, http::Uri)>>,
}

/// A running server; dropped, it and its connections are gone at once.
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Answering {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Shop {
    pub(crate) async fn start() -> Self {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = incoming.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let answering = Answering { address, seen: Arc::clone(&seen) };
        let router = Server::builder().add_service(CartServer::new(answering));
        let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self { address, seen, task }
    }

    /// Every connection is told GOAWAY once it has had so many calls; what runs on it may end. (tonic's
    /// own `max_connection_age` goes by a clock, and panics while requests run, as of 0.14.5.)
    pub(crate) async fn start_ending(after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let cart = CartServer::new(Answering { address, seen: Arc::clone(&seen) });
        let task = tokio::spawn(serve(listener, cart, after, Arc::clone(&seen)));
        Self { address, seen, task }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    /// How many connections were told to end.
    pub(crate) fn ended(&self) -> usize {
        self.seen.ended.load(Ordering::SeqCst)
    }

    /// The metadata and URI of the last call.
    pub(crate) fn last(&self) -> (MetadataMap, http::Uri) {
        self.seen.last.lock().unwrap().clone().unwrap()
    }
}

/// Serves a cart without what tonic's own server does besides, such as to keep deadlines.
pub(crate) async fn serve<C: Cart>(
    listener: TcpListener,
    cart: CartServer<C>,
    calls_of_a_connection: usize,
    seen: Arc<Seen>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (cart, seen) = (cart.clone(), Arc::clone(&seen));
        let (calls, enough) = (AtomicUsize::new(0), Arc::new(Notify::new()));
        let had_enough = Arc::clone(&enough);
        let service = hyper::service::service_fn(move |request| {
            let request: http::Request<hyper::body::Incoming> = request;
            if calls.fetch_add(1, Ordering::SeqCst) + 1 == calls_of_a_connection {
                had_enough.notify_one();
            }
            cart.clone().call(request.map(tonic::body::Body::new))
        });
        connections.spawn(async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = enough.notified() => {
                    seen.ended.fetch_add(1, Ordering::SeqCst);
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Answering {
    fn note<T>(&self, request: &Request<T>) {
        self.seen.calls.fetch_add(1, Ordering::SeqCst);
        let uri = request.extensions().get::<http::Uri>().cloned().unwrap_or_default();
        *self.seen.last.lock().unwrap() = Some((request.metadata().clone(), uri));
    }

    fn total(&self, count: u32) -> Total {
        Total { count, server: self.address.to_string() }
    }
}

#[tonic::async_trait]
impl Cart for Answering {
    async fn add(&self, request: Request<Item>) -> Result<Response<Total>, Status> {
        self.note(&request);
        let item = request.into_inner();
        match item.name.as_str() {
            "hang" => std::future::pending().await,
            "missing" => {
                let mut metadata = MetadataMap::new();
                metadata.insert("x-shelf", "empty".parse().unwrap());
                let details = bytes::Bytes::from_static(b"details");
                Err(Status::with_details_and_metadata(
                    tonic::Code::NotFound,
                    "no such item",
                    details,
                    metadata,
                ))
            }
            "unavailable" => Err(Status::unavailable("shut for today")),
            _ => Ok(Response::new(self.total(item.count))),
        }
    }

    async fn add_all(&self, request: Request<Streaming<Item>>) -> Result<Response<Total>, Status> {
        self.note(&request);
        let mut items = request.into_inner();
        let mut count = 0;
        while let Some(item) = items.next().await {
            count += item?.count;
        }
        Ok(Response::new(self.total(count)))
    }

    type ListStream = Answers<Item>;

    /// Three items, and then what the cart's name says.
    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.note(&request);
        let cart = request.into_inner().cart;
        let items = (1..=3).map(|count| Ok(Item { count, ..Item::default() }));
        let end: Answers<Item> = match cart.as_str() {
            "hang" => stream::pending().boxed(),
            "fail" => stream::iter([Err(Status::data_loss("the rest fell down"))]).boxed(),
            _ => stream::empty().boxed(),
        };
        Ok(Response::new(stream::iter(items).chain(end).boxed()))
    }

    type FollowStream = Answers<Total>;

    async fn follow(
        &self,
        request: Request<Streaming<Item>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.note(&request);
        let this = self.clone();
        let totals = request.into_inner().scan(0, move |count, item| {
            let answer = item.map(|item| {
                *count += item.count;
                this.total(*count)
            });
            std::future::ready(Some(answer))
        });
        Ok(Response::new(totals.boxed()))
    }
}

/// For tests in real time, which must not hang.
pub(crate) async fn guard<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

/// An address where nobody listens, for as long as the listener is held: it is bound and not
/// listened on.
pub(crate) fn refused() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}
