//! How things end: bodies that the caller breaks off, tunnels, and the connections of an endpoint that is
//! removed.

use std::{error::Error as StdError, io};

use http_body_util::StreamBody;
use tokio::net::TcpListener;

use super::*;

/// The text of an error and of all its causes.
fn whole(error: &(dyn StdError + 'static)) -> String {
    let causes =
        std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// T1, R25: a body of the caller's own that fails after the response's head came is no failure of the
/// endpoint's, and the caller reads why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_a_callers_body_that_fails_after_the_head_is_the_callers() {
    for http2 in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::serve(listener, http2, |request| async move {
            // A response without an end, which keeps the request's body.
            let body = futures::stream::once(async move {
                let _held = request;
                std::future::pending().await
            });
            Some(Response::new(StreamBody::new(body).boxed_unsync()))
        });
        let http = if http2 { Http::default().http2_prior_knowledge() } else { Http::default() };
        let balance =
            Balance::builder(StaticList::new([server.endpoint()]).unwrap()).make(http).unwrap();
        let (feed, fed) = futures::channel::mpsc::unbounded();
        let request = Request::post("/").body(StreamBody::new(fed)).unwrap();
        feed.unbounded_send(Ok(Frame::data(Bytes::from("half")))).unwrap();
        let response = within(balance.clone().oneshot(request)).await.unwrap();
        feed.unbounded_send(Err(io::Error::other("disk full"))).unwrap();
        let error = within(response.into_body().collect()).await.unwrap_err();
        let said = whole(&error);
        assert!(said.contains("the request's body failed: disk full"), "{said}");
        let status = &balance.status().endpoints[0];
        assert_eq!((status.success, status.in_flight), (1.0, 0), "http2: {http2}");
    }
}
