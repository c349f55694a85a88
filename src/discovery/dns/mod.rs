//! Names in DNS: the addresses of a host, or the SRV records of a service.
//!
//! Four parts, each of which is tested alone. [`resume`](super::resume) says when to look;
//! [`look`] what a look makes of its answers; the [`Resolver`] whom to ask, and how without waiting
//! for the dead; and [`reading`] what a message says. Messages, sockets and truncation are hickory's.
//!
//! The rules are those of RFC 1035 and 2308 (what an answer says), RFC 2782 (SRV), resolv.conf(5)
//! and glibc (search lists); the refresh follows what gRPC and Envoy learnt: the TTL, but neither
//! more often than once a second nor less often than every half minute.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use hickory_resolver::proto::rr::Name;

pub(in crate::discovery) use self::target::from_uri;
pub use self::{answer::Families, resolver::Resolver};
use self::{
    look::{Looker, Question},
    session::Session,
    target::HostPort,
};
use super::{
    Discover, OnEmpty, RefreshRequests, Update,
    resume::{Pace, resume},
    static_list::Once,
};
use crate::{
    endpoint::Endpoint,
    error::TargetError,
    node::{Clock, Rng, Seeds},
};

mod answer;
mod flight;
mod getaddrinfo;
mod look;
mod reading;
mod resolver;
mod search;
mod servers;
mod session;
mod sites;
mod system;
mod target;

/// Endpoints from DNS.
///
/// [`host`](Self::host) lists the A and AAAA addresses of a name, with a port; [`srv`](Self::srv)
/// the targets of SRV records, with their ports, priorities and weights. The name that was asked for
/// becomes the endpoints' server name, for TLS and for the `Host` of requests that name none; of an
/// SRV name that is the domain without its first two labels (RFC 6125 6.2.1).
///
/// * **Refresh.** After the least TTL of the answer, aliases included, but not before
///   [`min_refresh`](Self::min_refresh) (1 s) nor after [`max_refresh`](Self::max_refresh) (30 s),
///   +-10 %; earlier, but not before `min_refresh`, when an endpoint cannot be reached.
/// * **Failures** (SERVFAIL, REFUSED, a time-out and so on) leave what is known, and are asked about
///   again after 1 s, times 1.6 each, up to 30 s, +-20 %. So does the NXDOMAIN of a later nameserver
///   after an error of an earlier one.
/// * **In part.** If one address family, or one SRV target, cannot be looked up, the others are used,
///   with what was last known of that one ([`Update::Partial`]). Who answers waits half a second for
///   who does not, once: the looks that follow do not wait for a question that is still open.
/// * **Silence.** If there is no answer a second after the start, that is the error, with the addresses
///   of those who are asked.
/// * **Empty** is a name that does not exist (NXDOMAIN), that has no such records (NODATA), or whose
///   SRV target is `.`. By default that clears the set after 30 s ([`OnEmpty::KeepFor`]).
///
/// ```
/// use evenkeel::{Balance, discovery::{Dns, Families}};
///
/// let users = Balance::builder(Dns::host("users.shop.svc.cluster.local", 8080)?);
/// let carts = Balance::builder(Dns::srv("_grpc._tcp.carts.shop.svc.cluster.local")?);
/// let v4 = Balance::builder(Dns::host("example.com", 80)?.families(Families::V4));
/// # let _ = (users, carts, v4);
/// assert!(Dns::host("no name", 80).is_err());
/// # Ok::<(), evenkeel::TargetError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a source does nothing until a balancer is built over it"]
pub struct Dns {
    asked: Asked,
    /// As a target.
    text: Arc<str>,
    resolver: Resolver,
    families: Families,
    server_name: Option<Arc<str>>,
    min_refresh: Duration,
    max_refresh: Duration,
    clock: Clock,
    seed: Option<u64>,
}

#[derive(Clone, Debug)]
enum Asked {
    /// An IP address, of which nobody needs to be asked.
    Literal(Endpoint),
    Name(Question),
}

type Updates = Pin<Box<dyn Stream<Item = Update> + Send>>;

/// Between two looks at the least.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Between two looks at the most.
const MAX_REFRESH: Duration = Duration::from_secs(30);
/// How long an empty answer leaves the last set: in DNS it is often a hiccup.
const KEEP_FOR: Duration = Duration::from_secs(30);
/// What is waited for at most.
const A_YEAR: Duration = Duration::from_secs(365 * 86_400);

// === impl Dns ===

