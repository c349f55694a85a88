//! Whom to ask, shared by all sources that are given it.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    config::ResolverOpts,
    lookup::Lookup as Message,
    net::{DnsError, NetError},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
};

use super::{
    answer::{Absent, Answer, Failure, Families, Family, Found, Lookup, Records, Service},
    search::Search,
    servers::{Servers, absent},
    system::System,
};
use crate::{error::DiscoverError, node::Clock};

/// Whom a [`Dns`](super::Dns) source asks. Clones share connections and what was learnt of the
/// nameservers, so that many balancers need but one.
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
    Getaddrinfo,
}

struct Given {
    addresses: Vec<SocketAddr>,
    options: ResolverOpts,
    servers: OnceLock<Result<Arc<Servers>, NetError>>,
}

/// A resolver in the course of one look.
#[derive(Clone)]
pub(super) struct Session {
    resolver: Resolver,
    /// Unknown until the look begins.
    view: Option<View>,
}

#[derive(Clone)]
enum View {
    Servers { servers: Arc<Servers>, search: Search, hosts: Arc<Hosts> },
    Getaddrinfo,
}

/// How long what comes without a TTL is good for: what CoreDNS would say for a Service.
const WITHOUT_TTL: Duration = Duration::from_secs(5);
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

    /// The C library's `getaddrinfo`, on a thread for blocking calls: for names that only it knows,
    /// through mDNS, NIS or another module of nsswitch.conf. It tells no TTL, so it is asked every
    /// 5 s; it does not tell a name that does not exist from a resolver that is down, so that both
    /// leave the last set; and it knows no SRV records.
    #[must_use]
    pub fn getaddrinfo() -> Self {
        Self { kind: Kind::Getaddrinfo }
    }

    pub(super) fn session(&self) -> Session {
        Session { resolver: self.clone(), view: None }
    }

    async fn view(&self) -> Result<View, DiscoverError> {
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
            Kind::Getaddrinfo => View::Getaddrinfo,
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
            Kind::Getaddrinfo => f.write_str("Getaddrinfo"),
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

// === impl Session ===

impl Lookup for Session {
    async fn prepare(&mut self) -> Result<(), DiscoverError> {
        self.view = Some(self.resolver.view().await?);
        Ok(())
    }

    fn candidates(&self, name: &Name) -> Vec<Name> {
        match &self.view {
            Some(View::Servers { search, hosts, .. }) => {
                let mut as_it_is = name.clone();
                as_it_is.set_fqdn(true);
                let known = |kind| static_addresses(hosts, &as_it_is, kind).is_some();
                if known(RecordType::A) || known(RecordType::AAAA) {
                    return vec![as_it_is];
                }
                search.candidates(name)
            }
            _ => vec![name.clone()],
        }
    }

    fn questions(&self, families: Families) -> Vec<Family> {
        match (&self.view, families) {
            (Some(View::Getaddrinfo), _) => vec![Family::All],
            (_, Families::Both) => vec![Family::V4, Family::V6],
            (_, Families::V4) => vec![Family::V4],
            (_, Families::V6) => vec![Family::V6],
        }
    }

    fn addresses(
        &self,
        name: Name,
        family: Family,
    ) -> impl Future<Output = Answer<IpAddr>> + Send + 'static {
        let view = self.view.clone();
        async move {
            match view {
                Some(View::Servers { servers, hosts, .. }) => {
                    let kind = if family == Family::V6 { RecordType::AAAA } else { RecordType::A };
                    let message = match static_addresses(&hosts, &name, kind) {
                        Some(message) => Ok(message),
                        None if in_hosts(&hosts, &name) => {
                            return Ok(Found::Nothing(Absent::NoRecords));
                        }
                        None => servers.ask(&name, kind).await,
                    };
                    answer(message, &name, kind, |record, _| record.data.ip_addr())
                }
                Some(View::Getaddrinfo) => getaddrinfo(&name).await,
                None => Err(unprepared()),
            }
        }
    }

    fn services(&self, name: Name) -> impl Future<Output = Answer<Service>> + Send + 'static {
        let view = self.view.clone();
        async move {
            match view {
                Some(View::Servers { servers, .. }) => {
                    let message = servers.ask(&name, RecordType::SRV).await;
                    answer(message, &name, RecordType::SRV, service)
                }
                Some(View::Getaddrinfo) => {
                    let error = DiscoverError::new("getaddrinfo cannot look up SRV records");
                    Err(Failure { error, answered: false })
                }
                None => Err(unprepared()),
            }
        }
    }
}

