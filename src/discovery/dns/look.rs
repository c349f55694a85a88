//! One look at a name: its candidates, the questions at once, and what is left of the answers.
//!
//! What one part of a look cannot say is filled in from the last time that it could, and the update
//! says so ([`Update::Partial`]). A part that is slow holds nothing up: after a grace the view without
//! it goes out, and the view with it when it has come. If it hangs, the looks that follow do not wait
//! for it; they share its question. Only a look of which no part failed may find that there is nothing.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::Name;

use self::{
    open::{Key, Open, no_answer},
    round::{Done, Round, Verdict},
};
use super::{
    KEEP_FOR,
    answer::{Absent, Failure, Families, Found, Lookup, Records, Service},
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

mod open;
mod round;

/// For how long it is believed that an SRV target has no addresses of a family that did not come along
/// with those of the other: the answer may have had no room for it (RFC 2782 asks for nothing better).
const BARREN_FOR: Duration = Duration::from_secs(30);

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
    /// Since when there is nothing, where there was something before.
    gone: Option<Instant>,
    /// Until when what did not come along is known not to exist.
    barren: HashMap<Key, Instant>,
    /// The candidate that had records the last time.
    good: Option<Name>,
    /// What was said last.
    said: Vec<Endpoint>,
    /// Questions of this look, and those of earlier ones that are still open.
    open: Open,
    /// The answers to this look.
    done: Done,
    /// The last look, while it waits for some of its parts.
    round: Option<Round>,
    /// Whether there is an answer that no update tells of yet.
    unsaid: bool,
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
            last: HashMap::new(),
            gone: None,
            barren: HashMap::new(),
            good: None,
            said: Vec::new(),
            open: Open::new(clock.clone()),
            done: Done::new(),
            round: None,
            unsaid: false,
            clock,
        }
    }

    /// Finds the first candidate that has anything, and asks for all of it. `wanted` gathers what it
    /// asks for.
    async fn find(&mut self, wanted: &mut HashSet<Key>) -> Result<Round, Seen> {
        let name = self.question.name().clone();
        let mut walked = Vec::new();
        let mut failure: Option<Failure> = None;
        let mut absent = Absent::NoName;
        for candidate in self.lookup.candidates(&name) {
            let is_good = self.good.as_ref() == Some(&candidate);
            let verdict = match self.ask(&candidate, is_good, wanted).await {
                Ok(round) => {
                    let verdict = self.verdict(&round);
                    if matches!(verdict, Verdict::Found) {
                        self.good = Some(candidate);
                        return Ok(round);
                    }
                    walked.push((candidate, round));
                    verdict
                }
                Err(verdict) => verdict,
            };
            match verdict {
                Verdict::Found => {}
                Verdict::Nothing(nothing) => absent = absent.min(nothing),
                Verdict::Failed(failed) => {
                    // Another name must not stand in for the one that works, while that one's
                    // server has a bad moment.
                    let stop = !failed.answered || is_good;
                    failure.get_or_insert(failed);
                    if stop {
                        break;
                    }
                }
            }
        }
        // What was not waited for on the way decides now.
        if walked.iter().any(|(_, round)| !round.is_complete(&self.open)) {
            failure = None;
            for (candidate, round) in walked {
                let (open, done) = (&mut self.open, &mut self.done);
                round.gather(open, done, &self.clock, Round::has_addresses).await;
                match self.verdict(&round) {
                    Verdict::Found => {
                        self.good = Some(candidate);
                        return Ok(round);
                    }
                    Verdict::Nothing(nothing) => absent = absent.min(nothing),
                    Verdict::Failed(failed) => drop(failure.get_or_insert(failed)),
                }
            }
        }
        if let Some(failure) = failure {
            return Err(Seen::failed(failure.error));
        }
        self.forget();
        Err(Seen::empty(format!("`{name}` {absent}")))
    }

    fn verdict(&self, round: &Round) -> Verdict {
        match self.question {
            Question::Host { .. } => round.verdict(&self.open, &self.done, &self.lookup.whom()),
            Question::Services { .. } => Verdict::Found,
        }
    }

    /// That there is nothing may be a hiccup: for as long as the set stands, so does what is known of
    /// its parts.
    fn forget(&mut self) {
        let now = self.clock.now();
        let gone = *self.gone.get_or_insert(now);
        if now.saturating_duration_since(gone) >= KEEP_FOR {
            self.last.clear();
        }
        self.good = None;
        self.said.clear();
    }

    /// What `name` has, as far as it takes to know that it has something. Whether one that had
    /// something the last time is gone is waited for; of any other it is enough that one family says
    /// so.
    async fn ask(
        &mut self,
        name: &Name,
        is_good: bool,
        wanted: &mut HashSet<Key>,
    ) -> Result<Round, Verdict> {
        let mut round = match self.question {
            Question::Host { port, .. } => Round::new(vec![Site::host(name.clone(), port)], None),
            Question::Services { ignore_weights, .. } => {
                let known = !self.last.is_empty();
                let found = self.lookup.services(name.clone(), known).await;
                let found = found.map_err(Verdict::Failed)?;
                let Records { records, ttl } = match found {
                    Found::Records(records) => records,
                    Found::Nothing(absent) => return Err(Verdict::Nothing(absent)),
                };
                let site = |mut service: Service| {
                    service.addresses.retain(|address| self.families.allow(*address));
                    Site::service(service, ignore_weights)
                };
                Round::new(records.into_iter().map(site).collect(), Some(ttl))
            }
        };
        self.start(&mut round);
        wanted.extend(round.asked.iter().cloned());
        let is_one_of_many = matches!(self.question, Question::Host { .. }) && !is_good;
        let is_enough = |round: &Round, done: &Done| {
            round.has_addresses(done) || is_one_of_many && round.has_no_name(done)
        };
        round.gather(&mut self.open, &mut self.done, &self.clock, is_enough).await;
        Ok(round)
    }

    /// Asks for the addresses of all sites that did not come along.
    fn start(&mut self, round: &mut Round) {
        let (now, whom) = (self.clock.now(), self.lookup.whom());
        let questions = self.lookup.questions(self.families);
        let mut seen = HashSet::new();
        for site in round.sites.iter().filter(|site| site.is_usable()) {
            for &family in questions.iter().filter(|family| !site.came_along(**family)) {
                let key = (site.name.clone(), family);
                if !seen.insert(key.clone()) {
                    continue;
                }
                let is_barren = self.barren.get(&key).is_some_and(|until| now < *until);
                if is_barren && !site.addresses.is_empty() {
                    round.barren.insert(key);
                    continue;
                }
                if self.open.contains(&key) {
                    round.late.insert(key.clone());
                } else {
                    let known = self.last.contains_key(&key);
                    let addresses = self.lookup.addresses(site.name.clone(), family, known);
                    self.open.ask(key.clone(), &whom, addresses);
                }
                round.asked.push(key);
            }
        }
    }

    /// What `round` comes to; or no update, if it says nothing new yet.
    fn conclude(&mut self, round: &Round, is_first: bool) -> Seen {
        let complete = round.is_complete(&self.open);
        let view = self.view(round);
        if !view.fresh {
            // Old addresses alone are no answer: they stand as they are.
            if let Some(error) = summary(&view.errors) {
                return Seen::failed(error);
            }
            self.forget();
            let reason = match summary(&view.barren) {
                Some(barren) => barren.to_string(),
                // RFC 2782: a target of "." says so.
                None => "the domain does not offer the service (SRV target `.`)".to_owned(),
            };
            return Seen::empty(reason);
        }
        self.gone = None;
        let again = Again::After(view.ttl.unwrap_or_default());
        let endpoints = endpoints(&view.sites, self.server_name.as_ref());
        // What has been late for a whole look is worth a word; what may come at any moment is not.
        let hangs = is_first && round.late.iter().any(|key| self.open.contains(key));
        if !complete && !hangs && endpoints == self.said {
            return Seen { update: None, again };
        }
        self.said.clone_from(&endpoints);
        let endpoints = Endpoints::from(endpoints);
        let errors: Vec<_> = view.errors.into_iter().chain(view.barren).collect();
        let update = match summary(&errors) {
            Some(error) => Update::Partial(endpoints, error),
            None => Update::Set(endpoints),
        };
        Seen { update: Some(update), again }
    }

    /// The addresses of `round`, with those of the last time where there are no new ones.
    fn view(&mut self, round: &Round) -> View {
        let mut view = View { ttl: round.ttl, ..View::default() };
        let (now, whom) = (self.clock.now(), self.lookup.whom());
        let questions = self.lookup.questions(self.families);
        let mut gone = Vec::new();
        self.barren.retain(|_, until| now < *until);
        for listed in round.sites.iter().filter(|site| !site.is_unavailable()) {
            if !listed.is_usable() {
                view.barren.push(DiscoverError::new(format!("`{}` has port 0", listed.name)));
                continue;
            }
            let mut site = listed.clone();
            let came_along = !listed.addresses.is_empty();
            view.fresh |= came_along;
            let mut absent = if came_along { None } else { Some(Absent::NoName) };
            for &family in &questions {
                let key = (site.name.clone(), family);
                if listed.came_along(family) {
                    self.last.insert(key, listed.of(family).collect());
                    continue;
                }
                if round.barren.contains(&key) {
                    continue;
                }
                match self.done.get(&key) {
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
                        if came_along {
                            self.barren
                                .entry(key.clone())
                                .or_insert_with(|| after(now, BARREN_FOR));
                        }
                        gone.push(key);
                    }
                    missing => {
                        absent = None;
                        view.errors.push(match missing {
                            Some(Err(failure)) => failure.error.clone(),
                            _ => no_answer(&key, &whom, self.open.contains(&key)),
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
        // Of what has nothing at all, as of an empty answer, something is still known; see `forget`.
        if view.fresh {
            for key in gone {
                self.last.remove(&key);
            }
        }
        // The list of the targets is whole, whatever is known of them.
        let lists_all = matches!(self.question, Question::Services { .. });
        if view.fresh && (lists_all || round.is_complete(&self.open)) {
            let listed: HashSet<_> = round.sites.iter().map(|site| &site.name).collect();
            self.last.retain(|(name, _), _| listed.contains(name));
        }
        view
    }
}

impl<L: Lookup> Look for Looker<L> {
    async fn prepare(&mut self) -> Result<(), DiscoverError> {
        self.lookup.prepare().await
    }

    fn late(&self) -> DiscoverError {
        let (name, whom) = (self.question.name(), self.lookup.whom());
        DiscoverError::new(format!("`{name}`: no answer yet from {whom}"))
    }

    async fn look(mut self) -> (Self, Seen) {
        if let Some(round) = self.round.take() {
            // Came too late to be said, and is the last that is known.
            self.view(&round);
        }
        self.done.clear();
        self.unsaid = false;
        let mut wanted = HashSet::new();
        let found = self.find(&mut wanted).await;
        self.open.keep(&wanted);
        let seen = match found {
            Ok(round) => {
                let seen = self.conclude(&round, true);
                self.round = Some(round).filter(|round| !round.is_complete(&self.open));
                seen
            }
            Err(seen) => seen,
        };
        (self, seen)
    }

    async fn more(&mut self) -> Seen {
        loop {
            let Some(round) = self.round.as_ref() else { return pending().await };
            if !self.unsaid {
                if let Some((key, answer)) = self.open.next().await {
                    self.done.insert(key, answer);
                }
                self.unsaid = true;
            }
            // What comes at once makes one update.
            let (open, done) = (&mut self.open, &mut self.done);
            round.gather(open, done, &self.clock, |_, _| true).await;
            let Some(round) = self.round.take() else { continue };
            self.unsaid = false;
            let seen = self.conclude(&round, false);
            self.round = Some(round).filter(|round| !round.is_complete(&self.open));
            if seen.update.is_some() {
                return seen;
            }
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
    fn empty(reason: String) -> Self {
        Self { update: Some(Update::Empty(Reason::says(reason))), again: Again::Rarely }
    }
}

#[cfg(test)]
mod tests;
