//! The pool on its own: shared dials, forced ends, and counts under stress.

use std::future::Future;

use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tower::ServiceExt;

use super::{super::secure::Secured, *};
use crate::{
    Balance, BoxError,
    client::{Connected, Http, HttpBody, HttpService},
    discovery::StaticList,
    node::LinkState,
};

/// A pool whose dials all come through, to pipes.
fn piped(http: Http) -> (Arc<Pool>, mpsc::UnboundedReceiver<DuplexStream>) {
    let (accept, accepted) = mpsc::unbounded_channel();
    let http = http.connector(move |_: &crate::Address| {
        let (ours, theirs) = tokio::io::duplex(1024);
        let _ = accept.send(theirs);
        async move { Ok::<_, BoxError>(Connected::new(TokioIo::new(ours))) }
    });
    let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
    (Pool::new(http.settings, &endpoint, Link::standalone(&endpoint)), accepted)
}

async fn get(pool: &Arc<Pool>) -> Response<HttpBody> {
    let request = Request::get("/").body(String::new()).unwrap();
    HttpService::new(Arc::clone(pool)).oneshot(request).await.unwrap()
}

async fn become_up(pool: &Pool) {
    while pool.link.state() != LinkState::Up {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn r1_asked_twice_the_pool_dials_once() {
    let (pool, mut accepted) = piped(Http::default());
    assert_eq!(pool.link.state(), LinkState::Idle);
    pool.dial();
    pool.dial();
    assert_eq!(pool.link.state(), LinkState::Connecting);
    let mut peer = accepted.recv().await.unwrap();
    become_up(&pool).await;
    // The driver says "connecting" before it asks; who is up says so again.
    pool.link.connecting();
    pool.dial();
    assert_eq!(pool.link.state(), LinkState::Up);
    let call = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { get(&pool).await }
    });
    assert!(peer.read_u8().await.is_ok(), "a request uses the connection");
    assert!(accepted.try_recv().is_err());
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn r14_a_cut_ends_what_is_left() {
    let (pool, mut accepted) = piped(Http::default());
    let (response, mut peer) = tokio::join!(get(&pool), async {
        let mut peer = accepted.recv().await.unwrap();
        assert!(peer.read(&mut [0; 1024]).await.unwrap() > 0);
        peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        peer
    });
    pool.cut();
    let body = response.into_body().collect().await;
    assert!(body.is_err());
    peer.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(peer.write_all(b"more").await.is_err(), "nobody holds the stream");
}

#[tokio::test(start_paused = true)]
async fn r14_close_ends_http2_and_dials_and_leaves_no_task() {
    let (pool, mut accepted) = piped(Http::default().http2_prior_knowledge());
    pool.dial();
    let mut peer = accepted.recv().await.unwrap();
    peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    become_up(&pool).await;
    pool.close();
    peer.read_to_end(&mut Vec::new()).await.unwrap();
    while tasks() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.link.state(), LinkState::Up, "the end that was asked for is no news");

    pool.dial();
    let mut peer = accepted.recv().await.unwrap();
    pool.close();
    while tasks() > 0 {
        tokio::task::yield_now().await;
    }
    peer.read_to_end(&mut Vec::new()).await.unwrap();
}

/// HTTP/2 over pipes that hold less than a GOAWAY takes.
fn narrow() -> (Http, mpsc::UnboundedReceiver<DuplexStream>) {
    let (accept, accepted) = mpsc::unbounded_channel();
    let http = Http::default().http2_prior_knowledge().connector(move |_: &crate::Address| {
        let (ours, theirs) = tokio::io::duplex(16);
        let _ = accept.send(theirs);
        async move { Ok::<_, BoxError>(Connected::new(TokioIo::new(ours))) }
    });
    (http, accepted)
}

/// Accepts HTTP/2 and reads until `up` is over; from then on nothing.
async fn greet(peer: &mut DuplexStream, up: impl Future<Output = ()>) {
    peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut bytes = [0; 64];
    tokio::select! {
        () = up => {}
        () = async { while peer.read(&mut bytes).await.unwrap() > 0 {} } => panic!("it closed"),
    }
}