/// A look begins with `prepare`.
fn unprepared() -> Failure {
    Failure { error: DiscoverError::new("no resolver is configured"), answered: false }
}

fn static_addresses(hosts: &Hosts, name: &Name, kind: RecordType) -> Option<Message> {
    hosts.lookup_static_host(&Query::query(name.clone(), kind))
}

fn in_hosts(hosts: &Hosts, name: &Name) -> bool {
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .any(|kind| static_addresses(hosts, name, kind).is_some())
}

/// The records of `kind` in `message`, and for how long they are good.
fn answer<T>(
    message: Result<Message, NetError>,
    name: &Name,
    kind: RecordType,
    take: impl Fn(&Record, &[Record]) -> Option<T>,
) -> Answer<T> {
    let message = match message {
        Ok(message) => message,
        Err(error) => return nothing_or_failure(error, name, kind),
    };
    let of_kind = message.answers().iter().filter(|record| record.record_type() == kind);
    let records: Vec<T> =
        of_kind.filter_map(|record| take(record, message.additionals())).collect();
    if records.is_empty() {
        return Ok(Found::Nothing(Absent::NoRecords));
    }
    // RFC 2181 5.2 and 8: the least of a set, and none that is negative as a signed number.
    let on_the_way = message
        .answers()
        .iter()
        .filter(|record| record.record_type() == kind || record.record_type() == RecordType::CNAME);
    let ttl = on_the_way.map(|record| i32::try_from(record.ttl).unwrap_or(0).unsigned_abs()).min();
    let ttl = Duration::from_secs(u64::from(ttl.unwrap_or(0)));
    Ok(Found::Records(Records { records, ttl }))
}

fn nothing_or_failure<T>(error: NetError, name: &Name, kind: RecordType) -> Answer<T> {
    if let Some(absent) = absent(&error) {
        return Ok(Found::Nothing(absent));
    }
    let code = match &error {
        NetError::Dns(DnsError::ResponseCode(code)) => Some(*code),
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => Some(nothing.response_code),
        _ => None,
    };
    let what = match code {
        // Not told apart from an answer otherwise: names of other servers, and no records.
        Some(ResponseCode::NoError) => "a referral instead of an answer".to_owned(),
        Some(code) => format!("{code:?}").to_uppercase(),
        None => error.to_string(),
    };
    // As in glibc a search goes on after a server's failure, and not after a silence.
    let answered = code == Some(ResponseCode::ServFail);
    let error = DiscoverError::caused(format!("`{name}` {kind}: {what}"), error);
    Err(Failure { error, answered })
}

fn service(record: &Record, additionals: &[Record]) -> Option<Service> {
    let RData::SRV(srv) = &record.data else { return None };
    let of_target = additionals.iter().filter(|record| record.name == srv.target);
    Some(Service {
        target: srv.target.clone(),
        port: srv.port,
        priority: srv.priority,
        weight: srv.weight,
        addresses: of_target.filter_map(|record| record.data.ip_addr()).collect(),
    })
}

async fn getaddrinfo(name: &Name) -> Answer<IpAddr> {
    let failed = |error: io::Error| {
        let error = DiscoverError::caused(format!("getaddrinfo of `{name}`: {error}"), error);
        Failure { error, answered: false }
    };
    let found = tokio::net::lookup_host((name.to_ascii(), 0)).await.map_err(failed)?;
    let mut records: Vec<_> = found.map(|address| address.ip()).collect();
    records.sort_unstable();
    records.dedup();
    if records.is_empty() {
        return Ok(Found::Nothing(Absent::NoRecords));
    }
    Ok(Found::Records(Records { records, ttl: WITHOUT_TTL }))
}
