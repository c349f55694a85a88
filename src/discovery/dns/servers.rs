//! Nameservers, asked one after the other without waiting for the dead.
//!
//! The order is that of the configuration, as in glibc; but where glibc waits 5 s for a server that
//! is silent before it asks the next, the next is asked after a quarter of a second, and the first
//! good answer counts (as RFC 8305 dials addresses). A server that answers that it cannot tell
//! (SERVFAIL, REFUSED and the like) hands on at once. That a name does not exist is believed of a
//! later server only after the earlier ones had their time, for they may know more, and not if one of
//! them answered that it failed. Who answered is asked first for a while, so that a dead server costs
//! once and not with every question; but not to say that there is nothing any more where there was
//! something.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{NameServerConfig, ResolverOpts},
    net::{
        NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
    proto::{
        op::{DnsRequestOptions, Message, Query, ResponseCode},
        rr::{Name, RecordType},
    },
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    answer::Absent,
    flight::{Flights, Landed},
    reading::{Fault, Reading, read},
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
/// What takes longer makes room for what may be quick: many targets that hang must not keep the others
/// from being asked for.
const QUICK: Duration = Duration::from_millis(500);
/// Slow questions at once, besides.
const SLOW_AT_ONCE: usize = 128;

/// Bounds for a server's time, as in glibc; 0 would be no time at all.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(30);

/// Nameservers, in their order.
pub(super) struct Servers<E = Nameserver> {
    servers: Vec<Server<E>>,
    attempts: usize,
    preferred: Mutex<Option<(usize, Instant)>>,
    quick: Semaphore,
    slow: Semaphore,
    flights: Flights<(Name, RecordType, bool), Told>,
    clock: Clock,
}

/// What came of a question.
pub(super) type Told = Result<Reading, Faults>;

/// What is wrong with all of those that were asked, in the order of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Faults(Vec<(SocketAddr, Fault)>);

/// Who carries one question to one nameserver. There are the real one and that of the tests.
pub(super) trait Exchange: Clone + Send + Sync + 'static {
    /// Its answer, if that has any records; else the error tells how there are none.
    fn ask(
        &self,
        name: Name,
        kind: RecordType,
    ) -> impl Future<Output = Result<Message, NetError>> + Send;
}

/// A nameserver over sockets.
#[derive(Clone)]
pub(super) struct Nameserver {
    // Of one server: which of them is asked is not hickory's to choose.
    pool: NameServerPool<TokioRuntimeProvider>,
    options: DnsRequestOptions,
}

struct Server<E> {
    address: SocketAddr,
    exchange: E,
}

/// What is asked of them.
struct Question {
    name: Name,
    kind: RecordType,
    /// Whether there were such records the last time.
    known: bool,
}

/// The questions of one round, one a server.
struct Asked {
    open: JoinSet<(usize, Result<Reading, Fault>)>,
    /// Ranks that have not answered.
    silent: Vec<usize>,
    /// By rank.
    faults: Vec<(usize, Fault)>,
    /// That there is nothing, of this rank, and until when others are waited for.
    nothing: Option<(usize, Absent, Instant)>,
}

// === impl Servers ===

impl Servers {
    /// `options` tells the timeout, the attempts and whether to use EDNS.
    pub(super) fn new(
        addresses: impl IntoIterator<Item = SocketAddr>,
        options: &ResolverOpts,
        clock: Clock,
    ) -> Result<Self, NetError> {
        let server = |address| {
            let exchange = Nameserver::new(address, options)?;
            Ok(Server { address, exchange })
        };
        let servers = addresses.into_iter().map(server).collect::<Result<_, NetError>>()?;
        Ok(Self::over(servers, options.attempts, clock))
    }
}

impl<E: Exchange> Servers<E> {
    fn over(servers: Vec<Server<E>>, attempts: usize, clock: Clock) -> Self {
        Self {
            servers,
            attempts: attempts.clamp(1, 5),
            preferred: Mutex::new(None),
            quick: Semaphore::new(AT_ONCE),
            slow: Semaphore::new(SLOW_AT_ONCE),
            flights: Flights::new(clock.clone()),
            clock,
        }
    }

