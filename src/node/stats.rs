//! What a node remembers of its requests: counters, latency, failures. Lock-free, and exact where
//! it counts.

use std::mem::offset_of;

use super::{
    Outcome, Verdict,
    fleet::Fleet,
    latency::{Average, Latency, LatencyModel, Scan, Timing},
    oldest::{Generation, Oldest, age_of},
    places::{Left, Occupancy, Places},
    success::Success,
};
use crate::sync::atomic::{AtomicU32, Ordering};

/// Requests abandoned in a row, without a byte, that count as one failure while others answer.
const ABANDONED_IN_A_ROW: u32 = 5;

/// The counters and estimates of one node: first what each request writes, last what it only reads, as
/// a [`Node`](super::Node) has it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Stats {
    places: Places,
    latency: Latency,
    oldest: Oldest,
    /// What follows begins a cache line where the `Arc` of its node does.
    _apart: [u64; 2],
    success: Success,
    abandoned_in_a_row: AtomicU32,
}

// === impl Stats ===

impl Stats {
    /// So many bytes at the beginning are written by each request.
    pub(super) const WRITTEN: usize = offset_of!(Self, oldest);
    /// From here on it only reads them.
    #[cfg(test)]
    pub(super) const READ: usize = offset_of!(Self, success);

    pub(crate) fn new() -> Self {
        Self {
            places: Places::new(),
            latency: Latency::new(),
            oldest: Oldest::new(),
            _apart: [0; 2],
            success: Success::new(),
            abandoned_in_a_row: AtomicU32::new(0),
        }
    }

    // --- counting ---

    #[inline]
    pub(crate) fn occupancy(&self) -> Occupancy {
        self.places.read()
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.occupancy().count()
    }

    /// Counts one more request than were `seen`, or than there are by now, unless `cap` are in flight
    /// already.
    #[inline]
    pub(crate) fn enter(&self, seen: Occupancy, cap: Option<u32>) -> bool {
        self.places.enter(seen, cap)
    }

    /// The same for one that waits for its response head from `nanos` on, and where it does.
    #[inline]
    pub(crate) fn enter_waiting(
        &self,
        seen: Occupancy,
        cap: Option<u32>,
        nanos: u64,
    ) -> Option<Waits> {
        let alone = self.places.enter_waiting(seen, cap, nanos)?;
        Some(if alone { Waits::Alone } else { Waits::Among(self.oldest.begin(nanos)) })
    }

    /// A request that waits since `nanos` does so no more.
    #[inline]
    pub(crate) fn end_waiting(&self, waits: Waits, nanos: u64) {
        match waits {
            Waits::Alone => self.places.end_waiting(nanos),
            Waits::Among(generation) => self.oldest.end(generation),
        }
    }

    /// Counts one request less.
    #[inline]
    pub(crate) fn leave(&self) -> Left {
        self.places.leave()
    }

    /// Both at once.
    #[inline]
    pub(crate) fn leave_waiting(&self, waits: Waits, nanos: u64) -> Left {
        match waits {
            Waits::Alone => self.places.leave_waiting(nanos),
            Waits::Among(generation) => {
                self.oldest.end(generation);
                self.places.leave()
            }
        }
    }

    /// Whether none is in flight, for one who has just retired the node.
    pub(crate) fn is_idle_for_good(&self) -> bool {
        self.places.is_idle_for_good()
    }

    /// Marks that a place is awaited, and reads how many are taken.
    pub(super) fn mark_awaited(&self) -> u32 {
        self.places.mark_awaited().count()
    }

    pub(super) fn unmark_awaited(&self) {
        self.places.unmark_awaited();
    }

    // --- reading ---

    /// Whether reading the success needs the time at all.
    #[inline]
    pub(crate) fn is_blameless(&self) -> bool {
        self.success.is_blameless()
    }

    /// The share of requests that succeed, from 0.001 to 1; 1 if nothing is known.
    #[inline]
    pub(crate) fn success(&self, now: u64) -> f64 {
        self.success.share(now)
    }

    /// The latency in nanoseconds as it is remembered, faded towards the average of the pool, or the age
    /// of the oldest request without a response head if that is more.
    #[inline]
    pub(crate) fn expected_nanos(&self, occupancy: Occupancy, scan: &Scan<impl Average>) -> f32 {
        self.or_age_of_oldest(self.latency.nanos(scan), occupancy, scan.now)
    }

