//! A cycle of turns that is too long for a list, computed turn by turn.
//!
//! The cycle is a circle of as many slots as all weights have in all; each node has an arc of as many as
//! its own weight. The turns go round it by steps of about 1/φ of the circle, prime to its length: so
//! a cycle meets every slot once, wherever it begins, and each node exactly as often as it weighs.
//!
//! Points that follow each other by the golden ratio are spread as evenly as such points can be. By
//! the three-gap theorem the turns of a node are apart by three distances at most, and by no more
//! than `a + 2` times the mean, where `a` is the largest partial quotient of step over length. Of
//! the steps next to the golden ratio that with the least quotients is taken.

use super::greatest_common_divisor;

#[derive(Clone, Debug)]
pub(super) struct Golden {
    length: u64,
    /// The step as a part of the length, in parts of 2^128, rounded up.
    step: u128,
    /// Where the arc of each node ends.
    ends: Box<[u64]>,
    /// Whose the first slot of each stretch of `1 << shift` slots is, and one number more.
    guide: Box<[u32]>,
    shift: u32,
}

/// How many steps on either side of the golden ratio are looked at.
const CANDIDATES: u64 = 32;
const INVERSE_PHI: f64 = 0.618_033_988_749_894_9;

// === impl Golden ===

impl Golden {
    /// Of weights that are not all 0, and not all equal.
    pub(super) fn of(weights: &[u32]) -> Self {
        let mut length = 0;
        let end = |&weight: &u32| {
            length += u64::from(weight);
            length
        };
        let ends: Box<[u64]> = weights.iter().map(end).collect();
        // At least a stretch for each node: then it is the next node or none that has to be looked
        // at, in the mean, however the weights are.
        let shift = (length / ends.len() as u64).max(1).ilog2();
        let guide = (0..=(length - 1) >> shift).map(|stretch| stretch << shift);
        let guide = guide.chain([length - 1]).map(|slot| owner(&ends, slot) as u32).collect();
        Self { length, step: part(step(length), length), ends, guide, shift }
    }

    /// Whose turn it is at a position.
    #[inline]
    pub(super) fn at(&self, position: u64) -> usize {
        let slot = self.slot(position);
        let stretch = (slot >> self.shift) as usize;
        let (first, last) = (self.guide[stretch] as usize, self.guide[stretch + 1] as usize);
        first + owner(&self.ends[first..last], slot)
    }

    /// `position` times the step, modulo the length; without a division (Lemire, Kaser, Kurz: "Faster
    /// remainder by direct computation", 2019). Whole steps round the circle overflow. What is left
    /// is too large by less than 2^64 parts of 2^128, and a slot is more, so no slot is missed.
    #[inline]
    fn slot(&self, position: u64) -> u64 {
        let round = self.step.wrapping_mul(u128::from(position));
        let length = u128::from(self.length);
        let (high, low) = (round >> 64, round & u128::from(u64::MAX));
        ((high * length + ((low * length) >> 64)) >> 64) as u64
    }

    pub(super) fn weight(&self, index: usize) -> f64 {
        let before = index.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        (self.ends[index] - before) as f64
    }
}

/// The node whose arc has a slot.
#[inline]
fn owner(ends: &[u64], slot: u64) -> usize {
    ends.partition_point(|&end| end <= slot)
}

/// `step / length`, of which the step is the less, in parts of 2^128, rounded up.
fn part(step: u64, length: u64) -> u128 {
    let (step, length) = (u128::from(step), u128::from(length));
    // 2^128 is `whole * length + rest`.
    let (whole, rest) = (u128::MAX / length, u128::MAX % length + 1);
    step * whole + (step * rest).div_ceil(length)
}

/// The step for a circle of `length` slots.
fn step(length: u64) -> u64 {
    let golden = (length as f64 * INVERSE_PHI) as u64;
    let near = (0..CANDIDATES).flat_map(|by| [golden.saturating_sub(by), golden + by]);
    let prime = near.filter(|&step| greatest_common_divisor(step, length) == 1);
    // There is one, if only for short circles, of which lists serve better: 1 is prime to all.
    prime.min_by_key(|&step| quotients(step, length)).unwrap_or(1)
}

/// The sum of the partial quotients of `step / length`, and the largest.
fn quotients(step: u64, length: u64) -> (u64, u64) {
    let (mut part, mut whole) = (step, length);
    let (mut sum, mut largest) = (0, 0);
    while part > 0 {
        let quotient = whole / part;
        (whole, part) = (part, whole % part);
        sum += quotient;
        largest = largest.max(quotient);
    }
    (sum, largest)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::node::Rng;

    /// Against the division, for lengths up to that of a hundred thousand nodes of the largest weight.
    #[test]
    fn slots_are_multiples_of_the_step() {
        let mut rng = Rng::from_seed(2);
        for bits in 15..50 {
            for _ in 0..200 {
                let length = (1 << bits) + rng.next_u64() % (1 << bits);
                let step = step(length);
                let golden = Golden {
                    length,
                    step: part(step, length),
                    ends: Box::default(),
                    guide: Box::default(),
                    shift: 0,
                };
                for position in [0, 1, length - 1, length, rng.next_u64(), u64::MAX] {
                    let expected = u128::from(position) * u128::from(step) % u128::from(length);
                    assert_eq!(u128::from(golden.slot(position)), expected, "{length} {position}");
                }
            }
        }
    }
}
