use proptest::prelude::*;

use super::*;
use crate::node::Rng;

/// `picks` picks from `start` on.
fn turns(schedule: &Schedule, start: u64, picks: u64) -> impl Iterator<Item = usize> + '_ {
    let position = Position::at(start);
    (0..picks).map(move |_| schedule.pick(&position))
}

fn counts(schedule: &Schedule, nodes: usize, start: u64, picks: u64) -> Vec<u64> {
    let mut counts = vec![0; nodes];
    turns(schedule, start, picks).for_each(|node| counts[node] += 1);
    counts
}

fn is_listed(schedule: &Schedule) -> bool {
    matches!(schedule.0, Order::Listed { .. })
}

fn skewed(heavy: u32, lights: usize) -> Vec<u32> {
    let mut weights = vec![1; lights + 1];
    weights[0] = heavy;
    weights
}

/// Weights of many a kind whose cycles are too long for a list.
fn long_cycles() -> [Vec<u32>; 6] {
    let mut rng = Rng::from_seed(4);
    let mut any = |nodes: usize, most| (0..nodes).map(|_| 1 + rng.below(most) as u32).collect();
    [
        vec![200_000, 1],
        skewed(1_000_000, 100),
        (0..1_000).map(|node| if node % 10 == 0 { 1_000 } else { 1 }).collect(),
        any(20, 65_535),
        any(1_000, 500),
        (0..10_000).map(|node| 1 + node % 19).collect(),
    ]
}

#[test]
fn equal_weights_need_no_schedule() {
    for weights in [&[][..], &[7], &[1, 1, 1], &[u32::MAX; 5]] {
        assert!(Schedule::of(weights).is_none(), "{weights:?}");
    }
}

/// R16: what all weights have in common makes no cycle longer.
#[test]
fn r16_a_cycle_is_as_short_as_weights_allow() {
    for weights in [[100, 200, 300], [1 << 30, 2 << 30, 3 << 30], [1, 2, 3]] {
        for start in 0..6 {
            assert_eq!(counts(&Schedule::of(&weights).unwrap(), 3, start, 6), [1, 2, 3]);
        }
    }
}

/// One of 100 beside a hundred of 1 has every second turn; one of 1,000 beside two of 1 waits for
/// them after every 500.
#[test]
fn r16_turns_are_even_where_weights_are_skewed() {
    let schedule = Schedule::of(&skewed(100, 100)).unwrap();
    let turns_of = |schedule, picks| turns(schedule, 0, picks).collect::<Vec<_>>();
    let turns = turns_of(&schedule, 200);
    assert!(turns.chunks(2).all(|pair| pair[0] == 0 && pair[1] > 0), "{turns:?}");
    let turns = turns_of(&Schedule::of(&skewed(1_000, 2)).unwrap(), 2 * 1_002);
    let runs = turns.split(|&node| node > 0).map(<[usize]>::len);
    assert_eq!(runs.max(), Some(500));
}

/// Each node has exactly its weight in a cycle, wherever that begins.
#[test]
fn r16_weights_beyond_16_bits_are_exact() {
    for weights in long_cycles() {
        let schedule = Schedule::of(&weights).unwrap();
        assert!(!is_listed(&schedule));
        let cycle = weights.iter().copied().map(u64::from).sum();
        let expected: Vec<_> = weights.iter().copied().map(u64::from).collect();
        for start in [0, 12_345, (1 << 63) + 7] {
            assert_eq!(counts(&schedule, weights.len(), start, cycle), expected, "from {start}");
        }
    }
}

/// A node comes again after at most `a + 2` times the mean, where `a` is the largest quotient. For
/// these weights `a` is 5 or less, and it is 3 times at most. So a heavy node has no long runs: the
/// others together are an arc, too, and come as often.
#[test]
fn r16_turns_of_a_long_cycle_are_spread() {
    for weights in long_cycles() {
        let schedule = Schedule::of(&weights).unwrap();
        let cycle: u64 = weights.iter().copied().map(u64::from).sum();
        let mut last = vec![None; weights.len()];
        let (mut other, mut run, mut longest) = (usize::MAX, 0_u64, 0);
        for (at, node) in (0..).zip(turns(&schedule, 1, 2 * cycle)) {
            if let Some(before) = last[node].replace(at) {
                let apart: u64 = at - before;
                assert!(apart * u64::from(weights[node]) <= 3 * cycle, "{node} after {apart}");
            }
            run = if node == other { run + 1 } else { 1 };
            (other, longest) = (node, longest.max(run));
        }
        let heaviest = u64::from(weights.iter().copied().max().unwrap());
        assert!(longest <= 3 * cycle / (cycle - heaviest), "{longest} in a row");
    }
}

