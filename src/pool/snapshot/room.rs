//! Places that become free, for calls that wait at a cap.

use std::sync::Arc;

use super::Snapshot;
use crate::{
    node::{Fleet, Node, NodeId},
    policy::{Pick, PickContext},
};

/// So many at most are looked for where a key leads; who waits hears of a place on one of these, or
/// that its node is up.
const MOST_PREFERRED: usize = 8;

impl<S, K> Snapshot<S, K> {
    /// The nodes that are up and not in `tried`.
    pub(crate) fn untried<'a>(
        &'a self,
        tried: &'a [NodeId],
    ) -> impl Iterator<Item = &'a Arc<Node>> + 'a {
        self.nodes().filter(|node| node.link.is_up() && !tried.contains(&node.id()))
    }

    /// Whether a node that `tried` lacks is up and below its cap. After a failed pick that means
    /// that it has become so since.
    pub(crate) fn has_room(&self, tried: &[NodeId]) -> bool {
        self.untried(tried)
            .any(|node| self.limits.max_in_flight.is_none_or(|cap| node.in_flight() < cap))
    }

    /// Whether one of `nodes` is below its cap. For one who waits if not: from now on whoever leaves one
    /// of these tells the room.
    pub(crate) fn have_room_or_await<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Arc<Node>>,
    ) -> bool {
        let cap = self.limits.max_in_flight.unwrap_or(u32::MAX);
        // All of them, and not up to the first that has room.
        nodes.into_iter().filter(|node| node.mark_awaited() < cap).count() > 0
    }

    /// Whether a request that has not tried `node` could have a place there.
    pub(crate) fn takes_on(&self, node: &Node) -> bool {
        let cap = self.limits.max_in_flight.unwrap_or(u32::MAX);
        node.link.is_up() && !node.is_retired() && node.in_flight() < cap
    }

    /// The nodes that are up and that `key` leads to before the first that is not: a request that waits
    /// for that one's dial would rather have a place there.
    #[cold]
    pub(crate) fn preferred(&self, fleet: &Fleet, key: u64, tried: &[NodeId]) -> Vec<&Arc<Node>> {
        let (mut preferred, mut passed) = (Vec::new(), tried.to_vec());
        // Where a tier is passed over, the request comes to all of them.
        let goes_on = self.tiers.iter().any(|tier| tier.gate.is_shut());
        for tier in &self.tiers {
            loop {
                let pick = {
                    // Without a cap, so that it leads to those that are full as well.
                    let (cap, moment) = (None, fleet.moment());
                    let nodes = &tier.nodes;
                    let mut cx =
                        PickContext::new(nodes, fleet, Some(key), &passed, cap, self.scope, moment);
                    tier.picker.pick(&mut cx)
                };
                let node = match pick {
                    Pick::Use(index) | Pick::UseBelow { index, .. } => tier.nodes.get(index),
                    Pick::Wait if !goes_on => return preferred,
                    Pick::Wait | Pick::Fail => None,
                };
                let Some(node) = node.filter(|node| !passed.contains(&node.id())) else { break };
                match node.link.is_up() {
                    true => preferred.push(node),
                    false if goes_on => break,
                    false => return preferred,
                }
                if preferred.len() == MOST_PREFERRED {
                    return preferred;
                }
                passed.push(node.id());
            }
        }
        preferred
    }
}
