//! A foreign client, grpcio's, of a server whose handler forwards each call by a balancer.

use std::{sync::Arc, time::Duration};

use evenkeel::{Balance, client::TonicChannel, policy::RoundRobin};
use futures::{Stream, StreamExt};
use tokio::{net::TcpListener, process::Command, task::JoinSet};
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{
    guard, python,
    shop::{
        Item, ListRequest, Total,
        cart_client::CartClient,
        cart_server::{Cart, CartServer},
    },
    shop_server::{Seen, Shop, refused, serve},
};

/// Whatever is called of it, somebody else answers.
struct Forward(CartClient<TonicChannel>);

/// The same, with its metadata, as a request of our own.
fn forwarded<T, U>(request: Request<T>, change: impl FnOnce(T) -> U) -> Request<U> {
    let (metadata, _, message) = request.into_parts();
    Request::from_parts(metadata, Extensions::default(), change(message))
}

fn items(stream: Streaming<Item>) -> impl Stream<Item = Item> {
    stream.filter_map(|item| std::future::ready(item.ok()))
}

#[tonic::async_trait]
impl Cart for Forward {
    async fn add(&self, request: Request<Item>) -> Result<Response<Total>, Status> {
        self.0.clone().add(forwarded(request, |item| item)).await
    }

    async fn add_all(&self, request: Request<Streaming<Item>>) -> Result<Response<Total>, Status> {
        self.0.clone().add_all(forwarded(request, items)).await
    }

    type ListStream = Streaming<Item>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Streaming<Item>>, Status> {
        self.0.clone().list(forwarded(request, |asked| asked)).await
    }

    type FollowStream = Streaming<Total>;

    async fn follow(
        &self,
        request: Request<Streaming<Item>>,
    ) -> Result<Response<Streaming<Total>>, Status> {
        self.0.clone().follow(forwarded(request, items)).await
    }
}

/// Serves for as long as the set lives.
async fn forward(channel: TonicChannel, serving: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cart = CartServer::new(Forward(CartClient::new(channel)));
    serving.spawn(serve(listener, cart, usize::MAX, Arc::new(Seen::default())));
    port.to_string()
}

/// R1, R24: deadlines, metadata, errors and streams are to a foreign client what they would be without a
/// balancer between, beside an endpoint that refuses.
#[tokio::test]
async fn r24_a_foreign_client_sees_no_balancer() {
    let Some(python) = python() else { return };
    guard(async {
        let shops = [Shop::start_ending(usize::MAX).await, Shop::start_ending(usize::MAX).await];
        let (nobody, _held) = refused();
        let target = format!("static://{},{nobody},{}", shops[0].address, shops[1].address);
        let channel = Balance::to(&target).unwrap().policy(RoundRobin::new()).tonic().unwrap();
        let alone = Balance::to(&format!("static://{nobody}"))
            .unwrap()
            .wait_for_endpoints(Duration::ZERO)
            .tonic()
            .unwrap();
        let mut serving = JoinSet::new();
        let port = forward(channel.clone(), &mut serving).await;
        let nowhere = forward(alone, &mut serving).await;
        let output = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpcio/client.py"))
            .args([port, nowhere])
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");

        // The last call had a deadline and metadata, which have come through.
        let calls = shops.each_ref().map(Shop::calls);
        assert!(calls.iter().all(|&calls| calls > 0), "{calls:?}");
        let told = |shop: &Shop| shop.last().0.get("x-user").is_some();
        let last = shops.iter().find(|shop| told(shop)).expect("the metadata has come through");
        let (metadata, _) = last.last();
        assert_eq!(metadata.get("x-user").unwrap(), "ann");
        assert_eq!(metadata.get_bin("x-raw-bin").unwrap().to_bytes().unwrap()[..], [0, 255, 7]);
        assert!(metadata.contains_key("grpc-timeout"), "{metadata:?}");

        // What the client gave up, or what was late, is let go of.
        while channel.status().endpoints.iter().any(|one| one.in_flight > 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
