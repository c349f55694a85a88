//! Connections that break, and what that says of the request.

use crate::support::*;

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
