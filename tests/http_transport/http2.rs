//! HTTP/2: one connection for many.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{raw::*, support::*};

#[tokio::test(start_paused = true)]
async fn r2_http2_is_up_after_the_peers_first_frame_and_not_before() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    let mut preface = [0; 24];
    pipe.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    Clock::default().sleep(Duration::from_millis(900)).await;
    assert_eq!(link.state(), LinkState::Connecting);
    pipe.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    until(|| link.state() == LinkState::Up).await;
    drop(pipe);
    call.await.unwrap().unwrap_err();
    // Lost as soon as it was up: that is a failure, and backs off.
    until(|| matches!(link.state(), LinkState::Failed { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_another_protocol_is_no_http2_server() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&http2().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    pipe.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    drop(pipe);
    assert!(call.await.unwrap().unwrap_err().request().is_some());
    assert!(matches!(link.state(), LinkState::Failed { .. }));
}

#[tokio::test]
async fn http2_requests_share_a_connection() {
    guarded(async {
        let all = Arc::new(Barrier::new(20));
        let server = serve(true, move |request| {
            let all = Arc::clone(&all);
            async move {
                all.wait().await;
                Response::new(request.uri().to_string().into())
            }
        })
        .await;
        let endpoint =
            endpoint(server.address).with_protocol(Protocol::Http2).with_server_name("users.shop");
        let (service, link) = make(&Http::default(), &endpoint);
        let calls: Vec<_> = (0..20).map(|_| call(&service, get("/a"))).collect();
        for call in calls {
            assert_eq!(text(call.await.unwrap().unwrap()).await, "http://users.shop/a");
        }
        assert_eq!(server.accepted(), 1);
        assert_eq!(link.state(), LinkState::Up);
    })
    .await;
}

#[tokio::test]
async fn http2_requests_leave_what_belongs_to_http1_behind() {
    guarded(async {
        let server = serve(true, |request| async move {
            Response::new(format!("{} {:?}", request.uri(), request.headers()).into())
        })
        .await;
        let (mut service, _) = make(&http2(), &endpoint(server.address));
        let request = Request::get("/a")
            .header("host", "users.shop")
            .header("connection", "keep-alive, x-hop")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "websocket")
            .header("x-hop", "1")
            .header("x-kept", "1")
            .body(String::new())
            .unwrap();
        let seen = text(service.call(request).await.unwrap()).await;
        assert_eq!(seen, r#"http://users.shop/a {"x-kept": "1"}"#);
        let request = Request::options("*").body(String::new()).unwrap();
        assert!(service.call(request).await.is_ok());
    })
    .await;
}

/// The peer's GOAWAY is in the pipe and nobody has read it when the request comes.
#[tokio::test(start_paused = true)]
async fn a_request_that_hyper_hands_back_is_sent_on_a_new_connection() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let mut next = service.clone().call(get("/"));
    for _ in 0..3 {
        let call = tokio::spawn(next);
        let mut peer = h2::server::handshake(dials.accept().await).await.unwrap();
        let (_, mut respond) = peer.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        assert!(peer.accept().now_or_never().is_none());
        call.await.unwrap().unwrap();
        // No task but this one runs until hyper has the next request.
        peer.abrupt_shutdown(h2::Reason::NO_ERROR);
        let _ = peer.accept().now_or_never();
        next = service.clone().call(get("/"));
        assert!((&mut next).now_or_never().is_none());
        assert!(dials.0.try_recv().is_err(), "it is with the old connection");
    }
}

/// R14: what runs on a connection that goes away is answered, and what comes later does not wait.
#[tokio::test]
async fn r14_a_goaway_replaces_the_connection_at_once() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, link) = make(&http2(), &endpoint(address));
        let running = call(&service, get("/running"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut old = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = old.accept().await.unwrap().unwrap();
        old.graceful_shutdown();
        let old = tokio::spawn(async move { while old.accept().await.is_some() {} });
        // Without a new request, the link says so.
        until(|| link.state() != LinkState::Up).await;

        let next = call(&service, get("/next"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut new = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond_next) = new.accept().await.unwrap().unwrap();
        let new = tokio::spawn(async move { while new.accept().await.is_some() {} });
        assert_eq!(request.uri().path(), "/next");
        respond_next.send_response(Response::new(()), true).unwrap();
        assert!(next.await.unwrap().is_ok());
        assert_eq!(link.state(), LinkState::Up);

        respond.send_response(Response::new(()), true).unwrap();
        assert!(running.await.unwrap().is_ok());
        old.await.unwrap();
        assert_eq!(link.state(), LinkState::Up, "the end of the old one is no news");
        drop(service);
        new.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_is_unprocessed_and_a_reset_one_ambiguous() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, _) = make(&http2(), &endpoint(address));
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let refuse = request.uri().path() == "/refuse";
                let reason = if refuse { h2::Reason::REFUSED_STREAM } else { h2::Reason::CANCEL };
                respond.send_reset(reason);
            }
        });
        let refused = service.clone().call(get("/refuse")).await.unwrap_err();
        assert!(refused.is_unprocessed() && refused.request().is_none());
        let reset = service.clone().call(get("/reset")).await.unwrap_err();
        assert!(!reset.is_unprocessed());
        drop(service);
        server.await.unwrap();
    })
    .await;
}

