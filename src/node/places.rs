//! The requests in flight on a node, in one word with the beginning of one that waits.
//!
//! Most nodes have at most one request without a response head at a time. Of it this word keeps
//! when it began, so that to count a request in and to note that it waits is one exchange, and both
//! end with one subtraction. Requests that come while another waits here are told to note
//! themselves elsewhere ([`Oldest`](super::oldest::Oldest)).
//!
//! So also the mark of those who wait for a place: a request that leaves finds it in what its
//! subtraction gives back, and looks at nothing else.

use super::oldest::stamp;
use crate::sync::atomic::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 23;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const AWAITED: u64 = 1 << COUNT_BITS;
const STAMP_SHIFT: u32 = COUNT_BITS + 1;

/// More than are ever in flight on one node; far enough from what the count can hold that as many
/// threads as there may be cannot step over it at once.
const MOST: u32 = (COUNT - (1 << 20)) as u32;

/// A count (23 bits), whether a place is awaited (1), and above them the stamp of the request that
/// waits alone, or 0.
#[derive(Debug)]
pub(super) struct Places(AtomicU64);

/// One reading of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupancy(u64);

/// What a request found as it left: the count with itself, and the mark of those who wait.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Left(u32);

// === impl Places ===

impl Places {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn read(&self) -> Occupancy {
        Occupancy(self.0.load(Ordering::Relaxed))
    }

    /// Counts one more request than were `seen`, or than there are by now, unless `cap` are in flight
    /// already. Without a cap it does not matter what was seen.
    ///
    /// Acquires, so that one who enters after [`is_idle_for_good`](Self::is_idle_for_good) said yes
    /// sees that the node is retired.
    #[inline]
    pub(super) fn enter(&self, seen: Occupancy, cap: Option<u32>) -> bool {
        let Some(cap) = cap else {
            let before = Occupancy(self.0.fetch_add(1, Ordering::Acquire));
            let had_room = before.count() < MOST;
            if !had_room {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
            return had_room;
        };
        self.exchange(seen, cap, |now| now.0 + 1).is_some()
    }

    /// The same for a request that waits for its response head from `nanos` on. Whether it is the
    /// one whose beginning is kept here; `None` where there was no room.
    #[inline]
    pub(super) fn enter_waiting(
        &self,
        seen: Occupancy,
        cap: Option<u32>,
        nanos: u64,
    ) -> Option<bool> {
        let before = self.exchange(seen, cap.unwrap_or(MOST), |now| {
            now.0 + 1 + if now.stamp() == 0 { waiting_since(nanos) } else { 0 }
        })?;
        Some(before.stamp() == 0)
    }

    /// Makes of what was `seen`, or of what there is by now, what is `next`, unless `cap` are in flight
    /// already; and gives back what there was before.
    #[inline]
    fn exchange(
        &self,
        seen: Occupancy,
        cap: u32,
        next: impl Fn(Occupancy) -> u64,
    ) -> Option<Occupancy> {
        let mut now = seen;
        while now.count() < cap.min(MOST) {
            let next = next(now);
            match self.0.compare_exchange_weak(now.0, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(now),
                Err(changed) => now = Occupancy(changed),
            }
        }
        None
    }

    /// The request whose beginning at `nanos` was kept here waits no more.
    #[inline]
    pub(super) fn end_waiting(&self, nanos: u64) {
        self.0.fetch_sub(waiting_since(nanos), Ordering::Relaxed);
    }

    /// Counts one request less.
    #[inline]
    pub(super) fn leave(&self) -> Left {
        Left::from_before(self.0.fetch_sub(1, Ordering::AcqRel))
    }

    /// [`end_waiting`](Self::end_waiting) and [`leave`](Self::leave) at once.
    #[inline]
    pub(super) fn leave_waiting(&self, nanos: u64) -> Left {
        Left::from_before(self.0.fetch_sub(1 + waiting_since(nanos), Ordering::AcqRel))
    }

    /// Marks that a place is awaited, for one who is in the [room](super::room::Room).
    ///
    /// A request that left before this is no longer in what it reads, and one that leaves later finds
    /// the mark. Where that stands already, to read is enough: it is only taken away under the lock
    /// that the reader has just held, and so is whoever saw it told.
    pub(super) fn mark_awaited(&self) -> Occupancy {
        let now = self.read();
        if now.0 & AWAITED != 0 {
            return now;
        }
        Occupancy(self.0.fetch_or(AWAITED, Ordering::Relaxed))
    }

    /// Nobody in the room waits for a place here, who says so under its lock.
    pub(super) fn unmark_awaited(&self) {
        self.0.fetch_and(!AWAITED, Ordering::Relaxed);
    }

    /// Whether none is in flight, for one who has just retired the node.
    ///
    /// A write that changes nothing: either it comes after the last [`leave`](Self::leave) and sees
    /// zero, or the last `leave` comes after it, and then sees that the node is retired.
    pub(super) fn is_idle_for_good(&self) -> bool {
        Occupancy(self.0.fetch_add(0, Ordering::AcqRel)).count() == 0
    }
}

/// In the place of the stamp; never zero, which stands for nobody.
#[inline]
fn waiting_since(nanos: u64) -> u64 {
    stamp(nanos).max(1) << STAMP_SHIFT
}

// === impl Occupancy ===

impl Occupancy {
    /// That of an idle node, in place of one that was not looked at: whoever takes a place by it finds out.
    pub(crate) const UNSEEN: Self = Self(0);

