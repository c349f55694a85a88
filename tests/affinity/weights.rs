//! Weights as users have them, and sets of any size: neither makes the default ring any larger, so
//! neither moves a key without need.

use evenkeel::{
    Endpoint,
    policy::{Rendezvous, RingHash},
};
use proptest::prelude::*;

use super::{EXACT, KEYS, Kind, bed, index_of, key, moved, owners, owners_of, weighted};

/// Of a ring's shares. A node's own 256 arcs make one over 16; how far they reach depends on the points
/// of the heavier, which makes as much again for the light beside one heavy node.
const DEVIATION: f64 = std::f64::consts::SQRT_2 / 16.0;

/// Those whose tables are as large whatever the weights.
const BY_WEIGHT: [Kind; 3] = [
    Kind { name: "rendezvous", make: |set| bed(Rendezvous, set), deviation: 0.0 },
    Kind { name: "ring", make: |set| bed(RingHash::new(), set), deviation: DEVIATION },
    Kind {
        name: "bounded ring",
        make: |set| bed(RingHash::new().bounded(1.25), set),
        deviation: DEVIATION,
    },
];

/// Endpoints with the numbers from 0, each of the next weight.
fn set(weights: &[u32]) -> Vec<Endpoint> {
    weights.iter().enumerate().map(|(index, &weight)| weighted(index, weight)).collect()
}

/// One endpoint more: among weights of 100, Kubernetes' many small ones, those of SRV records, and
/// from where a ring of two million points would be full. Keys move to the new one, as many as are
/// due, and back when it goes.
#[test]
fn r23_the_number_of_endpoints_moves_no_key_between_others() {
    let ring = &BY_WEIGHT[1];
    for (count, weight) in [(1, 1), (81, 100), (128, 65_535), (8_192, 1)] {
        let mut weights = vec![weight; count];
        let mut bed = (ring.make)(set(&weights));
        let before = owners(&bed);
        weights.push(weight);
        bed.update(set(&weights));
        let moves = moved(&before, &owners(&bed));
        assert!(moves.iter().all(|&(_, to)| to == count), "{count} of weight {weight}");
        ring.assert_near(moves.len(), KEYS as f64 / (count + 1) as f64);
        weights.pop();
        bed.update(set(&weights));
        assert_eq!(owners(&bed), before);
    }
}

/// Only proportions count: the same weights in other units move nothing.
#[test]
fn r23_weights_in_other_units_move_no_key() {
    for kind in &BY_WEIGHT {
        let weights = [1, 2, 3, 10, 655];
        let before = owners(&(kind.make)(set(&weights)));
        for unit in [2, 100, 6_500_000] {
            let after = owners(&(kind.make)(set(&weights.map(|weight| weight * unit))));
            // Bids are logarithms, whose last digits may be rounded otherwise.
            assert_eq!(before, after, "{} by {unit}", kind.name);
        }
    }
}

/// The light have their shares among the heavy, and among themselves when those cannot be used.
#[test]
fn r23_light_endpoints_have_their_shares() {
    for kind in &BY_WEIGHT {
        let bed = (kind.make)(set(&[65_535, 6_000, 3_000, 1_000]));
        let shares = |owners: Vec<usize>| {
            [1, 2, 3].map(|index| owners.iter().filter(|&&owner| owner == index).count())
        };
        let expected = |total: f64| [6.0, 3.0, 1.0].map(|share| KEYS as f64 * share / total);
        let near = |found: [usize; 3], expected: [f64; 3]| {
            found.into_iter().zip(expected).for_each(|(one, due)| kind.assert_near(one, due));
        };
        near(shares(owners(&bed)), expected(75.535));
        bed.links().next().expect("there are four").failed("refused");
        near(shares(owners(&bed)), expected(10.0));
    }
}

/// R19: with weights, too, a key that has tried its node goes on to the one that it would have
/// without it.
#[test]
fn r23_the_next_choice_by_weight_is_that_of_a_set_without_the_first() {
    let weights = [1, 100, 3, 65_535, 20, 20, 7_000, 1];
    for kind in &BY_WEIGHT {
        let full = (kind.make)(set(&weights));
        for number in 0..200 {
            let key = Some(key(number));
            let first = full.pick(key).expect("all are accepted");
            let (id, gone) = (first.node().id(), index_of(&first));
            drop(first);
            let next = full.pick_except(key, &[id]).expect("seven are left");
            let rest = set(&weights).into_iter().enumerate().filter(|&(index, _)| index != gone);
            let without = (kind.make)(rest.map(|(_, endpoint)| endpoint).collect());
            let expected = without.pick(key).expect("all are accepted");
            assert_eq!(index_of(&next), index_of(&expected), "{}", kind.name);
        }
    }
}

/// Weights that are all 100, small, SRV's, or a power of two.
fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(100), 1..6_u32, 1..=65_535_u32, (0..32_u32).prop_map(|power| 1 << power)]
}

/// One change: an endpoint comes, goes, or has another weight.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add(u32),
    Remove(usize),
    Weigh(usize, u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        weight().prop_map(Change::Add),
        any::<usize>().prop_map(Change::Remove),
        (any::<usize>(), weight()).prop_map(|(at, weight)| Change::Weigh(at, weight)),
    ]
}

/// Makes `changes` one after the other; after each, keys have moved only to or from what changed.
fn assert_moves_only_what_changed(kind: &Kind, weights: &[u32], changes: &[Change]) {
    let mut set: Vec<(usize, u32)> = weights.iter().copied().enumerate().collect();
    let endpoints = |set: &[(usize, u32)]| -> Vec<Endpoint> {
        set.iter().map(|&(index, weight)| weighted(index, weight)).collect()
    };
    let mut bed = (kind.make)(endpoints(&set));
    let mut before = owners_of(&bed, 500);
    for (turn, &change) in changes.iter().enumerate() {
        let changed = match change {
            Change::Add(weight) => {
                set.push((100 + turn, weight));
                100 + turn
            }
            Change::Remove(at) if set.len() > 1 => set.remove(at % set.len()).0,
            Change::Remove(_) => continue,
            Change::Weigh(at, weight) => {
                let at = at % set.len();
                set[at].1 = weight;
                set[at].0
            }
        };
        bed.update(endpoints(&set));
        let after = owners_of(&bed, 500);
        for (from, to) in moved(&before, &after) {
            assert!(from == changed || to == changed, "{}: {from} to {to}", kind.name);
        }
        before = after;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Whatever changes, and whatever the weights, keys move only to or from what changed.
    #[test]
    fn r23_no_change_moves_a_key_between_others(
        weights in prop::collection::vec(weight(), 2..12),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        for kind in &BY_WEIGHT {
            assert_moves_only_what_changed(kind, &weights, &changes);
        }
    }

    /// The same on nginx's ring, whose points are as many as the weights say.
    #[test]
    fn r23_nor_does_it_on_the_ring_of_nginx(
        weights in prop::collection::vec(1..6_u32, 2..12),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let small = |change: &Change| match *change {
            Change::Add(weight) => Change::Add(1 + weight % 5),
            Change::Weigh(at, weight) => Change::Weigh(at, 1 + weight % 5),
            remove => remove,
        };
        let changes: Vec<_> = changes.iter().map(small).collect();
        assert_moves_only_what_changed(&EXACT[2], &weights, &changes);
    }
}
