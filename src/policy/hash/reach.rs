//! A ring on which all nodes have as many points, and those of the heavier reach farther.
//!
//! How far a node is from a key is the distance to its next point divided by its weight, and the nearest
//! owns the key (the linear method of Schindelhauer, Schomaker: "Weighted distributed hash tables",
//! 2005). Places are random, so distances are exponential, and the smallest of several exponentials is
//! each one's as often as its rate, here its weight, says. What a node is to a key depends on that node
//! alone: whatever happens to the others, keys move to or from those only. Weights matter by their
//! proportions, and take no points.
//!
//! A look-up finds the arc of a key as on any ring: who is nearest where is worked out at the build.

use std::iter;

use super::{
    Table,
    bids::Bids,
    points::{Point, Points, Ring, WALK},
};
use crate::policy::weights::are_equal;

/// The arcs of a ring. Where weights differ, the points stand beside them: who is next after the owner
/// does not show on the arcs.
#[derive(Debug)]
pub struct Arcs {
    arcs: Points,
    /// From the heaviest to the lightest; none where all weights are equal, and arcs end at points.
    ranks: Box<[Rank]>,
    weights: Box<[u32]>,
}

/// The points of nodes whose weights are within a factor of two.
#[derive(Debug)]
struct Rank {
    heaviest: u32,
    ring: Ring,
}

/// A node as a key sees it.
#[derive(Clone, Copy)]
struct Near {
    distance: u64,
    weight: u32,
    node: u32,
}

/// A point that still owns what comes, or will where nearer ones reach no further.
///
/// The sweep goes against the order of places, from a point to the keys that it reaches; `from` and
/// `until` are how far it went.
struct Reach {
    from: u128,
    /// Where the next below on the stack is nearer.
    until: u128,
    weight: u32,
    node: u32,
}

/// Goes over the ring, and before that over the points that reach over its beginning.
struct Sweep {
    /// Each heavier than the next, the nearest last. None that is hidden for good.
    reaching: Vec<Reach>,
    arcs: Vec<Point>,
}

/// Once around the ring.
const TURN: u128 = 1 << u64::BITS;

// === impl Arcs ===

impl Arcs {
    /// Where all nodes have the points of the same number, by weight; of points at one place the first
    /// given is the first met.
    pub(super) fn by_weight(points: Vec<Point>, weights: &[u32], rest: Bids) -> Self {
        if are_equal(weights) {
            return Self::plain(points, rest);
        }
        let ring = Ring::new(points);
        let arcs = Points::in_order(arcs(ring.as_slice(), weights), rest);
        Self { arcs, ranks: ranks(ring.as_slice(), weights), weights: weights.into() }
    }

    /// Where the number of points says it all.
    pub(super) fn plain(points: Vec<Point>, rest: Bids) -> Self {
        Self { arcs: Points::new(points, rest), ranks: Box::default(), weights: Box::default() }
    }

    #[cfg(all(test, not(evenkeel_loom)))]
    pub(super) fn as_slice(&self) -> &[Point] {
        self.arcs.as_slice()
    }

    /// The nearest that `accept`s; nobody after too many that do not.
    #[cold]
    fn nearest(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut looks = 0;
        let mut best: Option<Near> = None;
        for rank in &self.ranks {
            let mut last = None;
            for &Point { hash, node } in rank.ring.from(key) {
                let distance = hash.wrapping_sub(key);
                let at_best = Near { distance, weight: rank.heaviest, node };
                if best.is_some_and(|best| best.is_before(&at_best)) {
                    break;
                }
                looks += 1;
                if looks > WALK {
                    return None;
                }
                if last.replace(node) == Some(node) {
                    continue;
                }
                let near = Near { weight: self.weights[node as usize], ..at_best };
                if best.is_none_or(|best| near.is_before(&best)) && accept(node as usize) {
                    best = Some(near);
                }
            }
        }
        best.map(|best| best.node as usize)
    }
}

impl Table for Arcs {
    #[inline]
    fn owner(&self, key: u64) -> usize {
        self.arcs.owner(key)
    }

    #[inline]
    fn find(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.ranks.is_empty() {
            return self.arcs.find(key, accept);
        }
        let owner = self.owner(key);
        if accept(owner) {
            return Some(owner);
        }
        self.nearest(key, &mut accept).or_else(|| self.arcs.bid(key, accept))
    }
}

// === impl Near ===