/// A peer that has answered one request, and has read all that was sent.
async fn answered_once() -> (HttpService, Dials, Raw) {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let first = call(&service, get("/"));
    let mut peer = Raw::new(dials.accept().await).await;
    peer.next(HEADERS).await;
    peer.send(HEADERS, 5, 1, &[0x88]).await;
    first.await.unwrap().unwrap();
    peer.caught_up().await;
    (service, dials, peer)
}

/// A stream that counts how often it is written to.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A short body is written together with its head, rather than after a turn of each side's tasks.
#[tokio::test(start_paused = true)]
async fn a_short_body_goes_with_its_head() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let writes = Arc::new(AtomicUsize::new(0));
    let io = Mutex::new(Some(Counted(ours, Arc::clone(&writes))));
    let http = http2().connector(move |_: &Address| {
        let io = io.lock().unwrap().take().expect("one dial is enough");
        std::future::ready(Ok::<_, BoxError>(Connected::new(TokioIo::new(io))))
    });
    let (service, _) = make(&http, &some_endpoint());
    let first = call(&service, get("/"));
    let mut peer = Raw::new(theirs).await;
    peer.next(HEADERS).await;
    peer.send(HEADERS, 5, 1, &[0x88]).await;
    first.await.unwrap().unwrap();
    peer.caught_up().await;
    let before = writes.load(Ordering::SeqCst);
    let _call = call(&service, Request::post("/").body("short".to_owned()).unwrap());
    let (head, data) = (peer.frame().await.unwrap(), peer.frame().await.unwrap());
    assert_eq!((head.kind, head.stream, head.flags & 1), (HEADERS, 3, 0));
    assert_eq!((data.kind, data.stream, data.flags & 1), (DATA, 3, 1));
    assert_eq!(data.payload, b"short");
    assert_eq!(writes.load(Ordering::SeqCst) - before, 1);
}

/// What is queued early still waits for the peer's window (RFC 9113 section 5.2).
#[tokio::test(start_paused = true)]
async fn a_short_body_waits_for_the_peers_window() {
    let (service, _dials, mut peer) = answered_once().await;
    // SETTINGS_INITIAL_WINDOW_SIZE
    peer.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
    peer.caught_up().await;
    let _call = call(&service, Request::post("/").body("short".to_owned()).unwrap());
    assert_eq!(peer.frame().await.unwrap().kind, HEADERS);
    assert!(peer.caught_up().await.is_empty(), "nothing fits into no window");
    peer.send(WINDOW_UPDATE, 0, 3, &2_u32.to_be_bytes()).await;
    assert_eq!(peer.next(DATA).await.payload, b"sh");
    peer.send(WINDOW_UPDATE, 0, 3, &9_u32.to_be_bytes()).await;
    let last = peer.next(DATA).await;
    assert_eq!((&last.payload[..], last.flags & 1), (&b"ort"[..], 1));
}
