//! R21: the peer's cap of concurrent streams is kept to, and is no limit to the requests.

use std::sync::Mutex;

use crate::{raw::*, support::*};

/// An HTTP/2 server that allows so many streams, and what it saw of each connection.
struct Capped {
    address: SocketAddr,
    /// The most streams that were open at a time.
    most: Arc<Mutex<Vec<usize>>>,
}

async fn capped<F, Fut>(cap: u32, answer: F) -> Capped
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    let most = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&most);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let index = {
                let mut seen = seen.lock().unwrap();
                seen.push(0);
                seen.len() - 1
            };
            let (seen, answer) = (Arc::clone(&seen), answer.clone());
            tokio::spawn(async move {
                let open = Arc::new(AtomicUsize::new(0));
                let service = service_fn(move |_| {
                    let now = open.fetch_add(1, Ordering::SeqCst) + 1;
                    let mut seen = seen.lock().unwrap();
                    seen[index] = seen[index].max(now);
                    let (open, answer) = (Arc::clone(&open), answer.clone());
                    async move {
                        answer().await;
                        open.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
                    }
                });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.max_concurrent_streams(cap);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Capped { address, most }
}

async fn all_answered(service: &HttpService, requests: usize) {
    let calls: Vec<_> = (0..requests).map(|_| call(service, get("/"))).collect();
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
    }
}

/// R21: 100 requests that can only end together, over connections of 10 streams each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_more_connections_where_the_cap_is_reached() {
    guarded(async {
        let all = Arc::new(Barrier::new(100));
        let server = capped(10, move || {
            let all = Arc::clone(&all);
            async move {
                let _ = all.wait().await;
            }
        })
        .await;
        let (service, _) = make(&http2(), &endpoint(server.address));
        all_answered(&service, 100).await;
        assert_eq!(*server.most.lock().unwrap(), [10; 10]);
    })
    .await;
}

/// R21: beyond the last connection requests wait in line, and none fails, though the responses are
/// read in an order of their own: a stream is free when the peer has ended it, read or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_beyond_the_last_connection_requests_wait_in_line() {
    guarded(async {
        let server = capped(10, tokio::task::yield_now).await;
        let http = http2().max_connections(2).connect_timeout(Duration::from_secs(20));
        let (service, _) = make(&http, &endpoint(server.address));
        all_answered(&service, 1_000).await;
        let most = server.most.lock().unwrap();
        assert_eq!(most.len(), 2, "{most:?}");
        assert!(most.iter().all(|&most| most <= 10), "{most:?}");
    })
    .await;
}

/// A pipe to a peer that allows one stream.
async fn of_one_stream(dials: &mut Dials) -> h2::server::Connection<DuplexStream, Bytes> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    builder.handshake(dials.accept().await).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn r21_the_wait_in_line_is_bounded_and_gives_the_request_back() {
    let (connect, mut dials) = Dials::new();
    let http = http2().max_connections(1).connector(connect);
    let (service, link) = make(&http, &some_endpoint());
    let first = call(&service, get("/first"));
    let mut peer = of_one_stream(&mut dials).await;
    let (_, mut respond) = peer.accept().await.unwrap().unwrap();
    let peer = tokio::spawn(async move { while peer.accept().await.is_some() {} });
    let start = Clock::default().now();
    let unsent = call(&service, get("/second")).await.unwrap().unwrap_err();
    let waited = Clock::default().now().saturating_duration_since(start);
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1005));
    assert_eq!(unsent.request().unwrap().uri(), "/second");
    assert!(unsent.cause().downcast_ref::<ConnectError>().unwrap().is_busy(), "{unsent}");
    assert_eq!(link.state(), LinkState::Up);
    respond.send_response(Response::new(()), true).unwrap();
    first.await.unwrap().unwrap();
    peer.abort();
}

/// A stream is free again at the end of its response's body, or when that, or the call, is dropped.
#[tokio::test(start_paused = true)]
async fn t5_a_stream_is_free_again_however_its_request_ends() {
    let (connect, mut dials) = Dials::new();
    let http = http2().max_connections(1).connector(connect);
    let (service, _) = make(&http, &some_endpoint());
    let first = call(&service, get("/"));
    let mut peer = of_one_stream(&mut dials).await;
    let (accepted, mut requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok((_, respond))) = peer.accept().await {
            let _ = accepted.send(respond);
        }
    });
    // Read to the end.
    let mut respond = requests.recv().await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    let response = first.await.unwrap().unwrap();
    let second = call(&service, get("/"));
    // In paused time all that can run has run before any of it passes.
    Clock::default().sleep(Duration::from_millis(1)).await;
    assert!(requests.try_recv().is_err(), "no second stream yet");
    body.send_data(Bytes::from("ok"), true).unwrap();
    assert_eq!(text(response).await, "ok");
    // Dropped in its midst.
    let mut respond = requests.recv().await.unwrap();
    let _body = respond.send_response(Response::new(()), false).unwrap();
    drop(second.await.unwrap().unwrap());
    // Given up before its head.
    let third = call(&service, get("/"));
    let _respond = requests.recv().await.unwrap();
    third.abort();
    let fourth = call(&service, get("/"));
    let mut respond = requests.recv().await.unwrap();
    // At its end with its head, and never polled.
    respond.send_response(Response::new(()), true).unwrap();
    let unpolled = fourth.await.unwrap().unwrap();
    let fifth = call(&service, get("/"));
    requests.recv().await.unwrap().send_response(Response::new(()), true).unwrap();
    fifth.await.unwrap().unwrap();
    drop(unpolled);
}

