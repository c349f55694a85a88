//! One look at a name: its candidates, the questions at once, and what is left of the answers.
//!
//! What one part of a look cannot say is filled in from the last time that it could, and the update
//! says so ([`Update::Partial`]). A part that is slow does not hold the others up: after a grace the
//! view without it goes out, and the whole follows when it has come. Only a look of which no part
//! failed may find that there is nothing.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::Name;
use tokio::task::JoinSet;

use super::{
    answer::{Absent, Answer, Failure, Families, Family, Found, Lookup, Records, Service},
    sites::{Site, endpoints},
};
use crate::{
    discovery::{
        Endpoints, Reason, Update,
        resume::{Again, Look, Seen},
    },
    endpoint::Endpoint,
    error::DiscoverError,
    node::{Clock, after},
};

/// How long those who answer wait for those who do not, before what is known goes out.
const GRACE: Duration = Duration::from_millis(500);

/// How long the addresses of all names are looked for. Some hundred targets whose server is dead would
/// otherwise take minutes, in which nothing else is seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// The addresses of a name, with this port.
    Host { name: Name, port: u16 },
    /// The SRV records of a name.
    Services { name: Name, ignore_weights: bool },
}

/// Looks, and remembers what it saw last.
pub(super) struct Looker<L> {
    lookup: L,
    question: Question,
    families: Families,
    server_name: Option<Arc<str>>,
    clock: Clock,
    /// What each part said when it last said anything.
    last: HashMap<Key, Vec<IpAddr>>,
    /// The candidate that had records the last time.
    good: Option<Name>,
    /// What was said last.
    said: Vec<Endpoint>,
    /// A look that is still waiting for some of its parts.
    open: Option<Round>,
}

/// What one question is about.
type Key = (Name, Family);

/// The parts of one look.
struct Round {
    sites: Vec<Site>,
    asked: Vec<Key>,
    open: JoinSet<(Key, Answer<IpAddr>)>,
    done: HashMap<Key, Answer<IpAddr>>,
    /// How long the list of the sites itself is good for.
    ttl: Option<Duration>,
    /// Whether there is an address yet.
    has_addresses: bool,
    /// When what has not answered counts as lost.
    until: Instant,
}

/// What is known of a round.
#[derive(Default)]
struct View {
    sites: Vec<Site>,
    ttl: Option<Duration>,
    /// Whether any address is of this round.
    fresh: bool,
    /// Sites that are known to have no address.
    barren: Vec<DiscoverError>,
    errors: Vec<DiscoverError>,
}

// === impl Looker ===

impl<L: Lookup> Looker<L> {
    pub(super) fn new(
        lookup: L,
        question: Question,
        families: Families,
        server_name: Option<Arc<str>>,
        clock: Clock,
    ) -> Self {
        Self {
            lookup,
            question,
            families,
            server_name,
            clock,
            last: HashMap::new(),
            good: None,
            said: Vec::new(),
            open: None,
        }
    }

    /// Finds the first candidate that has anything, and asks for all of it.
    async fn begin(&mut self) -> Result<Round, Seen> {
        self.lookup.prepare().await.map_err(Seen::failed)?;
        let name = self.question.name().clone();
        let mut failure: Option<Failure> = None;
        let mut absent = Absent::NoName;
        for candidate in self.lookup.candidates(&name) {
            match self.ask(&candidate).await {
                Ok(Ok(round)) => {
                    self.good = Some(candidate);
                    return Ok(round);
                }
                Ok(Err(nothing)) => absent = absent.min(nothing),
                Err(failed) => {
                    // Another name must not stand in for the one that works, while that one's
                    // server has a bad moment.
                    let stop = !failed.answered || self.good.as_ref() == Some(&candidate);
                    failure.get_or_insert(failed);
                    if stop {
                        break;
                    }
                }
            }
        }
        if let Some(failure) = failure {
            return Err(Seen::failed(failure.error));
        }
        self.forget();
        Err(Seen::empty(format!("`{name}` {absent}")))
    }

    fn forget(&mut self) {
        self.last.clear();
        self.good = None;
        self.said.clear();
    }