    /// What one more request costs here, in nanoseconds.
    #[inline]
    pub(crate) fn cost(&self, occupancy: Occupancy, scan: &Scan<impl Average>) -> f32 {
        let remembered = self.latency.nanos(scan);
        if occupancy.count() == 0 {
            return remembered;
        }
        let places = occupancy.count() as f32 + 1.0;
        self.or_age_of_oldest(remembered, occupancy, scan.now) * places
    }

    #[inline]
    fn or_age_of_oldest(&self, nanos: f32, occupancy: Occupancy, now: u64) -> f32 {
        if occupancy.count() == 0 {
            return nanos;
        }
        nanos.max(self.age_of_oldest(occupancy, now) as f32)
    }

    /// The latency in nanoseconds as the last sample left it.
    #[inline]
    pub(crate) fn remembered_nanos(&self) -> Option<f32> {
        self.latency.remembered_nanos()
    }

    #[inline]
    pub(crate) fn has_latency(&self) -> bool {
        self.latency.is_measured()
    }

    /// The age in nanoseconds of the oldest request without a response head.
    #[inline]
    pub(crate) fn oldest_nanos(&self, now: u64) -> u64 {
        self.age_of_oldest(self.occupancy(), now)
    }

    #[inline]
    fn age_of_oldest(&self, occupancy: Occupancy, now: u64) -> u64 {
        let alone = occupancy.waits_since().map_or(0, |stamp| age_of(stamp, now));
        if occupancy.has_no_others() { alone } else { alone.max(self.oldest.age(now)) }
    }

    // --- learning ---

    /// Until it has answered, a fresh node is taken for `peer`.
    pub(crate) fn guess(&self, peer: &Self, fleet: &Fleet) {
        self.latency.guess(&peer.latency, fleet);
    }

    /// An answer took `timing`.
    #[inline]
    pub(crate) fn sample(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        self.latency.sample(fleet, model, timing);
    }

    /// A response head came: somebody answers here.
    #[inline]
    pub(crate) fn answered(&self, fleet: &Fleet) {
        if self.abandoned_in_a_row.load(Ordering::Relaxed) != 0 {
            self.abandoned_in_a_row.store(0, Ordering::Relaxed);
        }
        fleet.note_answer();
    }

    /// Learns how a request ended, and after what time, where that was measured.
    #[inline]
    pub(crate) fn learn(
        &self,
        fleet: &Fleet,
        verdict: Verdict,
        timing: Option<(Timing, LatencyModel)>,
    ) {
        match verdict.outcome {
            Outcome::Success => {
                self.succeed(fleet, timing.map(|(timing, _)| timing.now));
                if let Some((timing, model)) = timing {
                    self.latency.sample(fleet, model, timing);
                }
            }
            Outcome::Failure | Outcome::Overloaded => {
                let now = timing.map_or_else(|| fleet.now_nanos(), |(timing, _)| timing.now);
                self.success.fail(now, verdict);
                if let Some((_, LatencyModel::Peak)) = timing {
                    self.latency.penalise(fleet, now);
                }
            }
            Outcome::Abandoned => {}
        }
    }

    /// A request that timed out lasted at least `timing`: a failure, and a sample that raises.
    pub(crate) fn timed_out(&self, fleet: &Fleet, timing: Option<(Timing, LatencyModel)>) {
        self.learn(fleet, Outcome::Failure.into(), timing);
        if let Some((timing, model)) = timing {
            self.sample_if_higher(fleet, model, timing);
        }
    }

    /// A request was dropped before its response head.
    pub(crate) fn abandoned(&self, fleet: &Fleet, timing: Option<(Timing, LatencyModel)>) {
        if let Some((timing, model)) = timing {
            self.sample_if_higher(fleet, model, timing);
        }
        match self.abandoned_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 {
            1 => fleet.forget_answers(),
            ABANDONED_IN_A_ROW => {
                self.abandoned_in_a_row.store(0, Ordering::Relaxed);
                if fleet.has_answered() {
                    self.success.fail(fleet.now_nanos(), Outcome::Failure.into());
                }
            }
            _ => {}
        }
    }

    #[inline]
    fn succeed(&self, fleet: &Fleet, now: Option<u64>) {
        if !self.success.is_blameless() {
            self.success.forgive(now.unwrap_or_else(|| fleet.now_nanos()));
        }
    }

    fn sample_if_higher(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        let scan = Scan::of_few(model, fleet, timing.now);
        if timing.nanos as f32 > self.latency.nanos(&scan) {
            self.latency.sample(fleet, model, timing);
        }
    }
}

/// Where it is kept that a request waits for its response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// In the word that counts it.
    Alone,
    /// In a generation of those that came while another did so.
    Among(Generation),
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
