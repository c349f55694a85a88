//! Endpoints of several addresses: which of them is dialled, when, and what is told of the others.

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn r2_the_next_address_of_an_endpoint_does_not_wait_for_one_that_hangs() {
    let http = Http::default().connector(|address: &Address| {
        let port = address.port();
        async move {
            match port {
                Some(1) => std::future::pending().await,
                Some(2) => Err("refused".into()),
                _ => {
                    let (ours, theirs) = tokio::io::duplex(64);
                    tokio::spawn(async move {
                        let mut theirs = theirs;
                        read_head(&mut theirs).await.unwrap();
                        theirs.write_all(ANSWER).await.unwrap();
                    });
                    Ok::<_, BoxError>(Connected::new(TokioIo::new(ours)))
                }
            }
        }
    });
    let more = [2, 3].map(|port| Address::from(([10, 0, 0, 1], port)));
    let endpoint = Endpoint::new(([10, 0, 0, 1], 1)).with_more_addresses(more);
    let (service, _) = make(&http, &endpoint);
    let clock = Clock::default();
    let start = clock.now();
    assert_eq!(ask(&service, "/").await, "ok");
    let took = clock.now().saturating_duration_since(start).as_millis();
    assert!((250..255).contains(&took), "{took} ms");
}

/// An endpoint of so many addresses, whose ports count from 1.
fn of_addresses(count: u16) -> Endpoint {
    let address = |port| Address::from(([10, 0, 0, 1], port));
    Endpoint::new(address(1)).with_more_addresses((2..=count).map(address))
}

/// A connector of pipes: on these ports they reach a server of HTTP/1.1 that closes after each answer, on
/// the others nothing comes of it.
fn only(ports: &'static [u16]) -> impl Connect {
    move |address: &Address| {
        let serves = address.port().is_some_and(|port| ports.contains(&port));
        async move {
            if !serves {
                std::future::pending::<()>().await;
            }
            let (ours, mut theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                read_head(&mut theirs).await.unwrap();
                theirs.write_all(LAST_ANSWER).await.unwrap();
            });
            Ok::<_, BoxError>(Connected::new(TokioIo::new(ours)))
        }
    }
}

/// R2: an address that accepts and then says nothing is as good as one that does not accept (gRFC A61).
#[tokio::test(start_paused = true)]
async fn r2_an_address_that_accepts_and_is_silent_hides_no_other() {
    let silent = Arc::new(std::sync::Mutex::new(Vec::new()));
    let held = Arc::clone(&silent);
    let http = http2().connector(move |address: &Address| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        if address.port() == Some(1) {
            held.lock().unwrap().push(theirs);
        } else {
            tokio::spawn(async move {
                let mut peer = h2::server::handshake(theirs).await.unwrap();
                while let Some(Ok((_, mut respond))) = peer.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            });
        }
        async move { Ok::<_, BoxError>(Connected::new(TokioIo::new(ours))) }
    });
    let (service, link) = make(&http, &of_addresses(2));
    let clock = Clock::default();
    let start = clock.now();
    call(&service, get("/")).await.unwrap().unwrap();
    let took = clock.now().saturating_duration_since(start).as_millis();
    assert!((250..255).contains(&took), "{took} ms");
    assert_eq!(link.state(), LinkState::Up);
    // Who lost is let go of.
    let mut silent = silent.lock().unwrap().pop().unwrap();
    silent.read_to_end(&mut Vec::new()).await.unwrap();
}

/// R2: what a dial tried in vain costs those that follow nothing, while something else serves.
#[tokio::test(start_paused = true)]
async fn r2_an_address_that_hangs_costs_one_dial_and_not_each() {
    let http = Http::default().connector(only(&[2]));
    let (service, _) = make(&http, &of_addresses(2));
    let clock = Clock::default();
    for milliseconds in [250, 0, 0] {
        let start = clock.now();
        assert_eq!(ask(&service, "/").await, "ok");
        let took = clock.now().saturating_duration_since(start).as_millis();
        assert!((milliseconds..milliseconds + 5).contains(&took), "{took} ms");
    }
}

/// R2: of many addresses each has its turn: within the timeout, or in the dials that follow.
#[tokio::test(start_paused = true)]
async fn r2_the_last_of_many_addresses_is_tried_too() {
    for (serves, addresses, dials) in [(&[5][..], 5, 1), (&[9], 9, 1), (&[25], 25, 3)] {
        let http = Http::default().connector(only(serves));
        let (service, _) = make(&http, &of_addresses(addresses));
        for _ in 1..dials {
            let unsent = call(&service, get("/")).await.unwrap().unwrap_err();
            assert!(unsent.cause().downcast_ref::<ConnectError>().unwrap().is_timeout());
        }
        assert_eq!(ask(&service, "/").await, "ok", "{addresses}");
    }
}

/// R25: the error of a dial that timed out tells what became of the addresses that did not hang.
#[tokio::test(start_paused = true)]
async fn r25_a_dial_that_times_out_tells_what_the_other_addresses_said() {
    let http = Http::default().connector(|address: &Address| {
        let hangs = address.port() == Some(1);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Err::<Connected, BoxError>(std::io::Error::other("no route").into())
        }
    });
    let (service, _) = make(&http, &of_addresses(2));
    let unsent = call(&service, get("/")).await.unwrap().unwrap_err();
    let error = unsent.cause().downcast_ref::<ConnectError>().unwrap();
    assert!(error.is_timeout());
    assert_eq!(error.address().port(), Some(1));
    let other = std::error::Error::source(error).unwrap().downcast_ref::<ConnectError>().unwrap();
    assert!(!other.is_timeout());
    assert_eq!(other.address().port(), Some(2));
    assert_eq!(std::error::Error::source(other).unwrap().to_string(), "no route");
}
