//! From the listed nodes to the tiers that requests see.

use std::{sync::Arc, time::Instant};

use super::{
    diff::Member,
    failback::Gates,
    locality::Standpoint,
    snapshot::TierView,
    subset::share_out,
    tiers::{self, TierPlan},
};
use crate::{
    node::Fleet,
    policy::{Picker, Policy, Tier},
};

/// Nodes from which on a build goes to a blocking thread: some policies take a microsecond a node.
const OFF_WORKER_FROM: usize = 512;

/// A picker for each planned tier; nothing that takes long stays on a runtime's worker.
///
/// Returns the policy, which the build has had for itself. `None` if the runtime is shutting down.
///
/// # Panics
/// Where the policy does.
pub(crate) async fn build<S: Clone>(
    mut policy: Box<dyn Policy>,
    listed: &[Member<S>],
    fleet: &Fleet,
    standpoint: Standpoint,
    gates: &mut Gates,
) -> Option<(Box<dyn Policy>, Box<[TierView<S>]>)> {
    let nodes = || listed.iter().map(|member| &member.node);
    let mut plans = tiers::plan(nodes(), &standpoint.informed_by(nodes()));
    share_out(&mut plans, listed);
    let mut rng = fleet.seeds.rng();
    let seeds: Vec<u64> = plans.iter().map(|_| rng.next_u64()).collect();
    let now = fleet.now();
    let built = if listed.len() < OFF_WORKER_FROM {
        let pickers = build_pickers(&mut *policy, &plans, &seeds, now);
        (policy, plans, pickers)
    } else {
        let build = move || {
            let pickers = build_pickers(&mut *policy, &plans, &seeds, now);
            (policy, plans, pickers)
        };
        match tokio::task::spawn_blocking(build).await {
            Ok(built) => built,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return None,
            },
        }
    };
    let (policy, plans, pickers) = built;
    let gates = gates.of(plans.iter().map(|plan| plan.rank));
    let views = plans.into_iter().zip(pickers).zip(gates).map(|((plan, picker), gate)| {
        let services = plan.positions.iter().map(|&at| listed[at].service.clone()).collect();
        TierView::new(plan.nodes.into(), services, picker, gate)
    });
    Some((policy, views.collect()))
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
