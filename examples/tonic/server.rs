//! The shop: a gRPC server on loopback.

use std::{net::SocketAddr, pin::Pin};

use evenkeel::BoxError;
use futures::{Stream, StreamExt, stream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::shop::{
    Item, ListRequest, Total,
    cart_server::{Cart, CartServer},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Shop {
    name: &'static str,
}

/// Starts a server of this name.
pub(crate) fn start(name: &'static str) -> Result<SocketAddr, BoxError> {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = incoming.local_addr()?;
    let router = Server::builder().add_service(CartServer::new(Shop { name }));
    tokio::spawn(async move { router.serve_with_incoming(incoming).await });
    Ok(address)
}

impl Shop {
    fn total(&self, count: u32) -> Total {
        Total { count, server: self.name.to_owned() }
    }
}

#[tonic::async_trait]
impl Cart for Shop {
    async fn add(&self, request: Request<Item>) -> Result<Response<Total>, Status> {
        let item = request.into_inner();
        match item.name.as_str() {
            "patience" => std::future::pending().await,
            "unicorn" => Err(Status::not_found("there are no unicorns")),
            _ => Ok(Response::new(self.total(item.count))),
        }
    }

    async fn add_all(&self, request: Request<Streaming<Item>>) -> Result<Response<Total>, Status> {
        let mut items = request.into_inner();
        let mut count = 0;
        while let Some(item) = items.next().await {
            count += item?.count;
        }
        Ok(Response::new(self.total(count)))
    }

    type ListStream = Answers<Item>;

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let cart = request.into_inner().cart;
        let names = ["apple", "pear", "plum"].into_iter().zip(1..);
        let items: Vec<_> = names
            .map(|(name, count)| Ok(Item { cart: cart.clone(), name: name.to_owned(), count }))
            .collect();
        Ok(Response::new(stream::iter(items).boxed()))
    }

    type FollowStream = Answers<Total>;

    async fn follow(
        &self,
        request: Request<Streaming<Item>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let shop = self.clone();
        let totals = request.into_inner().scan(0, move |count, item| {
            let answer = item.map(|item| {
                *count += item.count;
                shop.total(*count)
            });
            std::future::ready(Some(answer))
        });
        Ok(Response::new(totals.boxed()))
    }
}
