//! A policy over endpoints, with nothing around it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{
    diff::Roster,
    failback::Gates,
    locality::Standpoint,
    settings::Limits,
    shared::model_of,
    snapshot::{Choice, Snapshot, TierView},
    subset::{Subset, share_out},
    tiers,
};
use crate::{
    discovery::Endpoints,
    error::BuildError,
    node::{Clock, Fleet, LatencyModel, Lease, Link, Node, NodeId, Seeds},
    policy::{IntoPolicy, Policy, PolicyFactory, Tier},
};

/// Runs a policy over endpoints without a runtime, discovery or clients: for tests, benches and
/// simulations. Nodes, pickers, leases and the way of a pick are those of a real balancer.
///
/// ```
/// use evenkeel::{Endpoint, node::Outcome, policy::P2c, pool::TestBed};
///
/// let endpoints = (1..=3).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let mut bed = TestBed::new(P2c::default(), endpoints).unwrap().seed(7);
/// let mut lease = bed.pick(None).unwrap();
/// assert_eq!(lease.node().in_flight(), 1);
/// lease.finish(Outcome::Success.into());
/// drop(lease);
/// assert!(bed.nodes().all(|node| node.in_flight() == 0));
/// bed.update([Endpoint::new(([10, 0, 0, 9], 80))]);
/// assert_eq!(bed.pick(None).unwrap().endpoint().to_string(), "10.0.0.9:80");
/// ```
pub struct TestBed {
    snapshot: ArcSwap<Snapshot<(), ()>>,
    factory: PolicyFactory,
    /// Never locked, only owned: so threads may share the bed, and pick from it at once.
    policy: Mutex<Box<dyn Policy>>,
    roster: Roster<()>,
    known: Endpoints,
    subset_seed: u64,
    gates: Gates,
    fleet: Arc<Fleet>,
    limits: Limits,
    /// Nodes that ask for attention; they wait for the next update.
    attended: mpsc::UnboundedReceiver<Arc<Node>>,
}

impl TestBed {
    /// `policy` over `endpoints`.
    ///
    /// # Errors
    /// Those of the policy's key.
    pub fn new(
        policy: impl IntoPolicy,
        endpoints: impl IntoIterator<Item = crate::Endpoint>,
    ) -> Result<Self, BuildError> {
        let (factory, _key) = policy.into_policy()?;
        let mut bed = Self::empty(factory, Clock::default(), Seeds::Thread);
        bed.update(endpoints);
        Ok(bed)
    }

    fn empty(factory: PolicyFactory, clock: Clock, seeds: Seeds) -> Self {
        let (fleet, attended) = Fleet::new(clock, seeds);
        let policy = factory.make();
        fleet.reports.set(policy.weigh_reports());
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty((), Limits::default())),
            policy: Mutex::new(policy),
            factory,
            roster: Roster::new(Arc::clone(&fleet)),
            known: Endpoints::default(),
            subset_seed: fleet.seeds.rng().next_u64(),
            gates: Gates::default(),
            fleet,
            limits: Limits::default(),
            attended,
        }
    }

    /// Begins anew with chance from `seed`: the same picks in every run.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        let clock = self.fleet.clock().clone();
        self.anew(clock, Seeds::fixed(seed))
    }

    /// Begins anew with time from `clock`, and chance from `seed`.
    #[must_use]
    pub fn clock(self, clock: Clock, seed: u64) -> Self {
        self.anew(clock, Seeds::fixed(seed))
    }

    fn anew(self, clock: Clock, seeds: Seeds) -> Self {
        let mut bed = Self::empty(self.factory, clock, seeds);
        bed.limits = self.limits;
        bed.update(self.known);
        bed
    }

    /// A cap on the requests in flight on a node.
    #[must_use]
    pub fn max_in_flight(mut self, requests: u32) -> Self {
        self.limits.max_in_flight = Some(requests);
        self.rebuild();
        self
    }

    /// The part of the endpoints that is used.
    ///
    /// # Panics
    /// If it is one that a balancer refuses.
    #[must_use]
    pub fn subset(mut self, subset: Subset) -> Self {
        assert_eq!(subset.check(), Ok(()), "a balancer refuses this subset");
        self.limits.subset = subset;
        self.update(self.known.clone());
        self
    }

    /// The set becomes `endpoints`; nodes of those that stay are kept.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = crate::Endpoint>) {
        while let Ok(node) = self.attended.try_recv() {
            node.attended();
            self.roster.release(&node);
        }
        self.known = endpoints.into_iter().collect();
        let mut selection = self.limits.subset.select(self.known.clone(), self.subset_seed);
        let inside = std::mem::take(&mut selection.inside);
        self.roster.apply(inside.into(), &|_: &crate::Endpoint| ());
        self.roster.take_shares(|index| selection.share(index));
        self.rebuild();
        self.roster.settle(self.fleet.now());
    }

    /// Builds the pickers anew, with nothing changed; what a balancer does by itself for a policy that
    /// asks for it ([`Policy::rebuild_every`]).
    pub fn rebuild(&mut self) {
        let mut rng = self.fleet.seeds.rng();
        let policy = self.policy.get_mut().unwrap_or_else(PoisonError::into_inner);
        let model = model_of(&**policy, &self.limits);
        self.fleet.expect_timed(model != LatencyModel::None);
        let now = self.fleet.now();
        let nodes = self.roster.listed().iter().map(|member| &member.node);
        let mut plans = tiers::plan(nodes, &Standpoint::default());
        let shares: Vec<_> = self.roster.listed().iter().map(|member| member.share).collect();
        share_out(&mut plans, &shares);
        let gates = self.gates.of(plans.iter().map(|plan| plan.rank));
        let views = plans.into_iter().zip(gates).enumerate().map(|(index, (plan, gate))| {
            let tier = Tier::new(&plan.nodes, &plan.weights, index, rng.next_u64(), now);
            let picker = policy.build(&tier);
            TierView::new(plan.nodes.into(), vec![(); plan.positions.len()].into(), picker, gate)
        });
        self.snapshot.store(Arc::new(Snapshot {
            tiers: views.collect(),
            left_out: Box::default(),
            outside: Arc::default(),
            key: (),
            limits: self.limits,
            scope: policy.scope(),
            model,
            listed: self.roster.listed().len(),
        }));
    }

    /// A place for a request whose key has the hash `key`.
    #[inline]
    pub fn pick(&self, key: Option<u64>) -> Option<Lease> {
        self.pick_except(key, &[])
    }

    /// A place for a request that has tried the nodes in `tried`.
    #[inline]
    pub fn pick_except(&self, key: Option<u64>, tried: &[NodeId]) -> Option<Lease> {
        let moment = self.fleet.moment();
        match self.snapshot.load().choose(&self.fleet, key, tried, moment) {
            Choice::Take(lease, ()) => Some(lease),
            Choice::Wait | Choice::Fail | Choice::Stale | Choice::Raced => None,
        }
    }

    /// The nodes in the order of the list.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.roster.listed().iter().map(|member| &member.node)
    }

    /// The link of each node, to report connections as a client would.
    pub fn links(&self) -> impl Iterator<Item = Link> + '_ {
        self.nodes().map(|node| Link::new(Arc::clone(node)))
    }
}

impl std::fmt::Debug for TestBed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBed")
            .field("nodes", &self.roster.listed().len())
            .finish_non_exhaustive()
    }
}
