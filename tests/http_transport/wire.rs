//! Bodies, names, upgrades and Unix sockets.

use crate::support::*;

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    guarded(async {
        for http2 in [false, true] {
            let (listener, address) = listen().await;
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    Ok::<_, Infallible>(Response::new(request.into_body()))
                });
                let io = TokioIo::new(stream);
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(io, echo).await.unwrap();
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(io, echo).await.unwrap();
                }
            });
            let http = if http2 { self::http2() } else { Http::default() };
            let (mut service, _) = make(&http, &endpoint(address));
            let (feed, fed) = futures::channel::mpsc::unbounded();
            let request = Request::post("/").body(StreamBody::new(fed)).unwrap();
            let mut body = service.call(request).await.unwrap().into_body();
            for word in ["one", "two", "three"] {
                // Each is answered before the next is sent.
                feed.unbounded_send(Ok::<_, BoxError>(Frame::data(Bytes::from(word)))).unwrap();
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), word);
            }
            drop(feed);
            assert!(body.collect().await.unwrap().to_bytes().is_empty());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn r20_the_head_on_the_wire_is_in_origin_form_with_the_callers_name() {
    let (connect, mut dials) = Dials::new();
    let endpoint = some_endpoint().with_server_name("users.shop");
    let (service, _) = make(&Http::default().connector(connect), &endpoint);
    let mut pipe: Option<DuplexStream> = None;
    for (uri, target, host) in [
        ("http://caller.name:81/a?b", "/a?b", "caller.name:81"),
        ("http://caller.name", "/", "caller.name"),
        ("/a", "/a", "users.shop"),
    ] {
        let mut request = get(uri);
        *request.version_mut() = http::Version::HTTP_2;
        let call = call(&service, request);
        if pipe.is_none() {
            pipe = Some(dials.accept().await);
        }
        let pipe = pipe.as_mut().unwrap();
        let head = read_head(pipe).await.unwrap();
        assert_eq!(head, format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        pipe.write_all(ANSWER).await.unwrap();
        text(call.await.unwrap().unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn https_is_refused_without_a_dial() {
    let (connect, mut dials) = Dials::new();
    let (mut service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let unsent = service.call(get("https://users/")).await.unwrap_err();
    assert!(unsent.is_unprocessed() && unsent.request().is_none());
    assert_eq!(unsent.cause().downcast_ref::<SchemeError>().unwrap().scheme(), "https");
    assert!(dials.0.try_recv().is_err());
    assert_eq!(link.state(), LinkState::Idle);
}

#[tokio::test(start_paused = true)]
async fn t5_an_upgraded_connection_is_the_callers() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let request = Request::get("/chat")
        .header("connection", "upgrade")
        .header("upgrade", "chat")
        .body(String::new())
        .unwrap();
    let call = call(&service, request);
    let mut pipe = dials.accept().await;
    read_head(&mut pipe).await.unwrap();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
    pipe.write_all(switch.as_bytes()).await.unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    upgraded.write_all(b"hi").await.unwrap();
    let mut bytes = [0; 2];
    pipe.read_exact(&mut bytes).await.unwrap();
    pipe.write_all(b"ho").await.unwrap();
    upgraded.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ho");
    until(|| link.state() == LinkState::Resting).await;
}

/// T5: CONNECT over HTTP/1.1 leaves the connection to the caller, as an upgrade does.
#[tokio::test(start_paused = true)]
async fn t5_connect_over_http1_is_taken_from_the_response() {
    let (connect, mut dials) = Dials::new();
    let (service, link) = make(&Http::default().connector(connect), &some_endpoint());
    let request = Request::connect("far.away:443").body(String::new()).unwrap();
    let call = call(&service, request);
    let mut pipe = dials.accept().await;
    let head = read_head(&mut pipe).await.unwrap();
    assert!(head.starts_with("CONNECT far.away:443 HTTP/1.1\r\n"), "{head}");
    pipe.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let response = call.await.unwrap().unwrap();
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    tunnel.write_all(b"hi").await.unwrap();
    let mut bytes = [0; 2];
    pipe.read_exact(&mut bytes).await.unwrap();
    pipe.write_all(b"ho").await.unwrap();
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ho");
    until(|| link.state() == LinkState::Resting).await;
    drop(tunnel);
    assert_eq!(pipe.read(&mut bytes).await.unwrap(), 0);
}

/// T5: over HTTP/2 the bodies are the tunnel, and its stream is taken for as long as either is open.
#[tokio::test]
async fn t5_connect_over_http2_is_two_bodies() {
    guarded(async {
        let (listener, address) = listen().await;
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.method(), http::Method::CONNECT);
            assert_eq!(request.uri().to_string(), "far.away:443");
            assert!(request.headers().is_empty(), "{:?}", request.headers());
            let echo = async move {
                let mut from = request.into_body();
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                while let Some(data) = from.data().await {
                    to.send_data(data.unwrap(), false).unwrap();
                }
                to.send_data(Bytes::from("bye"), true).unwrap();
            };
            tokio::join!(echo, async { while connection.accept().await.is_some() {} });
        });
        let (mut service, _) = make(&http2(), &endpoint(address));
        let (feed, fed) = futures::channel::mpsc::unbounded();
        let request = Request::connect("far.away:443").body(StreamBody::new(fed)).unwrap();
        let mut body = service.call(request).await.unwrap().into_body();
        for word in ["one", "two"] {
            feed.unbounded_send(Ok::<_, BoxError>(Frame::data(Bytes::from(word)))).unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
        }
        drop(feed);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "bye");
        drop(service);
        server.await.unwrap();
    })
    .await;
}