async fn is_closed(mut peer: DuplexStream) {
    peer.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(peer.write_all(b"more").await.is_err(), "nobody holds the stream");
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// R14: a peer that reads nothing any more cannot keep a connection that is being closed.
#[tokio::test(start_paused = true)]
async fn r14_a_close_that_takes_too_long_is_a_cut() {
    let (http, mut accepted) = narrow();
    let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
    let pool = Pool::new(http.settings, &endpoint, Link::standalone(&endpoint));
    pool.dial();
    let mut peer = accepted.recv().await.unwrap();
    greet(&mut peer, become_up(&pool)).await;
    pool.close();
    sleep(Duration::from_millis(895)).await;
    assert!(tasks() > 0, "it is not cut before");
    sleep(Duration::from_millis(10)).await;
    assert_eq!(tasks(), 0);
    is_closed(peer).await;
}

/// R8: nor can it keep that of a balancer that is gone, also where a request outlived the balancer.
#[tokio::test(start_paused = true)]
async fn r8_a_peer_that_reads_nothing_holds_nothing_of_a_balancer_that_is_gone() {
    for outlives in [false, true] {
        let (http, mut accepted) = narrow();
        let list = StaticList::new([Endpoint::new(([10, 0, 0, 1], 80))]).unwrap();
        let drain = Duration::from_secs(5);
        let balance = Balance::builder(list).drain_timeout(drain).make(http).unwrap();
        let mut peer = accepted.recv().await.unwrap();
        greet(&mut peer, balance.ready().map(Result::unwrap)).await;
        let request = Request::post("/").body("more than the pipe holds".to_owned()).unwrap();
        let mut call = Box::pin(balance.clone().oneshot(request));
        assert!(futures::poll!(&mut call).is_pending());
        sleep(Duration::from_millis(10)).await;
        if outlives {
            drop(balance);
            sleep(drain + Duration::from_secs(1)).await;
            assert_eq!(tasks(), 1, "the connection's");
            drop(call);
        } else {
            drop(call);
            drop(balance);
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(tasks(), 0, "{outlives}");
        is_closed(peer).await;
    }
}

async fn sleep(duration: std::time::Duration) {
    Clock::default().sleep(duration).await;
}

fn micros(rng: &mut crate::node::Rng, bound: usize) -> std::time::Duration {
    std::time::Duration::from_micros(rng.below(bound) as u64)
}

/// A server that answers late, closes at random and says GOAWAY at random.
async fn rough_server(http2: bool, seed: u64) -> std::net::SocketAddr {
    use hyper::{server::conn, service::service_fn};
    use hyper_util::rt::TokioExecutor;

    let rng = Mutex::new(crate::node::Rng::from_seed(seed));
    let below = Arc::new(move |bound| micros(&mut rng.lock().unwrap(), bound));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = TokioIo::new(stream);
            let below = Arc::clone(&below);
            tokio::spawn(async move {
                let lifetime = below(5_000);
                let slow = Arc::clone(&below);
                let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                    let delay = slow(1_000);
                    async move {
                        sleep(delay).await;
                        Ok::<_, std::convert::Infallible>(Response::new("ok".to_owned()))
                    }
                });
                if http2 {
                    let server = conn::http2::Builder::new(TokioExecutor::new());
                    let mut served = std::pin::pin!(server.serve_connection(stream, service));
                    tokio::select! {
                        _ = &mut served => return,
                        () = sleep(lifetime) => served.as_mut().graceful_shutdown(),
                    }
                    let _ = served.await;
                } else {
                    let served = conn::http1::Builder::new().serve_connection(stream, service);
                    tokio::select! {
                        _ = served => {}
                        () = sleep(lifetime) => {}
                    }
                }
            });
        }
    });
    address
}

/// R8: requests that give up while no connection is granted leave nothing behind.
#[tokio::test(start_paused = true)]
async fn r8_the_line_does_not_grow_by_those_who_leave_it() {
    // Nobody accepts, and the dial waits.
    let http = Http::default()
        .connector(|_: &crate::Address| std::future::pending::<Result<Connected, BoxError>>());
    let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
    let pool = Pool::new(http.settings, &endpoint, Link::standalone(&endpoint));
    let stays = pool.checkout(false);
    for _ in 0..1_000 {
        drop(pool.checkout(false));
        let state = pool.state();
        assert_eq!(state.waiting, 1);
        assert!(state.line.len() <= 2 + 8, "{}", state.line.len());
    }
    drop(stays);
}

