//! A client that tonic generated, over a balancer instead of a `Channel`.
//!
//! `cargo run --release --example tonic --features tonic` starts gRPC servers on loopback, makes all
//! four kinds of call, shows what errors look like, and counts what is lost to a dead server, here and
//! with tonic's own balancing. It needs no protoc: `shop.rs` is what was generated of `shop.proto`.

#![allow(clippy::print_stdout, reason = "it is there to be read")]

mod server;
#[allow(unreachable_pub, dead_code, reason = "as it is generated")]
mod shop;

use std::{error::Error as _, time::Duration};

use evenkeel::{Balance, BoxError, Endpoint, Error, client::TonicChannel, policy::RoundRobin};
use futures::stream;
use tonic::{Request, Response, Status, transport::Channel};

use self::shop::{Item, ListRequest, Total, cart_client::CartClient};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let servers = [server::start("red")?, server::start("green")?, server::start("blue")?];
    let target = format!("static://{},{},{}", servers[0], servers[1], servers[2]);

    // Where a `Channel` went. The host, the scheme and the protocol need no word.
    let channel = Balance::to(&target)?.policy(RoundRobin::new()).measure_latency(true).tonic()?;
    channel.ready().await?;
    let mut cart: CartClient<TonicChannel> = CartClient::new(channel.clone());

    println!("four kinds of call, over three servers:");
    let answer = cart.add(item("apple", 3)).await?;
    println!("  one, one        total {:>2} from {}", answer.get_ref().count, who(&answer));
    let answer = cart.add_all(stream::iter((1..=4).map(|count| item("pear", count)))).await?;
    println!("  many, one       total {:>2} from {}", answer.get_ref().count, who(&answer));
    let mut items = cart.list(ListRequest { cart: "mine".to_owned() }).await?.into_inner();
    let mut listed = Vec::new();
    while let Some(item) = items.message().await? {
        listed.push(format!("{} {}", item.count, item.name));
    }
    println!("  one, many       {}", listed.join(", "));
    let mut totals =
        cart.follow(stream::iter((1..=4).map(|count| item("plum", count)))).await?.into_inner();
    let mut followed = Vec::new();
    while let Some(total) = totals.message().await? {
        followed.push(total.count.to_string());
    }
    println!("  many, many      totals {}", followed.join(", "));

    println!("\nwhat errors say:");
    show("the server's own", cart.add(item("unicorn", 1)).await);
    let mut slow = Request::new(item("patience", 1));
    slow.set_timeout(Duration::from_millis(200));
    show("a deadline", cart.add(slow).await);
    let nobody = Balance::to("static://127.0.0.1:1")?
        .wait_for_endpoints(Duration::from_millis(300))
        .tonic()?;
    show("nobody there", CartClient::new(nobody).add(item("apple", 1)).await);

    const CALLS: usize = 2_000;
    println!("\n{CALLS} calls over one server, and a port where nobody listens:");
    let endpoints = [format!("http://{}", servers[0]), "http://127.0.0.1:1".to_owned()];
    let endpoints =
        endpoints.map(Channel::from_shared).into_iter().collect::<Result<Vec<_>, _>>()?;
    let failed =
        count_failures(CartClient::new(Channel::balance_list(endpoints.into_iter())), CALLS);
    println!("  tonic's Channel::balance_list: {:>4} failed", failed.await);
    let ours = Balance::to(&format!("static://{},127.0.0.1:1", servers[0]))?.tonic()?;
    let failed = count_failures(CartClient::new(ours), CALLS);
    println!("  evenkeel:                      {:>4} failed", failed.await);

    println!("\n{}", channel.status());
    Ok(())
}

fn item(name: &str, count: u32) -> Item {
    Item { cart: "mine".to_owned(), name: name.to_owned(), count }
}

/// The server's own name, and the endpoint that the balancer chose.
fn who(answer: &Response<Total>) -> String {
    let endpoint = answer.extensions().get::<Endpoint>();
    let endpoint = endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
    format!("{}{endpoint}", answer.get_ref().server)
}

fn show(what: &str, answer: Result<Response<Total>, Status>) {
    let Err(status) = answer else { return };
    println!("  {what}: {:?}, {}", status.code(), status.message());
    if let Some(error) = status.source().and_then(|source| source.downcast_ref::<Error>()) {
        println!("    safe to send again: {}", error.is_unprocessed());
    }
}

/// One call after another, as `balance_list` likes them best.
async fn count_failures<T>(mut cart: CartClient<T>, calls: usize) -> usize
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    let mut failed = 0;
    for count in 0..calls {
        failed += usize::from(cart.add(item("apple", count as u32)).await.is_err());
    }
    failed
}
