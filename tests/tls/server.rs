//! An HTTPS server on loopback, which tells what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, Version, header::HOST};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::authority::any_port;

/// A request, as the server saw it.
pub(crate) type Told = serde_json::Value;

/// A running server; dropped, it and its connections are gone at once.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    requests: AtomicUsize,
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        let seen_by_task = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_by_task.accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(acceptor.clone(), stream, Arc::clone(&seen_by_task)));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, seen: Arc<Seen>) {
    // A client that refuses the certificate hangs up here.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let tls = stream.get_ref().1;
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let sni = tls.server_name().map(str::to_owned);
    let certificates = tls.peer_certificates().map_or(0, <[_]>::len);
    let answer = service_fn(move |request: Request<Incoming>| {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let told = json!({
            "sni": sni,
            "host": host(&request),
            "scheme": request.uri().scheme_str(),
            "version": format!("{:?}", request.version()),
            "client_certificates": certificates,
        });
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(told.to_string())))) }
    });
    let io = TokioIo::new(stream);
    let _ = if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.serve_connection(io, answer).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await
    };
}

fn host(request: &Request<Incoming>) -> Option<String> {
    match request.version() {
        Version::HTTP_2 => request.uri().authority().map(ToString::to_string),
        _ => request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned()),
    }
}
