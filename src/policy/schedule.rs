//! Whose turn it is, by weight: exact, and without a lock.
//!
//! A schedule is immutable, and shared by all that pick. What moves is one number, the position,
//! which a pick takes by a `fetch_add`; so the turns go on where they are when a schedule of other
//! weights takes its place.

use self::{golden::Golden, quota::in_quota, stride::Stride};
use super::{
    PickContext,
    position::Position,
    weights::{are_equal, draw_accepted},
};

mod golden;
mod quota;
mod stride;

/// The turns of nodes whose weights differ.
#[derive(Clone, Debug)]
pub struct Schedule(Order);

#[derive(Clone, Debug)]
enum Order {
    /// The turns of a whole cycle, one after the other.
    Listed { cycle: Box<[u16]>, weights: Box<[u32]> },
    /// For a cycle that is too long for a list.
    Computed(Golden),
    /// For weights that are measured, and new every second.
    Strides(Stride),
}

/// Turns of a cycle that are listed: 32 KiB, built in about a millisecond.
const MOST_LISTED: usize = 1 << 14;
/// Or so many for each node, if that is more: 16 bytes, of the 700 or so that a node takes itself.
const MOST_LISTED_FOR_A_NODE: usize = 8;

// === impl Schedule ===

impl Schedule {
    /// Each node exactly as many turns in a cycle as its weight says, reduced by what all weights have
    /// in common. `None` where all are equal, and plain round robin serves.
    pub(super) fn of(weights: &[u32]) -> Option<Self> {
        if are_equal(weights) {
            return None;
        }
        let common = weights.iter().copied().fold(0, greatest_common_divisor);
        let weights: Box<[u32]> = weights.iter().map(|weight| weight / common).collect();
        let cycle: u64 = weights.iter().copied().map(u64::from).sum();
        let most = MOST_LISTED.max(weights.len() * MOST_LISTED_FOR_A_NODE).min(1 << 16);
        Some(Self(if cycle <= most as u64 {
            Order::Listed { cycle: in_quota(&weights), weights }
        } else {
            Order::Computed(Golden::of(&weights))
        }))
    }

    /// By measured weights, of which 0 is one that is not known: it counts as the mean of the others
    /// (gRFC A58). `None` where fewer than two are known, or all come to the same, and plain round
    /// robin serves.
    pub(super) fn of_measured(weights: &[f64]) -> Option<Self> {
        Stride::of_measured(weights).map(|stride| Self(Order::Strides(stride)))
    }

    /// The next node. `position` gives sequence numbers, each once.
    #[inline]
    pub(super) fn pick(&self, position: &Position) -> usize {
        match &self.0 {
            Order::Listed { cycle, .. } => usize::from(cycle[position.next_of(cycle.len())]),
            Order::Computed(golden) => golden.at(position.next()),
            Order::Strides(stride) => stride.pick(position),
        }
    }

    /// One of the accepted nodes by weight, for when too many turns fell to others.
    pub(super) fn draw_accepted(&self, cx: &mut PickContext<'_>) -> Option<usize> {
        match &self.0 {
            Order::Listed { weights, .. } => draw_accepted(cx, |index| f64::from(weights[index])),
            Order::Computed(golden) => draw_accepted(cx, |index| golden.weight(index)),
            Order::Strides(stride) => draw_accepted(cx, |index| stride.weight(index)),
        }
    }
}

/// 0 is divided by everything.
pub(crate) fn greatest_common_divisor<N>(one: N, other: N) -> N
where
    N: Copy + PartialEq + Default + std::ops::Rem<Output = N>,
{
    let (mut one, mut other) = (one, other);
    while other != N::default() {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