/// No window of a long cycle is far from the shares. Koksma: of as many points in a row as the
/// denominator of a convergent, an arc has two more than its share at most, or fewer; any number is a
/// sum of such, as many as all quotients together at most, here 40. What is found is far less.
#[test]
fn r16_windows_of_a_long_cycle_have_their_shares() {
    for weights in long_cycles() {
        let schedule = Schedule::of(&weights).unwrap();
        let cycle: u64 = weights.iter().copied().map(u64::from).sum();
        // Whole numbers: how many cycles' worth of turns a node is ahead, lowest and highest.
        let (mut given, mut ahead) = (vec![0_i128; weights.len()], vec![(0, 0); weights.len()]);
        for (at, node) in (0..).zip(turns(&schedule, 0, cycle)) {
            let excess =
                |given: i128, at: i128| given * i128::from(cycle) - at * i128::from(weights[node]);
            let lowest = excess(given[node], at);
            given[node] += 1;
            let highest = excess(given[node], at + 1);
            ahead[node] = (ahead[node].0.min(lowest), ahead[node].1.max(highest));
        }
        let widest = ahead.iter().map(|(lowest, highest)| highest - lowest).max().unwrap();
        assert!(widest <= 8 * i128::from(cycle), "{} turns", widest as f64 / cycle as f64);
    }
}

/// The longest list, and one turn more; the most nodes at the largest weights, where numbers might
/// overflow.
#[test]
fn the_ends_of_the_range() {
    let most = MOST_LISTED as u32;
    let at = |heavy| Schedule::of(&skewed(heavy, 1)).unwrap();
    assert!(is_listed(&at(most - 1)));
    assert!(!is_listed(&at(most)));
    // As many nodes as 16 bits can tell apart, but for one turn that goes to the first.
    let lists = Schedule::of(&skewed(2, 65_534)).unwrap();
    assert!(is_listed(&lists));
    assert_eq!(turns(&lists, 0, 1 << 16).max(), Some(65_534));
    assert!(!is_listed(&Schedule::of(&skewed(2, 65_535)).unwrap()));

    let mut weights = vec![u32::MAX; 100_000];
    weights[7] = 1;
    let schedule = Schedule::of(&weights).unwrap();
    for start in [0, u64::MAX - 1_000] {
        let counts = counts(&schedule, weights.len(), start, 1_000);
        assert!(counts.iter().all(|&count| count <= 1));
    }
}

/// What is drawn is drawn by the weights.
#[test]
fn weights_are_kept() {
    let Order::Computed(golden) = Schedule::of(&[200_000, 1, 7]).unwrap().0 else { panic!() };
    assert_eq!([0, 1, 2].map(|index| golden.weight(index)), [200_000.0, 1.0, 7.0]);
    let Order::Listed { weights, .. } = Schedule::of(&[20, 2, 8]).unwrap().0 else { panic!() };
    assert_eq!(*weights, [10, 1, 4]);
}

proptest! {
    /// After no pick is a node a whole turn ahead of its share, or behind; and a cycle is exact.
    #[test]
    fn r16_no_node_is_a_turn_off(
        weights in prop_oneof![
            proptest::collection::vec(1_u32..8, 2..40),
            proptest::collection::vec(1_u32..1_000, 2..12),
            proptest::collection::vec(prop_oneof![Just(1_u32), 1_u32..2_000], 2..8),
        ],
    ) {
        prop_assume!(weights.windows(2).any(|pair| pair[0] != pair[1]));
        let schedule = Schedule::of(&weights).unwrap();
        prop_assert!(is_listed(&schedule));
        let sum: i64 = weights.iter().copied().map(i64::from).sum();
        let mut given = vec![0_i64; weights.len()];
        for (at, node) in (1..=sum).zip(turns(&schedule, 0, sum as u64)) {
            given[node] += 1;
            for (&given, &weight) in given.iter().zip(&weights) {
                let off = given * sum - at * i64::from(weight);
                prop_assert!(off.abs() < sum, "{given} of {at} for {weight} of {sum}");
            }
        }
        prop_assert!(given.iter().zip(&weights).all(|(&given, &weight)| given == i64::from(weight)));
    }
}
