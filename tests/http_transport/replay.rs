//! DESIGN rule 3: what the peer provably did not process is sent again, with its body; nothing else.

use std::{
    error::Error as _,
    sync::atomic::{AtomicBool, Ordering},
};

use evenkeel::{Balance, discovery::StaticList, policy::RoundRobin};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::{raw::*, support::*};

type Parts = futures::channel::mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>;

/// A body in parts, neither `Clone` nor of a known length, of which `begun` are there already.
fn streamed(begun: &'static [&'static str]) -> (Request<StreamBody<Parts>>, impl Fn(&'static str)) {
    let (feed, fed) = futures::channel::mpsc::unbounded();
    let send = move |part: &'static str| {
        feed.unbounded_send(Ok(Frame::data(Bytes::from(part)))).unwrap();
    };
    begun.iter().for_each(|part| send(part));
    (Request::post("/").body(StreamBody::new(fed)).unwrap(), send)
}

async fn whole(mut body: h2::RecvStream) -> String {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        whole.extend(data.unwrap());
    }
    String::from_utf8(whole).unwrap()
}

/// R21: a POST whose body was half sent when the peer said GOAWAY arrives in full elsewhere.
#[tokio::test(start_paused = true)]
async fn r21_a_stream_above_the_last_of_a_goaway_is_sent_again_with_its_body() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let (request, send) = streamed(&["one ", "two "]);
    let call = tokio::spawn(service.clone().call(request));
    // Twice in a row, and with more of the body each time.
    for (round, more) in ["three ", "four "].into_iter().enumerate() {
        let mut old = Raw::new(dials.accept().await).await;
        let stream = old.next(HEADERS).await.stream;
        for part in ["one ", "two ", "three "].iter().take(2 + round) {
            assert_eq!(old.next(DATA).await.payload, part.as_bytes());
        }
        old.send_goaway(stream - 1, 0).await;
        send(more);
    }
    let mut peer = h2::server::handshake(dials.accept().await).await.unwrap();
    let (request, mut respond) = peer.accept().await.unwrap().unwrap();
    tokio::spawn(async move { while peer.accept().await.is_some() {} });
    send("five");
    drop(send);
    assert_eq!(whole(request.into_body()).await, "one two three four five");
    respond.send_response(Response::new(()), true).unwrap();
    assert!(call.await.unwrap().is_ok());
}

/// A stream at or below the last one may have been processed: it is not sent again.
#[tokio::test(start_paused = true)]
async fn t14_a_stream_at_the_last_of_a_goaway_is_ambiguous() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let first = call(&service, get("/first"));
    let mut old = Raw::new(dials.accept().await).await;
    old.next(HEADERS).await;
    let second = call(&service, get("/second"));
    assert_eq!(old.next(HEADERS).await.stream, 3);
    old.send_goaway(1, 0).await;
    // The second is on its way again while the first is waited for.
    let mut new = Raw::new(dials.accept().await).await;
    new.next(HEADERS).await;
    new.send(HEADERS, 5, 1, &[0x88]).await;
    assert!(second.await.unwrap().is_ok());
    drop(old);
    let unsent = first.await.unwrap().unwrap_err();
    assert!(!unsent.is_unprocessed() && unsent.request().is_none(), "{unsent:?}");
}

/// More of a body than is kept: unprocessed, and yet it cannot be sent again.
#[tokio::test(start_paused = true)]
async fn a_long_body_is_not_sent_again() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&http2().connector(connect), &some_endpoint());
    let request = Request::post("/").body("x".repeat(64 * 1024 + 1)).unwrap();
    let call = call(&service, request);
    let mut old = Raw::new(dials.accept().await).await;
    old.next(HEADERS).await;
    old.next(DATA).await;
    old.send_goaway(0, 0).await;
    let unsent = call.await.unwrap().unwrap_err();
    assert!(unsent.is_unprocessed() && unsent.request().is_none(), "{unsent:?}");
    assert!(dials.0.try_recv().is_err());
}

/// What a connection to HTTP/1.1 does with the second request on it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Second {
    Closes,
    ClosesAfterAByte,
}

