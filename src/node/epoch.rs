//! Moments as nanoseconds since a pool began.
//!
//! The difference of two `Instant`s is two calls into the standard library and some fifty
//! instructions, twice a request. What an `Instant` feeds a hasher are its seconds and nanoseconds,
//! which are one multiplication away from what is wanted. That this is so is no promise: each epoch
//! checks it when it begins, and takes the long way where it is not.

use std::{
    hash::{Hash, Hasher},
    time::{Duration, Instant},
};

use super::clock::after;

const SECOND: u64 = 1_000_000_000;

/// The beginning of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    begin: Instant,
    /// The same in nanoseconds since a moment of the clock's own, where those can be read.
    begin_nanos: Option<u64>,
}

/// Takes what an `Instant` feeds a hasher.
#[derive(Default)]
struct Fields {
    seconds: u64,
    nanos: u32,
    /// Besides a wide field and a narrow one.
    others: bool,
}

// === impl Epoch ===

impl Epoch {
    pub(crate) fn new(begin: Instant) -> Self {
        let steps = [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_nanos(SECOND - 1),
            Duration::from_secs(1),
            Duration::new(86_400, 123_456_789),
            Duration::from_secs(86_400 * 365),
        ];
        let agrees = |step: Duration| {
            let passed = own_nanos(after(begin, step))?.wrapping_sub(own_nanos(begin)?);
            (u128::from(passed) == step.as_nanos()).then_some(())
        };
        let is_readable = steps.into_iter().all(|step| agrees(step).is_some());
        Self { begin, begin_nanos: own_nanos(begin).filter(|_| is_readable) }
    }

    /// Nanoseconds from the beginning to `now`; none where the clock went back. 292 years fit.
    #[inline]
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        match (self.begin_nanos, own_nanos(now)) {
            (Some(begin), Some(now)) => (now.wrapping_sub(begin) as i64).max(0) as u64,
            _ => self.nanos_the_long_way(now),
        }
    }

    /// The moment `nanos` after the beginning.
    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        after(self.begin, Duration::from_nanos(nanos))
    }

    #[cold]
    fn nanos_the_long_way(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.begin))
    }
}

/// A moment in nanoseconds of the clock's own, if it says so.
#[inline]
fn own_nanos(at: Instant) -> Option<u64> {
    let mut fields = Fields::default();
    at.hash(&mut fields);
    let nanos = fields.seconds.wrapping_mul(SECOND).wrapping_add(u64::from(fields.nanos));
    (!fields.others).then_some(nanos)
}

#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(SECOND).saturating_add(u64::from(duration.subsec_nanos()))
}

// === impl Fields ===

impl Hasher for Fields {
    #[inline]
    fn write_i64(&mut self, seconds: i64) {
        self.seconds = seconds as u64;
    }

    #[inline]
    fn write_u64(&mut self, seconds: u64) {
        self.seconds = seconds;
    }

    #[inline]
    fn write_u32(&mut self, nanos: u32) {
        self.nanos = nanos;
    }

    #[inline]
    fn write(&mut self, _bytes: &[u8]) {
        self.others = true;
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::node::Clock;

    /// Both ways agree, before the beginning and long after.
    #[test]
    fn the_short_way_leads_where_the_long_way_does() {
        let begin = after(Clock::default().now(), Duration::from_secs(3_600));
        let epoch = Epoch::new(begin);
        let long = Epoch { begin_nanos: None, ..epoch };
        for nanos in [0, 1, SECOND - 1, SECOND, 7 * SECOND + 5, 86_400 * 365 * SECOND] {
            let now = epoch.instant(nanos);
            assert_eq!((epoch.nanos(now), long.nanos(now)), (nanos, nanos));
            let before = begin.checked_sub(Duration::from_nanos(nanos.min(900 * SECOND)));
            let before = before.expect("the clock is an hour old by then");
            assert_eq!((epoch.nanos(before), long.nanos(before)), (0, 0));
        }
    }
}
