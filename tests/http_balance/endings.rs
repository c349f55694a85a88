//! How things end: bodies that the caller breaks off, tunnels, and the connections of an endpoint that is
//! removed.

use std::io;

use evenkeel::discovery::Registration;
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{causes::whole, *};

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

/// An endpoint that is listed as long as its registration is held.
fn listed(address: SocketAddr, http: Http) -> (Http1Balance, Registration) {
    let registry = Registry::new();
    let registration = registry.register(Endpoint::new(address)).unwrap();
    (Balance::builder(registry).make(http).unwrap(), registration)
}

/// Waits until nothing is known of any endpoint.
async fn until_gone(balance: &Http1Balance) {
    within(async {
        while !balance.status().endpoints.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// R14, T5: a connection that was upgraded, or taken over by CONNECT, is the caller's: it outlives its
/// endpoint, and the balancer, too.
#[tokio::test]
async fn r14_a_tunnel_outlives_the_removal_of_its_endpoint() {
    for connect in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (balance, registration) = listed(listener.local_addr().unwrap(), Http::default());
        let mut balance = Some(balance);
        let (request, answer) = match connect {
            true => (Request::connect("far.away:443"), "HTTP/1.1 200 OK\r\n\r\n"),
            false => (
                Request::get("/").header("connection", "upgrade").header("upgrade", "chat"),
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
            ),
        };
        let call = balance.clone().unwrap().oneshot(request.body(Empty::<Bytes>::new()).unwrap());
        let call = tokio::spawn(call);
        let (mut server, _) = within(listener.accept()).await.unwrap();
        assert!(within(server.read(&mut [0; 1024])).await.unwrap() > 0);
        server.write_all(answer.as_bytes()).await.unwrap();
        let response = within(call).await.unwrap().unwrap();
        let mut tunnel = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
        drop(registration);
        until_gone(balance.as_ref().unwrap()).await;
        let mut bytes = [0; 5];
        for there in [&b"still"[..], b"there"] {
            within(tunnel.write_all(there)).await.unwrap();
            within(server.read_exact(&mut bytes)).await.unwrap();
            within(server.write_all(&bytes)).await.unwrap();
            within(tunnel.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(bytes, there);
            // The second time without a balancer.
            drop(balance.take());
        }
    }
}

/// R14: the connection of an endpoint that is removed ends as HTTP/2 has it, by GOAWAY with NO_ERROR.
#[tokio::test]
async fn r14_a_removed_endpoint_is_told_by_goaway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = Http::default().http2_prior_knowledge();
    let (balance, registration) = listed(listener.local_addr().unwrap(), http);
    let (mut server, _) = within(listener.accept()).await.unwrap();
    // SETTINGS, which make the connection be up.
    server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    within(balance.ready()).await.unwrap();
    drop(registration);
    let mut bytes = Vec::new();
    within(server.read_to_end(&mut bytes)).await.unwrap();
    let mut frames = &bytes[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()..];
    let mut last = (0, &[][..]);
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        last = (*kind, &rest[..length]);
        frames = &rest[length..];
    }
    const GOAWAY: u8 = 7;
    // Of the last stream, which is none, and NO_ERROR.
    assert_eq!(last, (GOAWAY, &[0; 8][..]));
}
