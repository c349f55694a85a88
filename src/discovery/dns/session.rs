//! A resolver as one source sees it: from its questions to what the answers say.

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RData, Record, RecordType},
    },
};

use super::{
    answer::{Absent, Answer, Failure, Families, Family, Found, Lookup, Records, Service},
    flight::Landed,
    getaddrinfo::Getaddrinfo,
    reading::{Reading, Resolved, ttl},
    resolver::Resolver,
    search::Search,
    servers::{Servers, Told},
};
use crate::{error::DiscoverError, node::Clock};

/// A resolver in the course of one look.
#[derive(Clone)]
pub(super) struct Session {
    resolver: Resolver,
    /// The least time between two looks.
    floor: Duration,
    clock: Clock,
    /// Unknown until the look begins.
    view: Option<View>,
    /// What was asked for after this, if by somebody else, answers this look.
    since: Option<Instant>,
    /// When the newest of the answers that it has was asked for.
    newest: Arc<Mutex<Option<Instant>>>,
}

/// Whom a look asks.
#[derive(Clone)]
pub(super) enum View {
    Servers { servers: Arc<Servers>, search: Search, hosts: Arc<Hosts> },
    Getaddrinfo(Arc<Getaddrinfo>),
}

/// How old an answer to somebody else may be at the most.
const MOMENT: Duration = Duration::from_secs(1);

// === impl Session ===

impl Session {
    pub(super) fn new(resolver: Resolver, floor: Duration) -> Self {
        Self {
            resolver,
            floor,
            clock: Clock::default(),
            view: None,
            since: None,
            newest: Arc::default(),
        }
    }

    /// The answer, and for how long it has been one.
    fn take<T>(&self, landed: Landed<T>) -> (T, Duration) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = newest.max(Some(landed.asked));
        (landed.answer, self.clock.now().saturating_duration_since(landed.at))
    }
}

impl Lookup for Session {
    async fn prepare(&mut self) -> Result<(), DiscoverError> {
        self.view = Some(self.resolver.view().await?);
        // A look that was given what it has already would see nothing new until the next.
        let newest = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        self.since = newest.max(self.clock.now().checked_sub(self.floor.min(MOMENT)));
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

    fn whom(&self) -> String {
        match &self.view {
            Some(View::Servers { servers, .. }) => servers.to_string(),
            Some(View::Getaddrinfo(_)) => "getaddrinfo".to_owned(),
            None => "the resolver".to_owned(),
        }
    }

    fn questions(&self, families: Families) -> Vec<Family> {
        match (&self.view, families) {
            (Some(View::Getaddrinfo(_)), _) => vec![Family::All],
            (_, Families::Both) => vec![Family::V4, Family::V6],
            (_, Families::V4) => vec![Family::V4],
            (_, Families::V6) => vec![Family::V6],
        }
    }

    fn addresses(
        &self,
        name: Name,
        family: Family,
        known: bool,
    ) -> impl Future<Output = Answer<IpAddr>> + Send + 'static {
        let session = self.clone();
        async move {
            match &session.view {
                Some(View::Servers { servers, hosts, .. }) => {
                    let kind = if family == Family::V6 { RecordType::AAAA } else { RecordType::A };
                    if let Some(found) = static_addresses(hosts, &name, kind) {
                        return Ok(Found::Records(found));
                    }
                    if in_hosts(hosts, &name) {
                        return Ok(Found::Nothing(Absent::NoRecords));
                    }
                    let landed = servers.ask(&name, kind, known, session.since).await;
                    let (told, age) = session.take(landed.ok_or_else(|| lost(&name))?);
                    aged(addresses(told, &name, kind), age)
                }
                Some(View::Getaddrinfo(system)) => {
                    let landed = system.ask(&name, session.since).await;
                    let (answer, age) = session.take(landed.ok_or_else(|| lost(&name))?);
                    aged(answer, age)
                }
                None => Err(unprepared()),
            }
        }
    }

    fn services(
        &self,
        name: Name,
        known: bool,
    ) -> impl Future<Output = Answer<Service>> + Send + 'static {
        let session = self.clone();
        async move {
            match &session.view {
                Some(View::Servers { servers, .. }) => {
                    let landed = servers.ask(&name, RecordType::SRV, known, session.since).await;
                    let (told, age) = session.take(landed.ok_or_else(|| lost(&name))?);
                    aged(services(told, &name), age)
                }
                Some(View::Getaddrinfo(_)) => {
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

/// A question has an end, unless the runtime has one first.
fn lost(name: &Name) -> Failure {
    let error = DiscoverError::new(format!("`{name}`: the question was given up"));
    Failure { error, answered: false }
}

fn static_addresses(hosts: &Hosts, name: &Name, kind: RecordType) -> Option<Records<IpAddr>> {
    let found = hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
    let records = found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    let ttl = found.answers().iter().map(ttl).min().unwrap_or_default();
    Some(Records { records, ttl })
}

fn in_hosts(hosts: &Hosts, name: &Name) -> bool {
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .any(|kind| static_addresses(hosts, name, kind).is_some())
}

fn addresses(told: Told, name: &Name, kind: RecordType) -> Answer<IpAddr> {
    let address = |record: &Record| record.data.ip_addr();
    found(told, name, kind, |all| all.records.iter().filter_map(address).collect())
}

/// What `take` makes of the records.
fn found<T>(
    told: Told,
    name: &Name,
    kind: RecordType,
    take: impl FnOnce(&mut Resolved) -> Vec<T>,
) -> Answer<T> {
    match told {
        Ok(Reading::Records(mut all)) => {
            let records = take(&mut all);
            Ok(Found::Records(Records { records, ttl: all.ttl }))
        }
        Ok(Reading::Nothing(absent)) => Ok(Found::Nothing(absent)),
        // As in glibc a search goes on after a server's failure, and not after a silence.
        Err(faults) => Err(Failure {
            error: DiscoverError::new(format!("`{name}` {kind}: {faults}")),
            answered: faults.leads_on(),
        }),
    }
}

/// SRV records, with the addresses that came along; for as long as those are good as well.
fn services(told: Told, name: &Name) -> Answer<Service> {
    found(told, name, RecordType::SRV, |all| {
        let mut along: HashMap<Name, Vec<(IpAddr, Duration)>> = HashMap::new();
        for record in &all.additionals {
            if let Some(address) = record.data.ip_addr() {
                along.entry(record.name.clone()).or_default().push((address, ttl(record)));
            }
        }
        let mut least = all.ttl;
        let service = |record: &Record| {
            let RData::SRV(srv) = &record.data else { return None };
            let of_target = along.get(&srv.target).map_or(&[][..], Vec::as_slice);
            least = of_target.iter().fold(least, |least, (_, ttl)| least.min(*ttl));
            Some(Service {
                target: srv.target.clone(),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
                addresses: of_target.iter().map(|(address, _)| *address).collect(),
            })
        };
        let services = all.records.iter().filter_map(service).collect();
        all.ttl = least;
        services
    })
}

/// An answer as it is when it has been one for `age`.
fn aged<T>(mut answer: Answer<T>, age: Duration) -> Answer<T> {
    if let Ok(Found::Records(found)) = &mut answer {
        found.ttl = found.ttl.saturating_sub(age);
    }
    answer
}
