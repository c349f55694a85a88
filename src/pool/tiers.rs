//! Which nodes are used together: the groups that each get a picker of their own.

use std::{collections::BTreeMap, sync::Arc};

use super::locality::{Distance, Standpoint};
use crate::{
    endpoint::{Locality, Priority},
    node::Node,
};

/// Which tier goes before which: by priority, then by how near it is.
pub(crate) type Rank = (Priority, Distance);

/// The nodes of one tier and their weights, before a picker is built.
#[derive(Debug)]
pub(crate) struct TierPlan {
    pub(crate) rank: Rank,
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Where each of them stands in the list that was planned.
    pub(crate) positions: Vec<usize>,
    pub(crate) weights: Vec<u32>,
}

/// The nodes of one priority, with where each of them stands and runs.
#[derive(Default)]
struct Group<'a> {
    members: Vec<(usize, &'a Arc<Node>, u32)>,
    localities: Vec<Locality>,
}

/// Groups nodes by priority, and each priority by how near they are from `standpoint`; the most
/// preferred come first. A node of weight 0 is left out, unless all of its priority have weight 0:
/// then all are equal.
pub(crate) fn plan<'a>(
    listed: impl Iterator<Item = &'a Arc<Node>>,
    standpoint: &Standpoint,
) -> Vec<TierPlan> {
    let mut by_priority: BTreeMap<Priority, Group<'a>> = BTreeMap::new();
    for (position, node) in listed.enumerate() {
        let endpoint = node.endpoint();
        let group = by_priority.entry(endpoint.priority()).or_default();
        group.members.push((position, node, endpoint.weight().0));
        group.localities.push(endpoint.locality().clone());
    }
    let mut tiers = BTreeMap::new();
    for (priority, group) in by_priority {
        let group = group.without_zero_weights();
        let distances = standpoint.distances(&group.localities);
        for ((position, node, weight), distance) in group.members.into_iter().zip(distances) {
            let rank = (priority, distance);
            let tier = tiers.entry(rank).or_insert_with(|| TierPlan::empty(rank));
            tier.nodes.push(Arc::clone(node));
            tier.positions.push(position);
            tier.weights.push(weight);
        }
    }
    tiers.into_values().collect()
}

impl TierPlan {
    fn empty(rank: Rank) -> Self {
        Self { rank, nodes: Vec::new(), positions: Vec::new(), weights: Vec::new() }
    }
}

impl Group<'_> {
    fn without_zero_weights(mut self) -> Self {
        if self.members.iter().all(|(.., weight)| *weight == 0) {
            self.members.iter_mut().for_each(|(.., weight)| *weight = 1);
            return self;
        }
        let mut members = self.members.iter();
        self.localities.retain(|_| members.next().is_some_and(|(.., weight)| *weight > 0));
        self.members.retain(|(.., weight)| *weight > 0);
        self
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::endpoint::{Endpoint, Weight};

    fn node(last: u8, weight: u32, priority: u32) -> Arc<Node> {
        let endpoint = Endpoint::new(([10, 0, 0, last], 80))
            .with_weight(Weight(weight))
            .with_priority(Priority(priority));
        Node::standalone(&endpoint)
    }

    /// T16: weight 0 takes nothing, and all-zero weights are equal; a tier at a time.
    #[test]
    fn t16_zero_weights_leave_unless_all_are_zero() {
        let nodes = [node(1, 0, 0), node(2, 5, 0), node(3, 0, 1), node(4, 0, 1), node(5, 7, 0)];
        let tiers = plan(nodes.iter(), &Standpoint::default());
        let shape: Vec<_> = tiers
            .iter()
            .map(|tier| {
                (
                    tier.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    tier.weights.clone(),
                )
            })
            .collect();
        let names = |last: [u8; 2]| last.map(|last| format!("10.0.0.{last}:80")).to_vec();
        assert_eq!(shape, [(names([2, 5]), vec![5, 7]), (names([3, 4]), vec![1, 1])]);
    }
}
