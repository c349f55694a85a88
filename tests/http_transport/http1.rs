//! HTTP/1.1: connections and who gets them.

use crate::support::*;

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
    let (first, mut one) = one_running(&mut dials, &service).await;
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
    let _running = one_running(&mut dials, &service).await;
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
    let (first, mut one) = one_running(&mut dials, &service).await;
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
    let [mut one, mut two] = two_idle(&mut dials, &service).await;
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
    let [mut one, mut two] = two_idle(&mut dials, &service).await;
    let closed = tokio::select! {
        read = one.read_u8() => read,
        read = two.read_u8() => read,
    };
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(link.state(), LinkState::Up);
}

/// A look at the socket is a call to the system: one a request, and only where a connection has lain idle
/// or comes from another request.
#[tokio::test(start_paused = true)]
async fn a_kept_connection_is_looked_at_once_for_each_request() {
    let (connect, mut dials) = Dials::new();
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = || looks.swap(0, Ordering::SeqCst);
    let counter = Arc::clone(&looks);
    let http = Http::default().connector(move |address: &Address| {
        let (connecting, counter) = (connect.connect(address), Arc::clone(&counter));
        async move {
            Ok::<_, BoxError>(connecting.await?.with_open_check(move || {
                counter.fetch_add(1, Ordering::SeqCst);
                true
            }))
        }
    });
    let (service, _) = make(&http, &some_endpoint());
    let mut pipe = one_idle(&mut dials, &service).await;
    assert_eq!(looked(), 0, "a new one");
    let kept = call(&service, get("/kept"));
    read_head(&mut pipe).await.unwrap();
    assert_eq!(looked(), 1, "one that lay idle");
    let waits = call(&service, get("/waits"));
    let _hangs = dials.next().await;
    pipe.write_all(ANSWER).await.unwrap();
    text(kept.await.unwrap().unwrap()).await;
    read_head(&mut pipe).await.unwrap();
    assert_eq!(looked(), 1, "one that another request returned");
    drop(waits);
}
