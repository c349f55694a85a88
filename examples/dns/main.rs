//! A balancer over names in DNS, and what it makes of a changing zone and a bad night.
//!
//! ```sh
//! cargo run --release --features dns --example dns                                  # against a server of its own
//! cargo run --release --features dns --example dns -- dns://example.com:80          # against yours
//! cargo run --release --features dns --example dns -- 'srv://_http._tcp.users.example.com?nameserver=10.0.0.53'
//! ```
//!
//! Without a target it needs no network: the zone is served on loopback.
#![allow(clippy::print_stdout, reason = "it is there to be read")]

mod server;

use std::{convert::Infallible, error::Error, net::IpAddr, time::Duration};

use evenkeel::{
    Balance, Endpoint,
    discovery::{Dns, Resolver, Target},
    policy::RoundRobin,
};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use server::{DnsServer, Reply};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

const NAME: &str = "users.shop.test.";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(target) => yours(target.parse()?).await,
        None => own().await,
    }
}

/// A service for each endpoint that only says who it is: this is about names, not about traffic.
fn client(endpoint: &Endpoint) -> BoxCloneSyncService<(), String, Infallible> {
    let name = endpoint.to_string();
    BoxCloneSyncService::new(service_fn(move |()| std::future::ready(Ok(name.clone()))))
}

/// Looks a target up for real, and shows what it lists for a while.
async fn yours(target: Target) -> Result<(), Box<dyn Error>> {
    println!("{target}");
    let balance = Balance::builder(target).complete_at_response().make(client)?;
    if let Err(error) = balance.ready().await {
        println!("{error}");
    }
    for _ in 0..5 {
        println!("{}", balance.status());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    Ok(())
}

async fn own() -> Result<(), Box<dyn Error>> {
    let dns = DnsServer::start().await?;
    println!("a DNS server of our own at {}, asked at least every half second\n", dns.address);
    let source = Dns::host(NAME, 8080)?
        .resolver(Resolver::nameservers([dns.address]))
        .max_refresh(Duration::from_millis(500))
        .min_refresh(Duration::from_millis(100));

    let address = |last: u8| IpAddr::from([10, 0, 0, last]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    dns.addresses(NAME, 1, [address(1), address(2), v6]);
    let balance =
        Balance::builder(source).policy(RoundRobin::new()).complete_at_response().make(client)?;
    balance.ready().await?;

    let seen = async |what: &str| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = balance.status();
        let listed: Vec<_> = status.endpoints.iter().map(|one| one.endpoint.to_string()).collect();
        println!("{what}\n  lists   {}", listed.join("  "));
        if let Some(error) = &status.discovery.error {
            println!("  error   {error}");
        }
        if let Some(reason) = &status.discovery.empty {
            println!("  empty   {reason}");
        }
        match balance.clone().oneshot(()).await {
            Ok(endpoint) => println!("  a call  goes to {endpoint}\n"),
            Err(error) => println!("  a call  fails: {error}\n"),
        }
    };
    seen("A and AAAA of a name, asked at once and merged").await;

    dns.addresses(NAME, 1, [address(2), address(3), v6]);
    seen("one address is replaced").await;

    dns.reply(NAME, RecordType::AAAA, Reply::code(ResponseCode::Refused));
    seen("AAAA is refused: what was known of it stands, and A goes on").await;

    dns.reply(NAME, RecordType::A, Reply::code(ResponseCode::ServFail));
    seen("A fails as well: everything stands").await;

    dns.forget(NAME);
    seen("the name is gone (NXDOMAIN): everything stands for 30 s, since it is often a hiccup")
        .await;

    dns.addresses(NAME, 1, [address(4)]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen("it is back, with another address").await;
    Ok(())
}
