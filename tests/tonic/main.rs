//! Generated tonic clients over a balancer, against real tonic servers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "tonic")]

#[path = "../support/relay.rs"]
mod relay;
mod server;
#[allow(unreachable_pub, dead_code, reason = "as it is generated")]
#[path = "../../examples/tonic/shop.rs"]
mod shop;

use std::{error::Error as StdError, time::Duration};

use evenkeel::{Balance, Endpoint, Error, client::TonicChannel, policy::RoundRobin};
use futures::{StreamExt, stream};
use tonic::{Code, Request, Status};

use self::{
    relay::Relay,
    server::{Shop, guard, refused},
    shop::{Item, ListRequest, cart_client::CartClient},
};

fn channel(servers: &[&Shop]) -> TonicChannel {
    let list: Vec<_> = servers.iter().map(|server| server.address.to_string()).collect();
    Balance::to(&format!("static://{}", list.join(","))).unwrap().tonic().unwrap()
}

fn item(name: &str, count: u32) -> Item {
    Item { cart: "mine".to_owned(), name: name.to_owned(), count }
}

fn cause(status: &Status) -> &Error {
    status.source().and_then(|source| source.downcast_ref()).expect("the balancer's error")
}

/// R24: the generated client asks for nothing but the types of tonic.
#[tokio::test]
async fn r24_all_four_kinds_of_call() {
    guard(async {
        let shop = Shop::start().await;
        let mut cart: CartClient<TonicChannel> = CartClient::new(channel(&[&shop]));

        let total = cart.add(item("apple", 3)).await.unwrap();
        let answered_by = total.extensions().get::<Endpoint>().unwrap().to_string();
        assert_eq!(answered_by, shop.address.to_string());
        assert_eq!(total.into_inner().count, 3);

        let items = stream::iter((1..=4).map(|count| item("apple", count)));
        assert_eq!(cart.add_all(items).await.unwrap().into_inner().count, 10);

        let listed = cart.list(ListRequest::default()).await.unwrap().into_inner();
        let counts: Vec<_> = listed.map(|item| item.unwrap().count).collect().await;
        assert_eq!(counts, [1, 2, 3]);

        // Each answer is waited for before the next item goes out.
        let (say, said) = tokio::sync::mpsc::channel(1);
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let mut totals = cart.follow(said).await.unwrap().into_inner();
        for (count, total) in [(1, 1), (2, 3), (3, 6)] {
            say.send(item("apple", count)).await.unwrap();
            assert_eq!(totals.next().await.unwrap().unwrap().count, total);
        }
        drop(say);
        assert!(totals.next().await.is_none());
    })
    .await;
}

