//! Every node bids for a key, the highest accepted bid wins.

use std::sync::Arc;

use super::{Table, host};
use crate::{
    node::mix,
    policy::{
        Tier,
        plain::{Plain, highest_bid},
    },
};

/// The bids of rendezvous hashing. Tables end their walk here as well, where nearly nothing of what
/// they met could be used.
#[derive(Debug)]
pub struct Bids {
    hashes: Arc<[u64]>,
    weights: Option<Box<[f64]>>,
}

impl Bids {
    pub(super) fn of(tier: &Tier<'_>) -> Self {
        let weights = tier
            .is_weighted()
            .then(|| tier.weights().iter().map(|&weight| f64::from(weight)).collect());
        Self { hashes: tier.nodes().iter().map(|node| host::seed(node)).collect(), weights }
    }
}

impl Table for Bids {
    fn plain(self: Arc<Self>) -> Plain {
        match self.weights {
            None => Plain::HighestBid(Arc::clone(&self.hashes)),
            Some(_) => Plain::Owner(self),
        }
    }

    fn owner(&self, key: u64) -> usize {
        self.find(key, |_| true).unwrap_or_default()
    }

    #[inline]
    fn find(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        // Two nodes of one hash bid the same; the later in the list loses, wherever it matters.
        let Some(weights) = &self.weights else {
            // Nearly always the highest of all may bid.
            let best = highest_bid(&self.hashes, key);
            if accept(best) {
                return Some(best);
            }
            let mut best: Option<(u64, usize)> = None;
            for (index, &hash) in self.hashes.iter().enumerate() {
                let bid = mix(key ^ hash);
                if best.is_none_or(|(highest, _)| bid > highest) && accept(index) {
                    best = Some((bid, index));
                }
            }
            return best.map(|(_, index)| index);
        };
        let mut best: Option<(f64, usize)> = None;
        for (index, (&hash, &weight)) in self.hashes.iter().zip(weights.iter()).enumerate() {
            // Above 0 and below 1, so that the logarithm is finite and below 0.
            let point = ((mix(key ^ hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            let bid = -weight / point.ln();
            if best.is_none_or(|(highest, _)| bid > highest) && accept(index) {
                best = Some((bid, index));
            }
        }
        best.map(|(_, index)| index)
    }
}
