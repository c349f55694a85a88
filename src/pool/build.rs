//! From the listed nodes to the tiers that requests see.

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{
    dials::EagerPlan,
    diff::Member,
    failback::Gates,
    locality::Standpoint,
    snapshot::TierView,
    subset::share_out,
    tiers::{self, TierPlan},
    turns::Turn,
};
use crate::{
    node::{Fleet, Node, NodeId},
    policy::{Picker, Policy, Tier},
};

/// What of the listed a build needs, in their order.
pub(crate) struct Draft<S> {
    nodes: Vec<Arc<Node>>,
    services: Vec<Option<S>>,
    shares: Vec<Option<u32>>,
}

/// What a build takes, and gives back: a policy has no other user meanwhile.
pub(crate) struct Blueprint<S> {
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) gates: Gates,
    pub(crate) draft: Draft<S>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) standpoint: Standpoint,
    pub(crate) keep_connected: usize,
    pub(crate) now: Instant,
}

pub(crate) struct Built<S> {
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) gates: Gates,
    pub(crate) tiers: Box<[TierView<S>]>,
    /// Listed, but in no tier.
    pub(crate) left_out: Box<[Arc<Node>]>,
    pub(crate) eager: EagerPlan,
}

// === impl Draft ===

impl<S: Clone> Draft<S> {
    pub(crate) fn of_so_many(members: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(members),
            services: Vec::with_capacity(members),
            shares: Vec::with_capacity(members),
        }
    }

    /// Goes on until the turn is over; true once all are noted.
    pub(crate) fn go_on(&mut self, listed: &[Member<S>], fleet: &Fleet, turn: &mut Turn) -> bool {
        for member in &listed[self.nodes.len()..] {
            self.nodes.push(Arc::clone(&member.node));
            self.services.push(Some(member.service.clone()));
            self.shares.push(member.share);
            if !turn.goes_on(fleet) {
                return false;
            }
        }
        true
    }
}

// === impl Blueprint ===

impl<S> Blueprint<S> {
    /// A picker for each planned tier, and all that is found out on the way.
    ///
    /// # Panics
    /// Where the policy does.
    pub(crate) fn build(self) -> Built<S> {
        let Self { mut policy, mut gates, draft, fleet, standpoint, keep_connected, now } = self;
        let Draft { nodes, mut services, shares } = draft;
        let mut plans = tiers::plan(nodes.iter(), &standpoint.informed_by(nodes.iter()));
        share_out(&mut plans, &shares);
        let mut rng = fleet.seeds.rng();
        let seeds: Vec<u64> = plans.iter().map(|_| rng.next_u64()).collect();
        let pickers = build_pickers(&mut *policy, &plans, &seeds, now);
        let gates_of = gates.of(plans.iter().map(|plan| plan.rank));
        let views = plans.into_iter().zip(pickers).zip(gates_of).map(|((plan, picker), gate)| {
            // Each stands in one tier.
            let services = plan.positions.iter().filter_map(|&at| services[at].take());
            TierView::new(plan.nodes.into(), services.collect(), picker, gate)
        });
        let tiers: Box<[_]> = views.collect();
        let left_out = left_out(&nodes, &tiers);
        let by_tier = tiers.iter().map(|tier| &*tier.nodes);
        let eager = EagerPlan::of(&fleet, by_tier, keep_connected, policy.scope());
        Built { policy, gates, tiers, left_out, eager }
    }
}

/// Those of `listed` that are in no tier.
fn left_out<S>(listed: &[Arc<Node>], tiers: &[TierView<S>]) -> Box<[Arc<Node>]> {
    if tiers.iter().map(|tier| tier.nodes.len()).sum::<usize>() == listed.len() {
        return Box::default();
    }
    let used: HashSet<NodeId> =
        tiers.iter().flat_map(|tier| &tier.nodes).map(|node| node.id()).collect();
    listed.iter().filter(|node| !used.contains(&node.id())).cloned().collect()
}

fn build_pickers(
    policy: &mut dyn Policy,
    plans: &[TierPlan],
    seeds: &[u64],
    now: Instant,
) -> Vec<Arc<dyn Picker>> {
    let tiers = plans.iter().zip(seeds).enumerate();
    tiers
        .map(|(index, (plan, &seed))| {
            policy.build(&Tier::new(&plan.nodes, &plan.weights, index, seed, now))
        })
        .collect()
}
