//! Nothing is left at the end.

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn no_task_is_left_when_the_last_handle_is_dropped() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // A dial on its way, an idle connection, and one whose response is not at its end.
    let (connect, mut dials) = Dials::new();
    let (service, _) = make(&Http::default().connector(connect), &some_endpoint());
    let calls = [call(&service, get("/")), call(&service, get("/"))];
    let (mut idle, mut running) = (dials.accept().await, dials.accept().await);
    for pipe in [&mut idle, &mut running] {
        read_head(pipe).await.unwrap();
    }
    idle.write_all(ANSWER).await.unwrap();
    running.write_all(&ANSWER[..ANSWER.len() - 1]).await.unwrap();
    let mut bodies = Vec::new();
    for call in calls {
        bodies.push(call.await.unwrap().unwrap());
    }
    let mut given_up = Box::pin(service.clone().call(get("/")));
    let _ = futures::poll!(&mut given_up);
    drop(given_up);
    assert!(tasks() > 0);
    drop(service);
    running.write_all(b"k").await.unwrap();
    for body in bodies {
        assert_eq!(text(body).await, "ok");
    }
    until(|| tasks() == 0).await;
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);

    // HTTP/2: idle, and in the middle of its handshake.
    for up in [true, false] {
        let (connect, mut dials) = Dials::new();
        let (service, link) = make(&http2().connector(connect), &some_endpoint());
        let mut given_up = Box::pin(service.clone().call(get("/")));
        assert!(futures::poll!(&mut given_up).is_pending());
        let mut pipe = dials.accept().await;
        if up {
            pipe.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            until(|| link.state() == LinkState::Up).await;
        } else {
            pipe.read_exact(&mut [0; 24]).await.unwrap();
        }
        drop((given_up, service));
        until(|| tasks() == 0).await;
        pipe.read_to_end(&mut Vec::new()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_given_to_a_connection_is_closed_with_it() {
    guarded(async {
        let (listener, address) = listen().await;
        let (service, _) = make(&Http::default(), &endpoint(address));
        let call = call(&service, get("/"));
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        text(call.await.unwrap().unwrap()).await;
        drop(service);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

/// Rule 10: a call on a runtime that has ended fails. Tokio drops what is spawned there within `spawn`.
#[test]
fn a_call_after_the_end_of_its_runtime_does_not_hang() {
    use tokio::runtime::Builder;

    for builder in [Builder::new_current_thread, Builder::new_multi_thread] {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = builder().enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            drop(runtime);
            let _on_it = handle.enter();
            let (connect, _dials) = Dials::new();
            let (mut service, link) = make(&Http::default().connector(connect), &some_endpoint());
            let unsent = service.call(get("/")).now_or_never().expect("it waits").unwrap_err();
            done.send((unsent, link.state())).unwrap();
        });
        let (unsent, state) = is_done.recv_timeout(Duration::from_secs(30)).expect("it hangs");
        assert!(unsent.request().is_some());
        assert!(unsent.cause().downcast_ref::<ConnectError>().is_some());
        assert!(matches!(state, LinkState::Failed { .. }), "{state:?}");
    }
}