/// A WebSocket over HTTP/2 (RFC 8441), of a server that allows it; of one that does not it is refused, as
/// it is over HTTP/1.1, which would take it for a tunnel to the authority.
#[tokio::test]
async fn extended_connect_is_two_bodies_where_the_peer_allows_it() {
    guarded(async {
        let request = |body| {
            let request = Request::connect("http://users.shop/chat?room=1");
            let websocket = hyper::ext::Protocol::from_static("websocket");
            request.extension(websocket).body(StreamBody::new(body)).unwrap()
        };
        for allowed in [true, false] {
            let (listener, address) = listen().await;
            let server = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut builder = h2::server::Builder::new();
                if allowed {
                    builder.enable_connect_protocol();
                }
                let mut connection = builder.handshake(stream).await.unwrap();
                let (request, mut respond) = connection.accept().await?.unwrap();
                let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap().as_str();
                let asked = format!("{} {} {protocol}", request.method(), request.uri());
                let echo = async move {
                    let mut from = request.into_body();
                    let mut to = respond.send_response(Response::new(()), false).unwrap();
                    while let Some(data) = from.data().await {
                        to.send_data(data.unwrap(), false).unwrap();
                    }
                    to.send_data(Bytes::new(), true).unwrap();
                };
                tokio::join!(echo, async { while connection.accept().await.is_some() {} });
                Some(asked)
            });
            let (mut service, _) = make(&http2(), &endpoint(address));
            let (feed, fed) = futures::channel::mpsc::unbounded::<Result<_, BoxError>>();
            let answer = service.call(request(fed)).await;
            if allowed {
                let mut body = answer.unwrap_or_else(|_| panic!("unsent")).into_body();
                feed.unbounded_send(Ok(Frame::data(Bytes::from("hi")))).unwrap();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hi");
                drop(feed);
                assert!(body.collect().await.unwrap().to_bytes().is_empty());
            } else {
                let unsent = answer.map(drop).unwrap_err();
                let error = unsent.cause().downcast_ref::<ProtocolError>().unwrap();
                assert_eq!(*error, ProtocolError::ExtendedConnectNotAllowed);
                assert!(unsent.is_unprocessed() && unsent.request().is_some());
            }
            drop(service);
            let asked = server.await.unwrap();
            let expected = "CONNECT http://users.shop/chat?room=1 websocket";
            assert_eq!(asked.as_deref(), allowed.then_some(expected));
        }
        let (listener, address) = listen().await;
        let (mut service, link) = make(&Http::default(), &endpoint(address));
        let (_feed, fed) = futures::channel::mpsc::unbounded::<Result<_, BoxError>>();
        let unsent = service.call(request(fed)).await.map(drop).unwrap_err();
        let error = unsent.cause().downcast_ref::<ProtocolError>().unwrap();
        assert_eq!(*error, ProtocolError::ExtendedConnectOverHttp1);
        // The connection is there for the next.
        assert_eq!(link.state(), LinkState::Up);
        let next = call(&service, get("/next"));
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_head(&mut stream).await.unwrap().starts_with("GET /next "));
        next.abort();
    })
    .await;
}

/// An upgrade that HTTP/2 cannot carry is said to be so, and not left out; the offer of HTTP/2 is.
#[tokio::test]
async fn an_upgrade_over_http2_is_a_typed_error() {
    guarded(async {
        let server = serve(true, |request| async move {
            Response::new(format!("{:?}", request.headers()).into())
        })
        .await;
        let (mut service, _) = make(&http2(), &endpoint(server.address));
        let upgrade = |to: &str| {
            let request = Request::get("/").header("connection", "keep-alive, Upgrade");
            request.header("upgrade", to).body(String::new()).unwrap()
        };
        let unsent = service.call(upgrade("websocket")).await.unwrap_err();
        assert!(unsent.request().is_some());
        let error = unsent.cause().downcast_ref::<ProtocolError>().unwrap();
        assert_eq!(*error, ProtocolError::UpgradeOverHttp2);
        assert_eq!(text(service.call(upgrade("h2c")).await.unwrap()).await, "{}");
    })
    .await;
}

/// R14: over HTTP/2, too, a response goes on to its end when the last handle is gone.
#[tokio::test]
async fn r14_an_http2_response_outlives_its_service() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, _) = make(&http2(), &endpoint(address));
        let call = call(&service, get("/"));
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = h2::server::handshake(stream).await.unwrap();
        let (_, mut respond) = peer.accept().await.unwrap().unwrap();
        let peer = tokio::spawn(async move { while peer.accept().await.is_some() {} });
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        let response = call.await.unwrap().unwrap();
        drop(service);
        tokio::task::yield_now().await;
        body.send_data(Bytes::from("last"), true).unwrap();
        assert_eq!(text(response).await, "last");
        // And then its connection is closed, as good clients do.
        peer.await.unwrap();
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_are_spoken_to() {
    guarded(async {
        let path = std::env::temp_dir().join(format!("evenkeel-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (service, _) = make(&Http::default(), &Endpoint::new(Address::unix(&path)));
        for _ in 0..2 {
            // Closed without a word in between, and found out as on TCP.
            let call = call(&service, get("/"));
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(read_head(&mut stream).await.unwrap().contains("host: localhost\r\n"));
            stream.write_all(ANSWER).await.unwrap();
            assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
        }
        std::fs::remove_file(&path).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_name_is_resolved() {
    guarded(async {
        let server = serve(false, |request| async move {
            Response::new(format!("{:?}", request.headers()["host"]).into())
        })
        .await;
        let port = server.address.port();
        let endpoint = Endpoint::new(Address::name("localhost", port));
        let (service, _) = make(&Http::default(), &endpoint);
        assert_eq!(ask(&service, "/").await, format!("\"localhost:{port}\""));
    })
    .await;
}