/// R14, T14: the one exception, and its limits.
#[tokio::test(start_paused = true)]
async fn t14_an_idempotent_request_survives_a_keep_alive_connection_that_dies() {
    for (method, second, again) in [
        ("GET", Second::Closes, true),
        ("PUT", Second::Closes, true),
        ("POST", Second::Closes, false),
        ("GET", Second::ClosesAfterAByte, false),
    ] {
        let (connect, mut dials) = Dials::new();
        let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
        let mut pipe = one_idle(&mut dials, &service).await;
        let request = Request::builder().method(method).uri("/").body("body".to_owned()).unwrap();
        let caught = call(&service, request);
        read_head(&mut pipe).await.unwrap();
        pipe.read_exact(&mut [0; 4]).await.unwrap();
        if second == Second::ClosesAfterAByte {
            pipe.write_all(b"H").await.unwrap();
        }
        drop(pipe);
        if again {
            let mut pipe = dials.accept().await;
            let head = read_head(&mut pipe).await.unwrap();
            assert!(head.starts_with(method) && head.contains("content-length: 4\r\n"), "{head}");
            let mut body = [0; 4];
            pipe.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"body");
            pipe.write_all(ANSWER).await.unwrap();
            assert_eq!(text(caught.await.unwrap().unwrap()).await, "ok");
        } else {
            let unsent = caught.await.unwrap().unwrap_err();
            assert!(!unsent.is_unprocessed(), "{method} {second:?}");
            assert!(dials.0.try_recv().is_err(), "{method} {second:?}");
        }
    }
}

/// Once, and never on a connection that is new.
#[tokio::test(start_paused = true)]
async fn t14_an_idempotent_request_is_sent_again_once() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let mut pipe = one_idle(&mut dials, &service).await;
    let caught = call(&service, get("/"));
    read_head(&mut pipe).await.unwrap();
    drop(pipe);
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    drop(pipe);
    assert!(!caught.await.unwrap().unwrap_err().is_unprocessed());
    assert!(dials.0.try_recv().is_err());
}

/// If the endpoint is gone when it is sent again, the request comes back, and is still ambiguous.
#[tokio::test(start_paused = true)]
async fn t14_what_was_sent_once_stays_ambiguous() {
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let mut pipe = one_idle(&mut dials, &service).await;
    let caught = call(&service, get("/"));
    read_head(&mut pipe).await.unwrap();
    drop(pipe);
    assert!(dials.next().await.send(Err("refused".into())).is_ok());
    let unsent = caught.await.unwrap().unwrap_err();
    assert!(!unsent.is_unprocessed(), "{unsent:?}");
    let cause = unsent.cause();
    assert!(cause.to_string().starts_with("a connection died with the request ("), "{cause}");
    assert!(cause.source().unwrap().is::<ConnectError>(), "{cause:?}");
}

/// R25, T14: where a peer may have processed the request, the error names that one and what it did, and not
/// the one that refused it afterwards.
#[tokio::test(start_paused = true)]
async fn r25_an_ambiguous_error_names_who_may_have_processed_the_request() {
    let closing = [(); 2].map(|()| Arc::new(Notify::new()));
    let down = Arc::new(AtomicBool::new(false));
    let connect = {
        let (closing, down) = (closing.clone(), Arc::clone(&down));
        move |address: &Address| {
            let first = *address == Address::from(([10, 0, 0, 1], 80));
            let closing = Arc::clone(&closing[usize::from(!first)]);
            let down = Arc::clone(&down);
            async move {
                if down.load(Ordering::SeqCst) {
                    return Err::<_, BoxError>("refused".into());
                }
                let (ours, mut theirs) = tokio::io::duplex(1024);
                tokio::spawn(async move {
                    read_head(&mut theirs).await.unwrap();
                    theirs.write_all(ANSWER).await.unwrap();
                    // Dies of the second request, or closes before it.
                    tokio::select! {
                        _ = read_head(&mut theirs) => {}
                        () = closing.notified() => {}
                    }
                });
                Ok(Connected::new(TokioIo::new(ours)))
            }
        }
    };
    let endpoints = [1, 2].map(|i| Endpoint::new(([10, 0, 0, i], 80)));
    let balance = Balance::builder(StaticList::new(endpoints.clone()).unwrap())
        .policy(RoundRobin::new())
        .make(Http::default().connector(connect))
        .unwrap();
    balance.ready().await.unwrap();
    let mut order = Vec::new();
    for _ in 0..2 {
        let body = balance.clone().oneshot(get("/")).await.unwrap().into_body();
        order.push(body.endpoint());
        body.collect().await.unwrap();
    }
    assert_ne!(order[0], order[1]);
    down.store(true, Ordering::SeqCst);
    closing[endpoints.iter().position(|one| *one == order[1]).unwrap()].notify_one();
    Clock::default().sleep(Duration::from_millis(10)).await;
    let error = balance.oneshot(get("/")).await.unwrap_err();
    assert!(error.is_ambiguous() && error.census().unwrap().tried == 2, "{error}");
    assert_eq!(error.endpoint(), Some(&order[0]));
    assert!(error.to_string().ends_with("may have processed the request"), "{error}");
    let cause = error.source().unwrap().to_string();
    assert!(cause.starts_with("a connection died with the request ("), "{cause}");
}
