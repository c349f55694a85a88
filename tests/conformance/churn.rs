//! Counts, whatever comes and goes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use evenkeel::{
    Weight,
    node::{Head, Lease, Outcome},
    policy::Rng,
};

use crate::{
    case::{Case, Nature, succeed},
    numbered::{endpoint, index_of},
};

/// Endpoints come, go, come back and change their weight while requests hold them: every node
/// counts exactly the requests that are on it, and none when they are over.
pub(crate) fn r15_counts_stay_exact_under_churn(case: &Case) {
    let mut rng = Rng::from_seed(21);
    let mut bed = case.bed_of(5, 21);
    let mut listed: BTreeMap<usize, u32> = (0..5).map(|index| (index, 1)).collect();
    let mut held: Vec<Lease> = Vec::new();
    for _ in 0..4_000 {
        match rng.below(10) {
            0 => {
                let index = rng.below(12);
                if listed.remove(&index).is_none() {
                    listed.insert(index, 1);
                }
                bed.update(listed.iter().map(|(&i, &w)| endpoint(i).with_weight(Weight(w))));
            }
            1 => {
                listed.values_mut().for_each(|weight| *weight = rng.below(4) as u32);
                bed.update(listed.iter().map(|(&i, &w)| endpoint(i).with_weight(Weight(w))));
            }
            2..6 => held.extend(bed.pick(case.key(&mut rng))),
            _ if held.is_empty() => {}
            end => {
                let lease = held.swap_remove(rng.below(held.len()));
                end_somehow(lease, end);
            }
        }
        let mut on_node = HashMap::new();
        for lease in &held {
            *on_node.entry(lease.node().id()).or_insert(0) += 1;
        }
        let nodes = bed.nodes().chain(held.iter().map(Lease::node));
        for node in nodes {
            assert_eq!(node.in_flight(), on_node.get(&node.id()).copied().unwrap_or(0));
        }
    }
    let nodes: Vec<_> = held.iter().map(|lease| lease.node().clone()).collect();
    drop(held);
    assert!(bed.nodes().chain(&nodes).all(|node| node.in_flight() == 0));
}

fn end_somehow(mut lease: Lease, how: usize) {
    match how {
        6 => drop(lease),
        7 => lease.fail(Outcome::Failure.into()),
        8 => {
            lease.respond(Head::AtEnd);
            lease.break_off(Outcome::Failure.into());
        }
        _ => succeed(lease),
    }
}

pub(crate) fn counts_stay_exact_among_threads(case: &Case) {
    const THREADS: usize = 4;
    const EACH: usize = 5_000;
    let bed = case.bed_of(10, 5);
    let counts = [(); 10].map(|()| AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (bed, counts) = (&bed, &counts);
            scope.spawn(move || {
                let mut rng = Rng::from_seed(thread as u64);
                let mut held = Vec::new();
                for turn in 0..EACH {
                    let lease = bed.pick(case.key(&mut rng)).unwrap();
                    counts[index_of(&lease)].fetch_add(1, Ordering::Relaxed);
                    held.push(lease);
                    if turn % 7 == 0 {
                        held.drain(..).for_each(succeed);
                    }
                }
            });
        }
    });
    assert!(bed.nodes().all(|node| node.in_flight() == 0));
    let counts = counts.map(AtomicU64::into_inner);
    assert_eq!(counts.iter().sum::<u64>(), (THREADS * EACH) as u64);
    if case.nature == Nature::InTurn {
        assert_eq!(counts, [(THREADS * EACH / 10) as u64; 10], "a turn was lost or given twice");
    }
}

pub(crate) fn a_cap_holds_among_threads(case: &Case) {
    let bed = case.bed_of(3, 5).max_in_flight(2);
    thread::scope(|scope| {
        for thread in 0..4 {
            let bed = &bed;
            scope.spawn(move || {
                let mut rng = Rng::from_seed(thread);
                let mut held = Vec::new();
                for turn in 0..3_000 {
                    held.extend(bed.pick(case.key(&mut rng)));
                    assert!(bed.nodes().all(|node| node.in_flight() <= 2));
                    if turn % 3 == 0 {
                        held.drain(..).for_each(succeed);
                    }
                }
            });
        }
    });
    assert!(bed.nodes().all(|node| node.in_flight() == 0));
}