/// What a burst opened is closed when it lies idle, and one connection stays.
#[tokio::test(start_paused = true)]
async fn connections_that_a_burst_opened_close_when_idle() {
    let (connect, mut dials) = Dials::new();
    let http = http2().connector(connect).idle_timeout(Duration::from_secs(90));
    let (service, link) = make(&http, &some_endpoint());
    let calls: Vec<_> = (0..3).map(|_| call(&service, get("/"))).collect();
    let (mut peers, mut responds) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut peer = of_one_stream(&mut dials).await;
        let (_, respond) = peer.accept().await.unwrap().unwrap();
        responds.push(respond);
        peers.push(tokio::spawn(async move { while peer.accept().await.is_some() {} }));
    }
    for mut respond in responds {
        respond.send_response(Response::new(()), true).unwrap();
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    Clock::default().sleep(Duration::from_secs(80)).await;
    assert_eq!(peers.iter().filter(|peer| peer.is_finished()).count(), 0);
    Clock::default().sleep(Duration::from_secs(110)).await;
    let closed: Vec<_> = peers.iter().map(JoinHandle::is_finished).collect();
    assert_eq!(closed, [false, true, true]);
    assert_eq!(link.state(), LinkState::Up);
}

/// An old connection takes no new request, finishes what runs on it, and is closed.
#[tokio::test(start_paused = true)]
async fn r4_a_connection_is_replaced_at_its_maximum_age() {
    let (connect, mut dials) = Dials::new();
    let http = http2().connector(connect).max_age(Duration::from_secs(100));
    let (service, link) = make(&http, &some_endpoint());
    let running = call(&service, get("/running"));
    let mut old = Raw::new(dials.accept().await).await;
    old.next(HEADERS).await;
    let start = Clock::default().now();
    until(|| link.state() == LinkState::Up).await;
    old.send_head(1).await;
    let mut body = running.await.unwrap().unwrap().into_body();
    while link.state() == LinkState::Up {
        Clock::default().sleep(Duration::from_secs(5)).await;
        old.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).await;
    }
    let age = Clock::default().now().saturating_duration_since(start).as_secs();
    assert!((80..=105).contains(&age), "{age}");
    let next = call(&service, get("/next"));
    let mut new = Raw::new(dials.accept().await).await;
    new.next(HEADERS).await;
    new.send(HEADERS, 5, 1, &[0x88]).await;
    next.await.unwrap().unwrap();
    old.send(DATA, 1, 1, b"end").await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "end");
    assert!(body.frame().await.is_none());
    // Nothing runs on it any more.
    while old.frame().await.is_ok() {}
    assert_eq!(link.state(), LinkState::Up);
}

/// HTTP/1.1, where an old connection is closed instead of being laid down.
#[tokio::test(start_paused = true)]
async fn r4_an_http1_connection_that_is_old_serves_no_more() {
    let (connect, mut dials) = Dials::new();
    let http = Http::default().connector(connect).max_age(Duration::from_secs(10));
    let (service, link) = make(&http, &some_endpoint());
    let slow = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    Clock::default().sleep(Duration::from_secs(11)).await;
    pipe.write_all(ANSWER).await.unwrap();
    assert_eq!(text(slow.await.unwrap().unwrap()).await, "ok");
    assert_eq!(pipe.read(&mut [0]).await.unwrap(), 0);
    until(|| link.state() == LinkState::Resting).await;
    // An idle one is closed when its time comes, long before the idle timeout.
    let next = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    pipe.write_all(ANSWER).await.unwrap();
    text(next.await.unwrap().unwrap()).await;
    let start = Clock::default().now();
    assert_eq!(pipe.read(&mut [0]).await.unwrap(), 0);
    let age = Clock::default().now().saturating_duration_since(start).as_secs_f64();
    assert!((7.9..=10.1).contains(&age), "{age}");
}

/// R21: a connection that is found gone when a stream of it ends is replaced for those in line.
#[tokio::test(start_paused = true)]
async fn r21_a_connection_found_gone_at_the_end_of_a_stream_is_replaced() {
    let (connect, mut dials) = Dials::new();
    let http = http2().max_connections(1).connector(connect);
    let (service, link) = make(&http, &some_endpoint());
    let first = call(&service, get("/first"));
    let mut old = Raw::new(dials.accept().await).await;
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    old.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).await;
    old.next(HEADERS).await;
    old.send_head(1).await;
    let _first = first.await.unwrap().unwrap();
    let second = call(&service, get("/second"));
    until(|| link.state() == LinkState::Up).await;
    assert!(futures::poll!(std::pin::pin!(dials.next())).is_pending());
    // More than one read takes, so that the end is seen after the GOAWAY and before its news.
    old.send_goaway(1, 0).await;
    for _ in 0..3 {
        old.send(DATA, 0, 1, &[0; 16_000]).await;
    }
    old.send(DATA, 1, 1, &[]).await;
    until(|| !dials.0.is_empty()).await;
    let mut new = Raw::new(dials.accept().await).await;
    new.next(HEADERS).await;
    new.send(HEADERS, 5, 1, &[0x88]).await;
    second.await.unwrap().unwrap();
}

/// R2: while the connection that replaces the last one is being made, the link is not up.
#[tokio::test(start_paused = true)]
async fn r2_the_link_connects_when_the_last_connection_is_lost_during_a_dial() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let _first = call(&service, get("/first"));
    let mut old = of_one_stream(&mut dials).await;
    let (_, _respond) = old.accept().await.unwrap().unwrap();
    let _second = call(&service, get("/second"));
    let _slow = dials.next().await;
    assert_eq!(link.state(), LinkState::Up);
    drop((old, _respond));
    until(|| link.state() == LinkState::Connecting).await;
}