    /// What `name` has, as far as it takes to know that it has something.
    async fn ask(&self, name: &Name) -> Result<Result<Round, Absent>, Failure> {
        match self.question {
            Question::Host { port, .. } => {
                let sites = vec![Site::host(name.clone(), port)];
                let mut round = Round::new(sites, None, &self.clock);
                self.start(&mut round);
                round.gather(&self.clock, Some(GRACE)).await;
                round.found()
            }
            Question::Services { ignore_weights, .. } => {
                let found = self.lookup.services(name.clone()).await?;
                let Records { records, ttl } = match found {
                    Found::Records(records) => records,
                    Found::Nothing(absent) => return Ok(Err(absent)),
                };
                let site = |mut service: Service| {
                    service.addresses.retain(|address| self.families.allow(*address));
                    Site::service(service, ignore_weights)
                };
                let sites = records.into_iter().map(site).collect();
                let mut round = Round::new(sites, Some(ttl), &self.clock);
                self.start(&mut round);
                round.gather(&self.clock, Some(GRACE)).await;
                Ok(Ok(round))
            }
        }
    }

    /// Asks for the addresses of all sites whose addresses did not come along.
    fn start(&self, round: &mut Round) {
        let questions = self.lookup.questions(self.families);
        let mut seen = HashSet::new();
        for site in &round.sites {
            if !site.wants_addresses() || !seen.insert(site.name.clone()) {
                continue;
            }
            for &family in &questions {
                let key = (site.name.clone(), family);
                let addresses = self.lookup.addresses(site.name.clone(), family);
                round.asked.push(key.clone());
                round.open.spawn(async move { (key, addresses.await) });
            }
        }
    }

    /// What `round` comes to; nothing if it is not complete, and says nothing new yet.
    fn conclude(&mut self, round: &Round) -> Option<Seen> {
        let complete = round.open.is_empty();
        let view = self.view(round);
        let endpoints = endpoints(&view.sites, self.server_name.as_ref());
        if !complete && endpoints == self.said {
            return None;
        }
        let ttl = view.ttl.unwrap_or_default();
        let again = if complete { Again::After(ttl) } else { Again::AtOnce };
        if !view.fresh {
            // Old addresses alone are no answer: they stand as they are.
            if let Some(error) = summary(&view.errors) {
                return complete.then(|| Seen::failed(error));
            }
            self.forget();
            let reason = match summary(&view.barren) {
                Some(barren) => barren.to_string(),
                // RFC 2782: a target of "." says so.
                None => "the domain does not offer the service (SRV target `.`)".to_owned(),
            };
            return Some(Seen::empty(reason));
        }
        self.said.clone_from(&endpoints);
        let endpoints = Endpoints::from(endpoints);
        let errors: Vec<_> = view.errors.into_iter().chain(view.barren).collect();
        let update = match summary(&errors) {
            Some(error) => Update::Partial(endpoints, error),
            None => Update::Set(endpoints),
        };
        Some(Seen { update, again })
    }

    /// The addresses of `round`, with those of the last time where there are no new ones.
    fn view(&mut self, round: &Round) -> View {
        let complete = round.open.is_empty();
        let mut view = View { ttl: round.ttl, ..View::default() };
        let questions = self.lookup.questions(self.families);
        for site in &round.sites {
            if site.is_unavailable() {
                continue;
            }
            let mut site = site.clone();
            if site.port == 0 {
                view.barren.push(DiscoverError::new(format!("`{}` has port 0", site.name)));
                continue;
            }
            if !site.wants_addresses() {
                view.fresh = true;
                view.sites.push(site);
                continue;
            }
            let mut absent = Some(Absent::NoName);
            for &family in &questions {
                let key = (site.name.clone(), family);
                match round.done.get(&key) {
                    Some(Ok(Found::Records(found))) => {
                        absent = None;
                        view.fresh = true;
                        view.ttl = Some(view.ttl.map_or(found.ttl, |ttl| ttl.min(found.ttl)));
                        let allowed = |address: &&IpAddr| self.families.allow(**address);
                        let found: Vec<_> = found.records.iter().filter(allowed).copied().collect();
                        site.addresses.extend(&found);
                        self.last.insert(key, found);
                    }
                    Some(Ok(Found::Nothing(nothing))) => {
                        absent = absent.map(|absent| absent.min(*nothing));
                        self.last.remove(&key);
                    }
                    missing => {
                        absent = None;
                        view.errors.push(match missing {
                            Some(Err(failure)) => failure.error.clone(),
                            _ => no_answer(&key, complete),
                        });
                        site.addresses.extend(self.last.get(&key).into_iter().flatten());
                    }
                }
            }
            if let Some(absent) = absent {
                view.barren.push(DiscoverError::new(format!("`{}` {absent}", site.name)));
            }
            view.sites.push(site);
        }
        if complete {
            let asked: HashSet<_> = round.asked.iter().collect();
            self.last.retain(|key, _| asked.contains(key));
        }
        view
    }
}

