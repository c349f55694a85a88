//! Arcs against what they stand for, and how much of the ring each node has.

use super::*;
use crate::policy::{
    Rng,
    hash::{
        RingHash,
        test_tier::{loopback, table},
    },
};

/// The default ring over nodes of these weights; the points of each are the same whatever the others.
fn ring(weights: &[u32]) -> Arcs {
    let hosts: Vec<_> = (1..).zip(weights.iter().copied()).collect();
    table(RingHash::new(), &loopback(&hosts))
}

/// The points of each node, on a ring of equal weights.
fn points(nodes: usize) -> Vec<Point> {
    ring(&vec![1; nodes]).as_slice().to_vec()
}

/// The nearest of the accepted by definition.
fn nearest(points: &[Point], weights: &[u32], key: u64, accept: impl Fn(usize) -> bool) -> usize {
    let near = |point: &Point| Near {
        distance: point.hash.wrapping_sub(key),
        weight: weights[point.node as usize],
        node: point.node,
    };
    let accepted = points.iter().filter(|point| accept(point.node as usize)).map(near);
    let best = accepted.reduce(|best, one| if one.is_before(&best) { one } else { best });
    best.expect("somebody is accepted").node as usize
}

/// Sets of the weights that users have, and some that nobody has.
fn sets() -> Vec<Vec<u32>> {
    let mut rng = Rng::from_seed(4);
    let mut sets = vec![
        vec![100, 1],
        vec![1, 2, 3, 4],
        vec![10, 10, 10, 1],
        vec![1, 65_535, 1, 1],
        vec![u32::MAX, 1, u32::MAX - 1, 7],
    ];
    sets.extend((2..20).map(|nodes| (0..nodes).map(|_| 1 + rng.below(100) as u32).collect()));
    sets.extend((2..9).map(|nodes| (0..nodes).map(|_| 1 << rng.below(32)).collect()));
    sets
}

/// A key's owner is the nearest, at random places and on both sides of each end of an arc.
#[test]
fn r23_each_arc_is_that_of_the_nearest() {
    for weights in sets() {
        let (ring, points) = (ring(&weights), points(weights.len()));
        let mut rng = Rng::from_seed(1);
        let ends = ring.as_slice().iter().map(|arc| arc.hash).step_by(53);
        let keys = ends.flat_map(|end| [end, end.wrapping_add(1)]);
        for key in keys.chain((0..100).map(|_| rng.next_u64())).chain([0, u64::MAX]) {
            let owner = nearest(&points, &weights, key, |_| true);
            assert_eq!(ring.owner(key), owner, "{key} among {weights:?}");
        }
        assert!(ring.as_slice().len() < 2 * points.len(), "each point begins two arcs at most");
    }
}

/// R19: what cannot be used is walked past, to the nearest of the rest, and everybody is met in the end.
#[test]
fn r19_the_next_is_the_nearest_of_the_rest() {
    for weights in sets() {
        let (ring, points) = (ring(&weights), points(weights.len()));
        let mut rng = Rng::from_seed(2);
        for _ in 0..20 {
            let key = rng.next_u64();
            let mut tried = Vec::new();
            while tried.len() < weights.len() {
                let next = ring.find(key, |node| !tried.contains(&node));
                let next = next.expect("not all are tried");
                if tried.len() < 8 {
                    let expected = nearest(&points, &weights, key, |node| !tried.contains(&node));
                    assert_eq!(next, expected, "{key} among {weights:?} without {tried:?}");
                }
                tried.push(next);
            }
            assert_eq!(ring.find(key, |node| !tried.contains(&node)), None);
        }
    }
}

/// What the nodes that `counts` have of the ring, over what is due to them: the root mean square of the
/// deviations of some 1,000 nodes.
fn deviation(weights: &[u32], counts: impl Fn(u32) -> bool) -> f64 {
    let total = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
    let mut squares = Vec::new();
    for first in (1..1_000).step_by(weights.len()) {
        let hosts: Vec<_> = (first..).zip(weights.iter().copied()).collect();
        let arcs = table(RingHash::new(), &loopback(&hosts));
        let mut shares = vec![0.0; weights.len()];
        let mut begin = u64::MAX;
        for arc in arcs.as_slice() {
            shares[arc.node as usize] += arc.hash.wrapping_sub(begin) as f64 / TURN as f64;
            begin = arc.hash;
        }
        let found = shares.into_iter().zip(weights).filter(|&(_, &weight)| counts(weight));
        squares.extend(found.map(|(share, &weight)| {
            let due = f64::from(weight) / total;
            (share / due - 1.0).powi(2)
        }));
    }
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// What a node has of the ring is as near to its share for any weight.
///
/// Each node's own 256 arcs, which are at most exponential, make one over 16, or 6.3 %. The light ones'
/// reach up to the points of the heavier, whose gaps are exponential as well: with `n` heavy nodes that
/// makes as much over the root of `n`, for all light ones of a set together. A fifth is left for chance:
/// with 90 sets the worst of these root mean squares deviates by 4 %.
#[test]
fn r23_shares_are_as_near_for_any_weight() {
    let limit = |heavies: f64| 1.2 / 16.0 * (1.0 + 1.0 / heavies).sqrt();
    let mixed: Vec<u32> = (0..20).map(|at| if at < 10 { 1 } else { 100 }).collect();
    let one_heavy: Vec<u32> = (0..11).map(|at| if at < 10 { 1 } else { 10_000 }).collect();
    let spread: Vec<u32> = (0..16).map(|at| 1 << at).collect();
    for (found, limit) in [
        (deviation(&[100; 20], |_| true), 1.2 / 16.0),
        (deviation(&mixed, |weight| weight > 1), 1.2 / 16.0),
        (deviation(&mixed, |weight| weight == 1), limit(10.0)),
        (deviation(&one_heavy, |weight| weight == 1), limit(1.0)),
        (deviation(&spread, |_| true), limit(1.0)),
    ] {
        assert!(found < limit, "{found} above {limit}");
    }
}
