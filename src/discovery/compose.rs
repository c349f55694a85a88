//! Several sources as one: what [`Failover`](super::Failover) and [`Merge`](super::Merge) share.
//!
//! Each source keeps what it last said, and its own choice of what emptiness does, for its own part:
//! that a primary is empty for a moment must not send all to the backup. The whole is as honest as
//! its parts: with one part in error it is partial, with all of them it has failed, and it is empty
//! only if every part says so, or if what is known to be gone was all that there was.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;

use super::{
    Endpoints, Here, OnEmpty, Reason, RefreshRequests, Update,
    any_source::{AnySource, Updates},
    refresh::{self, RefreshHandle},
    sleep::sleep_until,
    unfold::unfold,
};
use crate::{
    endpoint::{Endpoint, Locality},
    error::DiscoverError,
    node::{Clock, after},
};

/// How long those who have spoken wait for those who never have.
const PATIENCE: Duration = Duration::from_secs(1);
/// Updates of one source that are taken together.
const BATCH: usize = 64;

/// Makes one list of what the parts say, each with its place among the sources.
pub(super) type Combine = Box<dyn Fn(&[(usize, &Endpoints)]) -> Vec<Endpoint> + Send + Sync>;

/// Sources in the course of being watched.
struct Composition {
    parts: Vec<Part>,
    combine: Combine,
    refresh: RefreshRequests,
    clock: Clock,
    /// Until when silence is waited for; none once anything was said.
    patience: Option<Instant>,
    /// Where this process runs, as far as any part has found out.
    here: Here,
    /// The set that was last said, which is the one that a failure leaves standing.
    said: Endpoints,
    /// To be said before anything is waited for.
    next: Option<Update>,
}

/// One source, and what it says.
struct Part {
    name: Arc<str>,
    /// None once it has ended.
    updates: Option<Updates>,
    refresh: RefreshHandle,
    on_empty: OnEmpty,
    here: Here,
    set: Endpoints,
    state: State,
    /// When a set that is known to be gone is no longer kept.
    clear_at: Option<Instant>,
}

enum State {
    Silent,
    Good,
    /// It answered in part, or not at all.
    Wrong {
        error: DiscoverError,
        answered: bool,
    },
    Empty(Reason),
}

/// The updates of `sources`, made one by `combine`; what they find out of the own place goes to `here`.
pub(super) fn compose(
    sources: &[Arc<dyn AnySource>],
    combine: Combine,
    here: Here,
    clock: Clock,
    refresh: RefreshRequests,
) -> impl Stream<Item = Update> + Send + use<> {
    let parts = sources.iter().map(|source| Part::start(&**source)).collect();
    let patience = Some(after(clock.now(), PATIENCE));
    let (said, next) = (Endpoints::default(), None);
    let composition = Composition { parts, combine, refresh, clock, patience, here, said, next };
    unfold(composition, |mut composition| async move { (composition.next().await, composition) })
}

// === impl Composition ===

impl Composition {
    async fn next(&mut self) -> Update {
        if let Some(update) = self.next.take() {
            return update;
        }
        loop {
            let clear_at = self.parts.iter().filter_map(|part| part.clear_at).min();
            let due = clear_at.into_iter().chain(self.patience).min();
            let (parts, clock) = (&mut self.parts, &self.clock);
            tokio::select! {
                biased;
                () = poll_fn(|cx| hear(parts, clock.now(), cx)) => {}
                () = self.refresh.requested() => {
                    self.parts.iter().for_each(|part| part.refresh.request());
                    continue;
                }
                () = sleep_until(&self.clock, due) => {}
            }
            let now = self.clock.now();
            self.parts.iter_mut().for_each(|part| part.on_time(now));
            let waits = self.patience.is_some_and(|patience| now < patience);
            if waits && self.parts.iter().any(|part| matches!(part.state, State::Silent)) {
                continue;
            }
            self.patience = None;
            self.find_place();
            if let Some(update) = self.update() {
                return update;
            }
        }
    }

    fn find_place(&self) {
        let known = self.parts.iter().map(|part| part.here.get());
        self.here.set(known.fold(Locality::default(), |place, known| place.or(&known)));
    }