    /// What the first of them says that can say anything; or, to somebody else, said after `since`.
    /// `known` is what had such records the last time; of that less is believed, so that nobody who asks
    /// for it is told what satisfies who does not know it.
    pub(super) async fn ask(
        self: &Arc<Self>,
        name: &Name,
        kind: RecordType,
        known: bool,
        since: Option<Instant>,
    ) -> Option<Landed<Told>> {
        let question = || {
            let (this, name) = (Arc::clone(self), name.clone());
            async move { this.ask_them(&Question { name, kind, known }).await }
        };
        self.flights.ask((name.clone(), kind, known), since, question).await
    }

    async fn ask_them(&self, question: &Question) -> Told {
        // The list of the targets is one question, without which no look sees anything.
        if question.kind == RecordType::SRV {
            return self.ask_in_order(question).await;
        }
        // Never closed, nor is the other.
        let quick = self.quick.acquire().await;
        let mut told = pin!(self.ask_in_order(question));
        tokio::select! {
            biased;
            told = &mut told => return told,
            () = self.clock.sleep(QUICK) => {}
        }
        let slow = tokio::select! {
            biased;
            told = &mut told => return told,
            slow = self.slow.acquire() => slow,
        };
        drop(quick);
        let told = told.await;
        drop(slow);
        told
    }

    async fn ask_in_order(&self, question: &Question) -> Told {
        let order = self.order();
        let mut faults = Faults(Vec::new());
        for _ in 0..self.attempts {
            faults = match self.round(&order, question).await {
                Err(faults) => faults,
                // Those whom it was preferred to may know more.
                Ok(Reading::Nothing(_)) if question.known && !order.is_sorted() => {
                    let as_configured: Vec<_> = (0..self.servers.len()).collect();
                    return self.round(&as_configured, question).await;
                }
                told => return told,
            };
            // Who has said no says so again.
            if !faults.is_silence() {
                break;
            }
        }
        Err(faults)
    }

    async fn round(&self, order: &[usize], question: &Question) -> Told {
        let mut asked = Asked::default();
        let mut waiting = order.iter().enumerate();
        let mut next_at = Some(self.clock.now());
        loop {
            let now = self.clock.now();
            if next_at.is_some_and(|at| at <= now) {
                next_at = waiting.next().map(|(rank, &server)| {
                    asked.ask(rank, &self.servers[server].exchange, question);
                    after(now, STAGGER)
                });
            }
            if let Some((rank, nothing)) = asked.settled(now) {
                if asked.has_failed_before(order, rank) && question.doubts(nothing) {
                    asked.faults.push((rank, Fault::Nothing(nothing)));
                    return Err(self.faults(order, asked.faults));
                }
                // Of what was known another knew more.
                if !question.known {
                    self.prefer(order, rank);
                }
                return Ok(Reading::Nothing(nothing));
            }
            if asked.open.is_empty() && next_at.is_none() {
                return Err(self.faults(order, asked.faults));
            }
            let patience = asked.nothing.as_ref().map(|(.., until)| *until);
            tokio::select! {
                biased;
                Some(answer) = asked.open.join_next() => {
                    let now = self.clock.now();
                    // Whose task is gone has failed as well.
                    if let Ok((rank, answer)) = answer {
                        if let Some(records) = asked.hear(rank, answer, after(now, PATIENCE)) {
                            self.prefer(order, rank);
                            return Ok(records);
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

    /// What the servers of these ranks say, by their addresses.
    fn faults(&self, order: &[usize], by_rank: Vec<(usize, Fault)>) -> Faults {
        let mut faults: Vec<_> =
            by_rank.into_iter().map(|(rank, fault)| (order[rank], fault)).collect();
        faults.sort_by_key(|(server, _)| *server);
        let named = |(server, fault): (usize, Fault)| (self.servers[server].address, fault);
        Faults(faults.into_iter().map(named).collect())
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

impl<E> fmt::Debug for Servers<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers.iter().map(|server| server.address)).finish()
    }
}

/// Their addresses.
impl<E> fmt::Display for Servers<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(self.servers.iter().map(|server| server.address)))
    }
}

fn listed(addresses: impl IntoIterator<Item = SocketAddr>) -> String {
    let addresses: Vec<_> = addresses.into_iter().map(|address| address.to_string()).collect();
    addresses.join(", ")
}

// === impl Faults ===

impl Faults {
    /// Whether a search goes on: a server answered that it failed, or that it knows of nothing.
    pub(super) fn leads_on(&self) -> bool {
        let leads_on = |fault: &Fault| {
            matches!(
                fault,
                Fault::Code(ResponseCode::ServFail) | Fault::Aliases | Fault::Nothing(_)
            )
        };
        self.0.iter().any(|(_, fault)| leads_on(fault))
    }

    /// Whether none has said anything, and not all of them because nobody is there.
    fn is_silence(&self) -> bool {
        let mut faults = self.0.iter().map(|(_, fault)| fault);
        !faults.clone().any(Fault::is_said) && faults.any(|fault| matches!(fault, Fault::Silence))
    }
}

/// Such as `REFUSED from 10.0.0.1:53; no answer from 10.0.0.2:53, 10.0.0.3:53`.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(String, Vec<SocketAddr>)> = Vec::new();
        for (server, fault) in &self.0 {
            let fault = fault.to_string();
            match kinds.iter_mut().find(|(kind, _)| *kind == fault) {
                Some((_, servers)) => servers.push(*server),
                None => kinds.push((fault, vec![*server])),
            }
        }
        if kinds.is_empty() {
            return f.write_str("no nameserver is configured");
        }
        for (i, (fault, servers)) in kinds.into_iter().enumerate() {
            let before = if i == 0 { "" } else { "; " };
            write!(f, "{before}{fault} from {}", listed(servers))?;
        }
        Ok(())
    }
}

