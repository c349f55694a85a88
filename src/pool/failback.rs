//! When a better tier is trusted again.
//!
//! Strict priority sends everything to the first tier that has something usable. A tier whose last
//! connection comes and goes would have the traffic come and go with it. So a tier that was found
//! without a single connection is passed over until one has lasted for a while; unless nothing else
//! can serve.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::tiers::Rank;
use crate::node::Node;

/// Whether a tier is passed over; it survives the rebuilds of the tier.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
}

/// The gates of all tiers that there are.
#[derive(Debug, Default)]
pub(crate) struct Gates(HashMap<Rank, Arc<Gate>>);

// === impl Gate ===

impl Gate {
    /// Whether the tier of `nodes` may be used before those behind it; opens the gate if one of its
    /// connections has lasted.
    #[inline]
    pub(crate) fn is_open(&self, nodes: &[Arc<Node>], now: impl FnOnce() -> u64) -> bool {
        !self.is_shut() || self.reopens(nodes, now())
    }

    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    #[cold]
    fn reopens(&self, nodes: &[Arc<Node>], now: u64) -> bool {
        let lasting = nodes.iter().find(|node| node.link.is_lasting(now));
        if let Some(node) = lasting {
            if self.shut.swap(false, Ordering::Relaxed) {
                tracing::info!(endpoint = %node, "a preferred tier is used again");
            }
        }
        lasting.is_some()
    }

    /// The tier of `nodes` could not serve, and the next is asked.
    #[cold]
    pub(crate) fn passed_over(&self, nodes: &[Arc<Node>]) {
        let down = nodes.iter().all(|node| node.link.is_failing() && !node.link.is_up());
        if down && !self.shut.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                endpoints = nodes.len(),
                "nothing in a preferred tier can be used, the next takes over"
            );
        }
    }
}

// === impl Gates ===

impl Gates {
    /// Those of `ranks`, kept where there was one; others are forgotten.
    pub(crate) fn of(&mut self, ranks: impl Iterator<Item = Rank>) -> Vec<Arc<Gate>> {
        let mut before = std::mem::take(&mut self.0);
        ranks
            .map(|rank| {
                let gate = before.remove(&rank).unwrap_or_default();
                self.0.insert(rank, Arc::clone(&gate));
                gate
            })
            .collect()
    }
}