    /// What all of them say together; nothing if none has said anything.
    fn update(&mut self) -> Option<Update> {
        let mut errors = Vec::new();
        let mut reasons = Vec::new();
        let mut answered = false;
        for part in &self.parts {
            let name = &part.name;
            match &part.state {
                State::Good => answered = true,
                State::Silent => {
                    errors.push(DiscoverError::new(format!("`{name}` has not answered yet")));
                }
                State::Wrong { error, answered: in_part } => {
                    answered |= in_part;
                    errors.push(DiscoverError::caused(format!("`{name}`: {error}"), error.clone()));
                }
                State::Empty(reason) => reasons.push(format!("`{name}`: {reason}")),
            }
        }
        if self.parts.iter().all(|part| matches!(part.state, State::Silent)) {
            return if self.parts.is_empty() {
                Some(Update::Empty(Reason::says("there are no sources")))
            } else {
                None
            };
        }
        let sets: Vec<_> = self.parts.iter().map(|part| &part.set).enumerate().collect();
        let endpoints = Endpoints::from((self.combine)(&sets));
        let changed = || endpoints != self.said;
        let why_empty = || {
            let errors = errors.iter().map(ToString::to_string);
            Reason::says(reasons.iter().cloned().chain(errors).collect::<Vec<_>>().join("; "))
        };
        let update = match (endpoints.is_empty(), first_of(&errors)) {
            (true, None) => Update::Empty(why_empty()),
            // Some part knows that its set is gone, or it would be here: an error must not keep it.
            (true, Some(error)) if changed() => {
                self.next = Some(Update::Failed(error));
                Update::Empty(why_empty())
            }
            (true, Some(error)) => Update::Failed(error),
            (false, None) => Update::Set(endpoints.clone()),
            // What stands is what stood: no part has anything new to say. A part that is empty has.
            (false, Some(error)) if !answered && reasons.is_empty() && !changed() => {
                Update::Failed(error)
            }
            (false, Some(error)) => Update::Partial(endpoints.clone(), error),
        };
        self.said = endpoints;
        Some(update)
    }
}

/// Ready when any part has said something. Each is heard until it pauses, so that what comes at once
/// makes one update.
fn hear(parts: &mut [Part], now: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let mut heard = Poll::Pending;
    for part in parts {
        for _ in 0..BATCH {
            let Some(updates) = &mut part.updates else { break };
            match updates.as_mut().poll_next(cx) {
                Poll::Ready(Some(update)) => {
                    heard = Poll::Ready(());
                    part.hear(update, now);
                }
                // Asked again, many a stream panics. Its last set stands.
                Poll::Ready(None) => part.updates = None,
                Poll::Pending => break,
            }
        }
    }
    heard
}

/// One error for all of them.
fn first_of(errors: &[DiscoverError]) -> Option<DiscoverError> {
    let (first, more) = errors.split_first()?;
    if more.is_empty() {
        return Some(first.clone());
    }
    let text = format!("{first} (and {} more)", more.len());
    Some(DiscoverError::caused(text, first.clone()))
}

// === impl Part ===

impl Part {
    fn start(source: &dyn AnySource) -> Self {
        let (refresh, requests) = refresh::channel();
        Self {
            name: source.name(),
            updates: Some(source.start(requests)),
            refresh,
            on_empty: source.default_on_empty(),
            here: source.place(),
            set: Endpoints::default(),
            state: State::Silent,
            clear_at: None,
        }
    }

    fn hear(&mut self, update: Update, now: Instant) {
        match update {
            Update::Set(set) if set.is_empty() => self.hear_empty(Reason::NothingListed, now),
            Update::Set(set) => self.hear_set(set, State::Good),
            Update::Partial(set, error) if set.is_empty() => {
                self.state = State::Wrong { error, answered: false };
            }
            Update::Partial(set, error) => {
                self.hear_set(set, State::Wrong { error, answered: true });
            }
            Update::Empty(reason) => self.hear_empty(reason, now),
            Update::Failed(error) => self.state = State::Wrong { error, answered: false },
        }
    }

    fn hear_set(&mut self, set: Endpoints, state: State) {
        self.set = set;
        self.state = state;
        self.clear_at = None;
    }

    fn hear_empty(&mut self, reason: Reason, now: Instant) {
        self.state = State::Empty(reason);
        match self.on_empty {
            OnEmpty::Clear => drop(mem::take(&mut self.set)),
            OnEmpty::KeepFor(time) => {
                self.clear_at.get_or_insert(after(now, time));
            }
            OnEmpty::Keep => {}
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.clear_at.is_some_and(|at| at <= now) {
            self.clear_at = None;
            self.set = Endpoints::default();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
