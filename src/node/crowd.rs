//! How many requests of a pool are in flight, for policies that bound a node by the mean of all.
//!
//! Not the sum of the nodes' counts: read one after the other, they show a request that ends here and
//! begins there twice. Requests are counted only where a policy asks, since all of them write here.

use crate::sync::atomic::{AtomicU64, Ordering};

/// The count, and in the upper half how many have ever come and were not turned away, so that a look can
/// tell whether another request got on since. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CrowdCount(AtomicU64);

/// What a look at the count shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crowd {
    /// Requests that are counted now.
    pub(crate) count: u32,
    /// How many have ever come and were not turned away since, as far as 32 bits tell. Who compares
    /// two looks may find one come and another turned away in its place: then no more were on nodes
    /// than the first look counted.
    pub(crate) came: u32,
}

/// A request's place in the count. Dropped where no node takes the request, which is then as if it had
/// never come.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a CrowdCount);

const ONE_CAME: u64 = 1 << 32;

// === impl CrowdCount ===

impl CrowdCount {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counted before it looks for a node: so the count is never below what nodes hold of those that
    /// are counted, and the requests on their way to one.
    #[inline]
    pub(crate) fn enter(&self) -> Counted<'_> {
        self.0.fetch_add(ONE_CAME + 1, Ordering::AcqRel);
        Counted(self)
    }

    #[inline]
    pub(crate) fn look(&self) -> Crowd {
        let state = self.0.load(Ordering::Acquire);
        Crowd { count: state as u32, came: (state >> 32) as u32 }
    }

    #[inline]
    pub(super) fn leave(&self) {
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before as u32 > 0, "a request left the crowd twice");
    }

    #[inline]
    fn turn_away(&self) {
        let before = self.0.fetch_sub(ONE_CAME + 1, Ordering::AcqRel);
        debug_assert!(before as u32 > 0, "a request left the crowd twice");
    }
}

// === impl Counted ===

impl Counted<'_> {
    /// Somebody else says when the request leaves.
    #[inline]
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.turn_away();
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_who_is_there_and_who_ever_got_on() {
        let crowd = CrowdCount::new();
        let first = crowd.enter();
        let second = crowd.enter();
        assert_eq!(crowd.look(), Crowd { count: 2, came: 2 });
        drop(second);
        assert_eq!(crowd.look(), Crowd { count: 1, came: 1 }, "one was turned away");
        first.hand_over();
        assert_eq!(crowd.look(), Crowd { count: 1, came: 1 });
        crowd.leave();
        assert_eq!(crowd.look(), Crowd { count: 0, came: 1 });
    }

    /// The upper half runs over without touching the lower.
    #[test]
    fn arrivals_may_run_over() {
        let crowd = CrowdCount(AtomicU64::new(u64::from(u32::MAX) << 32));
        let place = crowd.enter();
        assert_eq!(crowd.look(), Crowd { count: 1, came: 0 });
        drop(place);
        assert_eq!(crowd.look(), Crowd { count: 0, came: u32::MAX });
    }
}
