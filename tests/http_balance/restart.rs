//! R14: servers that end as good ones do, one after another, under load.

use std::{collections::HashSet, sync::Mutex};

use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::*;

/// A server that can be told to end: it accepts no more, finishes what it has begun, and tells its
/// clients (`Connection: close`, GOAWAY).
struct Graceful {
    stop: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
}

impl Graceful {
    async fn at(address: SocketAddr, http2: bool) -> (Self, SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let ended = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut stopping = stopped.clone();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = stopping.wait_for(|stop| *stop) => break,
                };
                connections.spawn(serve(TokioIo::new(stream), http2, stopped.clone()));
            }
            // Those that wait to be accepted are refused now, as on a real restart.
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        (Self { stop, ended }, address)
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.ended.await.unwrap();
    }
}

async fn serve(
    stream: TokioIo<tokio::net::TcpStream>,
    http2: bool,
    mut stop: watch::Receiver<bool>,
) {
    let echo = service_fn(|request: Request<Incoming>| async move {
        let body = request.into_body().collect().await?.to_bytes();
        tokio::task::yield_now().await;
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    });
    // An error is how a client that goes away looks from here.
    if http2 {
        let builder = conn::http2::Builder::new(TokioExecutor::new());
        let mut connection = std::pin::pin!(builder.serve_connection(stream, echo));
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut connection =
            std::pin::pin!(conn::http1::Builder::new().serve_connection(stream, echo));
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Five servers, each restarted in its turn, while `at_once` callers send without a pause.
async fn rolling_restart(http2: bool, method: &'static str, at_once: usize) -> Vec<Error> {
    let mut servers = Vec::new();
    let registry = Registry::new();
    for _ in 0..5 {
        let (server, address) = Graceful::at(([127, 0, 0, 1], 0).into(), http2).await;
        std::mem::forget(registry.register(Endpoint::new(address)).unwrap());
        servers.push((server, address));
    }
    let http = if http2 { Http::default().http2_prior_knowledge() } else { Http::default() };
    let balance = Balance::builder(registry).policy(RoundRobin::new()).make(http).unwrap();
    balance.ready().await.unwrap();

    let (over, is_over) = watch::channel(false);
    let answered = std::sync::Arc::new(Mutex::new(HashSet::new()));
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let (balance, is_over) = (balance.clone(), is_over.clone());
        let answered = std::sync::Arc::clone(&answered);
        callers.spawn(async move {
            let mut errors = Vec::new();
            while !*is_over.borrow() {
                let request = Request::builder().method(method).uri("/");
                let body =
                    StreamBody::new(futures::stream::iter(["half, ", "whole"].map(|part| {
                        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(part)))
                    })));
                match within(balance.clone().oneshot(request.body(body).unwrap())).await {
                    Ok(response) => {
                        answered.lock().unwrap().insert(response.body().endpoint().addr().clone());
                        let body = within(response.into_body().collect()).await.unwrap().to_bytes();
                        assert_eq!(body, "half, whole");
                    }
                    Err(error) => errors.push(error),
                }
            }
            errors
        });
    }
    for (server, address) in servers {
        within(server.end()).await;
        let (server, _) = Graceful::at(address, http2).await;
        // The next is not restarted before this one serves again.
        answered.lock().unwrap().clear();
        within(async {
            while !answered.lock().unwrap().contains(&address.into()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        std::mem::forget(server);
    }
    over.send_replace(true);
    let mut errors = Vec::new();
    while let Some(caller) = callers.join_next().await {
        errors.extend(caller.unwrap());
    }
    let status = balance.status();
    assert!(status.endpoints.iter().all(|endpoint| endpoint.in_flight == 0), "{status}");
    errors
}

/// R14: over HTTP/2 even a POST whose body is streamed loses nothing, since what a GOAWAY cuts off is
/// known to be unprocessed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_rolling_restart_loses_nothing_over_http2() {
    let errors = rolling_restart(true, "POST", 20).await;
    assert!(errors.is_empty(), "{} errors, first {:?}", errors.len(), errors.first());
}

/// R14: over HTTP/1.1 an idempotent request loses nothing; one that a closing connection caught is
/// sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_a_rolling_restart_loses_no_idempotent_request_over_http1() {
    let errors = rolling_restart(false, "PUT", 20).await;
    assert!(errors.is_empty(), "{} errors, first {:?}", errors.len(), errors.first());
}
