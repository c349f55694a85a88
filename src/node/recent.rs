//! The average latency of a pool's latest answers: what memories fade to.
//!
//! Each answer of each thread moves it. Where those come thick and fast, a line of memory that all of
//! them write would be what they wait for. So a node gathers its answers, on the line that its request
//! has at hand anyway, and passes several on as one; an answer that comes a while after the last one
//! of its node is passed on at once.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The latency that a pool assumes before its first answer.
const UNKNOWN_LATENCY_NANOS: f32 = 30e6;
/// Weight of one answer in the average of the pool.
const ANSWER_WEIGHT: f32 = 0.05;
/// A node passes on so many answers at once, at most.
const MOST_GATHERED: usize = 8;
/// The weight of so many answers: as if the average had moved on by each of their mean.
const WEIGHTS: [f32; MOST_GATHERED + 1] = weights();

/// In nanoseconds. An average over answers, and not over nodes: what a node remembers from long ago has
/// no part in what it fades to, or it would never be forgotten. On cache lines of its own: what else the
/// nodes of a pool share is read by all requests, and hardly ever written.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct RecentLatency(AtomicU32);

/// One reading of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent(u32);

/// Latencies of a node that it has not passed on yet: from the top their sum (an `f32`, 32 bits), how
/// many they are (8), and when it last passed some on, or 0 for never (24 bits of steps of 2^16 ns, about 66
/// us; where they wrap after 9 minutes, an answer is gathered that would have been passed on).
///
/// An answer that another thread overtakes here is not missed: one of many.
#[derive(Debug)]
pub(super) struct Gathered(AtomicU64);

/// What a node has gathered with one more answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    sum: f32,
    count: usize,
    last_passed: u32,
    now: u32,
}

const NO_ANSWER_YET: u32 = 0;

// === impl RecentLatency ===

impl RecentLatency {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(NO_ANSWER_YET))
    }

    #[inline]
    pub(crate) fn read(&self) -> Recent {
        Recent(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn nanos(&self) -> f32 {
        self.read().nanos()
    }

    /// Moves the average on from an earlier reading, by what a node has gathered.
    #[inline]
    pub(super) fn observe(&self, before: Recent, batch: Batch) {
        let average = f32::from_bits(before.0);
        let mean = batch.sum / batch.count as f32;
        let mut after = average + WEIGHTS[batch.count] * (mean - average);
        // A step too small for the last bit would leave the average beside the truth for good.
        if before.0 == NO_ANSWER_YET || after == average {
            after = mean;
        }
        // One of many: an answer that another overtakes here is not missed.
        self.0.store(after.max(f32::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }
}

// === impl Recent ===

impl Recent {
    #[inline]
    pub(crate) fn nanos(self) -> f32 {
        if self.0 == NO_ANSWER_YET { UNKNOWN_LATENCY_NANOS } else { f32::from_bits(self.0) }
    }
}

// === impl Gathered ===

impl Gathered {
    const COUNT_SHIFT: u32 = 24;
    const SUM_SHIFT: u32 = 32;
    /// Half a step: the lowest bit is always set, so that no time is 0.
    const TIME_SHIFT: u32 = 15;
    const TIME: u32 = (1 << Self::COUNT_SHIFT) - 1;

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// What there is with one more answer, at `now` and after `nanos`.
    #[inline]
    pub(super) fn with(&self, nanos: f32, now: u64) -> Batch {
        let word = self.0.load(Ordering::Relaxed);
        Batch {
            sum: f32::from_bits((word >> Self::SUM_SHIFT) as u32) + nanos,
            count: (word >> Self::COUNT_SHIFT) as usize % MOST_GATHERED + 1,
            last_passed: word as u32 & Self::TIME,
            now: (now >> Self::TIME_SHIFT) as u32 & Self::TIME | 1,
        }
    }

    /// Keeps what is not passed on.
    #[inline]
    pub(super) fn keep(&self, batch: Batch) {
        let word = if batch.is_due() {
            u64::from(batch.now)
        } else {
            u64::from(batch.sum.to_bits()) << Self::SUM_SHIFT
                | (batch.count as u64) << Self::COUNT_SHIFT
                | u64::from(batch.last_passed)
        };
        self.0.store(word, Ordering::Relaxed);
    }
}

// === impl Batch ===

impl Batch {
    /// Whether it is passed on now.
    #[inline]
    pub(super) fn is_due(self) -> bool {
        (self.count == MOST_GATHERED) | (self.last_passed != self.now)
    }
}

const fn weights() -> [f32; MOST_GATHERED + 1] {
    let mut weights = [0.0; MOST_GATHERED + 1];
    let mut left = 1.0;
    let mut count = 1;
    while count <= MOST_GATHERED {
        left *= 1.0 - ANSWER_WEIGHT;
        weights[count] = 1.0 - left;
        count += 1;
    }
    weights
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    const STEP: u64 = 2 << Gathered::TIME_SHIFT;

    struct Pool(RecentLatency, Gathered);

    impl Pool {
        fn new() -> Self {
            Self(RecentLatency::new(), Gathered::new())
        }

        /// Whether the answer was passed on.
        fn answer(&self, nanos: f32, now: u64) -> bool {
            let Self(recent, gathered) = self;
            let batch = gathered.with(nanos, now);
            gathered.keep(batch);
            if batch.is_due() {
                recent.observe(recent.read(), batch);
            }
            batch.is_due()
        }
    }

    #[test]
    fn answers_that_come_apart_move_the_average_at_once() {
        let pool = Pool::new();
        assert_eq!(pool.0.nanos(), UNKNOWN_LATENCY_NANOS);
        let mut expected = 100.0;
        for (turn, nanos) in [100.0, 200.0, 50.0, 0.0].into_iter().enumerate() {
            assert!(pool.answer(nanos, turn as u64 * STEP));
            expected += ANSWER_WEIGHT * (nanos - expected);
            assert!((pool.0.nanos() - expected).abs() < 1e-3);
        }
    }

    #[test]
    fn answers_that_come_together_move_it_as_often_by_their_mean() {
        let pool = Pool::new();
        assert!(pool.answer(100.0, STEP), "the first after a while");
        let batch: [f32; 8] = [200.0, 300.0, 100.0, 0.0, 400.0, 150.0, 250.0, 200.0];
        for nanos in &batch[..7] {
            assert!(!pool.answer(*nanos, STEP));
            assert_eq!(pool.0.nanos(), 100.0);
        }
        assert!(pool.answer(batch[7], STEP), "no more than eight are kept");
        let expected =
            batch.iter().fold(100.0_f32, |average, _| average + 0.05 * (200.0 - average));
        assert!((pool.0.nanos() - expected).abs() < 1e-3, "{} for {expected}", pool.0.nanos());
        assert!(!pool.answer(0.0, STEP), "and it begins anew");
    }

    #[test]
    fn what_was_gathered_goes_with_the_first_answer_after_a_while() {
        let pool = Pool::new();
        pool.answer(100.0, STEP);
        assert!(!pool.answer(100.0, STEP) && pool.answer(300.0, 2 * STEP));
        assert!((pool.0.nanos() - (100.0 + (1.0 - 0.95 * 0.95) * 100.0)).abs() < 1e-3);
    }
}
