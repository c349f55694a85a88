//! A policy to check, and what to count.

use evenkeel::{
    Endpoint,
    node::{Lease, Outcome},
    policy::{IntoPolicy, Rng},
    pool::TestBed,
};

use crate::{
    hand_time::HandTime,
    numbered::{endpoint, index_of},
};

/// What a policy picks by, and so which shares are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Each in its turn: exact shares.
    InTurn,
    /// By chance alone.
    AtRandom,
    /// By chance, or by few of the loads, whatever the weights.
    Unweighted,
    /// By the key; by chance where there is none.
    ByKey,
    /// The same, by points at random places: shares are only as even as those.
    ByRing(Points),
    /// The less loaded of two.
    ByLoad,
    /// The least loaded of more than two.
    ByLoadOfMany,
    /// One node for all requests, as long as it can be used; by chance which.
    Sticky,
}

/// How many points a ring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Points {
    ForAUnitOfWeight(u32),
    ForANode(u32),
    InAll(u32),
}

pub(crate) struct Case {
    pub(crate) nature: Nature,
    make: Box<dyn Fn(Vec<Endpoint>) -> TestBed + Send + Sync>,
}

impl Case {
    pub(crate) fn new<P: IntoPolicy>(
        policy: impl Fn() -> P + Send + Sync + 'static,
        nature: Nature,
    ) -> Self {
        let make = move |endpoints| TestBed::new(policy(), endpoints).unwrap();
        Self { nature, make: Box::new(make) }
    }

    /// The policy over `endpoints`, in a time that stands still.
    pub(crate) fn bed(&self, endpoints: impl IntoIterator<Item = Endpoint>, seed: u64) -> TestBed {
        self.bed_in(&HandTime::new(), endpoints, seed)
    }

    pub(crate) fn bed_in(
        &self,
        time: &HandTime,
        endpoints: impl IntoIterator<Item = Endpoint>,
        seed: u64,
    ) -> TestBed {
        (self.make)(endpoints.into_iter().collect()).clock(time.clock(), seed)
    }

    /// Over the endpoints with the numbers 0 up to and without `count`.
    pub(crate) fn bed_of(&self, count: usize, seed: u64) -> TestBed {
        self.bed((0..count).map(endpoint), seed)
    }

    /// The key of a request, for a policy that wants one.
    pub(crate) fn key(&self, rng: &mut Rng) -> Option<u64> {
        self.is_by_key().then(|| rng.next_u64())
    }

    pub(crate) fn is_by_key(&self) -> bool {
        matches!(self.nature, Nature::ByKey | Nature::ByRing(_))
    }

    pub(crate) fn is_by_load(&self) -> bool {
        matches!(self.nature, Nature::ByLoad | Nature::ByLoadOfMany)
    }

    /// How often each of `nodes` endpoints is picked in `picks` requests, one after the other.
    pub(crate) fn count(&self, bed: &TestBed, nodes: usize, picks: usize) -> Vec<u64> {
        let mut counts = vec![0; nodes];
        let mut rng = Rng::from_seed(99);
        for _ in 0..picks {
            let lease = bed.pick(self.key(&mut rng)).expect("some node is accepted");
            counts[index_of(&lease)] += 1;
            succeed(lease);
        }
        counts
    }

    /// The same where nothing is learned from a request.
    pub(crate) fn count_static(&self, bed: &TestBed, nodes: usize, picks: usize) -> Vec<u64> {
        let mut counts = vec![0; nodes];
        for _ in 0..picks {
            // Dropped: an abandoned request is neutral while nobody answers.
            counts[index_of(&bed.pick(None).expect("some node is accepted"))] += 1;
        }
        counts
    }
}

impl Case {
    /// Every cell has its share; of a policy that stays where it is, one has them all.
    #[track_caller]
    pub(crate) fn assert_fair(&self, counts: &[u64]) {
        match self.nature {
            Nature::Sticky => assert_one(counts),
            _ => self.assert_shares(counts, &vec![1.0; counts.len()]),
        }
    }

    /// Every cell has its share as far as chance can tell, that of a ring's points included.
    ///
    /// The lengths of arcs between random points are Dirichlet distributed, with as many parameters
    /// of 1 as there are points. The counts of N keys over nodes with M points in all are then
    /// Dirichlet-multinomial: their variances, and so chi-square, are those of fixed shares times
    /// (N + M) / (1 + M).
    #[track_caller]
    pub(crate) fn assert_shares(&self, counts: &[u64], weights: &[f64]) {
        let points = match self.nature {
            Nature::ByRing(points) => points,
            Nature::Unweighted => return assert_shares(counts, &vec![1.0; counts.len()]),
            _ => return assert_shares(counts, weights),
        };
        let points = match points {
            Points::ForAUnitOfWeight(points) => f64::from(points) * weights.iter().sum::<f64>(),
            Points::ForANode(points) => f64::from(points) * weights.len() as f64,
            Points::InAll(points) => f64::from(points),
        };
        let spread = (counts.iter().sum::<u64>() as f64 + points) / (1.0 + points);
        let (found, limit) = (chi_square(counts, weights) / spread, chi_square_limit(counts.len()));
        assert!(
            found < limit,
            "chi-square {found:.1} above {limit:.1}: {counts:?} for {weights:?}"
        );
    }

    /// All within so many per cent of their mean; of a policy that stays where it is, one has all.
    #[track_caller]
    pub(crate) fn assert_within(&self, counts: &[u64], per_cent: f64) {
        match self.nature {
            Nature::Sticky => assert_one(counts),
            Nature::ByRing(_) => self.assert_fair(counts),
            _ => assert_within(counts, per_cent),
        }
    }
}

#[track_caller]
pub(crate) fn assert_one(counts: &[u64]) {
    let used = counts.iter().filter(|&&count| count > 0).count();
    assert_eq!(used, 1, "one for all: {counts:?}");
}

pub(crate) fn succeed(mut lease: Lease) {
    lease.finish(Outcome::Success.into());
}

/// Pearson's chi-square of `counts` against shares in proportion to `weights`.
pub(crate) fn chi_square(counts: &[u64], weights: &[f64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64 / weights.iter().sum::<f64>();
    counts
        .iter()
        .zip(weights)
        .map(|(&count, weight)| (count as f64 - total * weight).powi(2) / (total * weight))
        .sum()
}

/// What chi-square exceeds with a chance of about 1e-5, by Wilson and Hilferty's approximation.
pub(crate) fn chi_square_limit(cells: usize) -> f64 {
    let freedom = cells as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 4.265 * spread.sqrt()).powi(3)
}

/// Every cell has its share as far as chance can tell.
#[track_caller]
pub(crate) fn assert_shares(counts: &[u64], weights: &[f64]) {
    let (found, limit) = (chi_square(counts, weights), chi_square_limit(counts.len()));
    assert!(found < limit, "chi-square {found:.1} above {limit:.1}: {counts:?} for {weights:?}");
}

/// All within so many per cent of their mean.
#[track_caller]
pub(crate) fn assert_within(counts: &[u64], per_cent: f64) {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let off = counts.iter().map(|&count| (count as f64 / mean - 1.0).abs() * 100.0);
    let worst = off.fold(0.0, f64::max);
    assert!(worst <= per_cent, "{worst:.1} % off, {per_cent} % allowed: {counts:?}");
}
