//! What a pick comes to while nothing is out of the ordinary.
//!
//! A call through `dyn Picker` keeps what a pick knows in memory, and costs about as much again as
//! the pick of a built-in policy. So a built-in picker says in a word what it would do among
//! equally weighted nodes that are all connected, below their caps and without a failure; the
//! snapshot does so in line, and asks the picker itself in any other case.

use std::{fmt, sync::Arc};

use super::{LatencyModel, position::Position, schedule::Schedule};
use crate::node::{Fleet, Moment, Node, Occupancy, Scan, mix};

/// The plain way of a picker.
#[derive(Debug)]
pub enum Plain {
    /// There is none: the picker is asked.
    Other,
    /// The one of two with fewer requests in flight.
    TwoInFlight,
    /// The one of two with the lower latency times its requests in flight, and this one.
    TwoByLatency(LatencyModel),
    /// The one of so many with the fewest requests in flight.
    SomeInFlight(usize),
    /// The one of so many with the lowest latency times its requests in flight, and this one.
    SomeByLatency(usize, LatencyModel),
    /// The one of all with the fewest requests in flight.
    AllInFlight,
    /// The one of all with the lowest latency times its requests in flight, and this one.
    AllByLatency(LatencyModel),
    /// Each in its turn.
    InTurn(Arc<Position>),
    /// Each in its turn, the heavier in more of them.
    InTurnByWeight(Arc<Position>, Arc<Schedule>),
    /// Any.
    AtRandom,
    /// The highest bidder for the request's key, or for a random one: by the hashes of the nodes.
    HighestBid(Arc<[u64]>),
    /// The owner of the request's key, or of a random one.
    Owner(Arc<dyn Owners>),
}

/// A node that was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// Of the node in the tier.
    pub(crate) index: usize,
    pub(crate) node: &'a Arc<Node>,
    /// How it was occupied then, if that was looked at: whoever takes a place need not look again.
    pub(crate) seen: Occupancy,
}

/// Whose a key is, and nothing else: what is called has only numbers to hand over.
pub trait Owners: fmt::Debug + Send + Sync {
    /// By the node's index in the tier; any number where that is empty.
    fn owner_of(&self, key: u64) -> usize;
}

impl Plain {
    /// A node, unless something is out of the ordinary.
    #[inline(always)]
    pub(crate) fn pick<'a>(
        &self,
        nodes: &'a [Arc<Node>],
        fleet: &Fleet,
        cap: u32,
        key: Option<u64>,
        moment: &mut Moment,
    ) -> Option<Found<'a>> {
        match self {
            Self::Other => None,
            Self::TwoInFlight => of_two(nodes, cap, moment, |found| found.seen.count()),
            Self::TwoByLatency(model) => {
                let scan = Scan::of_few(*model, fleet, moment.nanos(fleet));
                of_two(nodes, cap, moment, |found| found.node.plain_cost(found.seen, &scan))
            }
            Self::SomeInFlight(choices) => {
                of_some(nodes, *choices, cap, moment, |found| found.seen.count())
            }
            Self::SomeByLatency(choices, model) => {
                let scan = Scan::of_few(*model, fleet, moment.nanos(fleet));
                let cost = |found: Found<'_>| found.node.plain_cost(found.seen, &scan);
                of_some(nodes, *choices, cap, moment, cost)
            }
            Self::AllInFlight => of_all(nodes, cap, moment, |node| node.in_flight() as f32),
            Self::AllByLatency(model) => {
                let scan = Scan::of_many(*model, fleet, moment.nanos(fleet));
                let cost = |node: &Node| node.plain_cost(node.occupancy(), &scan);
                least_of_all(nodes, cap, moment, cost)
            }
            Self::InTurn(position) => {
                if nodes.is_empty() {
                    return None;
                }
                one(nodes, position.next_of(nodes.len()), cap)
            }
            Self::InTurnByWeight(position, schedule) => one(nodes, schedule.pick(position), cap),
            Self::AtRandom => one(nodes, moment.rng.below(nodes.len()), cap),
            Self::HighestBid(hashes) => {
                let key = key.unwrap_or_else(|| moment.rng.next_u64());
                one(nodes, highest_bid(hashes, key), cap)
            }
            Self::Owner(table) => {
                let key = key.unwrap_or_else(|| moment.rng.next_u64());
                one(nodes, table.owner_of(key), cap)
            }
        }
    }
}

