//! Answers that come before all of the request is sent, and what becomes of the rest of it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use evenkeel::{Balance, discovery::StaticList, policy::RoundRobin};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::ServiceExt;

use crate::{causes::caused, raw::*, support::*};

/// A peer that takes so much, and then resets the connection. What it said before is there to be read,
/// and nobody is woken for it.
struct Resets {
    takes: usize,
    said: &'static [u8],
    reset: bool,
}

impl AsyncRead for Resets {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.reset || self.said.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.said.split_at(buf.remaining().min(self.said.len()));
        buf.put_slice(now);
        self.said = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Resets {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = buf.len().min(self.takes);
        self.takes -= taken;
        if taken == 0 {
            self.reset = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The transport over such a peer.
fn over(takes: usize, said: &'static [u8]) -> (HttpService, Link) {
    let connect = move |_: &Address| async move {
        let peer = Resets { takes, said, reset: false };
        Ok::<_, BoxError>(Connected::new(TokioIo::new(peer)))
    };
    make(&Http::default().connector(connect), &some_endpoint())
}

/// An upload without an end, and news of when nobody wants more of it.
fn endless()
-> (Request<impl http_body::Body<Data = Bytes, Error = BoxError>>, oneshot::Receiver<()>) {
    let (held, dropped) = oneshot::channel::<()>();
    let body = futures::stream::poll_fn(move |_| {
        let _held = &held;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])))))
    });
    (Request::post("/").body(StreamBody::new(body)).unwrap(), dropped)
}

async fn hour<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3_600), what).await.expect("it hangs")
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_upload_that_the_peer_resets_is_read() {
    for said in [
        &b"HTTP/1.1 413 Too Large\r\ncontent-length: 8\r\n\r\ntoo long"[..],
        b"HTTP/1.1 413 Too Large\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntoo\r\n5\r\n long\r\n0\r\n\r\n",
    ] {
        let (mut service, link) = over(100_000, said);
        let (request, dropped) = endless();
        let response = hour(service.call(request)).await.map_err(|_| "no answer").unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(hour(text(response)).await, "too long");
        // The connection serves no more, which is no failure, and the rest of the upload is let go of.
        hour(dropped).await.unwrap_err();
        until(|| link.state() == LinkState::Resting).await;
    }
}

/// T14: without an answer the request fails with what went wrong, and nobody knows what became of it; so
/// it does with half an answer.
#[tokio::test(start_paused = true)]
async fn t14_an_upload_that_the_peer_resets_without_an_answer_is_ambiguous() {
    for said in [&b""[..], b"HTTP/1.1 413 Too"] {
        let (mut service, link) = over(100_000, said);
        let start = Clock::default().now();
        let unsent = hour(service.call(endless().0)).await.unwrap_err();
        assert_eq!(Clock::default().now(), start, "at once");
        assert!(!unsent.is_unprocessed() && unsent.request().is_none());
        let io = caused::<io::Error>(&**unsent.cause()).unwrap();
        assert_eq!(io.kind(), io::ErrorKind::ConnectionReset);
        until(|| link.state() != LinkState::Up).await;
    }
}

/// R14: an idempotent request of which nothing could be written goes to another endpoint.
#[tokio::test(start_paused = true)]
async fn r14_a_request_that_cannot_be_written_goes_elsewhere() {
    let connect = |address: &Address| {
        let resets = *address == Address::from(([10, 0, 0, 1], 80));
        async move {
            if resets {
                let peer = Resets { takes: 0, said: b"", reset: false };
                return Ok::<_, BoxError>(Connected::new(TokioIo::new(peer)));
            }
            let (ours, mut theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                while read_head(&mut theirs).await.is_ok() {
                    theirs.write_all(ANSWER).await.unwrap();
                }
            });
            Ok(Connected::new(TokioIo::new(ours)))
        }
    };
    let endpoints = [1, 2].map(|i| Endpoint::new(([10, 0, 0, i], 80)));
    let balance = Balance::builder(StaticList::new(endpoints).unwrap())
        .policy(RoundRobin::new())
        .make(Http::default().connector(connect))
        .unwrap();
    for _ in 0..10 {
        let answer = hour(balance.clone().oneshot(get("/"))).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        // By then the other is dialled again.
        Clock::default().sleep(Duration::from_secs(20)).await;
    }
}

/// An answer that nobody reads yet holds up neither the connection for ever, nor who feeds the upload first
/// and reads then.
#[tokio::test(start_paused = true)]
async fn a_connection_with_an_answer_that_nobody_reads_ends() {
    let said = b"HTTP/1.1 413 Too Large\r\ntransfer-encoding: chunked\r\n\r\n\
        1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n0\r\n\r\n";
    let (mut service, link) = over(100_000, said);
    let (request, dropped) = endless();
    let response = hour(service.call(request)).await.map_err(|_| "no answer").unwrap();
    let start = Clock::default().now();
    hour(until(|| link.state() == LinkState::Resting)).await;
    hour(dropped).await.unwrap_err();
    assert_eq!(Clock::default().now().saturating_duration_since(start).as_secs(), 5);
    assert!(response.into_body().collect().await.is_err());
}

/// "grpc-status: 0".
const STATUS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// T5: the call is over once its status has come, with the head or after it, and so is the upload; one of
/// plain HTTP goes on until the peer wants no more of it (RFC 9113 section 8.1).
#[tokio::test(start_paused = true)]
async fn t5_an_upload_ends_with_a_grpc_status_and_not_with_a_plain_answer() {
    for (kind, in_head) in
        [("application/grpc", true), ("application/grpc", false), ("text/plain", true)]
    {
        let (connect, mut dials) = Dials::new();
        let (mut service, _) = make(&http2().connector(connect), &some_endpoint());
        let (mut feed, fed) = futures::channel::mpsc::unbounded();
        let request = Request::post("/").header("content-type", kind);
        let call = tokio::spawn(service.call(request.body(StreamBody::new(fed)).unwrap()));
        let mut peer = Raw::new(dials.accept().await).await;
        peer.next(HEADERS).await;
        let head = [&[0x88], STATUS].concat();
        if in_head {
            peer.send(HEADERS, 5, 1, &head).await;
        } else {
            peer.send_head(1).await;
        }
        let mut body = call.await.unwrap().map_err(|_| "no answer").unwrap().into_body();
        if !in_head {
            peer.send(HEADERS, 5, 1, STATUS).await;
            assert!(body.frame().await.unwrap().unwrap().is_trailers());
        }
        if kind == "text/plain" {
            feed.unbounded_send(Ok::<_, BoxError>(Frame::data(Bytes::from("more")))).unwrap();
            assert_eq!(peer.next(DATA).await.payload, b"more");
            assert!(!feed.is_closed());
            continue;
        }
        until(|| feed.is_closed()).await;
        assert_eq!(peer.next(RST_STREAM).await.stream, 1);
        feed.disconnect();
    }
}