/// What belongs to the generated client works as it does over a `Channel`.
#[tokio::test]
async fn interceptors_metadata_and_limits_are_the_stubs_own() {
    guard(async {
        let shop = Shop::start().await;
        let mut cart =
            CartClient::with_interceptor(channel(&[&shop]), |mut request: Request<()>| {
                request.metadata_mut().insert("x-user", "ann".parse().unwrap());
                Ok(request)
            });
        cart.add(item("apple", 1)).await.unwrap();
        let (metadata, _) = shop.last();
        assert_eq!(metadata.get("x-user").unwrap(), "ann");
        let agent = metadata.get("user-agent").unwrap().to_str().unwrap();
        assert!(agent.starts_with("evenkeel/"), "{agent}");

        let refusing = |_: Request<()>| Err(Status::permission_denied("not you"));
        let mut cart = CartClient::with_interceptor(channel(&[&shop]), refusing);
        let status = cart.add(item("apple", 1)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "not you"));
        assert_eq!(shop.calls(), 1);

        let mut cart = CartClient::new(channel(&[&shop])).max_decoding_message_size(2);
        let status = cart.add(item("apple", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");

        // What cannot be sent says so itself, and is the fault of no endpoint.
        let channel = channel(&[&shop]);
        let mut cart = CartClient::new(channel.clone()).max_encoding_message_size(2);
        let status = cart.add(item("apple", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        let status = &channel.status().endpoints[0];
        assert_eq!((status.in_flight, status.success), (0, 1.0));
    })
    .await;
}

/// R1: a live endpoint and one that refuses. tonic's own `balance_list` fails 42.6 % here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_nothing_fails_beside_an_endpoint_that_refuses() {
    const CALLS: usize = 10_000;
    guard(async {
        let shop = Shop::start().await;
        let (nobody, _held) = refused();
        let target = format!("static://{},{nobody}", shop.address);
        let channel = Balance::to(&target).unwrap().policy(RoundRobin::new()).tonic().unwrap();
        let calls = stream::iter(0..CALLS).map(|count| {
            let mut cart = CartClient::new(channel.clone());
            async move { cart.add(item("apple", count as u32)).await.map(|_| ()) }
        });
        let failures: Vec<_> =
            calls.buffer_unordered(32).filter_map(|call| async { call.err() }).collect().await;
        assert!(failures.is_empty(), "{} failed, such as {}", failures.len(), failures[0]);
        assert_eq!(shop.calls(), CALLS);
    })
    .await;
}

#[tokio::test]
async fn a_deadline_is_passed_on_and_kept() {
    guard(async {
        let shop = Shop::start().await;
        let cart_channel = channel(&[&shop]);
        let mut cart = CartClient::new(cart_channel.clone());
        // On a connection that is there, the server surely has the request that is given up.
        cart.add(item("apple", 1)).await.unwrap();
        let mut request = Request::new(item("hang", 1));
        request.set_timeout(Duration::from_millis(150));
        let status = cart.add(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_eq!(shop.last().0.get("grpc-timeout").unwrap(), "150000u");
        assert_eq!(cause(&status).endpoint().unwrap().to_string(), shop.address.to_string());

        // That of the channel is for calls that bring none.
        for own in [None, Some(Duration::from_millis(150))] {
            let of_channel = if own.is_none() { 150 } else { 60_000 };
            let inner = cart_channel.clone().timeout(Duration::from_millis(of_channel));
            let mut request = Request::new(item("hang", 1));
            own.into_iter().for_each(|own| request.set_timeout(own));
            let status = CartClient::new(inner).add(request).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            assert_eq!(shop.last().0.get("grpc-timeout").unwrap(), "150000u");
            assert_eq!(cause(&status).endpoint().unwrap().to_string(), shop.address.to_string());
        }

        // It covers the stream as well, not only its head. On a busy machine even the items may come
        // too late, and then a longer one is what to try.
        let mut limit = Duration::from_millis(150);
        let status = loop {
            let mut request = Request::new(ListRequest { cart: "hang".to_owned() });
            request.set_timeout(limit);
            let mut came = 0;
            let status = match cart.list(request).await {
                Ok(answer) => {
                    let mut items = answer.into_inner();
                    loop {
                        match items.message().await {
                            Ok(item) => came += item.map_or(0, |_| 1),
                            Err(status) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            if came == 3 {
                break status;
            }
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            limit *= 2;
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_eq!(cause(&status).endpoint().unwrap().to_string(), shop.address.to_string());
    })
    .await;
}

/// A deadline covers the wait for an endpoint, too.
#[tokio::test(start_paused = true)]
async fn a_deadline_covers_the_wait_for_an_endpoint() {
    let (_feed, never) = tokio::sync::mpsc::channel::<evenkeel::discovery::Update>(1);
    let source = tokio_stream::wrappers::ReceiverStream::new(never);
    let mut cart = CartClient::new(Balance::builder(source).tonic().unwrap());
    let mut request = Request::new(item("apple", 1));
    request.set_timeout(Duration::from_secs(2));
    let status = cart.add(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn what_the_server_says_is_passed_on_as_it_is() {
    guard(async {
        let shop = Shop::start().await;
        let channel = channel(&[&shop]);
        let mut cart = CartClient::new(channel.clone());
        // Trailers only: the status is in the head.
        let status = cart.add(item("missing", 1)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such item"));
        assert_eq!(status.details(), b"details");
        assert_eq!(status.metadata().get("x-shelf").unwrap(), "empty");
        assert!(status.source().is_none(), "nothing went wrong on the way");
        let after_missing = channel.status().endpoints[0].success;
        assert!(after_missing > 0.99, "{after_missing}: not found is no failure of the server");

        let status = cart.add(item("unavailable", 1)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "shut for today"));
        let after_unavailable = channel.status().endpoints[0].success;
        assert!(after_unavailable < after_missing, "the status in the head counts");

        // In the trailers, after three messages.
        let mut items =
            cart.list(ListRequest { cart: "fail".to_owned() }).await.unwrap().into_inner();
        for _ in 0..3 {
            items.message().await.unwrap().unwrap();
        }
        let status = items.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "the rest fell down"));
        let after_trailers = channel.status().endpoints[0].success;
        assert!(after_trailers < after_unavailable, "the status in the trailers counts");
        assert_eq!(channel.status().endpoints[0].in_flight, 0);
    })
    .await;
}

#[tokio::test]
async fn what_was_never_processed_is_unavailable_and_says_why() {
    guard(async {
        let (nobody, _held) = refused();
        let channel = Balance::to(&format!("static://{nobody}"))
            .unwrap()
            .wait_for_endpoints(Duration::ZERO)
            .tonic()
            .unwrap();
        let mut cart = CartClient::new(channel);
        let status = cart.add(item("apple", 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let error = cause(&status);
        assert!(error.is_unprocessed() && error.is_no_endpoint(), "{error}");
        assert!(status.message().contains("no endpoint of"), "{status}");
    })
    .await;
}

/// T5, R25: a server that goes in the middle of a stream.
#[tokio::test]
async fn r25_a_stream_that_breaks_off_is_unavailable_and_names_its_endpoint() {
    guard(async {
        let shop = Shop::start().await;
        // Through a relay that can be cut, since a dropped server lets its connections end.
        let mut relay = Relay::to(shop.address).await;
        let through = Balance::to(&format!("static://{}", relay.address)).unwrap().tonic().unwrap();
        let mut cart = CartClient::new(through.clone());
        let mut items =
            cart.list(ListRequest { cart: "hang".to_owned() }).await.unwrap().into_inner();
        for _ in 0..3 {
            items.message().await.unwrap().unwrap();
        }
        assert_eq!(through.status().endpoints[0].in_flight, 1);
        relay.cut();
        let status = items.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let error = cause(&status);
        assert!(error.is_ambiguous(), "{error}");
        assert_eq!(error.endpoint().unwrap().to_string(), relay.address.to_string());
        assert_eq!(through.status().endpoints[0].in_flight, 0);
    })
    .await;
}

/// R21: connections that the server ends one after another, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_nothing_fails_or_is_done_twice_while_servers_end_connections() {
    const CALLS: usize = 4_000;
    guard(async {
        let shops = [Shop::start_ending(20).await, Shop::start_ending(20).await];
        let channel = channel(&[&shops[0], &shops[1]]);
        let workers = (0..8).map(|_| {
            let mut cart = CartClient::new(channel.clone());
            tokio::spawn(async move {
                for count in 0..CALLS / 8 {
                    cart.add(item("apple", count as u32)).await.unwrap();
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        assert_eq!(shops[0].calls() + shops[1].calls(), CALLS);
        let ended = shops[0].ended() + shops[1].ended();
        // One for each 20 calls, were it not for those that come while the client has yet to hear of it.
        assert!(ended >= 10, "{ended} connections were ended");
    })
    .await;
}

#[tokio::test]
async fn a_balancer_that_is_gone_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channel = {
        let _inside = runtime.enter();
        Balance::to("static://127.0.0.1:1").unwrap().tonic().unwrap()
    };
    // Its task dies with its runtime.
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    let status = guard(CartClient::new(channel).add(item("apple", 1))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(cause(&status).is_closed(), "{status}");
}