// === impl Nameserver ===

impl Nameserver {
    fn new(address: SocketAddr, options: &ResolverOpts) -> Result<Self, NetError> {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        let mut options = options.clone();
        options.timeout = options.timeout.clamp(LEAST_TIMEOUT, MOST_TIMEOUT);
        let mut request = DnsRequestOptions::default();
        request.use_edns = options.edns0;
        request.edns_payload_len = options.edns_payload_len;
        request.recursion_desired = options.recursion_desired;
        let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        let provider = TokioRuntimeProvider::default();
        let pool = NameServerPool::from_config([server], context, provider);
        Ok(Self { pool, options: request })
    }
}

impl Exchange for Nameserver {
    async fn ask(&self, name: Name, kind: RecordType) -> Result<Message, NetError> {
        let question = Query::query(name, kind);
        let answer = self.pool.lookup(question, self.options).first_answer().await?;
        Ok(answer.into_message())
    }
}

// === impl Question ===

impl Question {
    /// Whether that there is nothing is not believed of a server after another one failed. A server that
    /// has the name, but no such records (NODATA), is one that knows; unless there were some.
    fn doubts(&self, nothing: Absent) -> bool {
        self.known || nothing == Absent::NoName
    }
}

// === impl Asked ===

impl Default for Asked {
    fn default() -> Self {
        Self { open: JoinSet::new(), silent: Vec::new(), faults: Vec::new(), nothing: None }
    }
}

impl Asked {
    fn ask(&mut self, rank: usize, exchange: &impl Exchange, question: &Question) {
        let (exchange, name, kind) = (exchange.clone(), question.name.clone(), question.kind);
        self.silent.push(rank);
        self.open
            .spawn(async move { (rank, read(name, kind, |name| exchange.ask(name, kind)).await) });
    }

    /// The answer, if it settles the matter.
    fn hear(
        &mut self,
        rank: usize,
        answer: Result<Reading, Fault>,
        patience: Instant,
    ) -> Option<Reading> {
        self.silent.retain(|other| *other != rank);
        match answer {
            Ok(Reading::Nothing(absent)) => {
                if self.nothing.as_ref().is_none_or(|(other, ..)| rank < *other) {
                    self.nothing = Some((rank, absent, patience));
                }
            }
            Ok(records) => return Some(records),
            Err(fault) => self.faults.push((rank, fault)),
        }
        None
    }

    /// The rank that says that there is nothing, once it is to be believed.
    fn settled(&self, now: Instant) -> Option<(usize, Absent)> {
        let (rank, absent, until) = self.nothing.as_ref()?;
        let others = self.silent.iter().any(|other| other < rank);
        (!others || *until <= now).then_some((*rank, *absent))
    }

    /// Whether one that the configuration names before the one of this rank answered that it failed.
    fn has_failed_before(&self, order: &[usize], rank: usize) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|(other, fault)| order[*other] < order[rank] && fault.is_said())
    }
}

#[cfg(test)]
mod tests;
