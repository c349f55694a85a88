//! What stands behind the endpoints, and who asks them: servers that come and go as pods do, and
//! requests that never cease.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{Balance, client::HttpService};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tower::ServiceExt;

/// Whether the addresses that the API server takes for endpoints can be listened at.
pub(crate) fn is_possible() -> bool {
    std::net::TcpListener::bind("10.77.5.1:0").is_ok()
}

/// A server at one address. It answers with that, until it is closed.
pub(crate) struct Server {
    address: SocketAddr,
    close: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

/// Clients that ask without a pause worth the name.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<BTreeMap<String, usize>>>,
    clients: JoinSet<Vec<String>>,
}

// === impl Server ===

impl Server {
    pub(crate) async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (close, closed) = watch::channel(false);
        let ended = tokio::spawn(serve(listener, closed));
        Self { address, close, ended }
    }

    /// As a process ends in good order: it takes no connection any more, ends what is under way, and
    /// then there is nobody at that address.
    pub(crate) async fn close(self) {
        self.close.send_replace(true);
        self.ended.await.unwrap();
        assert!(TcpStream::connect(self.address).await.is_err(), "{} is still there", self.address);
    }
}

async fn serve(listener: TcpListener, closed: watch::Receiver<bool>) {
    let mut over = closed.clone();
    let name = Bytes::from(listener.local_addr().unwrap().to_string());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = over.wait_for(|closed| *closed) => break,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, name.clone(), closed.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, name: Bytes, mut closed: watch::Receiver<bool>) {
    let answer = |_: Request<Incoming>| {
        let body = Full::new(name.clone());
        async move { Ok::<_, Infallible>(Response::new(body)) }
    };
    let connection = http1::Builder::new();
    let mut served = pin!(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
    tokio::select! {
        _ = served.as_mut() => return,
        _ = closed.wait_for(|closed| *closed) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}

// === impl Clients ===

impl Clients {
    pub(crate) fn start(balance: &Balance<HttpService>, clients: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::default());
        let mut all = JoinSet::new();
        for _ in 0..clients {
            all.spawn(requests(balance.clone(), Arc::clone(&stop), Arc::clone(&answered)));
        }
        Self { stop, answered, clients: all }
    }

    /// How many requests each server has answered so far.
    pub(crate) fn answered(&self) -> BTreeMap<String, usize> {
        self.answered.lock().unwrap().clone()
    }

    /// Ends them: how many each server answered, and why others were not answered.
    pub(crate) async fn stop(self) -> (BTreeMap<String, usize>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        let answered = self.answered.lock().unwrap().clone();
        (answered, failures)
    }
}

async fn request(balance: Balance<HttpService>) -> Result<Bytes, evenkeel::BoxError> {
    let request = Request::get("http://cart/").body(Empty::<Bytes>::new())?;
    let response = balance.oneshot(request).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Requests, one after another, until `stop`: why some were not answered.
async fn requests(
    balance: Balance<HttpService>,
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<BTreeMap<String, usize>>>,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match request(balance.clone()).await {
            Ok(body) => {
                let name = String::from_utf8(body.to_vec()).unwrap();
                *answered.lock().unwrap().entry(name).or_default() += 1;
            }
            Err(error) => failures.push(error.to_string()),
        }
        // Some pace, so that this machine has time for the API server as well.
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    failures
}