    /// Requests in flight.
    #[inline]
    pub(crate) fn count(self) -> u32 {
        (self.0 & COUNT) as u32
    }

    /// The stamp of the request that waits alone.
    #[inline]
    pub(super) fn waits_since(self) -> Option<u64> {
        let stamp = self.stamp();
        (stamp != 0).then_some(stamp)
    }

    #[inline]
    fn stamp(self) -> u64 {
        self.0 >> STAMP_SHIFT
    }

    /// Whether nobody can wait but the request whose stamp this is, if there is one.
    #[inline]
    pub(super) fn has_no_others(self) -> bool {
        self.count() <= u32::from(self.stamp() != 0)
    }
}

// === impl Left ===

impl Left {
    #[inline]
    fn from_before(word: u64) -> Self {
        debug_assert!(word & COUNT > 0, "a request left twice");
        Self((word & (AWAITED | COUNT)) as u32)
    }

    /// Nobody is in flight any more.
    #[inline]
    pub(super) fn was_last(self) -> bool {
        u64::from(self.0) & COUNT == 1
    }

    /// Somebody waits for its place.
    #[inline]
    pub(super) fn is_awaited(self) -> bool {
        u64::from(self.0) & AWAITED != 0
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// A cap is never passed, and a place that is left can be taken again.
    #[test]
    fn a_cap_is_a_cap() {
        let places = Places::new();
        assert!(!places.enter(places.read(), Some(0)));
        assert!(places.enter(places.read(), Some(2)) && places.enter(places.read(), Some(2)));
        assert!(!places.enter(places.read(), Some(2)) && !places.enter(places.read(), Some(1)));
        assert!(places.enter_waiting(places.read(), Some(2), 7).is_none());
        assert!(places.enter(places.read(), None), "without a cap there is always a place");
        assert_eq!([(); 3].map(|()| places.leave().was_last()), [false, false, true]);
        assert_eq!(places.read().count(), 0);
    }

    #[test]
    fn the_first_that_waits_keeps_its_beginning_here_and_others_do_not() {
        let places = Places::new();
        let since = 5_000_000;
        assert_eq!(places.enter_waiting(places.read(), None, since), Some(true));
        assert!(places.read().has_no_others());
        assert_eq!(places.enter_waiting(places.read(), None, 2 * since), Some(false));
        assert_eq!(places.read().stamp(), stamp(since));
        assert!(!places.read().has_no_others());
        places.end_waiting(since);
        assert_eq!((places.read().count(), places.read().stamp()), (2, 0));
        assert_eq!(
            places.enter_waiting(places.read(), None, 0),
            Some(true),
            "also at the very beginning"
        );
        assert!(!places.leave_waiting(0).was_last());
        assert!(!places.leave().was_last() && places.leave().was_last());
        assert_eq!(places.0.load(Ordering::Relaxed), 0);
    }

    /// The mark stands until it is taken away, and is no part of the count or the stamp.
    #[test]
    fn who_leaves_finds_the_mark_of_those_who_wait() {
        let places = Places::new();
        assert_eq!(places.enter_waiting(places.read(), Some(1), 5_000_000), Some(true));
        assert_eq!([(); 2].map(|()| places.mark_awaited().count()), [1, 1]);
        assert!(!places.enter(places.read(), Some(1)) && places.enter(places.read(), Some(2)));
        assert_eq!((places.read().count(), places.read().stamp()), (2, stamp(5_000_000)));
        let left = places.leave();
        assert!(left.is_awaited() && !left.was_last());
        let left = places.leave_waiting(5_000_000);
        assert!(left.is_awaited() && left.was_last());
        places.unmark_awaited();
        assert!(places.enter(places.read(), Some(1)));
        let left = places.leave();
        assert!(!left.is_awaited() && left.was_last());
        assert_eq!(places.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_count_never_runs_into_the_stamp() {
        let places = Places::new();
        places.0.store(u64::from(MOST), Ordering::Relaxed);
        assert!(!places.enter(places.read(), None) && !places.enter(places.read(), Some(u32::MAX)));
        assert!(places.enter_waiting(places.read(), None, 9).is_none());
        assert_eq!(places.read().count(), MOST);
    }
}

#[cfg(all(test, evenkeel_loom))]
mod models {
    use super::*;
    use loom::{sync::Arc, thread};

    /// However requests interleave, one at most keeps its beginning here, and nothing stays.
    #[test]
    fn one_at_most_waits_here() {
        loom::model(|| {
            let places = Arc::new(Places::new());
            let request = |places: Arc<Places>, nanos: u64| {
                move || {
                    let alone = places.enter_waiting(places.read(), None, nanos).unwrap();
                    if alone {
                        assert_eq!(places.read().stamp(), stamp(nanos));
                        let _ = places.leave_waiting(nanos);
                    } else {
                        let _ = places.leave();
                    }
                    alone
                }
            };
            let other = thread::spawn(request(places.clone(), 3 << 20));
            let mine = request(places.clone(), 5 << 20)();
            let others = other.join().unwrap();
            assert!(mine || others, "one of them came first");
            assert_eq!(places.0.load(Ordering::Relaxed), 0);
        });
    }
}
