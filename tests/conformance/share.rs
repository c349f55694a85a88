//! Who gets how much.

use std::{collections::VecDeque, time::Duration};

use evenkeel::{Endpoint, Weight, policy::Rng};

use crate::{
    case::{Case, Nature, assert_shares, assert_within, succeed},
    hand_time::HandTime,
    numbered::{endpoint, index_of},
};

pub(crate) fn equal_weights_get_equal_shares(case: &Case) {
    for nodes in [2, 3, 10, 64] {
        let bed = case.bed_of(nodes, 5);
        let counts = case.count(&bed, nodes, nodes * 500);
        match case.nature {
            Nature::InTurn => assert_eq!(counts, vec![500; nodes]),
            _ => case.assert_fair(&counts),
        }
    }
}

pub(crate) fn unequal_weights_get_their_shares(case: &Case) {
    let weights = [1, 2, 3, 4];
    let endpoints = || weights.iter().enumerate().map(|(index, &w)| weighted(index, w));
    let shares = weights.map(f64::from);
    let bed = case.bed(endpoints(), 8);
    match case.nature {
        // Exactly, in every ten that follow each other.
        Nature::InTurn => {
            for _ in 0..10 {
                assert_eq!(case.count(&bed, 4, 10), [1, 2, 3, 4]);
                case.count(&bed, 4, 1);
            }
        }
        Nature::AtRandom | Nature::Unweighted | Nature::ByKey | Nature::ByRing(_) => {
            case.assert_shares(&case.count(&bed, 4, 20_000), &shares);
        }
        // Not the requests of one balancer, but balancers, share by weight.
        Nature::Sticky => {
            let mut counts = [0; 4];
            for seed in 0..4_000 {
                counts[index_of(&case.bed(endpoints(), seed).pick(None).unwrap())] += 1;
            }
            assert_shares(&counts, &shares);
        }
        Nature::ByLoad | Nature::ByLoadOfMany => {
            // Idle nodes are equals, so the draw decides alone.
            assert_shares(&closed_loop(case, endpoints(), 1), &shares);
            // Between, loads of whole requests cannot be in proportion; the lightest never starves,
            // and gets at most an equal share.
            let few = closed_loop(case, endpoints(), 4);
            assert!(few[0] > 1_000 && few[0] <= 5_000 && few.is_sorted(), "{few:?}");
            // From here on the loads decide: the spread is that of whole requests in flight.
            for in_flight in [10, 40, 400] {
                let counts = closed_loop(case, endpoints(), in_flight);
                assert_within(&[counts[0], counts[1] / 2, counts[2] / 3, counts[3] / 4], 6.0);
            }
        }
    }
}

/// Weights that 16 bits cannot tell apart: turns are exact, and what goes by chance hardly ever meets
/// the light ones.
pub(crate) fn weights_far_apart_get_their_shares(case: &Case) {
    for (heavy, lights) in [(200_000, 1), (1_000_000, 100)] {
        let endpoints = (0..=lights).map(|at| weighted(at, if at == 0 { heavy } else { 1 }));
        let bed = case.bed(endpoints, 8);
        let picks = if case.nature == Nature::InTurn { heavy as usize + lights } else { 5_000 };
        let counts = match case.nature {
            // A host has one point at the least, and these all points that a ring can have.
            Nature::ByRing(_) | Nature::Sticky => return,
            _ => case.count(&bed, lights + 1, picks),
        };
        let to_lights: u64 = counts[1..].iter().sum();
        match case.nature {
            Nature::InTurn => assert!(counts[1..].iter().all(|&count| count == 1), "{counts:?}"),
            Nature::Unweighted => case.assert_fair(&counts),
            // Half a request in the mean by their weights. A table of 16,381 places has one for each.
            _ => assert!(to_lights <= 60, "{to_lights} of {picks} to {lights}"),
        }
    }
}

fn weighted(index: usize, weight: u32) -> Endpoint {
    endpoint(index).with_weight(Weight(weight))
}

/// The shares of 20,000 requests, always so many in flight, each as long as any other.
fn closed_loop(
    case: &Case,
    endpoints: impl Iterator<Item = Endpoint>,
    in_flight: usize,
) -> Vec<u64> {
    let time = HandTime::new();
    let bed = case.bed_in(&time, endpoints, 8);
    let mut counts = vec![0; bed.nodes().count()];
    let mut waiting = VecDeque::new();
    for turn in 0..20_000 {
        time.set(Duration::from_micros(turn * 100));
        if waiting.len() == in_flight {
            waiting.pop_front().into_iter().for_each(succeed);
        }
        let lease = bed.pick(None).unwrap();
        counts[index_of(&lease)] += 1;
        waiting.push_back(lease);
    }
    counts
}

/// A thousand fresh balancers with one request each, over ten endpoints.
pub(crate) fn r16_fresh_balancers_do_not_herd(case: &Case) {
    let mut counts = vec![0; 10];
    let mut keys = Rng::from_seed(1);
    for seed in 0..1_000 {
        let bed = case.bed_of(10, seed);
        counts[index_of(&bed.pick(case.key(&mut keys)).unwrap())] += 1;
    }
    case.assert_shares(&counts, &[1.0; 10]);
}

