//! The average latency of a pool's latest answers: what memories fade to.
//!
//! Each answer of each thread moves it. Where those come thick and fast, a line of memory that all of
//! them write would be what they wait for. So a node gathers its answers, on the line that its request
//! has at hand anyway, and passes several on as one; an answer that comes a while after the last one
//! of its node is passed on at once.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The latency that a pool assumes before its first answer: 30 ms. No average of answers comes to it,
/// since the last bit of those is never set.
const UNKNOWN_LATENCY_NANOS: f32 = f32::from_bits(30e6_f32.to_bits() | LAST_BIT);
const LAST_BIT: u32 = 1;
/// Weight of one answer in the average of the pool.
const ANSWER_WEIGHT: f32 = 0.05;
/// A node passes on so many answers at once, at most.
const MOST_GATHERED: usize = 32;
/// The weight of so many answers: as if the average had moved on by each of their mean.
const WEIGHTS: [f32; MOST_GATHERED + 1] = weights();

/// In nanoseconds. An average over answers, and not over nodes: what a node remembers from long ago has
/// no part in what it fades to, or it would never be forgotten. On cache lines of its own: what else the
/// nodes of a pool share is read by all requests, and hardly ever written.
#[derive(Debug)]
pub(crate) struct RecentLatency {
    average: Line,
    /// Zero, to be read in its place.
    nothing: AtomicU32,
}

#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU32);

/// Latencies of a node that it has not passed on yet: from the top their sum (an `f32`, 32 bits), when it
/// last passed some on, or 0 for never (27 bits, the lowest always set: steps of 2^16 ns, about 66 us; where
/// they wrap after some 70 minutes, an answer is gathered that would have been passed on), and how many they
/// are (5).
///
/// An answer that another thread overtakes here is not missed: one of many.
#[derive(Debug)]
pub(super) struct Gathered(AtomicU64);

/// What a node passes on.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Batch {
    sum: f32,
    count: usize,
}

// === impl RecentLatency ===

impl RecentLatency {
    pub(super) fn new() -> Self {
        let average = Line(AtomicU32::new(UNKNOWN_LATENCY_NANOS.to_bits()));
        Self { average, nothing: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn nanos(&self) -> f32 {
        self.nanos_if(true)
    }

    /// Zero unless it is `needed`: any answer may have just moved it, and to read what another thread
    /// has written costs as much as the rest of a pick. Without a branch: the processor cannot foresee
    /// of which nodes the memory has faded.
    #[inline]
    pub(super) fn nanos_if(&self, needed: bool) -> f32 {
        let source = if needed { &self.average.0 } else { &self.nothing };
        f32::from_bits(source.load(Ordering::Relaxed))
    }

    /// Moves the average on by what a node has gathered.
    #[inline]
    pub(super) fn observe(&self, batch: Batch) {
        let average = self.nanos();
        let mean = batch.sum / batch.count as f32;
        let mut after = clear_last_bit(average + WEIGHTS[batch.count] * (mean - average));
        // A step too small for the last bits would leave the average beside the truth for good.
        if average == UNKNOWN_LATENCY_NANOS || after == average {
            after = clear_last_bit(mean);
        }
        // One of many: an answer that another overtakes here is not missed.
        self.average.0.store(after.max(f32::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }
}

#[inline]
fn clear_last_bit(nanos: f32) -> f32 {
    f32::from_bits(nanos.to_bits() & !LAST_BIT)
}

// === impl Gathered ===

impl Gathered {
    const SUM_SHIFT: u32 = 32;
    /// Half a step: the lowest bit is always set, so that no time is 0.
    const TIME_SHIFT: u32 = 15;
    const COUNT_BITS: u32 = MOST_GATHERED.ilog2();
    const COUNT: u32 = MOST_GATHERED as u32 - 1;
    /// Half steps, some 100 ms: what was gathered so long ago is of no latest answer any more.
    const FORGOTTEN_AFTER: u32 = 3_000;

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether nothing was ever gathered.
    #[inline]
    pub(super) fn is_new(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// One more answer, at `now` and after `nanos`: kept with those before, or given back with them where
    /// they are passed on now.
    #[inline]
    pub(super) fn add(&self, nanos: f32, now: u64) -> Option<Batch> {
        let before = self.0.load(Ordering::Relaxed);
        let sum = f32::from_bits((before >> Self::SUM_SHIFT) as u32) + nanos;
        let last = before as u32;
        let none_yet = ((now >> Self::TIME_SHIFT) as u32 | 1) << Self::COUNT_BITS;
        // How many they are, or more than that where the time is another.
        let kept = (last ^ none_yet) as usize;
        if kept < MOST_GATHERED - 1 {
            let word = u64::from(sum.to_bits()) << Self::SUM_SHIFT | u64::from(last + 1);
            self.0.store(word, Ordering::Relaxed);
            return None;
        }
        self.0.store(u64::from(none_yet), Ordering::Relaxed);
        let age = (none_yet & !Self::COUNT).wrapping_sub(last & !Self::COUNT) >> Self::COUNT_BITS;
        if age > Self::FORGOTTEN_AFTER {
            return Some(Batch { sum: nanos, count: 1 });
        }
        Some(Batch { sum, count: last as usize % MOST_GATHERED + 1 })
    }
}

const _: () = assert!(MOST_GATHERED.is_power_of_two(), "the count has so many bits");

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
            let batch = gathered.add(nanos, now);
            batch.map(|batch| recent.observe(batch)).is_some()
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
        let batch: [f32; MOST_GATHERED] = std::array::from_fn(|at| at as f32 * 10.0);
        for nanos in &batch[..MOST_GATHERED - 1] {
            assert!(!pool.answer(*nanos, STEP));
            assert_eq!(pool.0.nanos(), 100.0);
        }
        assert!(pool.answer(batch[MOST_GATHERED - 1], STEP), "no more are kept");
        let expected =
            batch.iter().fold(100.0_f32, |average, _| average + 0.05 * (155.0 - average));
        assert!((pool.0.nanos() - expected).abs() < 1e-3, "{} for {expected}", pool.0.nanos());
        assert!(!pool.answer(0.0, STEP), "and it begins anew");
    }

    /// A burst of slow answers, and a minute later one that is fast: that moves the average by itself.
    #[test]
    fn what_was_gathered_long_ago_is_forgotten() {
        let pool = Pool::new();
        pool.answer(100.0, STEP);
        (1..MOST_GATHERED).for_each(|_| assert!(!pool.answer(90_000.0, STEP)));
        assert!(pool.answer(300.0, 60_000_000_000));
        assert!((pool.0.nanos() - 110.0).abs() < 1e-3, "{}", pool.0.nanos());
    }

    #[test]
    fn what_was_gathered_goes_with_the_first_answer_after_a_while() {
        let pool = Pool::new();
        pool.answer(100.0, STEP);
        assert!(!pool.answer(100.0, STEP) && pool.answer(300.0, 2 * STEP));
        assert!((pool.0.nanos() - (100.0 + (1.0 - 0.95 * 0.95) * 100.0)).abs() < 1e-3);
    }
}
