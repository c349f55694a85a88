//! Who is not picked.

use std::sync::{Arc, Weak};

use evenkeel::{Weight, node::Dial, policy::Rng};

use crate::{
    case::{Case, Nature, assert_one, succeed},
    numbered::{endpoint, index_of},
};

/// Stands for a client that owns its connection; the tests report for it.
struct Dialer;

impl Dial for Dialer {
    fn dial(&self) {}
    fn close(&self) {}
}

/// A request that tries one node after another meets each of them once, then none.
pub(crate) fn r19_tried_nodes_are_not_picked_again(case: &Case) {
    let bed = case.bed_of(10, 2);
    let mut rng = Rng::from_seed(7);
    for _ in 0..300 {
        let key = case.key(&mut rng);
        let mut tried = Vec::new();
        while let Some(lease) = bed.pick_except(key, &tried) {
            assert!(!tried.contains(&lease.node().id()));
            tried.push(lease.node().id());
        }
        assert_eq!(tried.len(), 10);
    }
}

pub(crate) fn failed_nodes_are_not_picked(case: &Case) {
    let bed = case.bed_of(10, 2);
    let mut rng = Rng::from_seed(7);
    let links: Vec<_> = bed.links().collect();
    for (failed, link) in links.iter().enumerate() {
        for _ in 0..200 {
            let lease = bed.pick(case.key(&mut rng)).unwrap();
            assert!(index_of(&lease) >= failed, "{} has failed", lease.endpoint());
            succeed(lease);
        }
        link.failed("refused");
    }
    assert!(bed.pick(case.key(&mut rng)).is_none(), "all have failed");
    links[6].up();
    for _ in 0..100 {
        assert_eq!(index_of(&bed.pick(case.key(&mut rng)).unwrap()), 6);
    }
}

pub(crate) fn full_nodes_are_not_picked(case: &Case) {
    let bed = case.bed_of(10, 2).max_in_flight(3);
    let mut rng = Rng::from_seed(7);
    let mut held: Vec<_> = (0..30).map(|_| bed.pick(case.key(&mut rng)).unwrap()).collect();
    assert!(bed.nodes().all(|node| node.in_flight() == 3));
    for _ in 0..200 {
        assert!(bed.pick(case.key(&mut rng)).is_none(), "all are full");
        let left = held.swap_remove(rng.below(30));
        let place = left.node().id();
        succeed(left);
        let lease = bed.pick(case.key(&mut rng)).unwrap();
        assert_eq!(lease.node().id(), place, "the one with room");
        held.push(lease);
    }
}

/// Of idle and connected nodes the connected are picked, evenly; of none that is connected, none.
pub(crate) fn connected_nodes_come_first(case: &Case) {
    let bed = case.bed_of(10, 2);
    let dialer = Arc::new(Dialer);
    let weak: Weak<Dialer> = Arc::downgrade(&dialer);
    let links: Vec<_> = bed.links().collect();
    links.iter().for_each(|link| link.manage(weak.clone()));
    let mut rng = Rng::from_seed(7);
    assert!(bed.pick(case.key(&mut rng)).is_none());
    let up = [0, 5, 6];
    up.iter().for_each(|&index| links[index].up());
    let mut counts = [0; 10];
    for _ in 0..6_000 {
        // A request without a key is none that has to wait for its own node.
        let lease = bed.pick(None).expect("some node is up");
        counts[index_of(&lease)] += 1;
        succeed(lease);
    }
    let picked = up.map(|index| counts[index]);
    assert_eq!(picked.iter().sum::<u64>(), 6_000, "{counts:?}");
    case.assert_fair(&picked);
    if case.is_by_key() {
        // Of 300 keys some 90 belong to the three: each goes there, and each other waits for its own.
        let all_up = case.bed_of(10, 2);
        let mut own_is_up = 0;
        for _ in 0..300 {
            let key = case.key(&mut rng);
            let own = index_of(&all_up.pick(key).unwrap());
            let expected = up.contains(&own).then_some(own);
            assert_eq!(bed.pick(key).as_ref().map(index_of), expected, "{own} owns the key");
            own_is_up += usize::from(expected.is_some());
        }
        assert!((1..300).contains(&own_is_up), "both were seen: {own_is_up}");
    }
    links[5].lost("reset");
    links[6].resting();
    for _ in 0..300 {
        assert_ne!(index_of(&bed.pick(None).unwrap()), 5, "was lost");
    }
}

/// Where the heaviest node cannot be used, the others share by their own weights.
pub(crate) fn the_rest_keeps_its_weights(case: &Case) {
    if case.is_by_load() {
        return;
    }
    let weights = [60_000, 3, 1];
    let endpoints = weights.iter().enumerate().map(|(i, &w)| endpoint(i).with_weight(Weight(w)));
    let bed = case.bed(endpoints, 2);
    bed.links().next().unwrap().failed("refused");
    let counts = case.count(&bed, 3, 8_000);
    assert_eq!(counts[0], 0);
    match case.nature {
        Nature::Sticky => assert_one(&counts[1..]),
        // A ring of bounded size has hardly a point for nodes as light as that.
        Nature::ByRing(_) => assert_eq!(counts[1] + counts[2], 8_000),
        _ => case.assert_shares(&counts[1..], &[3.0, 1.0]),
    }
}

/// However many others cannot be used, the two that can are compared; with weights, too.
pub(crate) fn of_two_accepted_the_less_loaded(case: &Case) {
    if !case.is_by_load() {
        return;
    }
    for (nodes, weight) in [(3, 1), (3, 50), (40, 1), (40, 50)] {
        let endpoints = (0..nodes).map(endpoint).map(|endpoint| {
            let first = index_of_first(&endpoint);
            endpoint.with_weight(Weight(if first { weight } else { 1 }))
        });
        let bed = case.bed(endpoints, 2);
        let ids: Vec<_> = bed.nodes().map(|node| node.id()).collect();
        let _held = [(); 3].map(|()| bed.pick_except(None, &[&ids[..1], &ids[2..]].concat()));
        for link in bed.links().skip(2) {
            link.failed("refused");
        }
        let counts = case.count_static(&bed, nodes, 2_000);
        assert_eq!(counts[0], 2_000, "{nodes} nodes, weight {weight}: {counts:?}");
    }
}

fn index_of_first(candidate: &evenkeel::Endpoint) -> bool {
    candidate.addr() == endpoint(0).addr()
}
