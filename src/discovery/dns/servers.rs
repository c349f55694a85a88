//! Nameservers, asked one after the other without waiting for the dead.
//!
//! The order is that of the configuration, as in glibc; but where glibc waits 5 s for a server that
//! is silent before it asks the next, the next is asked after a quarter of a second, and the first
//! good answer counts (as RFC 8305 dials addresses). A server that answers that it cannot tell
//! (SERVFAIL, REFUSED and the like) hands on at once. That a name does not exist is believed of a
//! later server only after the earlier ones had their time, for they may know more. Who answered is
//! asked first for a while, so that a dead server costs once and not with every question.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    answer::Absent,
    flight::{Flights, Landed},
};
use crate::{
    discovery::sleep::sleep_until,
    node::{Clock, after},
};

/// How long a silent server keeps the next one waiting.
const STAGGER: Duration = Duration::from_millis(250);
/// How long the earlier servers are waited for once a later one says that there is nothing.
const PATIENCE: Duration = Duration::from_millis(250);
/// For how long the server that answered is asked first.
const PREFERENCE: Duration = Duration::from_secs(30);
/// Questions at once. A long list of SRV targets must not open a socket for each.
const AT_ONCE: usize = 64;

/// Bounds for a server's time, as in glibc; 0 would be no time at all.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(30);
const NO_NAMESERVER: NetError = NetError::Message("no nameserver is configured");

/// Nameservers, in their order.
pub(super) struct Servers {
    servers: Vec<Server>,
    attempts: usize,
    preferred: Mutex<Option<(usize, Instant)>>,
    permits: Semaphore,
    flights: Flights<(Name, RecordType), Told>,
    clock: Clock,
}

/// What came of a question.
pub(super) type Told = Result<Lookup, NetError>;

struct Server {
    address: SocketAddr,
    client: TokioResolver,
}

/// The questions of one round, one a server.
struct Asked {
    open: JoinSet<(usize, Told)>,
    /// Ranks that have not answered.
    silent: Vec<usize>,
    error: Option<NetError>,
    /// That there is nothing, of this rank, and until when others are waited for.
    nothing: Option<(usize, NetError, Instant)>,
}

// === impl Servers ===

impl Servers {
    /// `options` tells the timeout, the attempts and whether to use EDNS.
    pub(super) fn new(
        addresses: impl IntoIterator<Item = SocketAddr>,
        options: &ResolverOpts,
        clock: Clock,
    ) -> Result<Self, NetError> {
        let server = |address| Server::new(address, options);
        Ok(Self {
            servers: addresses.into_iter().map(server).collect::<Result<_, _>>()?,
            attempts: options.attempts.clamp(1, 5),
            preferred: Mutex::new(None),
            permits: Semaphore::new(AT_ONCE),
            flights: Flights::new(clock.clone()),
            clock,
        })
    }

    /// What the first of them says that can say anything; or, to somebody else, said after `since`.
    pub(super) async fn ask(
        self: &Arc<Self>,
        name: &Name,
        kind: RecordType,
        since: Option<Instant>,
    ) -> Option<Landed<Told>> {
        let question = || {
            let (this, name) = (Arc::clone(self), name.clone());
            async move { this.ask_them(&name, kind).await }
        };
        self.flights.ask((name.clone(), kind), since, question).await
    }

    async fn ask_them(&self, name: &Name, kind: RecordType) -> Told {
        // Never closed.
        let _permit = self.permits.acquire().await;
        let order = self.order();
        let mut error = NO_NAMESERVER;
        for _ in 0..self.attempts {
            error = match self.round(&order, name, kind).await {
                Err(error) if absent(&error).is_none() => error,
                answer => return answer,
            };
            // Who has said no says so again.
            if !matches!(error, NetError::Timeout) {
                break;
            }
        }
        Err(error)
    }