impl<L: Lookup> Look for Looker<L> {
    async fn look(&mut self) -> Seen {
        let mut round = match self.open.take() {
            Some(mut round) => {
                round.gather(&self.clock, None).await;
                round
            }
            None => match self.begin().await {
                Ok(round) => round,
                Err(seen) => return seen,
            },
        };
        loop {
            if let Some(seen) = self.conclude(&round) {
                if !round.open.is_empty() {
                    self.open = Some(round);
                }
                return seen;
            }
            round.gather(&self.clock, None).await;
        }
    }
}

// === impl Question ===

impl Question {
    pub(super) fn name(&self) -> &Name {
        match self {
            Self::Host { name, .. } | Self::Services { name, .. } => name,
        }
    }
}

// === impl Round ===

impl Round {
    fn new(sites: Vec<Site>, ttl: Option<Duration>, clock: &Clock) -> Self {
        let has_addresses = sites.iter().any(|site| !site.addresses.is_empty());
        let until = after(clock.now(), PATIENCE);
        let (asked, open, done) = Default::default();
        Self { sites, asked, open, done, ttl, has_addresses, until }
    }

    /// Waits for all answers, but for no more than `grace` once there is one with addresses.
    async fn gather(&mut self, clock: &Clock, grace: Option<Duration>) {
        let mut until = self.until;
        let mut in_grace = false;
        loop {
            if let (Some(grace), false, true) = (grace, in_grace, self.has_addresses) {
                in_grace = true;
                until = until.min(after(clock.now(), grace));
            }
            tokio::select! {
                biased;
                answer = self.open.join_next() => match answer {
                    Some(Ok((key, answer))) => self.hear(key, answer),
                    // Who asked is gone without an answer; the key is missed below.
                    Some(Err(_)) => {}
                    None => return,
                },
                () = clock.sleep_until(until) => break,
            }
        }
        if until == self.until {
            // Whoever still asks is told to stop.
            self.open = JoinSet::new();
        }
    }

    fn hear(&mut self, key: Key, answer: Answer<IpAddr>) {
        self.has_addresses |= matches!(answer, Ok(Found::Records(_)));
        self.done.insert(key, answer);
    }

    /// The round, if its name has any address.
    fn found(self) -> Result<Result<Self, Absent>, Failure> {
        if self.has_addresses {
            return Ok(Ok(self));
        }
        let mut absent = Absent::NoName;
        let mut failures = Vec::new();
        for key in &self.asked {
            match self.done.get(key) {
                Some(Ok(Found::Nothing(nothing))) => absent = absent.min(*nothing),
                Some(Err(failure)) => failures.push(failure.clone()),
                _ => failures.push(Failure { error: no_answer(key, true), answered: false }),
            }
        }
        let answered = failures.iter().all(|failure| failure.answered);
        match failures.into_iter().next() {
            Some(first) => Err(Failure { answered, ..first }),
            None => Ok(Err(absent)),
        }
    }
}

fn no_answer((name, family): &Key, complete: bool) -> DiscoverError {
    let yet = if complete { "" } else { " yet" };
    DiscoverError::new(format!("`{name}` {family}: no answer{yet}"))
}

/// One error for all of them.
fn summary(errors: &[DiscoverError]) -> Option<DiscoverError> {
    let (first, more) = errors.split_first()?;
    Some(match more.len() {
        0 => first.clone(),
        more => DiscoverError::caused(format!("{first} (and {more} more)"), first.clone()),
    })
}

// === impl Seen ===

impl Seen {
    fn failed(error: DiscoverError) -> Self {
        Self { update: Update::Failed(error), again: Again::Backoff }
    }

    fn empty(reason: String) -> Self {
        Self { update: Update::Empty(Reason::says(reason)), again: Again::Rarely }
    }
}

#[cfg(test)]
mod tests;
