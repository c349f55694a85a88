//! Which nodes are dialled, and when: a few eagerly, the wanted at once, the failed after a rest,
//! never too many together.
//!
//! Those that have failed and not been up since stand in a queue of their own, and each queue leaves room
//! for the other: where a zone is lost, or many endpoints are new and silent, a dial of each takes as long
//! as it may, and there are always some to be dialled.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
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
/// As many may be of others while one that has failed waits for its dial.
const DIALS_BESIDE_AGAIN: usize = 12;

#[derive(Debug, Default)]
pub(crate) struct Dials {
    under_way: HashMap<NodeId, UnderWay>,
    /// Nodes that have not failed since they were last up, if ever they were.
    fresh: Queue,
    /// Nodes that have.
    again: Queue,
    /// In which queue a wanted node stands: once, however many requests want it. What stands elsewhere
    /// is out of date, as of a node that came up and was lost meanwhile.
    queued: HashMap<NodeId, Class>,
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

/// Which queue is a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Fresh,
    Again,
}

/// Nodes that wait for their dial.
#[derive(Debug, Default)]
struct Queue {
    wanted: VecDeque<Arc<Node>>,
    /// After the wanted.
    eager: VecDeque<Arc<Node>>,
}

/// A node that has left its queue.
struct Waiting {
    node: Arc<Node>,
    class: Class,
    is_wanted: bool,
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
        let again = self.under_way.values().filter(|dial| dial.is_again).count();
        let fresh = self.under_way.len() - again;
        loop {
            let room_fresh = self.again.is_empty() || fresh < DIALS_BESIDE_AGAIN;
            let first = self.pop_first(room_fresh, again < DIALS_AGAIN_AT_ONCE)?;
            let Waiting { node, class, is_wanted } = first;
            if is_wanted {
                if self.queued.get(&node.id()) != Some(&class) {
                    continue;
                }
                self.queued.remove(&node.id());
            }
            let is_again = node.link.is_failing();
            if !is_again || class == Class::Again {
                return Some((node, is_again));
            }
            // It was dialled while it stood here, perhaps, and that failed.
            if is_wanted { self.want(node) } else { self.again.eager.push_back(node) }
        }
    }

    /// The first of the queues for which there is room: what is wanted goes before what is not.
    fn pop_first(&mut self, room_fresh: bool, room_again: bool) -> Option<Waiting> {
        let (fresh, again) = (&mut self.fresh, &mut self.again);
        let queues = [
            (Class::Fresh, true, &mut fresh.wanted),
            (Class::Again, true, &mut again.wanted),
            (Class::Fresh, false, &mut fresh.eager),
            (Class::Again, false, &mut again.eager),
        ];
        queues.into_iter().find_map(|(class, is_wanted, queue)| {
            let room = if class == Class::Fresh { room_fresh } else { room_again };
            let node = if room { queue.pop_front()? } else { return None };
            Some(Waiting { node, class, is_wanted })
        })
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
        let is_again = node.link.is_failing();
        let class = if is_again { Class::Again } else { Class::Fresh };
        if self.queued.insert(node.id(), class) != Some(class) {
            let queue = if is_again { &mut self.again } else { &mut self.fresh };
            queue.wanted.push_back(node);
        }
    }
}

// === impl Queue ===

impl Queue {
    fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.eager.is_empty()
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        endpoint::Endpoint,
        error::SharedError,
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

    /// Nodes whose dials nobody answers, and what dials them.
    struct Bed {
        fleet: Arc<Fleet>,
        dials: Dials,
        client: Arc<dyn Dial>,
        nodes: Vec<Arc<Node>>,
    }

    impl Bed {
        fn new(seconds: u64, count: u8) -> Self {
            let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::fixed(7));
            let client: Arc<dyn Dial> = Arc::new(Mute(seconds));
            let node = |id: u8| {
                let endpoint = Endpoint::new(([10, 0, 0, id], 80));
                let node = Node::new(id.into(), &endpoint, Arc::clone(&fleet));
                Link::new(Arc::clone(&node)).manage(Arc::downgrade(&client));
                node
            };
            let nodes = (0..count).map(node).collect();
            Self { fleet, dials: Dials::default(), client, nodes }
        }

        /// The node fails, and its backoff ends.
        fn fail(&self, id: usize) {
            self.nodes[id].fail_link(SharedError::new("refused"));
            self.nodes[id].end_backoff();
        }

        fn want(&mut self, ids: impl Iterator<Item = usize>) {
            ids.for_each(|id| self.dials.want(Arc::clone(&self.nodes[id])));
        }

