//! R2: a peer that has frozen is found by PINGs, and no peer gets more of them than it must.

use crate::{raw::*, support::*};

/// Seconds since the clock showed `start`, rounded down to hundredths.
fn seconds(start: std::time::Instant) -> f64 {
    let passed = Clock::default().now().saturating_duration_since(start);
    (passed.as_secs_f64() * 100.0).floor() / 100.0
}

async fn sleep(seconds: u64) {
    Clock::default().sleep(Duration::from_secs(seconds)).await;
}

/// A connection with a request outstanding.
async fn outstanding(http: Http) -> (HttpService, Link, Dials, Raw, JoinHandle<Sent>) {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http.connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut peer = Raw::new(dials.accept().await).await;
    assert_eq!(peer.next(HEADERS).await.stream, 1);
    (service, link, dials, peer, call)
}

#[tokio::test(start_paused = true)]
async fn r2_a_frozen_peer_is_out_after_ten_seconds_and_five() {
    let (_service, link, _dials, mut peer, call) = outstanding(http2()).await;
    // The silence begins with the freeze, not with the connection.
    sleep(8).await;
    peer.send_head(1).await;
    let mut body = call.await.unwrap().unwrap().into_body();
    let frozen = Clock::default().now();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(seconds(frozen), 15.0);
    assert!(error.to_string().contains("PING"), "{error}");
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
    // One PING was all it took, and the stream is let go of.
    assert_eq!(peer.next(PING).await.payload.len(), 8);
    while let Ok(frame) = peer.frame().await {
        assert_ne!(frame.kind, PING);
    }
}