impl<'a> Found<'a> {
    #[inline]
    fn at(index: usize, nodes: &'a [Arc<Node>]) -> Option<Self> {
        let node = nodes.get(index)?;
        Some(Self { index, node, seen: node.occupancy() })
    }

    /// Whether it is up, has room below `cap`, and nothing is held against it.
    #[inline]
    fn is_ordinary(self, cap: u32) -> bool {
        self.node.is_ordinary() & (self.seen.count() < cap)
    }
}

/// The only candidate. How it is occupied is looked at only where there is a cap: who then takes a place
/// without having read its line before waits for that once.
#[inline]
fn one(nodes: &[Arc<Node>], index: usize, cap: u32) -> Option<Found<'_>> {
    let node = nodes.get(index)?;
    let seen = if cap == u32::MAX { Occupancy::UNSEEN } else { node.occupancy() };
    (node.link.is_up() && seen.count() < cap).then_some(Found { index, node, seen })
}

/// The less loaded of two distinct nodes, both from one draw.
#[inline]
fn of_two<'a, L: PartialOrd>(
    nodes: &'a [Arc<Node>],
    cap: u32,
    moment: &mut Moment,
    load: impl Fn(Found<'_>) -> L,
) -> Option<Found<'a>> {
    let (first, second) = two_of(nodes.len(), moment.rng.next_u64())?;
    let (one, other) = (Found::at(first, nodes)?, Found::at(second, nodes)?);
    if !(one.is_ordinary(cap) & other.is_ordinary(cap)) {
        return None;
    }
    Some(if load(other) < load(one) { other } else { one })
}

/// The least loaded of two distinct nodes and of others at random, which may repeat.
#[inline(never)]
fn of_some<'a, L: PartialOrd>(
    nodes: &'a [Arc<Node>],
    choices: usize,
    cap: u32,
    moment: &mut Moment,
    load: impl Fn(Found<'_>) -> L,
) -> Option<Found<'a>> {
    let mut best = of_two(nodes, cap, moment, &load)?;
    let mut least = load(best);
    for _ in 2..choices {
        let found = Found::at(moment.rng.below(nodes.len()), nodes)?;
        if !found.is_ordinary(cap) {
            return None;
        }
        let load = load(found);
        if load < least {
            (best, least) = (found, load);
        }
    }
    Some(best)
}

/// The least loaded of all, where loads are seldom equal.
///
/// Loads are not negative, so their bits are in their order. With the index below them they are one
/// number, whose least is found without a branch on the loads, which the processor could not foresee.
/// Once with the index upside down, that finds the last of equals as well as the first.
#[inline(never)]
fn least_of_all<'a>(
    nodes: &'a [Arc<Node>],
    cap: u32,
    moment: &mut Moment,
    load: impl Fn(&Node) -> f32,
) -> Option<Found<'a>> {
    const INDEX: u64 = u32::MAX as u64;
    let (mut first, mut last) = (u64::MAX, u64::MAX);
    for (index, node) in nodes.iter().enumerate() {
        let ranked = u64::from(load(node).to_bits()) << 32 | index as u64;
        first = first.min(ranked);
        last = last.min(ranked ^ INDEX);
    }
    if first != last ^ INDEX {
        return of_all(nodes, cap, moment, load);
    }
    Found::at((first & INDEX) as usize, nodes).filter(|found| found.is_ordinary(cap))
}

