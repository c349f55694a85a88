//! The requests in flight on a node, in one word with the beginning of one that waits.
//!
//! Most nodes have at most one request without a response head at a time. Of it this word keeps
//! when it began, so that to count a request in and to note that it waits is one exchange, and both
//! end with one subtraction. Requests that come while another waits here are told to note
//! themselves elsewhere ([`Oldest`](super::oldest::Oldest)).

use super::oldest::stamp;
use crate::sync::atomic::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// More than are ever in flight on one node; far enough from what the count can hold that as many
/// threads as there may be cannot step over it at once.
const MOST: u32 = (COUNT - (1 << 20)) as u32;

/// A count (24 bits), and above it the stamp of the request that waits alone, or 0.
#[derive(Debug)]
pub(super) struct Places(AtomicU64);

/// One reading of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupancy(u64);

// === impl Places ===

impl Places {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn read(&self) -> Occupancy {
        Occupancy(self.0.load(Ordering::Relaxed))
    }

    /// Counts one more request, unless `cap` are in flight already.
    ///
    /// Acquires, so that one who enters after [`is_idle_for_good`](Self::is_idle_for_good) said yes
    /// sees that the node is retired.
    #[inline]
    pub(super) fn enter(&self, cap: Option<u32>) -> bool {
        let Some(cap) = cap else {
            let has_room = self.read().count() < MOST;
            if has_room {
                self.0.fetch_add(1, Ordering::Acquire);
            }
            return has_room;
        };
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                (Occupancy(word).count() < cap.min(MOST)).then_some(word + 1)
            })
            .is_ok()
    }

    /// The same for a request that waits for its response head from `nanos` on. Whether it is the
    /// one whose beginning is kept here; `None` where there was no room.
    #[inline]
    pub(super) fn enter_waiting(&self, cap: Option<u32>, nanos: u64) -> Option<bool> {
        let cap = cap.map_or(MOST, |cap| cap.min(MOST));
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let now = Occupancy(word);
            if now.count() >= cap {
                return None;
            }
            let alone = now.stamp() == 0;
            let next = word + 1 + if alone { waiting_since(nanos) } else { 0 };
            match self.0.compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(alone),
                Err(changed) => word = changed,
            }
        }
    }

    /// The request whose beginning at `nanos` was kept here waits no more.
    #[inline]
    pub(super) fn end_waiting(&self, nanos: u64) {
        self.0.fetch_sub(waiting_since(nanos), Ordering::Relaxed);
    }

    /// Counts one request less; true if it was the last.
    #[inline]
    pub(super) fn leave(&self) -> bool {
        left(self.0.fetch_sub(1, Ordering::AcqRel))
    }

    /// [`end_waiting`](Self::end_waiting) and [`leave`](Self::leave) at once.
    #[inline]
    pub(super) fn leave_waiting(&self, nanos: u64) -> bool {
        left(self.0.fetch_sub(1 + waiting_since(nanos), Ordering::AcqRel))
    }

    /// Whether none is in flight, for one who has just retired the node.
    ///
    /// A write that changes nothing: either it comes after the last [`leave`](Self::leave) and sees
    /// zero, or the last `leave` comes after it, and then sees that the node is retired.
    pub(super) fn is_idle_for_good(&self) -> bool {
        Occupancy(self.0.fetch_add(0, Ordering::AcqRel)).count() == 0
    }
}

#[inline]
fn left(before: u64) -> bool {
    let before = Occupancy(before).count();
    debug_assert!(before > 0, "a request left twice");
    before == 1
}

/// In the place of the stamp; never zero, which stands for nobody.
#[inline]
fn waiting_since(nanos: u64) -> u64 {
    stamp(nanos).max(1) << COUNT_BITS
}

// === impl Occupancy ===

impl Occupancy {
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
        self.0 >> COUNT_BITS
    }

    /// Whether nobody can wait but the request whose stamp this is, if there is one.
    #[inline]
    pub(super) fn has_no_others(self) -> bool {
        self.count() <= u32::from(self.stamp() != 0)
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// A cap is never passed, and a place that is left can be taken again.
    #[test]
    fn a_cap_is_a_cap() {
        let places = Places::new();
        assert!(!places.enter(Some(0)));
        assert!(places.enter(Some(2)) && places.enter(Some(2)));
        assert!(!places.enter(Some(2)) && !places.enter(Some(1)));
        assert!(places.enter_waiting(Some(2), 7).is_none());
        assert!(places.enter(None), "without a cap there is always a place");
        assert!(!places.leave() && !places.leave() && places.leave());
        assert_eq!(places.read().count(), 0);
    }

    #[test]
    fn the_first_that_waits_keeps_its_beginning_here_and_others_do_not() {
        let places = Places::new();
        let since = 5_000_000;
        assert_eq!(places.enter_waiting(None, since), Some(true));
        assert!(places.read().has_no_others());
        assert_eq!(places.enter_waiting(None, 2 * since), Some(false));
        assert_eq!(places.read().stamp(), stamp(since));
        assert!(!places.read().has_no_others());
        places.end_waiting(since);
        assert_eq!((places.read().count(), places.read().stamp()), (2, 0));
        assert_eq!(places.enter_waiting(None, 0), Some(true), "also at the very beginning");
        assert!(!places.leave_waiting(0));
        assert!(!places.leave() && places.leave());
        assert_eq!(places.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_count_never_runs_into_the_stamp() {
        let places = Places::new();
        places.0.store(u64::from(MOST), Ordering::Relaxed);
        assert!(!places.enter(None) && !places.enter(Some(u32::MAX)));
        assert!(places.enter_waiting(None, 9).is_none());
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
                    let alone = places.enter_waiting(None, nanos).unwrap();
                    if alone {
                        assert_eq!(places.read().stamp(), stamp(nanos));
                        places.leave_waiting(nanos);
                    } else {
                        places.leave();
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
