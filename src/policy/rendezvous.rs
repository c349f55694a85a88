//! Rendezvous hashing: every node bids for the key, the highest bid wins.

use std::sync::Arc;

use super::{ByFn, ByHeader, Keyed, Pick, PickContext, Picker, Policy, Scope, Tier};
use crate::node::mix;

/// Rendezvous hashing, or highest random weight (Thaler, Ravishankar: "Using name-based mappings to
/// increase hit rates", 1998; weights as in Schindelhauer, Schomaker: "Weighted distributed hash
/// tables", 2005).
///
/// The same key goes to the same endpoint in every process, whatever the order of endpoints. When
/// an endpoint goes, its keys move and no others; when one comes, it takes its share and nothing
/// else moves. A pick looks at all nodes, so it is for up to some hundreds of them.
///
/// ```
/// use evenkeel::{Endpoint, policy::{Rendezvous, hash_bytes}, pool::TestBed};
///
/// let endpoints = (1..=9).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let bed = TestBed::new(Rendezvous::by_header("x-user"), endpoints).unwrap();
/// let key = Some(hash_bytes(b"anna"));
/// assert_eq!(bed.pick(key).unwrap().endpoint(), bed.pick(key).unwrap().endpoint());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Rendezvous;

#[derive(Debug)]
struct RendezvousPicker {
    hashes: Box<[u64]>,
    weights: Option<Box<[f64]>>,
}

// === impl Rendezvous ===

impl Rendezvous {
    /// By the value of a header; a request without it is spread at random. An invalid header name is
    /// an error when the balancer is built.
    pub fn by_header(name: &str) -> Keyed<Self, ByHeader> {
        Keyed::by_header(Self, name)
    }

    /// By what a function reads of the request: a hash (see [`hash_bytes`](super::hash_bytes)), or
    /// `None` to spread it at random.
    ///
    /// ```
    /// use evenkeel::policy::{Rendezvous, hash_bytes};
    /// let _by_path = Rendezvous::by(|request: &http::Request<()>| {
    ///     Some(hash_bytes(request.uri().path().as_bytes()))
    /// });
    /// ```
    pub fn by<F, Req>(key: F) -> Keyed<Self, ByFn<F>>
    where
        F: Fn(&Req) -> Option<u64> + Clone + Send + Sync + 'static,
    {
        Keyed::by_fn(Self, key)
    }
}

impl Policy for Rendezvous {
    fn scope(&self) -> Scope {
        Scope::Listed
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let weights = tier
            .is_weighted()
            .then(|| tier.weights().iter().map(|&weight| f64::from(weight)).collect());
        Arc::new(RendezvousPicker {
            hashes: tier.nodes().iter().map(|node| node.hash()).collect(),
            weights,
        })
    }
}

// === impl RendezvousPicker ===

impl RendezvousPicker {
    /// The highest bidder for `key` among those that `may_bid`.
    #[inline]
    fn highest(&self, key: u64, may_bid: impl Fn(usize) -> bool) -> Option<usize> {
        // Two nodes of one hash bid the same; the later in the list loses, wherever it matters.
        match &self.weights {
            None => {
                // Nearly always the highest of all may bid: found without a branch that depends on
                // the bids, which the processor could not foresee.
                let (mut best, mut highest) = (0, 0);
                for (index, &hash) in self.hashes.iter().enumerate() {
                    let bid = mix(key ^ hash);
                    let higher = bid > highest;
                    best = if higher { index } else { best };
                    highest = if higher { bid } else { highest };
                }
                if may_bid(best) {
                    return Some(best);
                }
                let mut best: Option<(u64, usize)> = None;
                for (index, &hash) in self.hashes.iter().enumerate() {
                    let bid = mix(key ^ hash);
                    if best.is_none_or(|(highest, _)| bid > highest) && may_bid(index) {
                        best = Some((bid, index));
                    }
                }
                best.map(|(_, index)| index)
            }
            Some(weights) => {
                let mut best: Option<(f64, usize)> = None;
                for (index, (&hash, &weight)) in self.hashes.iter().zip(weights.iter()).enumerate()
                {
                    // Above 0 and below 1, so that the logarithm is finite and below 0.
                    let point = ((mix(key ^ hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
                    let bid = -weight / point.ln();
                    if best.is_none_or(|(highest, _)| bid > highest) && may_bid(index) {
                        best = Some((bid, index));
                    }
                }
                best.map(|(_, index)| index)
            }
        }
    }
}

impl Picker for RendezvousPicker {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let key = match cx.key() {
            Some(key) => key,
            None => cx.rng().next_u64(),
        };
        self.highest(key, |index| cx.accepts(index)).map_or(Pick::Fail, Pick::Use)
    }
}
