//! Which nodes are dialled, and when: a few eagerly, the wanted at once, the failed after a rest,
//! never too many together.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use crate::{
    node::{Fleet, LinkState, Node, NodeId, after},
    policy::Scope,
};

/// Dials that may be under way at once.
const DIALS_AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Dials {
    /// Until when, in nanoseconds of the fleet: a client that has not said by then how its dial went is
    /// taken to have failed.
    under_way: HashMap<NodeId, (u64, Arc<Node>)>,
    wanted: VecDeque<Arc<Node>>,
    /// Those in `wanted`: a node stands there once, however many requests want it.
    queued: HashSet<NodeId>,
    eager: VecDeque<Arc<Node>>,
    resting: BinaryHeap<Reverse<(u64, NodeId)>>,
    /// With the moment that stands for it in `resting`; what else stands there is out of date.
    failed: HashMap<NodeId, (u64, Arc<Node>)>,
}

/// What is due when a node's backoff ended.
#[derive(Debug)]
pub(crate) enum Rested {
    /// Its client dials when told to.
    Managed(Arc<Node>),
    /// Its client knows nothing of dials: its service must be made anew.
    Unmanaged(Arc<Node>),
}

/// What is to be dialled though no request wants it yet.
#[derive(Debug, Default)]
pub(crate) struct EagerPlan {
    /// In the order of their dials.
    nodes: VecDeque<Arc<Node>>,
    failing: Vec<Arc<Node>>,
}

// === impl EagerPlan ===

impl EagerPlan {
    /// As many nodes of `tiers` as keep `keep_connected` of them connected: the preferred tiers first,
    /// and the nodes of each in random order. Under a policy that walks past what has failed, no
    /// request would ever want that: it is dialled, too.
    pub(crate) fn of<'a>(
        fleet: &Fleet,
        tiers: impl Iterator<Item = &'a [Arc<Node>]>,
        keep_connected: usize,
        scope: Scope,
    ) -> Self {
        let mut plan = Self::default();
        let mut room = keep_connected;
        let mut rng = fleet.seeds.rng();
        for nodes in tiers {
            let mut idle = Vec::new();
            for node in nodes {
                match node.link_state() {
                    LinkState::Idle if scope == Scope::Listed && node.link.is_failing() => {
                        plan.failing.push(Arc::clone(node));
                    }
                    LinkState::Idle => idle.push(node),
                    LinkState::Failed { .. } => {}
                    _ => room = room.saturating_sub(1),
                }
            }
            while room > 0 && !idle.is_empty() {
                plan.nodes.push_back(Arc::clone(idle.swap_remove(rng.below(idle.len()))));
                room -= 1;
            }
        }
        plan
    }
}

// === impl Dials ===

impl Dials {
    /// Dials what is planned, in the place of what was.
    pub(crate) fn follow(&mut self, plan: EagerPlan) {
        self.eager = plan.nodes;
        plan.failing.into_iter().for_each(|node| self.want(node));
    }

    /// Takes note of what happened to a node: it is wanted, its dial ended, or its link failed.
    pub(crate) fn attend(&mut self, node: &Arc<Node>) {
        if node.link_state() != LinkState::Connecting {
            self.under_way.remove(&node.id());
        }
        if let Some(until) = node.link.failed_until() {
            let before = self.failed.insert(node.id(), (until, Arc::clone(node)));
            if before.is_none_or(|(before, _)| before != until) {
                self.resting.push(Reverse((until, node.id())));
            }
        }
        if node.take_wanted() {
            self.want(Arc::clone(node));
        }
    }

    /// Nodes that are gone dial no longer, whether their clients say so or not.
    pub(crate) fn forget_retired(&mut self) {
        self.under_way.retain(|_, (_, node)| !node.is_retired());
        self.failed.retain(|_, (_, node)| !node.is_retired());
    }

    /// Nodes whose clients have not said for too long how their dial went.
    pub(crate) fn silent(&mut self, fleet: &Fleet) -> Vec<Arc<Node>> {
        let now = fleet.now_nanos();
        let mut silent = Vec::new();
        self.under_way.retain(|_, (until, node)| {
            let overdue = now >= *until;
            if overdue && node.link_state() == LinkState::Connecting {
                silent.push(Arc::clone(node));
            }
            !overdue
        });
        silent
    }

