//! Which nodes are dialled, and when: a few eagerly, the wanted at once, the failed after a rest,
//! never too many together.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::node::{Fleet, LinkState, Node, NodeId};

/// Dials that may be under way at once.
const DIALS_AT_ONCE: usize = 16;
/// A client that has not said how its dial went by then no longer holds others up.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Dials {
    /// Since when, in nanoseconds of the fleet.
    under_way: HashMap<NodeId, u64>,
    wanted: VecDeque<Arc<Node>>,
    eager: VecDeque<Arc<Node>>,
    resting: BinaryHeap<Reverse<(u64, NodeId)>>,
    failed: HashMap<NodeId, Arc<Node>>,
}

/// What is due when a node's backoff ended.
#[derive(Debug)]
pub(crate) enum Rested {
    /// Its client dials when told to.
    Managed(Arc<Node>),
    /// Its client knows nothing of dials: its service must be made anew.
    Unmanaged(Arc<Node>),
}

impl Dials {
    /// Dials, in random order, as many of `listed` as keep `keep_connected` of them connected.
    pub(crate) fn plan_eager<'a>(
        &mut self,
        fleet: &Fleet,
        listed: impl Iterator<Item = &'a Arc<Node>>,
        keep_connected: usize,
    ) {
        self.eager.clear();
        let mut connected = 0;
        let mut idle = Vec::new();
        for node in listed {
            match node.link_state() {
                LinkState::Idle => idle.push(Arc::clone(node)),
                LinkState::Failed { .. } => {}
                _ => connected += 1,
            }
        }
        let mut room = keep_connected.saturating_sub(connected);
        let mut rng = fleet.seeds.rng();
        while room > 0 && !idle.is_empty() {
            self.eager.push_back(idle.swap_remove(rng.below(idle.len())));
            room -= 1;
        }
    }

    /// Takes note of what happened to a node: it is wanted, its dial ended, or its link failed.
    pub(crate) fn attend(&mut self, node: &Arc<Node>) {
        if node.link_state() != LinkState::Connecting {
            self.under_way.remove(&node.id());
        }
        if let Some(until) = node.link.failed_until() {
            if self.failed.insert(node.id(), Arc::clone(node)).is_none() {
                self.resting.push(Reverse((until, node.id())));
            }
        }
        if node.take_wanted() {
            self.wanted.push_back(Arc::clone(node));
        }
    }

    /// Starts what may be started.
    pub(crate) fn start(&mut self, fleet: &Fleet) {
        let now = fleet.nanos(fleet.now());
        let forgotten = now.saturating_sub(FORGOTTEN_AFTER.as_nanos() as u64);
        if self.under_way.len() >= DIALS_AT_ONCE {
            self.under_way.retain(|_, since| *since > forgotten);
        }
        while self.under_way.len() < DIALS_AT_ONCE {
            let Some(node) = self.wanted.pop_front().or_else(|| self.eager.pop_front()) else {
                break;
            };
            if node.link.is_idle() && !node.is_retired() {
                self.under_way.insert(node.id(), now);
                node.dial();
            }
        }
    }

    /// When the next backoff ends, or a dial is given up on that holds others up.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let rested = self.resting.peek().map(|Reverse((until, _))| *until);
        let blocked = !(self.wanted.is_empty() && self.eager.is_empty());
        let forgotten = self
            .under_way
            .values()
            .min()
            .filter(|_| blocked)
            .map(|since| since.saturating_add(FORGOTTEN_AFTER.as_nanos() as u64));
        rested.into_iter().chain(forgotten).min()
    }

    /// The nodes whose backoff has ended.
    pub(crate) fn rested(&mut self, fleet: &Fleet) -> Vec<Rested> {
        let now = fleet.nanos(fleet.now());
        let mut rested = Vec::new();
        while self.resting.peek().is_some_and(|Reverse((until, _))| *until <= now) {
            let Some(Reverse((_, id))) = self.resting.pop() else { break };
            let Some(node) = self.failed.remove(&id) else { continue };
            match node.link.failed_until() {
                _ if node.is_retired() => {}
                None => {}
                // It came up and failed again meanwhile.
                Some(until) if until > now => {
                    self.resting.push(Reverse((until, id)));
                    self.failed.insert(id, node);
                }
                Some(_) if node.link.is_managed() => rested.push(Rested::Managed(node)),
                Some(_) => rested.push(Rested::Unmanaged(node)),
            }
        }
        rested
    }

    pub(crate) fn want(&mut self, node: Arc<Node>) {
        self.wanted.push_back(node);
    }
}