/// Whatever is given up and whatever breaks, nothing is counted twice or forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t6_the_counts_are_exact_when_requests_are_given_up_and_connections_break() {
    for http2 in [false, true] {
        let endpoint = Endpoint::new(rough_server(http2, 7).await);
        let http = if http2 { Http::default().http2_prior_knowledge() } else { Http::default() };
        let pool = Pool::new(http.settings, &endpoint, Link::standalone(&endpoint));
        let callers: Vec<_> = (0..16)
            .map(|caller| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    let mut rng = crate::node::Rng::from_seed(caller);
                    let mut answered = 0;
                    for _ in 0..100 {
                        let request = Request::get("/").body(String::new()).unwrap();
                        let call = HttpService::new(Arc::clone(&pool)).oneshot(request);
                        let patience = micros(&mut rng, 6_000);
                        tokio::select! {
                            response = call => if let Ok(response) = response {
                                answered += u32::from(response.into_body().collect().await.is_ok());
                            },
                            () = sleep(patience) => {}
                        }
                    }
                    answered
                })
            })
            .collect();
        let mut answered = 0;
        for caller in callers {
            answered += caller.await.unwrap();
        }
        assert!(answered > 0);
        let settled = async {
            loop {
                {
                    let state = pool.state();
                    let kept = state.idle.len() + state.trunks.len();
                    if state.waiting == 0 && state.dialing == 0 && state.open == kept {
                        break assert!(state.line.iter().all(|place| place.grant.is_closed()));
                    }
                }
                sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, settled).await.unwrap_or_else(|_| panic!("{pool:?}"));
    }
}

#[test]
fn without_a_runtime_a_dial_fails() {
    let (pool, _accepted) = piped(Http::default());
    pool.dial();
    assert!(matches!(pool.link.state(), LinkState::Failed { .. }));
}

/// Says of every stream what was agreed on, as TLS will.
struct Agreed(Option<Spoken>);

impl super::super::secure::Secure for Agreed {
    fn secure(
        &self,
        stream: Connected,
        _: &Endpoint,
        offer: Offer,
    ) -> super::super::secure::Securing {
        assert_eq!(offer, Offer::Either);
        let (spoken, scheme) = (self.0, http::uri::Scheme::HTTPS);
        Box::pin(async move { Ok(Secured { stream, spoken, scheme, server_name: None }) })
    }
}

/// R20: the dial decides what a connection speaks, and its requests are dressed for that.
#[tokio::test(start_paused = true)]
async fn r20_each_connection_speaks_what_its_dial_agreed_on() {
    for agreed in [Some(Spoken::Http2), Some(Spoken::Http1), None] {
        let (accept, mut accepted) = mpsc::unbounded_channel();
        let mut http = Http::default().connector(move |_: &crate::Address| {
            let (ours, theirs) = tokio::io::duplex(1024);
            let _ = accept.send(theirs);
            async move { Ok::<_, BoxError>(Connected::new(TokioIo::new(ours))) }
        });
        Arc::make_mut(&mut http.settings).secure = Some(Arc::new(Agreed(agreed)));
        let endpoint = Endpoint::new(([10, 0, 0, 1], 443)).with_server_name("users.shop");
        let pool = Pool::new(http.settings, &endpoint, Link::standalone(&endpoint));
        let call = tokio::spawn(async move { get(&pool).await });
        let mut peer = accepted.recv().await.unwrap();
        if agreed == Some(Spoken::Http2) {
            let mut peer = h2::server::handshake(peer).await.unwrap();
            let (request, _respond) = peer.accept().await.unwrap().unwrap();
            assert_eq!(request.uri(), "https://users.shop/");
        } else {
            let mut head = vec![0; 36];
            peer.read_exact(&mut head).await.unwrap();
            assert_eq!(head, b"GET / HTTP/1.1\r\nhost: users.shop\r\n\r\n");
        }
        call.abort();
    }
}
