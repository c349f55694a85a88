//! Which nodes are dialled, and when: a few eagerly, the wanted at once, the failed after a rest,
//! never too many together.
//!
//! Those that have failed and not been up since stand in a queue of their own, and leave room for the
//! others: where a zone is lost, a dial of each of its endpoints takes as long as it may, and there are
//! always some to be dialled again.

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
/// As many of these may be of nodes that have failed.
const DIALS_AGAIN_AT_ONCE: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Dials {
    under_way: HashMap<NodeId, UnderWay>,
    /// Nodes that have not failed since they were last up, if ever they were.
    fresh: Queue,
    /// Nodes that have.
    again: Queue,
    /// Those wanted in either queue: a node stands there once, however many requests want it.
    queued: HashSet<NodeId>,
    resting: BinaryHeap<Reverse<(u64, NodeId)>>,
    /// With the moment that stands for it in `resting`; what else stands there is out of date.
    failed: HashMap<NodeId, (u64, Arc<Node>)>,
}

/// A dial of which no end is known.
#[derive(Debug)]
struct UnderWay {
    node: Arc<Node>,
    /// In nanoseconds of the fleet: a client that has not said by then how its dial went is taken to
    /// have failed.
    until: u64,
    /// The node had failed before.
    is_again: bool,
}

/// Nodes that wait for their dial.
#[derive(Debug, Default)]
struct Queue {
    wanted: VecDeque<Arc<Node>>,
    /// After the wanted.
    eager: VecDeque<Arc<Node>>,
}

/// What is due when a node's backoff ended.
#[derive(Debug)]
pub(crate) enum Rested {
    /// Its client dials when told to.
    Fit(Arc<Node>),
    /// Its client's readiness failed, or it knows nothing of dials: its service must be made anew.
    Unfit(Arc<Node>),
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
    /// of each those first that have not failed, and all in random order. Under a policy that walks past
    /// what has failed, no request would ever want that: it is dialled, too.
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
            let (mut fresh, mut failing) = (Vec::new(), Vec::new());
            for node in nodes {
                match node.link_state() {
                    LinkState::Idle if !node.link.is_failing() => fresh.push(node),
                    LinkState::Idle if scope == Scope::Listed => {
                        plan.failing.push(Arc::clone(node));
                    }
                    LinkState::Idle => failing.push(node),
                    LinkState::Failed { .. } => {}
                    _ => room = room.saturating_sub(1),
                }
            }
            for mut idle in [fresh, failing] {
                while room > 0 && !idle.is_empty() {
                    plan.nodes.push_back(Arc::clone(idle.swap_remove(rng.below(idle.len()))));
                    room -= 1;
                }
            }
        }
        plan
    }
}

// === impl Dials ===

impl Dials {
    /// Dials what is planned, in the place of what was.
    pub(crate) fn follow(&mut self, plan: EagerPlan) {
        let (again, fresh) = plan.nodes.into_iter().partition(|node| node.link.is_failing());
        self.fresh.eager = fresh;
        self.again.eager = again;
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
        self.under_way.retain(|_, dial| !dial.node.is_retired());
        self.failed.retain(|_, (_, node)| !node.is_retired());
    }

    /// Nodes whose clients have not said for too long how their dial went.
    pub(crate) fn silent(&mut self, fleet: &Fleet) -> Vec<Arc<Node>> {
        let now = fleet.now_nanos();
        let mut silent = Vec::new();
        self.under_way.retain(|_, dial| {
            let overdue = now >= dial.until;
            if overdue && dial.node.link_state() == LinkState::Connecting {
                silent.push(Arc::clone(&dial.node));
            }
            !overdue
        });
        silent
    }

    /// Starts what may be started.
    pub(crate) fn start(&mut self, fleet: &Fleet) {
        let now = fleet.now();
        while self.under_way.len() < DIALS_AT_ONCE {
            let Some((node, is_again)) = self.pop() else { break };
            node.end_backoff_early();
            if node.link.is_idle() && !node.is_retired() {
                let until = fleet.nanos(after(now, node.dial_limit()));
                let dial = UnderWay { node: Arc::clone(&node), until, is_again };
                self.under_way.insert(node.id(), dial);
                node.dial();
            }
        }
    }

    /// The next to be dialled, and whether it has failed.
    fn pop(&mut self) -> Option<(Arc<Node>, bool)> {
        while let Some(node) = self.fresh.wanted.pop_front() {
            // Wanted while its dial was under way, perhaps, which then failed.
            if node.link.is_failing() {
                self.again.wanted.push_back(node);
            } else {
                self.queued.remove(&node.id());
                return Some((node, false));
            }
        }
        if let Some(node) = self.fresh.eager.pop_front() {
            return Some((node, false));
        }
        if self.under_way.values().filter(|dial| dial.is_again).count() >= DIALS_AGAIN_AT_ONCE {
            return None;
        }
        let Some(node) = self.again.wanted.pop_front() else {
            return Some((self.again.eager.pop_front()?, true));
        };
        self.queued.remove(&node.id());
        Some((node, true))
    }

    /// When the next backoff ends, or a dial is given up on.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let rested = self.resting.peek().map(|Reverse((until, _))| *until);
        let forgotten = self.under_way.values().map(|dial| dial.until).min();
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
                Some(_) if node.link.is_unfit() => rested.push(Rested::Unfit(node)),
                Some(_) => rested.push(Rested::Fit(node)),
            }
        }
        rested
    }

    pub(crate) fn want(&mut self, node: Arc<Node>) {
        if self.queued.insert(node.id()) {
            let queue = if node.link.is_failing() { &mut self.again } else { &mut self.fresh };
            queue.wanted.push_back(node);
        }
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
            assert_eq!((dials.fresh.wanted.len(), dials.queued.len()), (1, 1));
            dials.start(&fleet);
            assert_eq!((dials.fresh.wanted.len(), dials.queued.len()), (0, 0));
        }
    }
}
