//! Which of the nodes whose backoff has ended are dialled though no request wants them.
//!
//! As many as keep the wished number connected, counted from the best tier down to the node's own: what
//! is connected in a worse tier is no reason to leave a better one down. A tier that is passed over gets
//! at least one dial at a time, since requests skip it and would never want its nodes.

use std::{collections::HashMap, sync::Arc};

use crate::node::{Node, NodeId};

/// What is connected, at the moment at which it was asked.
pub(crate) struct Upkeep {
    keep_connected: usize,
    tier_of: HashMap<NodeId, usize>,
    tiers: Vec<Tier>,
}

struct Tier {
    /// Nodes that are up in this tier and the better ones, and those that were taken since.
    connected: usize,
    passed_over: bool,
}

impl Upkeep {
    /// `tiers` with their nodes, the best first, and whether requests skip them for now.
    pub(crate) fn of<'a>(
        tiers: impl Iterator<Item = (&'a [Arc<Node>], bool)>,
        keep_connected: usize,
    ) -> Self {
        let mut tier_of = HashMap::new();
        let mut connected = 0;
        let tiers = tiers.enumerate().map(|(index, (nodes, passed_over))| {
            tier_of.extend(nodes.iter().map(|node| (node.id(), index)));
            connected += nodes.iter().filter(|node| node.link.is_up()).count();
            Tier { connected, passed_over }
        });
        let tiers = tiers.collect();
        Self { keep_connected, tier_of, tiers }
    }

    /// Whether `node` is to be dialled, and counts as connected from now on. One of no tier is not.
    pub(crate) fn takes(&mut self, node: &Node) -> bool {
        let Some(&index) = self.tier_of.get(&node.id()) else { return false };
        let Some(tier) = self.tiers.get(index) else { return false };
        let wished = self.keep_connected.max(usize::from(tier.passed_over));
        let taken = tier.connected < wished;
        if taken {
            self.tiers[index..].iter_mut().for_each(|tier| tier.connected += 1);
        }
        taken
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;

    fn nodes(count: u8) -> Vec<Arc<Node>> {
        let (fleet, _) =
            crate::node::Fleet::new(crate::node::Clock::default(), crate::node::Seeds::fixed(7));
        let node = |last| {
            let endpoint = Endpoint::new(([10, 0, 0, last], 80));
            // One that nobody reports of counts as up.
            Node::new(u64::from(last), &endpoint, Arc::clone(&fleet))
        };
        (1..=count).map(node).collect()
    }

    #[test]
    fn what_is_up_in_a_worse_tier_does_not_count() {
        let nodes = nodes(5);
        assert!(nodes.iter().all(|node| node.link.is_up()));
        let tiers = || [(&nodes[..1], false), (&nodes[1..4], false)].into_iter();
        let mut upkeep = Upkeep::of(tiers(), 3);
        let taken: Vec<_> = [&nodes[0], &nodes[0], &nodes[0], &nodes[1], &nodes[4]]
            .into_iter()
            .map(|node| upkeep.takes(node))
            .collect();
        assert_eq!(taken, [true, true, false, false, false]);
    }

    #[test]
    fn a_tier_that_is_passed_over_gets_one_dial_at_least() {
        let nodes = nodes(2);
        nodes[0].fail_link(crate::error::SharedError::new("refused"));
        let mut upkeep = Upkeep::of([(&nodes[..1], true), (&nodes[1..], true)].into_iter(), 0);
        assert!(upkeep.takes(&nodes[0]));
        assert!(!upkeep.takes(&nodes[0]));
        assert!(!upkeep.takes(&nodes[1]), "the dial before may do");
    }
}
