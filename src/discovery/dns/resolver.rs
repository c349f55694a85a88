//! Whom to ask, shared by all sources that are given it.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_resolver::{config::ResolverOpts, net::NetError};

use super::{
    getaddrinfo::Getaddrinfo, search::Search, servers::Servers, session::View, system::System,
};
use crate::{error::DiscoverError, node::Clock};

/// Whom a [`Dns`](super::Dns) source asks.
///
/// Clones share connections, what was learnt of the nameservers, and the questions: one that is under
/// way is joined, and the answer of another source is taken over if it is younger than
/// [`Dns::min_refresh`](super::Dns::min_refresh) and than a second. So sources that share one ask for
/// a name no more often than one of them alone may; those that had records of it the last time, who believe
/// less easily that there are none, apart from those that had not. Resolvers that were made one by one share nothing.
///
/// There are three kinds, and no other: it never falls back to a public resolver. Where nobody can
/// be asked, that is the error.
///
/// | | who answers | search list, `/etc/hosts` | SRV, TTL |
/// |---|---|---|---|
/// | [`system`](Self::system) (the default) | the nameservers of `/etc/resolv.conf`, followed when it changes | yes | yes |
/// | [`nameservers`](Self::nameservers) | those given | no | yes |
/// | [`getaddrinfo`](Self::getaddrinfo) | the C library, with all that is configured for it | yes | no |
///
/// ```
/// use evenkeel::discovery::{Dns, Resolver};
///
/// let resolver = Resolver::nameservers([([10, 96, 0, 10], 53).into()]);
/// let users = Dns::host("users.shop.svc.cluster.local", 8080)?.resolver(resolver.clone());
/// let carts = Dns::srv("_grpc._tcp.carts.shop.svc.cluster.local")?.resolver(resolver);
/// # let _ = (users, carts);
/// # Ok::<(), evenkeel::TargetError>(())
/// ```
#[derive(Clone)]
pub struct Resolver {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    System(Arc<System>),
    Given(Arc<Given>),
    Getaddrinfo(Arc<Getaddrinfo>),
}

struct Given {
    addresses: Vec<SocketAddr>,
    options: ResolverOpts,
    servers: OnceLock<Result<Arc<Servers>, NetError>>,
}

/// A server's time for one attempt, where no configuration tells: that of glibc.
const TIMEOUT: Duration = Duration::from_secs(5);

// === impl Resolver ===

impl Resolver {
    /// The nameservers, search list and options (`ndots`, `timeout`, `attempts`, `edns0`) of
    /// `/etc/resolv.conf`, after the names of `/etc/hosts`. Both are read again when they change.
    ///
    /// The search list works as in glibc. Differently from there the next nameserver is asked when
    /// one is silent for a quarter of a second, so that a dead one costs less than a second.
    #[must_use]
    pub fn system() -> Self {
        let system = System::new(System::RESOLV_CONF.into(), true, Clock::default());
        Self { kind: Kind::System(Arc::new(system)) }
    }

    /// The same with another file of that format, and without `/etc/hosts`. On systems without
    /// `resolv.conf` it is that of the system.
    #[must_use]
    pub fn resolv_conf(path: impl Into<PathBuf>) -> Self {
        let system = System::new(path.into(), false, Clock::default());
        Self { kind: Kind::System(Arc::new(system)) }
    }

    /// These nameservers, in this order, over UDP and, for what does not fit, TCP. Names are asked
    /// for as they are, without a search list.
    #[must_use]
    pub fn nameservers(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        let addresses = addresses.into_iter().collect();
        let given = Given { addresses, options, servers: OnceLock::new() };
        Self { kind: Kind::Given(Arc::new(given)) }
    }

    /// The C library's `getaddrinfo`, on up to eight threads for blocking calls: for names that only it knows,
    /// through mDNS, NIS or another module of nsswitch.conf. It tells no TTL, so it is asked every
    /// 5 s; it does not tell a name that does not exist from a resolver that is down, so that both
    /// leave the last set; and it knows no SRV records.
    ///
    /// While eight names hang, every other name of the same resolver waits for a thread, and fails after
    /// 30 s: names that may hang are better given a resolver of their own.
    #[must_use]
    pub fn getaddrinfo() -> Self {
        Self { kind: Kind::Getaddrinfo(Arc::new(Getaddrinfo::new())) }
    }

    /// Whom to ask now.
    pub(super) async fn view(&self) -> Result<View, DiscoverError> {
        Ok(match &self.kind {
            Kind::System(system) => {
                let configured = system.configured().await?;
                View::Servers {
                    servers: Arc::clone(&configured.servers),
                    search: configured.search.clone(),
                    hosts: Arc::clone(&configured.hosts),
                }
            }
            Kind::Given(given) => {
                let servers = given.servers().map_err(|error| {
                    DiscoverError::caused(format!("making a resolver: {error}"), error)
                })?;
                View::Servers { servers, search: Search::default(), hosts: Arc::default() }
            }
            Kind::Getaddrinfo(system) => View::Getaddrinfo(Arc::clone(system)),
        })
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::System(system) => system.fmt(f),
            Kind::Given(given) => f.debug_tuple("Nameservers").field(&given.addresses).finish(),
            Kind::Getaddrinfo(_) => f.write_str("Getaddrinfo"),
        }
    }
}

// === impl Given ===

impl Given {
    fn servers(&self) -> Result<Arc<Servers>, NetError> {
        let new = || {
            let addresses = self.addresses.iter().copied();
            Servers::new(addresses, &self.options, Clock::default()).map(Arc::new)
        };
        self.servers.get_or_init(new).clone()
    }
}
