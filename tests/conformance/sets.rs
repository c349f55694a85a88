//! The odd sets: none, one, weight zero, ten thousand.

use std::collections::HashSet;

use evenkeel::{Weight, policy::Rng};

use crate::{
    case::{Case, Nature, succeed},
    numbered::{endpoint, index_of},
};

pub(crate) fn no_node(case: &Case) {
    let mut bed = case.bed_of(0, 1);
    assert!(bed.pick(None).is_none());
    assert!(bed.pick(Some(7)).is_none());
    bed.update([endpoint(1)]);
    assert!(bed.pick(Some(7)).is_some());
    bed.update([]);
    assert!(bed.pick(Some(7)).is_none());
}

/// T13 as well: of one node two cannot be drawn.
pub(crate) fn one_node(case: &Case) {
    let mut rng = Rng::from_seed(1);
    for weight in [0, 1, u32::MAX] {
        let bed = case.bed([endpoint(3).with_weight(Weight(weight))], 1);
        let held: Vec<_> = (0..50).map(|_| bed.pick(case.key(&mut rng)).unwrap()).collect();
        assert!(held.iter().all(|lease| index_of(lease) == 3));
        let id = held[0].node().id();
        assert!(bed.pick_except(None, &[id]).is_none());
    }
}

/// Weight 0 takes nothing, unless all have it: then all are equal.
pub(crate) fn t16_zero_weights(case: &Case) {
    let endpoints = |weights: [u32; 4]| {
        (0..4).map(move |index| endpoint(index).with_weight(Weight(weights[index])))
    };
    let mut bed = case.bed(endpoints([0, 1, 0, 1]), 3);
    let counts = case.count(&bed, 4, 4_000);
    assert_eq!((counts[0], counts[2]), (0, 0));
    case.assert_fair(&[counts[1], counts[3]]);
    bed.update(endpoints([0, 0, 0, 0]));
    case.assert_fair(&case.count(&bed, 4, 4_000));
    bed.update(endpoints([0, u32::MAX, u32::MAX, u32::MAX]));
    assert_eq!(case.count(&bed, 4, 1_000)[0], 0);
}

pub(crate) fn t16_ten_thousand_nodes(case: &Case) {
    const NODES: usize = 10_000;
    let mut rng = Rng::from_seed(1);
    let mut bed = case.bed_of(NODES, 1);
    let picks = if case.nature == Nature::InTurn { NODES } else { 1_000 };
    let mut seen = HashSet::new();
    for _ in 0..picks {
        let lease = bed.pick(case.key(&mut rng)).unwrap();
        seen.insert(index_of(&lease));
        succeed(lease);
    }
    // By chance a thousand draws of ten thousand repeat 48 times in the mean, with a standard
    // deviation below 7.
    let distinct = match case.nature {
        Nature::InTurn => NODES,
        Nature::Sticky => 1,
        // Arcs are exponential, and the largest ring of gRPC has but 4,096.
        Nature::ByRing(_) => 750,
        _ => 900,
    };
    assert!(seen.len() >= distinct, "{} distinct", seen.len());

    // One that is accepted among ten thousand is found.
    let ids: Vec<_> = bed.nodes().map(|node| node.id()).collect();
    let lease = bed.pick_except(case.key(&mut rng), &ids[1..20]).unwrap();
    assert!(!ids[1..20].contains(&lease.node().id()));
    for (index, link) in bed.links().enumerate() {
        if index != 7_777 {
            link.failed("refused");
        }
    }
    assert_eq!(index_of(&bed.pick(case.key(&mut rng)).unwrap()), 7_777);

    let weighted = |index| endpoint(index).with_weight(Weight(1 + index as u32 % 7));
    bed.update((NODES..2 * NODES).map(weighted));
    for _ in 0..100 {
        assert!(index_of(&bed.pick(case.key(&mut rng)).unwrap()) >= NODES);
    }
}

pub(crate) fn t16_more_than_1024_at_once(case: &Case) {
    let bed = case.bed_of(1_500, 1);
    let mut rng = Rng::from_seed(1);
    let held: Vec<_> = (0..6_000).map(|_| bed.pick(case.key(&mut rng)).unwrap()).collect();
    assert_eq!(bed.nodes().map(|node| u64::from(node.in_flight())).sum::<u64>(), 6_000);
    if case.is_by_load() {
        // Of two choices the most is about ln ln 1,500 / ln 2 = 2.9 above the mean (Azar and others, "Balanced
        // Allocations", 1999); one who chose at random would hold 13 somewhere.
        let most = bed.nodes().map(|node| node.in_flight()).max();
        assert!(most <= Some(7), "{most:?} where 4 is the mean");
    }
    held.into_iter().for_each(succeed);
    assert!(bed.nodes().all(|node| node.in_flight() == 0));
}