/// A rebuild after every few requests: with the same nodes, and with one that comes and goes.
pub(crate) fn r16_rebuilds_do_not_bias(case: &Case) {
    let mut keys = Rng::from_seed(1);
    for between in [1, 3, 20] {
        let mut bed = case.bed_of(10, between);
        let mut counts = vec![0; 10];
        for turn in 1..=10_000 {
            let lease = bed.pick(case.key(&mut keys)).unwrap();
            counts[index_of(&lease)] += 1;
            succeed(lease);
            if turn % between == 0 {
                bed.rebuild();
            }
        }
        match case.nature {
            Nature::InTurn => assert_eq!(counts, [1_000; 10]),
            _ => case.assert_fair(&counts),
        }
    }
    let mut bed = case.bed_of(10, 4);
    let mut counts = [0; 11];
    for turn in 1..=10_000 {
        let lease = bed.pick(case.key(&mut keys)).unwrap();
        counts[index_of(&lease)] += 1;
        succeed(lease);
        if turn % 20 == 0 {
            bed.update((0..10 + turn / 20 % 2).map(endpoint));
        }
    }
    case.assert_fair(&counts[..10]);
}

/// The same with weights: built anew with the same ones, and with others each time. Twenty requests
/// between two builds are 50 builds in a second of a thousand requests.
pub(crate) fn r16_rebuilds_with_weights_do_not_bias(case: &Case) {
    if case.nature == Nature::Sticky {
        return;
    }
    let endpoints = |weights: [u32; 4]| (0..4).map(move |index| weighted(index, weights[index]));
    let mut keys = Rng::from_seed(1);
    for between in [1, 3, 20] {
        let mut bed = case.bed(endpoints([1, 2, 3, 4]), between);
        let mut counts = [0; 4];
        for turn in 1..=20_000 {
            let lease = bed.pick(case.key(&mut keys)).unwrap();
            counts[index_of(&lease)] += 1;
            succeed(lease);
            if turn % between == 0 {
                bed.rebuild();
            }
        }
        case.assert_shares(&counts, &[1.0, 2.0, 3.0, 4.0]);
    }
    let (rising, falling) = ([1, 2, 3, 4], [4, 3, 2, 1]);
    let mut bed = case.bed(endpoints(rising), 4);
    let mut counts = [0; 4];
    for turn in 0..20_000 {
        if turn % 20 == 0 {
            bed.update(endpoints(if turn % 40 == 0 { rising } else { falling }));
        }
        let lease = bed.pick(case.key(&mut keys)).unwrap();
        counts[index_of(&lease)] += 1;
        succeed(lease);
    }
    case.assert_shares(&counts, &[1.0; 4]);
}

/// No dogpile on the neighbour: 72,000 requests over nine nodes give a standard deviation of 1.05 %
/// of a share by chance alone, so that 5 % are 4.7 of them.
pub(crate) fn r16_one_of_ten_failed_leaves_the_rest_even(case: &Case) {
    let bed = case.bed_of(10, 11);
    bed.links().nth(4).unwrap().failed("refused");
    let mut counts = case.count(&bed, 10, 72_000);
    assert_eq!(counts.remove(4), 0);
    case.assert_within(&counts, 5.0);
}

pub(crate) fn r16_one_of_ten_removed_leaves_the_rest_even(case: &Case) {
    let mut bed = case.bed_of(10, 12);
    bed.update((0..10).filter(|&index| index != 4).map(endpoint));
    let mut counts = case.count(&bed, 10, 72_000);
    assert_eq!(counts.remove(4), 0);
    case.assert_within(&counts, 5.0);
}

/// Of `n` nodes with the static loads 1 to n, that of rank r wins unless a lower one is drawn beside
/// it: 2 (n - r) / (n (n - 1)). So 2/n for the lowest, exactly none for the highest.
pub(crate) fn t13_loads_decide_between_distinct_nodes(case: &Case) {
    if !case.is_by_load() {
        return;
    }
    for nodes in [2, 5, 10] {
        let bed = case.bed_of(nodes, 3);
        let ids: Vec<_> = bed.nodes().map(|node| node.id()).collect();
        let mut held = Vec::new();
        for index in 0..nodes {
            let others: Vec<_> = ids.iter().copied().filter(|&id| id != ids[index]).collect();
            held.extend((0..index).map(|_| bed.pick_except(None, &others).unwrap()));
        }
        let counts = case.count_static(&bed, nodes, 20_000);
        assert_eq!(counts[nodes - 1], 0, "{counts:?}");
        if case.nature == Nature::ByLoad {
            let ranks = 1..nodes;
            let weights: Vec<_> = ranks.map(|rank| (nodes - rank) as f64).collect();
            match nodes {
                2 => assert_eq!(counts, [20_000, 0]),
                _ => assert_shares(&counts[..nodes - 1], &weights),
            }
        } else {
            assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]), "{counts:?}");
        }
    }
}

pub(crate) fn a_seed_repeats_its_picks(case: &Case) {
    let picks = |seed| {
        let bed = case.bed_of(50, seed);
        let mut keys = Rng::from_seed(seed);
        let pick = |_| index_of(&bed.pick(case.key(&mut keys)).unwrap());
        (0..20).map(pick).collect::<Vec<_>>()
    };
    assert_eq!(picks(1), picks(1));
    assert_ne!(picks(1), picks(2));
}

/// R16: what a failed tier skips does not bias the tier that stands in for it.
pub(crate) fn a_failed_tier_does_not_bias_the_next(case: &Case) {
    for (first, second) in [(1, 2), (3, 4), (2, 3), (1, 4)] {
        let tiers = (0..first + second).map(|index| {
            let priority = evenkeel::Priority(u32::from(index >= first));
            endpoint(index).with_priority(priority)
        });
        let bed = case.bed(tiers, 11);
        bed.links().take(first).for_each(|link| link.failed("down"));
        let counts = case.count(&bed, first + second, second * 500);
        assert_eq!(counts[..first].iter().sum::<u64>(), 0);
        case.assert_fair(&counts[first..]);
    }
}
