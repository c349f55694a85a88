//! How often a bounded load looks for room, and Envoy's choices by its own test suite.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{
    endpoint::Endpoint,
    node::{Clock, Fleet, Lease, Node, Seeds},
};

/// A table of two nodes. During each of the first walks over it `meanwhile` happens.
#[derive(Debug)]
struct Eventful {
    nodes: [Arc<Node>; 2],
    meanwhile: fn(&Arc<Node>),
    times: u32,
    walks: AtomicU32,
}

impl Table for Eventful {
    fn owner(&self, _key: u64) -> usize {
        0
    }

    fn find(&self, _key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let walk = self.walks.fetch_add(1, Ordering::Relaxed);
        assert!(walk < 10, "walks on and on");
        let found = (0..2).find(|&index| accept(index));
        if walk < self.times {
            (self.meanwhile)(&self.nodes[0]);
        }
        found
    }
}

/// What a pick over two nodes comes to, in how many walks, where each holds a request that is not
/// counted and may have up to `cap`, and `meanwhile` happens in the first so many walks.
fn pick(cap: u32, times: u32, meanwhile: fn(&Arc<Node>)) -> (Pick, u32) {
    let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::fixed(1));
    let node = |id: u64| {
        let endpoint = Endpoint::new(([127, 0, 0, 1], id as u16));
        Node::new(id, &endpoint, Arc::clone(&fleet))
    };
    let nodes = [node(1), node(2)];
    let leases = nodes.each_ref().map(|node| Lease::acquire(node, None, None));
    assert!(leases.iter().all(Option::is_some));
    let table = Eventful { nodes: nodes.clone(), meanwhile, times, walks: AtomicU32::new(0) };
    let weights = Box::new([1, 1]);
    let picker = ExactPicker { table, weights, sum: 2, millionths: MILLION as u64 };
    let moment = fleet.moment();
    let mut cx = PickContext::new(&nodes, &fleet, Some(1), &[], Some(cap), Scope::Listed, moment);
    let pick = picker.pick(&mut cx);
    (pick, picker.table.walks.into_inner())
}

/// Where nothing can be used, a request is turned away after one walk, whoever else comes
/// meanwhile; and where all are at their bounds, no walk is for one that was turned away itself.
#[test]
fn no_walk_is_for_others_that_are_turned_away() {
    let turned_away: fn(&Arc<Node>) = |node| drop(node.fleet().crowd.enter());
    let got_on: fn(&Arc<Node>) = |node| node.fleet().crowd.enter().hand_over();
    for meanwhile in [turned_away, got_on] {
        assert_eq!(pick(1, u32::MAX, meanwhile), (Pick::Fail, 1), "both are full");
    }
    // By its own bound neither has room; then once more among those that can be used.
    let least = Pick::UseBelow { index: 0, cap: 2 };
    assert_eq!(pick(9, 0, turned_away), (least, 2));
    assert_eq!(pick(9, u32::MAX, turned_away), (least, 2));
    // With two counted the bound of each is still 1; with three, it is 2.
    assert_eq!(pick(9, 1, got_on), (least, 3));
    assert_eq!(pick(9, u32::MAX, got_on), (least, 3), "found at the third walk");
}

/// Hosts in the order of `overloaded` are overloaded, each a little more than the one before; the
/// rest have half of their slots taken. As the predicate of Envoy's test has it.
fn chosen(key: u64, hosts: usize, owner: usize, overloaded: &[usize]) -> usize {
    let overload = |index: usize| {
        let place = overloaded.iter().position(|&host| host == index);
        Some(place.map_or(0.5, |place| (102 + place) as f64 / 100.0))
    };
    let first = overload(owner).unwrap_or(0.0);
    if first <= 1.0 { owner } else { instead(key, hosts, owner, first, overload) }
}

/// Envoy's `bounded_load_hlb_test.cc`, its five cases.
#[test]
fn another_host_is_the_one_that_envoy_takes() {
    assert_eq!([0, 1, 2, 3, 4].map(|key| chosen(key, 5, key as usize, &[])), [0, 1, 2, 3, 4]);
    assert_eq!(chosen(2, 5, 2, &[2]), 1, "OneHostOverloaded");
    assert_eq!(chosen(2, 5, 2, &[0, 1, 2]), 4, "MultipleHostOverloaded");
    assert_eq!(chosen(6, 5, 3, &[3]), 4, "MultipleHashSameHostOverloaded");
    assert_eq!(chosen(7, 5, 3, &[3]), 0, "MultipleHashSameHostOverloaded");
    assert_eq!(chosen(0, 3, 0, &[1, 0, 2]), 1, "AllHostsOverloaded");
}

/// Envoy's `hostOverloadFactor`: with a factor of 1 % five hosts have one slot each, so two
/// requests are too many (`ActualHostOverloaded`); and by hand from its formula.
#[test]
fn slots_are_those_of_envoy() {
    assert_eq!(slots(0.2, 1, 1), 1);
    assert_eq!(slots(0.25, 8, 150), 3);
    assert_eq!(slots(0.25, 9, 150), 4, "1350 and 99 over 100 are 14, a quarter 3.5");
    assert_eq!(slots(0.5, 0, 100), 1);
}