#[tokio::test(start_paused = true)]
async fn r2_a_request_that_a_frozen_peer_never_answers_is_ambiguous() {
    let (service, link, _dials, _peer, first) = outstanding(http2()).await;
    let start = Clock::default().now();
    sleep(9).await;
    // A later request makes the silence no shorter.
    let second = call(&service, get("/"));
    for call in [first, second] {
        let unsent = call.await.unwrap().unwrap_err();
        assert!(!unsent.is_unprocessed() && unsent.request().is_none(), "{unsent:?}");
        assert!(unsent.cause().to_string().contains("PING"), "{unsent}");
    }
    assert_eq!(seconds(start), 15.0);
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn r2_the_silence_grows_between_pings_and_data_begins_anew() {
    let (_service, _link, _dials, mut peer, call) = outstanding(http2()).await;
    let start = Clock::default().now();
    for expected in [10.0, 30.0, 330.0, 630.0] {
        let ping = peer.next(PING).await;
        assert_eq!(seconds(start), expected);
        peer.answer(&ping).await;
    }
    // Any frame is a sign of life, and puts the next PING off.
    sleep(200).await;
    peer.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).await;
    let ping = peer.next(PING).await;
    assert_eq!(seconds(start), 1_130.0);
    peer.answer(&ping).await;
    // The head and each part of the body are data.
    peer.send_head(1).await;
    let mut body = call.await.unwrap().unwrap().into_body();
    for _ in 0..2 {
        let start = Clock::default().now();
        for expected in [10.0, 30.0] {
            let ping = peer.next(PING).await;
            assert_eq!(seconds(start), expected);
            peer.answer(&ping).await;
        }
        peer.send(DATA, 0, 1, b"part").await;
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_an_idle_connection_is_left_alone_and_checked_beside_its_first_request() {
    let (service, link, mut dials, mut peer, first) = outstanding(http2()).await;
    peer.send(HEADERS, 5, 1, &[0x88]).await;
    first.await.unwrap().unwrap();
    for (idle, checked) in [(29, false), (3_600, true)] {
        let quiet = tokio::time::timeout(Duration::from_secs(idle), peer.next(PING)).await;
        assert!(quiet.is_err(), "a PING while idle");
        let start = Clock::default().now();
        let call = call(&service, get("/"));
        let stream = peer.next(HEADERS).await.stream;
        let ping = peer.next(PING).await;
        assert_eq!(seconds(start), if checked { 0.0 } else { 10.0 }, "after {idle} s");
        peer.answer(&ping).await;
        peer.send(HEADERS, 5, stream, &[0x88]).await;
        call.await.unwrap().unwrap();
    }
    // Frozen meanwhile: found out by the first request, within the timeout alone.
    sleep(60).await;
    let start = Clock::default().now();
    let unsent = call(&service, get("/")).await.unwrap().unwrap_err();
    assert!(!unsent.is_unprocessed());
    assert_eq!(seconds(start), 5.0);
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
    assert!(dials.0.try_recv().is_err());
}

/// R2: a stream on which nothing is said, such as a watch, leaves a PING for the first request that begins
/// beside it, and no more than servers forgive.
#[tokio::test(start_paused = true)]
async fn r2_a_request_beside_a_silent_stream_is_checked() {
    // When it begins, and when the peer is asked.
    for (begun, asked) in [(100, 100.0), (400, 400.0), (35, 45.0), (20, 30.0)] {
        let (service, link, _dials, mut peer, silent) = outstanding(http2()).await;
        let start = Clock::default().now();
        let second = async {
            sleep(begun).await;
            call(&service, get("/")).await.unwrap().unwrap_err()
        };
        let peer = async {
            loop {
                let ping = peer.next(PING).await;
                if seconds(start) >= begun as f64 {
                    break seconds(start);
                }
                peer.answer(&ping).await;
            }
        };
        let (unsent, at) = tokio::join!(second, peer);
        assert_eq!(at, asked, "begun at {begun}");
        assert_eq!(seconds(start), asked + 5.0);
        assert!(!unsent.is_unprocessed(), "{unsent:?}");
        silent.await.unwrap().unwrap_err();
        until(|| matches!(link.state(), LinkState::Failed { .. })).await;
    }
    // Answered, it was the last before five minutes have passed.
    let (service, _link, _dials, mut peer, _silent) = outstanding(http2()).await;
    let start = Clock::default().now();
    let later = async {
        for _ in 0..5 {
            sleep(100).await;
            drop(call(&service, get("/")));
        }
    };
    let pings = async {
        let mut at = Vec::new();
        while at.len() < 5 {
            let ping = peer.next(PING).await;
            at.push(seconds(start));
            peer.answer(&ping).await;
        }
        at
    };
    let ((), at) = tokio::join!(later, pings);
    assert_eq!(at, [10.0, 30.0, 100.0, 400.0, 700.0]);
}

#[tokio::test(start_paused = true)]
async fn r2_a_peer_that_wants_fewer_pings_gets_fewer() {
    let (service, link, mut dials, mut peer, first) = outstanding(http2()).await;
    peer.send(HEADERS, 5, 1, &[0x88]).await;
    first.await.unwrap().unwrap();
    for calmed in [20.0, 40.0] {
        peer.send_goaway(1, 11).await;
        until(|| link.state() != LinkState::Up).await;
        let _call = call(&service, get("/"));
        peer = Raw::new(dials.accept().await).await;
        peer.next(HEADERS).await;
        let start = Clock::default().now();
        peer.next(PING).await;
        assert_eq!(seconds(start), calmed);
    }
}

#[tokio::test(start_paused = true)]
async fn keepalive_is_as_configured() {
    // Off: an hour without a PING.
    let (.., mut peer, _call) = outstanding(http2().keepalive_after(None)).await;
    let quiet = tokio::time::timeout(Duration::from_secs(3_600), peer.next(PING)).await;
    assert!(quiet.is_err());
    // While idle, too, and with times of its own.
    let http = http2()
        .keepalive_while_idle(true)
        .keepalive_after(Some(Duration::from_secs(3)))
        .keepalive_timeout(Duration::from_secs(2));
    let (_service, link, _dials, mut peer, call) = outstanding(http).await;
    peer.send(HEADERS, 5, 1, &[0x88]).await;
    call.await.unwrap().unwrap();
    let start = Clock::default().now();
    peer.next(PING).await;
    assert_eq!(seconds(start), 3.0);
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
    assert_eq!(seconds(start), 5.0);
}

/// The same over a real socket, for order and counts: the peer reads nothing any more, its socket
/// stays open, and yet the request ends.
#[tokio::test]
async fn r2_a_peer_that_freezes_on_a_real_socket_is_found() {
    guarded(async {
        let (listener, address) = listen().await;
        let http = http2()
            .keepalive_after(Some(Duration::from_millis(20)))
            .keepalive_timeout(Duration::from_millis(20));
        let (service, link) = make(&http, &endpoint(address));
        let call = call(&service, get("/"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut frozen = h2::server::handshake(stream).await.unwrap();
        let _request = frozen.accept().await.unwrap().unwrap();
        let unsent = call.await.unwrap().unwrap_err();
        assert!(!unsent.is_unprocessed());
        until(|| matches!(link.state(), LinkState::Failed { .. })).await;
    })
    .await;
}