/// The least loaded of all; equals are decided by chance.
///
/// Only what would be chosen has to be in the ordinary: whatever is held against the others makes
/// their loads no lower than they are taken for here.
#[inline(never)]
fn of_all<'a>(
    nodes: &'a [Arc<Node>],
    cap: u32,
    moment: &mut Moment,
    load: impl Fn(&Node) -> f32,
) -> Option<Found<'a>> {
    let (mut chosen, mut least, mut equals) = (None, f32::INFINITY, 1);
    for (index, node) in nodes.iter().enumerate() {
        let load = load(node);
        if load > least {
            continue;
        }
        let found = Found { index, node, seen: node.occupancy() };
        if !found.is_ordinary(cap) {
            return None;
        }
        if load < least {
            (chosen, least, equals) = (Some(found), load, 1);
        } else {
            // Reservoir sampling: the k-th of equals replaces the choice with chance 1/k.
            equals += 1;
            if moment.rng.below(equals) == 0 {
                chosen = Some(found);
            }
        }
    }
    chosen
}

/// Whose `key` is by rendezvous hashing: the first of the highest bidders. Without a branch that
/// depends on the bids, which the processor could not foresee.
#[inline]
pub(super) fn highest_bid(hashes: &[u64], key: u64) -> usize {
    let (mut best, mut highest) = (0, 0);
    for (index, &hash) in hashes.iter().enumerate() {
        let bid = mix(key ^ hash);
        let higher = bid > highest;
        best = if higher { index } else { best };
        highest = if higher { bid } else { highest };
    }
    best
}

/// Two distinct numbers below `count`, if there are, from 64 random bits.
#[inline]
pub(super) fn two_of(count: usize, bits: u64) -> Option<(usize, usize)> {
    let count = u64::from(u32::try_from(count).ok().filter(|&count| count > 1)?);
    let first = ((bits & 0xffff_ffff) * count) >> 32;
    let second = ((bits >> 32) * (count - 1)) >> 32;
    Some((first as usize, (second + u64::from(second >= first)) as usize))
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::{
        Endpoint,
        node::{Clock, Seeds},
    };

    fn alike(count: usize) -> (Arc<Fleet>, Vec<Arc<Node>>) {
        let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::fixed(5));
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
        let node = |id| Node::new(id, &endpoint, Arc::clone(&fleet));
        let nodes = (0..count as u64).map(node).collect();
        (fleet, nodes)
    }

    /// Which of nodes with these loads are picked in so many picks, and how often each.
    fn picked(loads: &[f32], picks: usize) -> Vec<usize> {
        let (fleet, nodes) = alike(loads.len());
        let load = |node: &Node| loads[node.id().number() as usize];
        let mut counts = vec![0; loads.len()];
        for _ in 0..picks {
            let found = least_of_all(&nodes, u32::MAX, &mut fleet.moment(), load);
            counts[found.expect("all are in the ordinary").index] += 1;
        }
        counts
    }

    #[test]
    fn the_least_of_all_is_found_wherever_it_stands() {
        assert_eq!(picked(&[2.0, 1e-30, 1.0], 3), [0, 3, 0]);
        assert_eq!(picked(&[0.0, 1.0, f32::INFINITY], 3), [3, 0, 0]);
        assert_eq!(picked(&[3e9, 3.1e9, 2.9e9], 3), [0, 0, 3]);
    }

    /// Each count is binomial with mean 3,000 and deviation 45: six of those are missed once in 10^8.
    #[test]
    fn equals_share_among_them_whatever_stands_between() {
        let counts = picked(&[7.0, 1.0, 1.0, 9.0, 1.0, 2.0], 9_000);
        assert_eq!([counts[0], counts[3], counts[5]], [0; 3]);
        for equal in [1, 2, 4] {
            assert!(counts[equal].abs_diff(3_000) < 270, "{counts:?}");
        }
    }

    /// Of three the lightest is missed where the first two are the others, and the third is not it: in
    /// 2 of 9. The count is binomial with mean 7,000 and deviation 40.
    #[test]
    fn of_some_the_lightest_is_picked() {
        let (fleet, nodes) = alike(3);
        let mut counts = [0_usize; 3];
        for _ in 0..9_000 {
            let load = |found: Found<'_>| found.index;
            let found = of_some(&nodes, 3, u32::MAX, &mut fleet.moment(), load);
            counts[found.expect("all are in the ordinary").index] += 1;
        }
        assert!(counts[0].abs_diff(7_000) < 240, "{counts:?}");
        assert_eq!(counts[2], 0);
    }
}
