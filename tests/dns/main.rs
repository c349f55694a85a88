//! Sources over DNS against servers on real sockets: one in the process, which also does what no
//! server should, and Knot, where it is installed.
//!
//! When and what to ask is tested in paused time beside the code; here it is what goes over the wire.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod answers;
mod broken;
#[path = "../http_balance/server.rs"]
#[allow(dead_code, reason = "it can do more than is wanted here")]
mod http_server;
mod knot;
mod nameservers;
#[path = "../../examples/dns/server.rs"]
mod server;
mod sharing;
#[path = "../support/skip.rs"]
mod skip;
mod traffic;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use evenkeel::{
    DiscoverError,
    discovery::{Discover, Dns, Endpoints, RefreshHandle, Resolver, Update, refresh},
};
use futures::{Stream, StreamExt};
use server::DnsServer;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "users.shop.test.";
/// How often one question is sent at the most: hickory does so while there is no answer, a third of a
/// second apart, which on a slow machine happens.
const SENT: usize = 3;

/// For what must not hang. Below the least time to the second look of what has a TTL of 30 s.
async fn guard<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(20 * SECOND, future).await.expect("hangs")
}

/// How often each kind was asked for, by name.
fn counted(server: &DnsServer) -> BTreeMap<(String, String), usize> {
    let mut counted = BTreeMap::new();
    for asked in server.asked() {
        *counted.entry((asked.name, asked.kind.to_string())).or_default() += 1;
    }
    counted
}

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn v6(last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
}

/// A source over the name, which looks often.
fn host(server: &DnsServer) -> Dns {
    over(Dns::host(NAME, 80).unwrap(), server)
}

fn over(dns: Dns, server: &DnsServer) -> Dns {
    over_nameserver(dns, server.address)
}

fn over_nameserver(dns: Dns, nameserver: SocketAddr) -> Dns {
    let resolver = Resolver::nameservers([nameserver]);
    dns.resolver(resolver).min_refresh(SECOND / 10).max_refresh(SECOND / 5)
}

/// What a source says.
struct Watched {
    updates: Pin<Box<dyn Stream<Item = Update> + Send>>,
    /// Kept, as a pool would.
    refresh: RefreshHandle,
}

impl Watched {
    fn new(source: impl Discover) -> Self {
        let (refresh, requests) = refresh::channel();
        Self { updates: Box::pin(source.watch(requests)), refresh }
    }

    /// But for that there is no answer yet, which on a slow machine may come before any.
    async fn next(&mut self) -> Update {
        loop {
            let update = guard(self.updates.next()).await.unwrap();
            let is_late =
                |error: &DiscoverError| error.to_string().contains(": no answer yet from");
            if !matches!(&update, Update::Failed(error) if is_late(error)) {
                return update;
            }
        }
    }

    /// The first update that looks like this.
    async fn until(&mut self, expected: &str) -> Update {
        guard(async {
            loop {
                let update = self.next().await;
                if short(&update).starts_with(expected) {
                    return update;
                }
            }
        })
        .await
    }
}

/// An update in short: its kind, its endpoints, its error or reason.
fn short(update: &Update) -> String {
    let list = |set: &Endpoints| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match update {
        Update::Set(set) => format!("set {}", list(set)),
        Update::Partial(set, error) => format!("partial {} | {error}", list(set)),
        Update::Empty(reason) => format!("empty | {reason}"),
        Update::Failed(error) => format!("failed | {error}"),
        _ => unreachable!("a kind of update that is not known"),
    }
}
