//! A schedule by weight that is exact, and needs no lock: the static stride scheduler of gRPC's
//! weighted round robin (gRFC A58; grpc-go's `scheduler.go`).
//!
//! The sequence number stands for a position: its remainder by the number of nodes is the node
//! asked, its quotient the generation. A node whose weight is `w` of 65,535 lets the other
//! generations pass, evenly spread. Over 65,535 generations node `i` is chosen exactly `w_i` times.

use super::{PickContext, Tier, weights::draw_accepted};

const FULL: u64 = u16::MAX as u64;
const HALF: u64 = FULL / 2;

/// The scaled weights of a tier, where they differ.
#[derive(Clone, Debug)]
pub(super) struct Stride {
    weights: Box<[u16]>,
}

impl Stride {
    /// `None` where all are equal, and plain round robin serves.
    pub(super) fn of(tier: &Tier<'_>) -> Option<Self> {
        if !tier.is_weighted() {
            return None;
        }
        let heaviest = tier.weights().iter().copied().max().map_or(1, u64::from);
        // A weight that would scale to nothing is small, and not never.
        let scale =
            |&weight: &u32| ((u64::from(weight) * FULL + heaviest / 2) / heaviest).max(1) as u16;
        Some(Self { weights: tier.weights().iter().map(scale).collect() })
    }

    /// The next node. `next` gives sequence numbers, each once. The heaviest node takes its turn in
    /// every generation, so the search ends within two rounds.
    pub(super) fn pick(&self, mut next: impl FnMut() -> u64) -> usize {
        let nodes = self.weights.len() as u64;
        loop {
            let sequence = next();
            let node = (sequence % nodes) as usize;
            let generation = sequence / nodes;
            let weight = u64::from(self.weights[node]);
            // Each node begins elsewhere in its cycle, so that equal weights do not come in bursts.
            let phase = (weight * (generation % FULL) + node as u64 * HALF) % FULL;
            if phase >= FULL - weight {
                return node;
            }
        }
    }

    /// One of the accepted nodes by weight, for when too many turns fell to others.
    pub(super) fn draw_accepted(&self, cx: &mut PickContext<'_>) -> Option<usize> {
        draw_accepted(cx, |index| f64::from(self.weights[index]))
    }
}
