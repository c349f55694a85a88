//! Dials that fail, hang, or outlive who asked for them.

use crate::support::*;

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
        pipe.write_all(LAST_ANSWER).await.unwrap();
        answered += 1;
    }
    for call in calls {
        assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
    }
}

/// R2: an endpoint that takes no new connection is out, though an old one is still open; and it is up
/// again once that is returned.
#[tokio::test(start_paused = true)]
async fn r2_an_endpoint_that_refuses_dials_is_out_while_an_old_connection_runs() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (running, mut pipe) = one_running(&mut dials, &service).await;
    let clock = Clock::default();
    let start = clock.now();
    let next = call(&service, get("/next"));
    assert!(dials.next().await.send(Err("refused".into())).is_ok());
    let unsent = next.await.unwrap().unwrap_err();
    assert!(unsent.request().is_some());
    assert!(!unsent.cause().downcast_ref::<ConnectError>().unwrap().is_timeout());
    let took = clock.now().saturating_duration_since(start).as_millis();
    assert!((250..255).contains(&took), "{took} ms");
    assert!(matches!(link.state(), LinkState::Failed { .. }));
    // Nobody waits for an endpoint that is out already.
    let start = clock.now();
    let next = call(&service, get("/next"));
    assert!(dials.next().await.send(Err("refused".into())).is_ok());
    assert!(next.await.unwrap().unwrap_err().request().is_some());
    assert!(clock.now().saturating_duration_since(start) < Duration::from_millis(5));
    assert!(matches!(link.state(), LinkState::Failed { .. }));

    pipe.write_all(ANSWER).await.unwrap();
    assert_eq!(text(running.await.unwrap().unwrap()).await, "ok");
    until(|| link.state() == LinkState::Up).await;
    let last = call(&service, get("/last"));
    assert!(read_head(&mut pipe).await.unwrap().starts_with("GET /last "));
    pipe.write_all(ANSWER).await.unwrap();
    assert_eq!(text(last.await.unwrap().unwrap()).await, "ok");
}

/// R2: the same of one that is silent, whose dials time out, though there are always others.
#[tokio::test(start_paused = true)]
async fn r2_an_endpoint_whose_extra_dials_time_out_is_out() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (_running, _pipe) = one_running(&mut dials, &service).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(call(&service, get("/next")));
        Clock::default().sleep(Duration::from_millis(400)).await;
    }
    assert!(matches!(link.state(), LinkState::Failed { .. }), "{:?}", link.state());
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().request().is_some());
    }
}

/// R4: where connections are returned in time, an extra dial that fails is neither a failed request
/// nor a failed endpoint.
#[tokio::test(start_paused = true)]
async fn r4_an_extra_dial_that_fails_fails_nobody_who_is_served_in_time() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (running, mut pipe) = one_running(&mut dials, &service).await;
    let read = |call: JoinHandle<Sent>| {
        tokio::spawn(async move { text(call.await.unwrap().unwrap()).await })
    };
    let running = read(running);
    let waiting: Vec<_> = (0..5).map(|_| read(call(&service, get("/next")))).collect();
    for _ in 0..5 {
        assert!(dials.next().await.send(Err("refused".into())).is_ok());
    }
    // Longer in all than anybody would wait for the first of them.
    for _ in 0..5 {
        Clock::default().sleep(Duration::from_millis(150)).await;
        assert_eq!(link.state(), LinkState::Up);
        pipe.write_all(ANSWER).await.unwrap();
        assert!(read_head(&mut pipe).await.unwrap().starts_with("GET /next "));
    }
    pipe.write_all(ANSWER).await.unwrap();
    assert_eq!(running.await.unwrap(), "ok");
    for call in waiting {
        assert_eq!(call.await.unwrap(), "ok");
    }
    Clock::default().sleep(Duration::from_millis(500)).await;
    assert_eq!(link.state(), LinkState::Up);
}

/// R2: an endpoint whose connections ended in good order, and whose dials hang, does not go on counting as
/// up because there is always one more dial.
#[tokio::test(start_paused = true)]
async fn r2_an_endpoint_at_rest_whose_dials_hang_is_out() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (running, mut pipe) = one_running(&mut dials, &service).await;
    pipe.write_all(LAST_ANSWER).await.unwrap();
    text(running.await.unwrap().unwrap()).await;
    until(|| link.state() == LinkState::Resting).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(call(&service, get("/next")));
        Clock::default().sleep(Duration::from_millis(400)).await;
    }
    // One has timed out, and two go on.
    assert_eq!(link.state(), LinkState::Connecting);
    for call in calls {
        let unsent = call.await.unwrap().unwrap_err();
        assert!(unsent.cause().downcast_ref::<ConnectError>().unwrap().is_timeout());
    }
    assert!(matches!(link.state(), LinkState::Failed { .. }), "{:?}", link.state());
}

/// R1: whoever can use nothing but a new connection has no reason to wait once none will come.
#[tokio::test(start_paused = true)]
async fn r1_a_request_that_needs_a_new_connection_goes_elsewhere_once_its_dial_failed() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let clock = Clock::default();
    let [mut one, mut two] = two_idle(&mut dials, &service).await;
    let died = call(&service, get("/died"));
    let mut other = tokio::select! {
        head = read_head(&mut one) => { head.unwrap(); drop(one); two }
        head = read_head(&mut two) => { head.unwrap(); drop(two); one }
    };
    let dial = dials.next().await;
    let start = clock.now();
    assert!(dial.send(Err("refused".into())).is_ok());
    let unsent = died.await.unwrap().unwrap_err();
    let cause = unsent.cause().source().unwrap();
    assert!(cause.to_string().contains("cannot connect"), "{cause:?}");
    assert!(clock.now().saturating_duration_since(start) < Duration::from_millis(5));
    assert_eq!(link.state(), LinkState::Up);

    // Nor is that counted as time for which others have waited.
    clock.sleep(Duration::from_secs(10)).await;
    let running = call(&service, get("/running"));
    read_head(&mut other).await.unwrap();
    let next = call(&service, get("/next"));
    assert!(dials.next().await.send(Err("refused".into())).is_ok());
    clock.sleep(Duration::from_millis(100)).await;
    assert_eq!(link.state(), LinkState::Up);
    other.write_all(ANSWER).await.unwrap();
    text(running.await.unwrap().unwrap()).await;
    assert!(read_head(&mut other).await.unwrap().starts_with("GET /next "));
    other.write_all(ANSWER).await.unwrap();
    assert_eq!(text(next.await.unwrap().unwrap()).await, "ok");
}