    /// Starts what may be started.
    pub(crate) fn start(&mut self, fleet: &Fleet) {
        let now = fleet.now();
        while self.under_way.len() < DIALS_AT_ONCE {
            let Some(node) = self.pop_wanted().or_else(|| self.eager.pop_front()) else { break };
            node.end_backoff_early();
            if node.link.is_idle() && !node.is_retired() {
                let until = fleet.nanos(after(now, node.dial_limit()));
                self.under_way.insert(node.id(), (until, Arc::clone(&node)));
                node.dial();
            }
        }
    }

    /// When the next backoff ends, or a dial is given up on.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let rested = self.resting.peek().map(|Reverse((until, _))| *until);
        let forgotten = self.under_way.values().map(|(until, _)| *until).min();
        rested.into_iter().chain(forgotten).min()
    }

    /// The nodes whose backoff has ended.
    pub(crate) fn rested(&mut self, fleet: &Fleet) -> Vec<Rested> {
        let now = fleet.nanos(fleet.now());
        let mut rested = Vec::new();
        while self.resting.peek().is_some_and(|Reverse((until, _))| *until <= now) {
            let Some(Reverse((until, id))) = self.resting.pop() else { break };
            if self.failed.get(&id).is_none_or(|(stands, _)| *stands != until) {
                continue;
            }
            let Some((_, node)) = self.failed.remove(&id) else { continue };
            match node.link.failed_until() {
                _ if node.is_retired() => {}
                None => {}
                // It came up and failed again meanwhile.
                Some(until) if until > now => {
                    self.resting.push(Reverse((until, id)));
                    self.failed.insert(id, (until, node));
                }
                Some(_) if node.link.is_managed() => rested.push(Rested::Managed(node)),
                Some(_) => rested.push(Rested::Unmanaged(node)),
            }
        }
        rested
    }

    pub(crate) fn want(&mut self, node: Arc<Node>) {
        if self.queued.insert(node.id()) {
            self.wanted.push_back(node);
        }
    }

    fn pop_wanted(&mut self) -> Option<Arc<Node>> {
        let node = self.wanted.pop_front()?;
        self.queued.remove(&node.id());
        Some(node)
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        endpoint::Endpoint,
        node::{Clock, Dial, Link, Seeds},
    };

    /// Says nothing of its dials, which may take so many seconds.
    struct Mute(u64);

    impl Dial for Mute {
        fn dial(&self) {}

        fn limit(&self) -> Duration {
            Duration::from_secs(self.0)
        }

        fn close(&self) {}
    }

    /// R2: a dial is given up on when its client's own limit has passed, and not before.
    #[tokio::test(start_paused = true)]
    async fn r2_a_dial_has_the_time_that_its_client_says() {
        for seconds in [1, 10, 30] {
            let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::fixed(7));
            let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
            let node = Node::new(0, &endpoint, Arc::clone(&fleet));
            let client: Arc<dyn Dial> = Arc::new(Mute(seconds));
            Link::new(Arc::clone(&node)).manage(Arc::downgrade(&client));
            let mut dials = Dials::default();
            dials.want(Arc::clone(&node));
            dials.start(&fleet);
            assert_eq!(node.link_state(), LinkState::Connecting);
            tokio::time::advance(Duration::from_millis(seconds * 1_000 - 10)).await;
            assert_eq!(dials.silent(&fleet).len(), 0, "of {seconds}");
            tokio::time::advance(Duration::from_millis(10)).await;
            assert_eq!(dials.silent(&fleet).len(), 1, "of {seconds}");
        }
    }

    /// R8: requests that want a node whose dial has to wait cost no memory.
    #[test]
    fn r8_a_node_that_many_requests_want_is_queued_once() {
        let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::fixed(7));
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
        let node = Node::new(0, &endpoint, Arc::clone(&fleet));
        let mut dials = Dials::default();
        for _ in 0..3 {
            for _ in 0..1_000 {
                node.want();
                node.attended();
                dials.attend(&node);
            }
            assert_eq!((dials.wanted.len(), dials.queued.len()), (1, 1));
            dials.start(&fleet);
            assert_eq!((dials.wanted.len(), dials.queued.len()), (0, 0));
        }
    }
}
