//! Earliest deadline first, in the order in which Envoy's scheduler picks.
//!
//! Every entry has a deadline, one over its weight after it was last picked; the earliest is picked
//! next, and of equals the one that was added first. Exact, too, but its queue needs a lock, which a
//! [schedule](super::schedule) does not: so it serves the profiles that follow Envoy
//! (`source/common/upstream/edf_scheduler.h`), and nothing else.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A queue of entries, which go by their index.
#[derive(Debug, Default)]
pub(super) struct Edf {
    now: f64,
    /// Counts what was ever added.
    added: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: usize,
}

/// What Envoy adds to each weight when it starts in mid-schedule, so that ties fall as if the picks
/// before had been made one by one.
const EPSILON: f64 = 1e-13;

// === impl Edf ===

impl Edf {
    /// The schedule of `weights`, all above zero, as if `picks` picks had been made already.
    pub(super) fn with_picks(weights: &[f64], picks: u32) -> Self {
        let total: f64 = weights.iter().map(|weight| weight + EPSILON).sum();
        let mut scheduler = Self::default();
        let mut made = 0;
        for (index, weight) in weights.iter().map(|weight| weight + EPSILON).enumerate() {
            // Its share of the picks, rounded down; one less where that would be the very last one.
            let mut floor = (weight * f64::from(picks) / total).floor();
            if floor > 0.0 && floor / weight >= f64::from(picks) / total {
                floor -= 1.0;
            }
            made += floor as u32;
            scheduler.now = scheduler.now.max(floor / weight);
            scheduler.add(index, (floor + 1.0) / weight);
        }
        for _ in made..picks {
            scheduler.pick(|index| weights[index]);
        }
        scheduler
    }

    /// The index of the earliest entry, which goes back into the queue by what `weight` says of it
    /// now: so a weight that has changed is heeded from its next turn on.
    pub(super) fn pick(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let Entry { deadline, index, .. } = self.queue.pop()?;
        self.now = deadline;
        self.add(index, deadline + 1.0 / weight(index));
        Some(index)
    }

    fn add(&mut self, index: usize, deadline: f64) {
        self.queue.push(Entry { deadline, order: self.added, index });
        self.added += 1;
    }
}

// === impl Entry ===

impl Ord for Entry {
    /// The greatest is the one to pick.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Rng;

    fn picks(scheduler: &mut Edf, weights: &[f64], picks: usize) -> Vec<usize> {
        (0..picks).map(|_| scheduler.pick(|index| weights[index]).unwrap()).collect()
    }

    /// Envoy, edf_scheduler_test.cc: Empty, SchedulerWithSomePicksEmptyEntries.
    #[test]
    fn envoy_empty() {
        assert_eq!(Edf::default().pick(|_| 0.0), None);
        assert_eq!(Edf::with_picks(&[], 123).pick(|_| 0.0), None);
    }

    /// The same: Unweighted, 128 rounds in the order in which they were added.
    #[test]
    fn envoy_unweighted() {
        let weights = [1.0; 128];
        let mut scheduler = Edf::with_picks(&weights, 0);
        for _ in 0..128 {
            assert_eq!(picks(&mut scheduler, &weights, 128), Vec::from_iter(0..128));
        }
    }

    /// The same: Weighted, where entry i of 128 is picked i + 1 times in one cycle.
    #[test]
    fn envoy_weighted() {
        let weights: Vec<_> = (1..=128).map(f64::from).collect();
        let mut scheduler = Edf::with_picks(&weights, 0);
        let mut counts = [0; 128];
        picks(&mut scheduler, &weights, 128 * 129 / 2).into_iter().for_each(|i| counts[i] += 1);
        assert_eq!(counts, std::array::from_fn(|index| index + 1));
    }

    /// The same: SchedulerWithSomePicksEqualToEmptyWithAddedEntries, with its weights, its numbers
    /// of picks and its tolerance of 1e-5.
    #[test]
    fn envoy_starts_in_mid_schedule() {
        let weights: Vec<_> =
            (0..128).map(|i| (100.5 - 0.01) / 128.0 * f64::from(i) + 0.01).collect();
        let contents = |scheduler: Edf| {
            let sorted = scheduler.queue.into_sorted_vec().into_iter().rev();
            sorted.map(|entry| (entry.index, entry.deadline)).collect::<Vec<_>>()
        };
        for made in [5, 140, 501, 123_456, 894_571] {
            let mut stepped = Edf::default();
            weights.iter().enumerate().for_each(|(i, weight)| stepped.add(i, 1.0 / weight));
            picks(&mut stepped, &weights, made as usize);
            let (stepped, jumped) = (contents(stepped), contents(Edf::with_picks(&weights, made)));
            for (one, other) in stepped.iter().zip(&jumped) {
                assert_eq!(one.0, other.0, "after {made}");
                assert!((one.1 - other.1).abs() < 1e-5, "after {made}: {one:?} {other:?}");
            }
        }
    }

    /// The same: SchedulerWithRandomPicksFirstPickDistribution, with its weights and its tolerance
    /// of one per cent. Of 40,000 draws that is four standard deviations.
    #[test]
    fn envoy_first_picks_follow_the_weights() {
        for weights in [&[25.0, 75.0][..], &[1.0, 99.0], &[50.0, 50.0], &[1.0, 20.0, 79.0]] {
            let mut rng = Rng::from_seed(1);
            let mut counts = vec![0.0; weights.len()];
            for _ in 0..40_000 {
                let made = rng.below(429_496_729) as u32;
                counts[Edf::with_picks(weights, made).pick(|index| weights[index]).unwrap()] += 1.0;
            }
            for (count, weight) in counts.iter().zip(weights) {
                assert!((count / 400.0 - weight).abs() < 1.0, "{counts:?} for {weights:?}");
            }
        }
    }
}
