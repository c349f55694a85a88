//! The age of the oldest request that still waits for its response head, without a lock.
//!
//! Requests are counted in generations: each remembers when it was opened and how many of its
//! requests still wait. A new generation is opened once the current one spans a fifth of the
//! age read of the oldest. So under steady traffic the age read is at most that much too high, for the
//! length of one response more after a jump of the latency, and exact for a request that hangs,
//! whose generation keeps its stamp.

use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Generations kept apart. When all are taken, new requests join the newest: the oldest stays exact.
const GENERATIONS: usize = if cfg!(evenkeel_loom) { 2 } else { 16 };
/// A generation spans at most a fifth of the age read of the oldest: a quarter of the true one.
const SPAN_SHARE: u64 = 5;
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Steps of 2^14 ns (about 16 us) since the pool began.
const STAMP_SHIFT: u32 = 14;
/// So many bits of the steps are kept; they wrap after 208 days, and half of that may pass between
/// what is compared.
const STAMP_BITS: u32 = u64::BITS - COUNT_BITS;

#[derive(Debug)]
pub(crate) struct Oldest {
    /// Each a stamp (40 bits) and a count (24 bits).
    generations: [AtomicU64; GENERATIONS],
    /// The generation that new requests join.
    newest: AtomicU8,
}

/// The generation that a request was counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(pub(super) u8);

// === impl Oldest ===

impl Oldest {
    pub(crate) fn new() -> Self {
        Self { generations: std::array::from_fn(|_| AtomicU64::new(0)), newest: AtomicU8::new(0) }
    }

    /// Counts a request that begins at `nanos` after the pool began.
    #[inline]
    pub(crate) fn begin(&self, nanos: u64) -> Generation {
        let now = stamp(nanos);
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let slot = &self.generations[usize::from(newest)];
            let word = slot.load(Ordering::Relaxed);
            let count = word & COUNT;
            // Nobody waits in it, so it may begin anew where it stands.
            let joined = if count == 0 { now << COUNT_BITS | 1 } else { word + 1 };
            if count != 0 && self.is_wide(now, word) {
                let next = (newest + 1) % GENERATIONS as u8;
                let next_slot = &self.generations[usize::from(next)];
                let free = next_slot.load(Ordering::Relaxed);
                if free & COUNT == 0 {
                    if next_slot
                        .compare_exchange(
                            free,
                            now << COUNT_BITS | 1,
                            Ordering::Relaxed,
                            Ordering::Relaxed,
                        )
                        .is_ok()
                    {
                        let moved = self.newest.compare_exchange(
                            newest,
                            next,
                            Ordering::Release,
                            Ordering::Relaxed,
                        );
                        if moved.is_ok() {
                            return Generation(next);
                        }
                        // Others went past this generation meanwhile: it would stand out of order.
                        next_slot.fetch_sub(1, Ordering::Relaxed);
                    }
                    continue;
                }
            }
            if slot
                .compare_exchange_weak(word, joined, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return Generation(newest);
            }
        }
    }

    /// The request has its response head, or will never have one.
    #[inline]
    pub(crate) fn end(&self, generation: Generation) {
        let before = self.generations[usize::from(generation.0)].fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before & COUNT > 0, "a request ended twice");
    }

    /// The age in nanoseconds of the oldest request that waits; 0 if none does.
    #[inline(never)]
    pub(crate) fn age(&self, nanos: u64) -> u64 {
        self.stamp_of_oldest().map_or(0, |stamp| age_of(stamp, nanos))
    }

    /// Generations are opened in the order of the ring, so the first one in use after the newest is
    /// the oldest.
    fn stamp_of_oldest(&self) -> Option<u64> {
        let newest = usize::from(self.newest.load(Ordering::Acquire));
        (1..=GENERATIONS)
            .map(|step| self.generations[(newest + step) % GENERATIONS].load(Ordering::Relaxed))
            .find(|word| word & COUNT != 0)
            .map(|word| word >> COUNT_BITS)
    }

    fn is_wide(&self, now: u64, newest: u64) -> bool {
        let span = steps(newest >> COUNT_BITS, now);
        let oldest = self.stamp_of_oldest().map_or(0, |stamp| steps(stamp, now));
        span > 0 && span >= oldest / SPAN_SHARE
    }
}

/// `nanos` after the pool began, in steps.
#[inline]
pub(super) fn stamp(nanos: u64) -> u64 {
    nanos << (u64::BITS - STAMP_BITS - STAMP_SHIFT) >> (u64::BITS - STAMP_BITS)
}

/// How many nanoseconds `stamp` is old, a step more or less; 0 if the clock went back.
#[inline]
pub(super) fn age_of(stamp: u64, nanos: u64) -> u64 {
    steps(stamp, self::stamp(nanos)) << STAMP_SHIFT
}

