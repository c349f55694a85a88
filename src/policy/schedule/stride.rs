//! A schedule for weights that are measured: the static stride scheduler of gRPC's weighted round
//! robin (gRFC A58; grpc-go's `scheduler.go`). It is built in no time, and asks several nodes a turn.
//!
//! The sequence number stands for a position: its remainder by the number of nodes is the node
//! asked, its quotient the generation. A node whose weight is `w` of 65,535 lets the other
//! generations pass, evenly spread. Over 65,535 generations node `i` is chosen exactly `w_i` times.

use crate::policy::position::Position;

const FULL: u64 = u16::MAX as u64;
const HALF: u64 = FULL / 2;
/// Bounds of a measured weight, in means.
const MOST_MEANS: f64 = 10.0;
const LEAST_MEANS: f64 = 0.01;

/// The scaled weights of a tier, where they differ.
#[derive(Clone, Debug)]
pub(super) struct Stride {
    weights: Box<[u16]>,
}

impl Stride {
    /// By measured weights, of which 0 is one that is not known: it counts as the mean of the others
    /// (gRFC A58). `None` where fewer than two are known, or all come to the same, and plain round
    /// robin serves.
    ///
    /// What is measured can be far off, so none counts for more than ten times the mean, or for less
    /// than a hundredth of it, as in gRPC core. That also bounds the search for a turn: ten steps in
    /// the mean.
    pub(super) fn of_measured(weights: &[f64]) -> Option<Self> {
        let known = || weights.iter().copied().filter(|&weight| weight > 0.0);
        let count = known().count();
        let heaviest = known().fold(0.0, f64::max);
        if count < 2 || !heaviest.is_finite() {
            return None;
        }
        // First to a scale, then summed: the weights themselves may add up to infinity.
        let mean = known().map(|weight| weight / heaviest).sum::<f64>() / count as f64;
        let most = (MOST_MEANS * mean).min(1.0);
        let scaled = |weight: f64| (weight / most * FULL as f64).round().min(FULL as f64) as u16;
        let mean = scaled(mean);
        let least = ((LEAST_MEANS * f64::from(mean)).round() as u16).max(1);
        let weight = |&weight: &f64| {
            if weight > 0.0 { scaled(weight / heaviest).max(least) } else { mean }
        };
        let weights: Box<[u16]> = weights.iter().map(weight).collect();
        weights.iter().any(|&weight| weight != mean).then_some(Self { weights })
    }

    /// The next node. `position` gives sequence numbers, each once. The heaviest node takes its turn
    /// in every generation, so the search ends within two rounds.
    pub(super) fn pick(&self, position: &Position) -> usize {
        let nodes = self.weights.len() as u64;
        loop {
            let sequence = position.next();
            let node = (sequence % nodes) as usize;
            let generation = sequence / nodes;
            let weight = u64::from(self.weights[node]);
            // Each node begins elsewhere in its cycle, so that equal weights do not come in bursts.
            let phase = (weight * (generation % FULL) + node as u64 * HALF) % FULL;
            if phase >= FULL - weight {
                return node;
            }
        }
    }

    pub(super) fn weight(&self, index: usize) -> f64 {
        f64::from(self.weights[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first `picks` picks of a schedule, counted by node. The sequence begins at 0.
    fn count(stride: &Stride, picks: usize) -> Vec<u64> {
        let position = Position::at(0);
        let mut counts = vec![0; stride.weights.len()];
        for _ in 0..picks {
            counts[stride.pick(&position)] += 1;
        }
        counts
    }

    /// gRPC core, static_stride_scheduler_test.cc: EmptyWeightsIsNullopt, OneZeroWeightIsNullopt,
    /// AllZeroWeightsIsNullopt, OneWeightsIsNullopt; and grpc-go's scheduler.go, by which one known
    /// weight of many is not enough.
    #[test]
    fn without_two_known_weights_there_is_no_schedule() {
        for weights in [&[][..], &[0.0], &[0.0; 4], &[1.0], &[7.0, 0.0, 0.0]] {
            assert!(Stride::of_measured(weights).is_none(), "{weights:?}");
        }
    }

    /// The same file: PicksAreWeightedExactly, ZeroWeightUsesMean.
    #[test]
    fn grpc_core_picks() {
        let schedule = |weights: &[f64]| Stride::of_measured(weights).unwrap();
        assert_eq!(count(&schedule(&[1.0, 2.0, 3.0]), 6), [1, 2, 3]);
        assert_eq!(count(&schedule(&[3.0, 0.0, 1.0]), 6), [3, 2, 1]);
    }

    /// The same file: AllWeightsEqualIsRoundRobin, where an unknown weight equals the others.
    #[test]
    fn equal_weights_need_no_schedule() {
        assert!(Stride::of_measured(&[300.0, 300.0, 0.0]).is_none());
    }

    /// The same file: PicksAreDeterministic, RebuildGiveSamePicks.
    #[test]
    fn a_schedule_built_for_each_pick_gives_the_same_picks() {
        let schedule = || Stride::of_measured(&[1.0, 2.0, 3.0]).unwrap();
        let one = schedule();
        let (position, again) = (Position::at(0), Position::at(0));
        for _ in 0..100 {
            assert_eq!(schedule().pick(&again), one.pick(&position));
        }
    }

    /// The same file: LargestIsPickedEveryGeneration, over the 65,535 generations of a cycle.
    #[test]
    fn grpc_core_largest_is_picked_every_generation() {
        let schedule = Stride::of_measured(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(count(&schedule, 65_535 * 2)[2], 65_535);
    }

    /// Over 65,535 generations each node is chosen exactly as often as its scaled weight says,
    /// wherever in the sequence they begin.
    #[test]
    fn a_cycle_is_exact_wherever_it_begins() {
        let weights: Box<[u16]> = [65_535, 1, 2, 777, 32_767, 32_768, 65_534].into();
        let stride = Stride { weights };
        let nodes = stride.weights.len() as u64;
        for start in [0, 1, 13, 65_535 * 7 + 3, u64::from(u32::MAX) - 5, 1 << 62] {
            let end = start + 65_535 * nodes;
            let position = Position::at(start);
            let mut counts = vec![0_u64; stride.weights.len()];
            loop {
                let node = stride.pick(&position);
                if position.turn() > end {
                    break;
                }
                counts[node] += 1;
            }
            let expected: Vec<_> = stride.weights.iter().map(|&weight| u64::from(weight)).collect();
            assert_eq!(counts, expected, "from {start}");
        }
    }

    /// The same file: MaxIsClampedForHighRatio, MinIsClampedForHighRatio.
    #[test]
    fn grpc_core_weights_are_bounded_by_the_mean() {
        let mut weights = [1.0; 20];
        weights[0] = 81.0;
        let mut expected = [1; 20];
        expected[0] = 50;
        assert_eq!(count(&Stride::of_measured(&weights).unwrap(), 69), expected);
        assert_eq!(count(&Stride::of_measured(&[100.0, 1e-10]).unwrap(), 201), [200, 1]);
    }

    #[test]
    fn weights_that_add_up_to_infinity_have_a_mean() {
        let schedule = Stride::of_measured(&[f64::MAX, f64::MAX / 2.0, 0.0]).unwrap();
        assert_eq!(*schedule.weights, [65_535, 32_768, 49_151]);
        assert!(Stride::of_measured(&[f64::INFINITY, 1.0]).is_none());
    }
}