    async fn round(&self, order: &[usize], name: &Name, kind: RecordType) -> Told {
        let mut asked = Asked::default();
        let mut waiting = order.iter().enumerate();
        let mut next_at = Some(self.clock.now());
        loop {
            let now = self.clock.now();
            if next_at.is_some_and(|at| at <= now) {
                next_at = waiting.next().map(|(rank, &server)| {
                    asked.ask(rank, &self.servers[server], name.clone(), kind);
                    after(now, STAGGER)
                });
            }
            if let Some((rank, nothing)) = asked.settled(now) {
                self.prefer(order, rank);
                return Err(nothing);
            }
            if asked.open.is_empty() && next_at.is_none() {
                return Err(asked.error.unwrap_or(NO_NAMESERVER));
            }
            let patience = asked.nothing.as_ref().map(|(.., until)| *until);
            tokio::select! {
                biased;
                Some(answer) = asked.open.join_next() => {
                    let now = self.clock.now();
                    // Whose task is gone has failed as well.
                    if let Ok((rank, answer)) = answer {
                        if let Some(lookup) = asked.hear(rank, answer, after(now, PATIENCE)) {
                            self.prefer(order, rank);
                            return Ok(lookup);
                        }
                    }
                    if asked.nothing.is_none() {
                        next_at = next_at.map(|_| now);
                    }
                }
                () = sleep_until(&self.clock, next_at.into_iter().chain(patience).min()) => {}
            }
        }
    }

    /// The order in which to ask.
    fn order(&self) -> Vec<usize> {
        let now = self.clock.now();
        let preferred = *self.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        let first = preferred.filter(|(_, until)| now < *until).map(|(first, _)| first);
        let others = (0..self.servers.len()).filter(|server| Some(*server) != first);
        first.into_iter().chain(others).collect()
    }

    fn prefer(&self, order: &[usize], rank: usize) {
        // The first of the order has its place already, and must lose it in time to the server that
        // the configuration names first.
        if rank > 0 {
            let until = after(self.clock.now(), PREFERENCE);
            *self.preferred.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((order[rank], until));
        }
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers.iter().map(|server| server.address)).finish()
    }
}

// === impl Server ===

impl Server {
    fn new(address: SocketAddr, options: &ResolverOpts) -> Result<Self, NetError> {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        // Named one by one: what hickory would use of itself is asked nothing.
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = options.clone();
        // Attempts and the names of the search list are ours; a cache would tell old news.
        options.attempts = 0;
        options.timeout = options.timeout.clamp(LEAST_TIMEOUT, MOST_TIMEOUT);
        options.ndots = 0;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider).with_options(options);
        Ok(Self { address, client: builder.build()? })
    }
}

// === impl Asked ===

impl Default for Asked {
    fn default() -> Self {
        Self { open: JoinSet::new(), silent: Vec::new(), error: None, nothing: None }
    }
}

impl Asked {
    fn ask(&mut self, rank: usize, server: &Server, name: Name, kind: RecordType) {
        let client = server.client.clone();
        self.silent.push(rank);
        self.open.spawn(async move { (rank, client.lookup(name, kind).await) });
    }

    /// The answer, if it settles the matter.
    fn hear(&mut self, rank: usize, answer: Told, patience: Instant) -> Option<Lookup> {
        self.silent.retain(|other| *other != rank);
        match answer {
            Ok(lookup) => return Some(lookup),
            Err(error) if absent(&error).is_some() => {
                if self.nothing.as_ref().is_none_or(|(other, ..)| rank < *other) {
                    self.nothing = Some((rank, error, patience));
                }
            }
            // What a server says is worth more than that another one is silent.
            Err(error) => match &self.error {
                Some(NetError::Dns(_)) => {}
                _ => self.error = Some(error),
            },
        }
        None
    }

    /// The rank that says that there is nothing, once it is to be believed.
    fn settled(&self, now: Instant) -> Option<(usize, NetError)> {
        let (rank, error, until) = self.nothing.as_ref()?;
        let others = self.silent.iter().any(|other| other < rank);
        (!others || *until <= now).then(|| (*rank, error.clone()))
    }
}

/// How there is nothing, if that is what this says, and not that nobody knows.
pub(super) fn absent(error: &NetError) -> Option<Absent> {
    let NetError::Dns(DnsError::NoRecordsFound(nothing)) = error else { return None };
    match nothing.response_code {
        ResponseCode::NXDomain => Some(Absent::NoName),
        // Names of other servers instead of an answer: this one does not know the zone.
        ResponseCode::NoError if nothing.ns.is_some() && nothing.soa.is_none() => None,
        ResponseCode::NoError => Some(Absent::NoRecords),
        _ => None,
    }
}