/// The steps from one stamp to a later one; none if the clock went back.
#[inline]
fn steps(from: u64, to: u64) -> u64 {
    let passed = (to.wrapping_sub(from) << COUNT_BITS) as i64;
    passed.max(0) as u64 >> COUNT_BITS
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_idle_node_has_no_age() {
        let oldest = Oldest::new();
        assert_eq!(oldest.age(5 * MS), 0);
        let generation = oldest.begin(5 * MS);
        oldest.end(generation);
        assert_eq!(oldest.age(500 * MS), 0);
    }

    /// T7: what hangs shows while it hangs, however much else begins and ends.
    #[test]
    fn t7_a_hung_request_shows_among_many_that_answer() {
        let oldest = Oldest::new();
        let _hung = oldest.begin(0);
        let mut waiting = VecDeque::new();
        for ms in 1..10_000 {
            waiting.push_back((ms, oldest.begin(ms * MS)));
            while let Some((begun, generation)) = waiting.front().copied() {
                if begun + 10 > ms {
                    break;
                }
                oldest.end(generation);
                waiting.pop_front();
            }
            let age = oldest.age(ms * MS) as f64;
            let exact = (ms * MS) as f64;
            assert!((age - exact).abs() <= 0.25 * exact, "at {ms} ms: {age}");
        }
    }

    /// Under steady traffic the age read stays within a quarter of the true one.
    #[test]
    fn the_age_is_within_a_quarter_of_the_truth() {
        for latency_ms in [1_u64, 10, 150] {
            let oldest = Oldest::new();
            let step = MS / 10;
            let mut waiting = VecDeque::new();
            for turn in 1..20_000_u64 {
                let now = turn * step;
                waiting.push_back((now, oldest.begin(now)));
                while let Some((begun, generation)) = waiting.front().copied() {
                    if now < begun + latency_ms * MS {
                        break;
                    }
                    oldest.end(generation);
                    waiting.pop_front();
                }
                let truth = waiting.front().map_or(0, |(begun, _)| now - begun);
                if now < 4 * latency_ms * MS {
                    continue;
                }
                let slack = truth / 4 + 2 * (1 << STAMP_SHIFT) + step;
                let age = oldest.age(now);
                assert!(
                    age.abs_diff(truth) <= slack,
                    "{latency_ms} ms, turn {turn}: {age} for {truth}"
                );
            }
        }
    }

    /// A pool that lives for years measures ages as a young one does.
    #[test]
    fn stamps_wrap_unseen() {
        let oldest = Oldest::new();
        let wrap = 1 << (STAMP_BITS + STAMP_SHIFT);
        for begin in [wrap - MS, wrap, 10 * wrap + 5 * MS, u64::MAX - 900 * MS] {
            let generation = oldest.begin(begin);
            assert!(oldest.age(begin + 500 * MS).abs_diff(500 * MS) <= 1 << STAMP_SHIFT);
            assert_eq!(oldest.age(begin - MS), 0, "a clock that goes back makes no age");
            oldest.end(generation);
        }
    }

    #[test]
    fn the_ring_may_fill_up_and_the_oldest_stays_exact() {
        let oldest = Oldest::new();
        let held: Vec<_> = (0..10_000_u64).map(|ms| oldest.begin(ms * MS)).collect();
        assert!(oldest.age(10_000 * MS).abs_diff(10_000 * MS) <= 1 << STAMP_SHIFT);
        held.into_iter().for_each(|generation| oldest.end(generation));
        assert_eq!(oldest.age(20_000 * MS), 0);
    }
}

#[cfg(all(test, evenkeel_loom))]
mod models {
    use super::*;
    use loom::{sync::Arc, thread};

    /// However begins and ends interleave, every request is counted once and released once.
    #[test]
    fn generations_lose_no_request() {
        loom::model(|| {
            let oldest = Arc::new(Oldest::new());
            let held = oldest.begin(1 << STAMP_SHIFT);
            let other = {
                let oldest = oldest.clone();
                thread::spawn(move || {
                    let generation = oldest.begin(900 << STAMP_SHIFT);
                    oldest.end(generation);
                })
            };
            let generation = oldest.begin(901 << STAMP_SHIFT);
            assert!(oldest.age(1_000 << STAMP_SHIFT) > 0);
            oldest.end(generation);
            other.join().unwrap();
            assert!(oldest.age(1_000 << STAMP_SHIFT) >= 900 << STAMP_SHIFT);
            oldest.end(held);
            assert_eq!(oldest.age(2_000 << STAMP_SHIFT), 0);
        });
    }
}