        fn is_dialled(&self, id: usize) -> bool {
            self.nodes[id].link_state() == LinkState::Connecting
        }

        /// As the driver does.
        async fn pass(&mut self, time: Duration) {
            tokio::time::advance(time).await;
            for node in self.dials.silent(&self.fleet) {
                node.fail_link(SharedError::new("silent"));
            }
            self.dials.start(&self.fleet);
        }
    }

    /// R1: what was up and is wanted again is dialled before what is only to be kept connected, however
    /// much of that there is.
    #[tokio::test(start_paused = true)]
    async fn r1_what_is_wanted_again_goes_before_new_nodes_that_nobody_wants() {
        let mut bed = Bed::new(1, 65);
        bed.fail(64);
        let nodes = bed.nodes[..64].iter().cloned().collect();
        bed.dials.follow(EagerPlan { nodes, failing: Vec::new() });
        bed.dials.start(&bed.fleet);
        bed.want(64..65);
        bed.dials.start(&bed.fleet);
        assert!(!bed.is_dialled(64), "all dials are under way");
        bed.pass(Duration::from_secs(1)).await;
        assert!(bed.is_dialled(64));
    }

    /// R1: nor do new nodes keep it out that are wanted themselves.
    #[tokio::test(start_paused = true)]
    async fn r1_new_nodes_and_failed_ones_leave_room_for_each_other() {
        let mut bed = Bed::new(1, 100);
        (50..100).for_each(|id| bed.fail(id));
        let under_way = |bed: &Bed| {
            let count = |ids: std::ops::Range<usize>| ids.filter(|&id| bed.is_dialled(id)).count();
            (count(0..50), count(50..100))
        };
        bed.want(0..50);
        bed.want(50..100);
        bed.dials.start(&bed.fleet);
        assert_eq!(under_way(&bed), (12, 4));
        bed.pass(Duration::from_secs(1)).await;
        assert_eq!(under_way(&bed), (12, 4));

        let mut bed = Bed::new(1, 100);
        (50..100).for_each(|id| bed.fail(id));
        bed.want(50..100);
        bed.dials.start(&bed.fleet);
        assert_eq!(under_way(&bed), (0, 8));
        bed.want(0..50);
        bed.dials.start(&bed.fleet);
        assert_eq!(under_way(&bed), (8, 8));
    }

    /// Also those that fail while they wait to be kept connected.
    #[tokio::test(start_paused = true)]
    async fn nodes_that_fail_in_line_are_held_to_the_share_of_the_failed() {
        let mut bed = Bed::new(1, 20);
        let nodes = bed.nodes.iter().cloned().collect();
        bed.dials.follow(EagerPlan { nodes, failing: Vec::new() });
        (0..20).for_each(|id| bed.fail(id));
        bed.dials.start(&bed.fleet);
        assert_eq!((0..20).filter(|&id| bed.is_dialled(id)).count(), DIALS_AGAIN_AT_ONCE);
    }

    /// A node that stands with the failed and was up meanwhile is dialled as one that has not failed.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_recovers_and_is_lost_waits_no_longer_with_the_failed() {
        let mut bed = Bed::new(1, 50);
        (0..50).for_each(|id| bed.fail(id));
        bed.want(0..50);
        bed.dials.start(&bed.fleet);
        assert!(bed.is_dialled(7) && !bed.is_dialled(49));
        let link = Link::new(Arc::clone(&bed.nodes[49]));
        link.up();
        link.outlived("a GOAWAY");
        bed.nodes[49].attended();
        bed.dials.attend(&Arc::clone(&bed.nodes[49]));
        bed.dials.start(&bed.fleet);
        assert!(bed.is_dialled(49));
        for _ in 0..10 {
            bed.pass(Duration::from_secs(1)).await;
        }
        assert!(bed.dials.queued.is_empty() && bed.dials.again.is_empty());
        assert_eq!(Arc::weak_count(&bed.client), 50);
    }

    /// R2: a dial is given up on when its client's own limit has passed, and not before.
    #[tokio::test(start_paused = true)]
    async fn r2_a_dial_has_the_time_that_its_client_says() {
        for seconds in [1, 10, 30] {
            let mut bed = Bed::new(seconds, 1);
            bed.want(0..1);
            bed.dials.start(&bed.fleet);
            assert!(bed.is_dialled(0));
            tokio::time::advance(Duration::from_millis(seconds * 1_000 - 10)).await;
            assert_eq!(bed.dials.silent(&bed.fleet).len(), 0, "of {seconds}");
            tokio::time::advance(Duration::from_millis(10)).await;
            assert_eq!(bed.dials.silent(&bed.fleet).len(), 1, "of {seconds}");
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
