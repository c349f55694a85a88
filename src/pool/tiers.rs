//! Which nodes are used together: the groups that each get a picker of their own.

use std::{collections::BTreeMap, sync::Arc};

use crate::{endpoint::Priority, node::Node};

/// The nodes of one tier and their weights, before a picker is built.
#[derive(Debug, Default)]
pub(crate) struct TierPlan {
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Where each of them stands in the list that was planned.
    pub(crate) positions: Vec<usize>,
    pub(crate) weights: Vec<u32>,
}

/// Groups nodes by priority, the most preferred first. A node of weight 0 is left out, unless all
/// of its tier have weight 0: then all are equal.
pub(crate) fn plan<'a>(listed: impl Iterator<Item = &'a Arc<Node>>) -> Vec<TierPlan> {
    let mut by_priority: BTreeMap<Priority, TierPlan> = BTreeMap::new();
    for (position, node) in listed.enumerate() {
        let endpoint = node.endpoint();
        let tier = by_priority.entry(endpoint.priority()).or_default();
        tier.nodes.push(Arc::clone(node));
        tier.positions.push(position);
        tier.weights.push(endpoint.weight().0);
    }
    by_priority.into_values().map(TierPlan::without_zero_weights).collect()
}

impl TierPlan {
    fn without_zero_weights(mut self) -> Self {
        if self.weights.iter().all(|&weight| weight == 0) {
            self.weights.fill(1);
            return self;
        }
        let mut weights = self.weights.iter();
        self.nodes.retain(|_| weights.next().is_some_and(|&weight| weight > 0));
        let mut weights = self.weights.iter();
        self.positions.retain(|_| weights.next().is_some_and(|&weight| weight > 0));
        self.weights.retain(|&weight| weight > 0);
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
        let tiers = plan(nodes.iter());
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
