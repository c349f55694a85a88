//! A new set on its way into the roster, a portion at a time.
//!
//! Requests see nothing of it before the snapshot that is made of the whole.

use std::{
    collections::{HashMap, hash_map},
    mem,
    sync::Arc,
    time::Instant,
};

use super::{
    diff::{Diff, Draining, Member, Roster, can_be_dialled},
    make::MakeEndpoint,
    turns::Turn,
};
use crate::{discovery::Endpoints, endpoint::Identity, node::TriedPlaces};

/// What is to become of the roster, and how far it has.
pub(crate) struct Applying<S> {
    endpoints: Arc<Endpoints>,
    /// How many of them are applied.
    applied: usize,
    before: Vec<Option<Member<S>>>,
    index_before: HashMap<Identity, usize>,
    /// Where those stand that have no past, and where the others do.
    fresh: Vec<usize>,
    others: Vec<usize>,
    tried_places: TriedPlaces,
    diff: Diff,
}

/// Those that left, on their way out.
pub(crate) struct Settling<S> {
    leaving: hash_map::IntoIter<Identity, Member<S>>,
    until: Instant,
}

// === impl Applying ===

impl<S> Applying<S> {
    pub(crate) fn begin(endpoints: Arc<Endpoints>, roster: &mut Roster<S>) -> Self {
        let before = mem::take(&mut roster.listed).into_iter().map(Some).collect();
        let index_before = mem::take(&mut roster.index);
        // At once, since growing moves all that is there.
        roster.listed.reserve(endpoints.len());
        roster.index.reserve(endpoints.len());
        let tried_places = TriedPlaces::for_nodes(endpoints.len());
        Self {
            endpoints,
            applied: 0,
            before,
            index_before,
            fresh: Vec::new(),
            others: Vec::new(),
            tried_places,
            diff: Diff::default(),
        }
    }

    /// Goes on until the turn is over; what the set changed, once all of it is applied.
    pub(crate) fn go_on<M>(
        &mut self,
        roster: &mut Roster<S>,
        make: &M,
        turn: &mut Turn,
    ) -> Option<Diff>
    where
        M: MakeEndpoint<Service = S>,
    {
        while self.take_next(roster, make) {
            if !turn.goes_on(&roster.fleet) {
                return None;
            }
        }
        if !self.introduce(roster, turn) {
            return None;
        }
        while let Some(member) = self.before.pop() {
            let Some(member) = member else { continue };
            self.diff.removed += 1;
            tracing::debug!(endpoint = %member.endpoint, "endpoint removed");
            roster.leaving.insert(member.endpoint.identity().clone(), member);
            if !turn.goes_on(&roster.fleet) {
                return None;
            }
        }
        Some(mem::take(&mut self.diff))
    }

    /// Applies the next endpoint; false if there is none.
    fn take_next<M>(&mut self, roster: &mut Roster<S>, make: &M) -> bool
    where
        M: MakeEndpoint<Service = S>,
    {
        let Some(endpoint) = self.endpoints.iter().as_slice().get(self.applied) else {
            return false;
        };
        self.applied += 1;
        let identity = endpoint.identity();
        if roster.index.contains_key(identity) {
            return true;
        }
        if !can_be_dialled(endpoint) {
            self.diff.invalid.push(endpoint.clone());
            return true;
        }
        let kept = self.index_before.get(identity).and_then(|&at| self.before[at].take());
        let known = match kept {
            Some(mut member) => {
                self.diff.changed += usize::from(member.take_value(endpoint));
                Some(member)
            }
            None => {
                self.diff.added += 1;
                roster.revive(endpoint)
            }
        };
        let standing = if known.is_some() { &mut self.others } else { &mut self.fresh };
        standing.push(roster.listed.len());
        let member =
            known.unwrap_or_else(|| roster.create(endpoint.clone(), make, &mut self.tried_places));
        roster.index.insert(identity.clone(), roster.listed.len());
        roster.listed.push(member);
        true
    }

    /// Each of the fresh members is taken for another, drawn at random, until it answers itself: so it
    /// is as attractive as any, and many clients do not agree on it. Also for one of which nothing is
    /// known: the one that a client likes best is among the known, whom it would meet too often. False
    /// if the turn is over before.
    fn introduce(&mut self, roster: &Roster<S>, turn: &mut Turn) -> bool {
        if self.others.is_empty() {
            return true;
        }
        let mut rng = roster.fleet.seeds.rng();
        while let Some(fresh) = self.fresh.pop() {
            let other = self.others[rng.below(self.others.len())];
            roster.listed[fresh].node.take_for(&roster.listed[other].node);
            if !turn.goes_on(&roster.fleet) {
                return false;
            }
        }
        true
    }
}

// === impl Settling ===

impl<S> Settling<S> {
    /// Begins to retire the nodes that left, now that no snapshot lists them: those without a request
    /// go at once, the others drain until `until`.
    pub(crate) fn begin(roster: &mut Roster<S>, until: Instant) -> Self {
        Self { leaving: mem::take(&mut roster.leaving).into_iter(), until }
    }

    /// Goes on until the turn is over; true once all are out.
    pub(crate) fn go_on(&mut self, roster: &mut Roster<S>, turn: &mut Turn) -> bool {
        let until = self.until;
        for (identity, member) in self.leaving.by_ref() {
            if member.node.retire() {
                member.node.close();
            } else {
                roster.draining.insert(identity, Draining { member, until });
            }
            if !turn.goes_on(&roster.fleet) {
                return false;
            }
        }
        true
    }

    pub(crate) fn is_over(&self) -> bool {
        self.leaving.len() == 0
    }
}
