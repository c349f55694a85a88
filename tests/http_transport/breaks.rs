//! Connections that break, and what that says of the request.

use crate::{causes::causes, raw::*, support::*};

#[tokio::test]
async fn t14_a_reset_connection_is_ambiguous_and_not_at_rest() {
    guarded(async {
        for after_head in [false, true] {
            let (listener, address) = listen().await;
            let (service, link) = make(&Http::default(), &endpoint(address));
            let call = call(&service, get("/"));
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            if after_head {
                stream.write_all(&ANSWER[..ANSWER.len() - 1]).await.unwrap();
            }
            let call = if after_head { Err(call.await.unwrap().unwrap()) } else { Ok(call) };
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
            match call {
                Ok(call) => assert!(!call.await.unwrap().unwrap_err().is_unprocessed()),
                Err(response) => assert!(response.into_body().collect().await.is_err()),
            }
            // It had only just come up, so that is a failure with a backoff.
            until(|| matches!(link.state(), LinkState::Failed { .. })).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn t14_a_connection_that_breaks_mid_request_is_ambiguous_and_lost() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    // It had lasted, so the pool may dial again at once.
    Clock::default().sleep(Duration::from_secs(2)).await;
    drop(pipe);
    let unsent = call.await.unwrap().unwrap_err();
    assert!(!unsent.is_unprocessed() && unsent.request().is_none());
    until(|| link.state() == LinkState::Idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_is_no_broken_connection() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let call = call(&service, get("/"));
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    call.abort();
    assert_eq!(pipe.read(&mut [0]).await.unwrap(), 0, "HTTP/1.1 has no other way to cancel");
    until(|| link.state() == LinkState::Resting).await;
}

/// T1: a body of the caller's own that breaks off is no broken connection, and the caller reads why.
#[tokio::test(start_paused = true)]
async fn t1_a_body_that_fails_before_the_head_is_no_broken_connection() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (feed, body) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let body = StreamBody::new(items(body));
    let call = tokio::spawn(service.clone().call(Request::post("/").body(body).unwrap()));
    feed.send(Ok(Frame::data(Bytes::from("half")))).unwrap();
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    pipe.read_exact(&mut [0; b"4\r\nhalf\r\n".len()]).await.unwrap();
    feed.send(Err("disk full".into())).unwrap();
    let unsent = call.await.unwrap().map(drop).map_err(Unsent::into_parts).unwrap_err();
    let said: Vec<_> = causes(&*unsent.1).map(ToString::to_string).collect();
    assert!(said.iter().any(|cause| cause == "disk full"), "{said:?}");
    pipe.read_to_end(&mut Vec::new()).await.unwrap();
    until(|| !matches!(link.state(), LinkState::Up)).await;
    assert_eq!(link.state(), LinkState::Resting);
}

/// A response counts for its endpoint, though the connection has ended by the time that it is taken up.
#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_with_its_response_has_served() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let (running, mut pipe) = one_running(&mut dials, &service).await;
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    pipe.write_all(answer).await.unwrap();
    drop(pipe);
    text(running.await.unwrap().unwrap()).await;
    until(|| link.state() == LinkState::Resting).await;
    // A server, then, and no proxy without one: what it closes unused is no failure.
    let mut given_up = Box::pin(service.clone().call(get("/given-up")));
    assert!(futures::poll!(&mut given_up).is_pending());
    drop(given_up);
    let pipe = dials.accept().await;
    until(|| link.state() == LinkState::Up).await;
    drop(pipe);
    until(|| link.state() != LinkState::Up).await;
    assert_eq!(link.state(), LinkState::Resting);
}

/// T5: a stream that is reset before its end is a broken body, whatever the code of the reset; after
/// its end, or with all that was announced, the reset says only that no more of the request is wanted.
#[tokio::test(start_paused = true)]
async fn t5_a_body_that_a_reset_without_error_cuts_short_is_broken() {
    const OK: u8 = 0x88;
    // "content-length: 4", by its index in the static table (RFC 7541 appendix A).
    const LENGTH: [u8; 4] = [0x0f, 0x0d, 1, b'4'];
    let [a, b, c, d] = LENGTH;
    let measured: &[u8] = &[OK, a, b, c, d];
    for (head, data, flags, whole) in [
        (&[OK][..], &b"part"[..], 0, false),
        (&[OK], b"", 0, false),
        (&[OK], b"full", 1, true),
        (measured, b"par", 0, false),
        (measured, b"full", 0, true),
    ] {
        let (connect, mut dials) = Dials::new();
        let (service, _) = make(&http2().connector(connect), &some_endpoint());
        // The request goes on, as it does where a peer resets the stream of a full answer.
        let (_more, body) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
        let body = StreamBody::new(items(body));
        let sent = tokio::spawn(service.clone().call(Request::post("/").body(body).unwrap()));
        let mut peer = Raw::new(dials.accept().await).await;
        peer.next(HEADERS).await;
        peer.send(HEADERS, 4, 1, head).await;
        let response = sent.await.unwrap().map_err(|_| "unsent").unwrap();
        peer.send(DATA, flags, 1, data).await;
        peer.send(RST_STREAM, 0, 1, &[0; 4]).await;
        let body = response.into_body().collect().await;
        assert_eq!(body.is_ok(), whole, "{head:?} {data:?} {flags}");
    }
}

fn items<T>(mut from: mpsc::UnboundedReceiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |cx| from.poll_recv(cx))
}