impl Near {
    /// Of two as near the heavier is before the other.
    fn is_before(&self, other: &Self) -> bool {
        let own = u128::from(self.distance) * u128::from(other.weight);
        let others = u128::from(other.distance) * u128::from(self.weight);
        own < others || (own == others && self.weight > other.weight)
    }
}

// === impl Reach ===

impl Reach {
    /// Where `other`, which is heavier and came before, is nearer than this one.
    fn overtaken_by(&self, other: &Self) -> u128 {
        let lead = (self.from - other.from) * u128::from(self.weight);
        let gains = other.weight - self.weight;
        // Nearly always the quotient of two words, which processors have.
        self.from
            + match u64::try_from(lead) {
                Ok(lead) => u128::from(lead.div_ceil(u64::from(gains))),
                Err(_) => lead.div_ceil(u128::from(gains)),
            }
    }
}

// === impl Sweep ===

impl Sweep {
    /// As far as `to`: whose reach ends before gives way to the next.
    fn go_to(&mut self, to: u128) {
        while let [.., next, nearest] = &self.reaching[..] {
            let (node, until) = (next.node, nearest.until);
            if until > to {
                break;
            }
            self.reaching.pop();
            self.begin(until, node);
        }
    }

    /// The point of a node is here: its own place is its own.
    fn meet(&mut self, mut reach: Reach) {
        self.go_to(reach.from);
        // What is no heavier is farther from here on.
        while self.reaching.last().is_some_and(|other| other.weight <= reach.weight) {
            self.reaching.pop();
        }
        while let Some(other) = self.reaching.last() {
            reach.until = reach.overtaken_by(other);
            if reach.until < other.until {
                break;
            }
            // It would be the nearest only where one of its neighbours is nearer still.
            self.reaching.pop();
        }
        self.begin(reach.from, reach.node);
        self.reaching.push(reach);
    }

    /// The keys from here on are those of `node`. What begins before the second turn is kept for that.
    fn begin(&mut self, at: u128, node: u32) {
        let hash = u64::MAX - at.max(TURN).saturating_sub(TURN) as u64;
        // Nothing lies between two that begin at one place.
        if self.arcs.last().is_some_and(|arc| arc.hash == hash) {
            self.arcs.pop();
        }
        if self.arcs.last().is_none_or(|arc| arc.node != node) {
            self.arcs.push(Point { hash, node });
        }
    }
}

/// The `points`, which are in order and as many for each node, by the weights of their nodes.
fn ranks(points: &[Point], weights: &[u32]) -> Box<[Rank]> {
    let rank_of = |weight: u32| weight.checked_ilog2().unwrap_or(0) as usize;
    // The heaviest node of each rank, and how many it has.
    let mut sizes = [(0, 0); u32::BITS as usize];
    for &weight in weights {
        let (heaviest, nodes) = &mut sizes[rank_of(weight)];
        *heaviest = weight.max(*heaviest);
        *nodes += 1;
    }
    let points_a_node = points.len() / weights.len();
    let mut ranks = sizes
        .map(|(heaviest, nodes)| (heaviest, Vec::<Point>::with_capacity(nodes * points_a_node)));
    for point in points {
        ranks[rank_of(weights[point.node as usize])].1.push(*point);
    }
    let ranks = ranks.into_iter().rev().filter(|(_, points)| !points.is_empty());
    ranks.map(|(heaviest, points)| Rank { heaviest, ring: Ring::in_order(points) }).collect()
}

/// Whose the keys are up to each end of an arc, in order, by `points` in order.
fn arcs(points: &[Point], weights: &[u32]) -> Vec<Point> {
    let mut sweep = Sweep { reaching: Vec::new(), arcs: Vec::with_capacity(points.len()) };
    let weight_of = |point: &Point| weights[point.node as usize];
    let heaviest = points.iter().map(weight_of).max();
    // Nothing reaches past a point of the heaviest, so the first turn begins with the last such point.
    let behind = points.iter().position(|point| Some(weight_of(point)) == heaviest);
    let first = points.iter().take(behind.map_or(0, |last| last + 1)).rev().zip(iter::repeat(0));
    for (point, turn) in first.chain(points.iter().rev().zip(iter::repeat(TURN))) {
        let from = turn + u128::from(u64::MAX - point.hash);
        let (weight, node) = (weight_of(point), point.node);
        sweep.meet(Reach { from, until: u128::MAX, weight, node });
    }
    sweep.go_to(2 * TURN - 1);
    sweep.arcs.reverse();
    sweep.arcs
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