impl Dns {
    /// The addresses of the host `name`, with `port`. An IP address stands for itself, and is not
    /// looked up. A name without a trailing dot is subject to the resolver's search list.
    ///
    /// # Errors
    ///
    /// If `name` can be no host's name, or `port` is 0. The error's position is that in the target
    /// that would say the same, `dns://name:port`.
    pub fn host(name: &str, port: u16) -> Result<Self, TargetError> {
        let bare_v6 = name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
        let host = if bare_v6 { format!("[{name}]") } else { name.to_owned() };
        target::host(&format!("dns://{host}:{port}"))
    }

    /// The targets of the SRV records of `name`, such as `_http._tcp.users.example.com`.
    ///
    /// A weight is that of a target, however many addresses it has; weight 0 is taken as often as
    /// RFC 2782 says, which is as often as a weight of 1. Addresses that come along with the records
    /// are used as they are; a family that did not is asked for. A target that has none, or port 0, is
    /// left out, and said. The name may be an alias.
    ///
    /// # Errors
    ///
    /// If `name` can be no name in DNS. The error's position is that in the target that would say
    /// the same, `srv://name`.
    pub fn srv(name: &str) -> Result<Self, TargetError> {
        target::service(&format!("srv://{name}"))
    }

    fn of_host(host: HostPort, text: &str) -> Self {
        match host {
            HostPort::Address(address) => Self::new(Asked::Literal(address.into()), text, None),
            HostPort::Name(name, port) => {
                let server_name = without_dot(&name);
                Self::new(Asked::Name(Question::Host { name, port }), text, Some(server_name))
            }
        }
    }

    fn of_service(name: Name, text: &str) -> Self {
        let domain = Name::from_labels(name.iter().skip_while(|label| label.starts_with(b"_")));
        let server_name = domain.ok().filter(|domain| !domain.is_root()).map(|d| without_dot(&d));
        let question = Question::Services { name, ignore_weights: false };
        Self::new(Asked::Name(question), text, server_name)
    }

    fn new(asked: Asked, text: &str, server_name: Option<Arc<str>>) -> Self {
        Self {
            asked,
            text: text.into(),
            resolver: Resolver::default(),
            families: Families::default(),
            server_name,
            min_refresh: MIN_REFRESH,
            max_refresh: MAX_REFRESH,
            clock: Clock::default(),
            seed: None,
        }
    }

    /// Whom to ask; by default [`Resolver::system`].
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Which addresses to ask for; both families by default. A dual-stack server shows as two
    /// endpoints, one an address: DNS does not say which belong together.
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// The name that the endpoints go by, for TLS and the `Host` of requests that name none, instead
    /// of the one that is looked up.
    pub fn server_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Whether the addresses of all SRV targets are taken alike, whatever the weights of the records say:
    /// a target of three addresses is then taken three times as often as one of one. Off by default.
    pub fn ignore_weights(mut self, ignore: bool) -> Self {
        if let Asked::Name(Question::Services { ignore_weights, .. }) = &mut self.asked {
            *ignore_weights = ignore;
        }
        self
    }

    /// The least time between two looks, whatever the TTL says and however many endpoints fail: 1 s
    /// by default, and never less than 100 ms.
    pub fn min_refresh(mut self, time: Duration) -> Self {
        self.min_refresh = time.max(Duration::from_millis(100));
        self
    }

    /// The most time between two looks, whatever the TTL says: 30 s by default. Below
    /// [`min_refresh`](Self::min_refresh) it is that.
    pub fn max_refresh(mut self, time: Duration) -> Self {
        self.max_refresh = time;
        self
    }

    /// Where time is read; tokio's clock by default. The sockets keep their own.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Fixes the jitter, for tests. By default every source has its own.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Discover for Dns {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        let rng = self.seed.map_or_else(|| Seeds::Thread.rng(), Rng::from_seed);
        let pace = Pace {
            // So that jitter and backoff can be reckoned with; nobody sees the difference.
            floor: self.min_refresh.min(A_YEAR),
            ceiling: self.max_refresh.max(self.min_refresh).min(A_YEAR),
            clock: self.clock.clone(),
            rng,
        };
        match self.asked {
            Asked::Literal(endpoint) => {
                let endpoint = match self.server_name {
                    Some(name) => endpoint.with_server_name(name),
                    None => endpoint,
                };
                Box::pin(Once(Some(Update::Set([endpoint].into())))) as Updates
            }
            Asked::Name(question) => {
                let session = Session::new(self.resolver, self.min_refresh);
                let looker =
                    Looker::new(session, question, self.families, self.server_name, self.clock);
                Box::pin(resume(looker, pace, refresh))
            }
        }
    }

    fn on_empty(&self) -> OnEmpty {
        OnEmpty::KeepFor(KEEP_FOR)
    }

    fn target(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

fn without_dot(name: &Name) -> Arc<str> {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).into()
}
