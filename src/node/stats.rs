//! What a node remembers of its requests: counters, latency, failures. Lock-free, and exact where
//! it counts.

use std::time::Instant;

use super::{
    Outcome, Verdict,
    fade::{Faded, Fading, Sample, Tick},
    fleet::{Fleet, nanos},
    oldest::{Generation, Oldest},
};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What is measured of latency, and so whether a request pays for reading the clock.
///
/// A [`Policy`](crate::policy::Policy) states what its load needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LatencyModel {
    /// Nothing: no clock is read on the way of a request.
    #[default]
    None,
    /// A moving average over successful responses, weight 0.1 a sample, which fades towards the
    /// mean of the nodes within some 5 s.
    Average,
    /// Rises to a peak at once and sinks over 10 s (peak EWMA, from Finagle). A failure counts as
    /// ten times the mean of the nodes, at most 5 s.
    Peak,
}

/// Weight of one sample in the moving averages.
const SAMPLE_WEIGHT: f32 = 0.1;
/// Below this a remembered share of failures is forgotten, and costs nothing to read.
const FORGOTTEN: f32 = 1e-3;
/// The least success a load is divided by.
const SUCCESS_FLOOR: f64 = 1e-3;
const AVERAGE_FADES: Fading = Fading::over_seconds(5.0);
const PEAK_FADES: Fading = Fading::over_seconds(10.0);
const FAILURE_FADES: Fading = Fading::over_seconds(5.0);
const PENALTY_MEANS: f64 = 10.0;
const PENALTY_LIMIT_NANOS: f64 = 5e9;
const SPARE_LIMIT_NANOS: u64 = 60_000_000_000;
/// Requests abandoned in a row, without a byte, that count as one failure while others answer.
const ABANDONED_IN_A_ROW: u32 = 5;

/// The counters and estimates of one node.
#[derive(Debug)]
pub(crate) struct Stats {
    in_flight: AtomicU32,
    abandoned_in_a_row: AtomicU32,
    /// The share of failures, 0 to 1.
    failures: Faded,
    /// Nanoseconds. Marked while it is part of the pool's mean.
    latency: Faded,
    /// Until when, in nanoseconds of the fleet, the endpoint asked to be spared.
    spared_until: AtomicU64,
    /// Discovery no longer lists the node: its latency is no part of the mean.
    detached: AtomicBool,
    oldest: Oldest,
}

// === impl Stats ===

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            abandoned_in_a_row: AtomicU32::new(0),
            failures: Faded::new(),
            latency: Faded::new(),
            spared_until: AtomicU64::new(0),
            detached: AtomicBool::new(false),
            oldest: Oldest::new(),
        }
    }

    // --- counting ---

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more request, unless `cap` are in flight already.
    ///
    /// Acquires, so that one who enters after [`is_idle_for_good`](Self::is_idle_for_good) said yes
    /// sees that the node is retired.
    #[inline]
    pub(crate) fn enter(&self, cap: Option<u32>) -> bool {
        let Some(cap) = cap else {
            self.in_flight.fetch_add(1, Ordering::Acquire);
            return true;
        };
        self.in_flight
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |count| {
                (count < cap).then_some(count + 1)
            })
            .is_ok()
    }

    /// Counts one request less; true if it was the last.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        let before = self.in_flight.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a request left twice");
        before == 1
    }

    /// Whether none is in flight, for one who has just retired the node.
    ///
    /// A write that changes nothing: either it comes after the last [`leave`](Self::leave) and sees
    /// zero, or the last `leave` comes after it, and then sees that the node is retired.
    pub(crate) fn is_idle_for_good(&self) -> bool {
        self.in_flight.fetch_add(0, Ordering::AcqRel) == 0
    }

    #[inline]
    pub(crate) fn begin_waiting(&self, nanos: u64) -> Generation {
        self.oldest.begin(nanos)
    }

    #[inline]
    pub(crate) fn end_waiting(&self, generation: Generation) {
        self.oldest.end(generation);
    }

    // --- reading ---

    /// Whether reading the success needs the time at all.
    #[inline]
    pub(crate) fn is_blameless(&self) -> bool {
        self.failures.is_empty() && self.spared_until.load(Ordering::Relaxed) == 0
    }

    /// The share of requests that succeed, from 0.001 to 1; 1 if nothing is known.
    #[inline]
    pub(crate) fn success(&self, fleet: &Fleet, now: Instant) -> f64 {
        if self.is_blameless() {
            return 1.0;
        }
        let nanos = fleet.nanos(now);
        if nanos < self.spared_until.load(Ordering::Relaxed) {
            return SUCCESS_FLOOR;
        }
        let tick = Tick::from_nanos(nanos);
        let failures = self
            .failures
            .get()
            .map_or(0.0, |sample| f64::from(sample.value * FAILURE_FADES.left(tick, sample.at)));
        (1.0 - failures).max(SUCCESS_FLOOR)
    }

    /// The latency to expect in nanoseconds: what `model` remembers, faded towards the pool's mean;
    /// at `now` in nanoseconds of the fleet.
    #[inline]
    pub(crate) fn latency_nanos_at(&self, model: LatencyModel, fleet: &Fleet, now: u64) -> f64 {
        let Some(sample) = self.latency.get() else {
            return fleet.mean.nanos();
        };
        let left = f64::from(model.fading().left(Tick::from_nanos(now), sample.at));
        let memory = f64::from(sample.value);
        if left == 1.0 { memory } else { memory * left + fleet.mean.nanos() * (1.0 - left) }
    }

    #[inline]
    pub(crate) fn has_latency(&self) -> bool {
        !self.latency.is_empty()
    }

    /// The age in nanoseconds of the oldest request without a response head.
    #[inline]
    pub(crate) fn oldest_nanos(&self, fleet: &Fleet, now: Instant) -> u64 {
        self.oldest_nanos_at(fleet.nanos(now))
    }

    /// The same at `now` in nanoseconds of the fleet.
    #[inline]
    pub(crate) fn oldest_nanos_at(&self, now: u64) -> u64 {
        self.oldest.age(now)
    }

    // --- learning ---

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
                    self.sample(fleet, model, timing.now, timing.nanos as f32);
                }
            }
            Outcome::Failure | Outcome::Overloaded => {
                let now = match timing {
                    None => fleet.now(),
                    Some((timing, _)) => fleet.instant(timing.now),
                };
                self.fail(fleet, now, verdict);
                if let Some((_, LatencyModel::Peak)) = timing {
                    self.penalise(fleet, now);
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
                    self.fail(fleet, fleet.now(), Outcome::Failure.into());
                }
            }
            _ => {}
        }
    }

    #[inline]
    fn succeed(&self, fleet: &Fleet, now: Option<u64>) {
        if !self.is_blameless() {
            self.forgive(fleet, now);
        }
    }

    #[cold]
    fn forgive(&self, fleet: &Fleet, now: Option<u64>) {
        let nanos_now = now.unwrap_or_else(|| fleet.nanos(fleet.now()));
        let spared_until = self.spared_until.load(Ordering::Relaxed);
        if nanos_now >= spared_until {
            // Over: from now on it costs no clock read. A hint that comes meanwhile stands.
            let _ = self.spared_until.compare_exchange(
                spared_until,
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        let tick = Tick::from_nanos(nanos_now);
        self.failures.update(|before| {
            let sample = before?;
            let value = sample.value * FAILURE_FADES.left(tick, sample.at) * (1.0 - SAMPLE_WEIGHT);
            (value >= FORGOTTEN).then_some(Sample { value, at: tick, mark: false })
        });
    }

    #[cold]
    fn fail(&self, fleet: &Fleet, now: Instant, verdict: Verdict) {
        let nanos_now = fleet.nanos(now);
        let tick = Tick::from_nanos(nanos_now);
        self.failures.update(|before| {
            let memory =
                before.map_or(0.0, |sample| sample.value * FAILURE_FADES.left(tick, sample.at));
            Some(Sample { value: memory + SAMPLE_WEIGHT * (1.0 - memory), at: tick, mark: false })
        });
        if let Some(spare_for) = verdict.spare_for {
            let until = nanos_now.saturating_add(nanos(spare_for).min(SPARE_LIMIT_NANOS));
            self.spared_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    fn sample_if_higher(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        if timing.nanos as f64 > self.latency_nanos_at(model, fleet, timing.now) {
            self.sample(fleet, model, timing.now, timing.nanos as f32);
        }
    }

    #[inline]
    fn sample(&self, fleet: &Fleet, model: LatencyModel, now: u64, nanos: f32) {
        let tick = Tick::from_nanos(now);
        self.move_latency(fleet, true, |before| {
            let Some(sample) = before else {
                return Sample { value: nanos, at: tick, mark: true };
            };
            let left = model.fading().left(tick, sample.at);
            // The mean is on a line that all threads write: read where it counts only.
            let mean = if left == 1.0 { 0.0 } else { fleet.mean.nanos() as f32 };
            let projected = sample.value * left + mean * (1.0 - left);
            let value = match model {
                LatencyModel::Peak if nanos > projected => nanos,
                LatencyModel::Peak => sample.value * left + nanos * (1.0 - left),
                LatencyModel::Average | LatencyModel::None => {
                    projected + SAMPLE_WEIGHT * (nanos - projected)
                }
            };
            Sample { value, at: tick, mark: true }
        });
    }

    /// A failure under [`LatencyModel::Peak`]: no measurement, so no part of the mean.
    #[cold]
    fn penalise(&self, fleet: &Fleet, now: Instant) {
        let tick = fleet.tick(now);
        let mean = fleet.mean.nanos();
        let penalty = (PENALTY_MEANS * mean).min(PENALTY_LIMIT_NANOS) as f32;
        self.move_latency(fleet, false, |before| {
            let left = before.map_or(0.0, |sample| PEAK_FADES.left(tick, sample.at));
            let memory =
                before.map_or(0.0, |sample| sample.value * left) + mean as f32 * (1.0 - left);
            Sample { value: memory.max(penalty), at: tick, mark: false }
        });
    }

    #[inline]
    fn move_latency(
        &self,
        fleet: &Fleet,
        measured: bool,
        mut next: impl FnMut(Option<Sample>) -> Sample,
    ) {
        let (before, after) = self.latency.update(|before| {
            let mut sample = next(before);
            sample.mark = measured && !self.detached.load(Ordering::Relaxed);
            Some(sample)
        });
        fleet.mean.shift(part(before), part(after));
        // The exchange above read what `detach` wrote, if it came first; then this sees its flag.
        if self.detached.load(Ordering::Relaxed) {
            self.unmark(fleet);
        }
    }

    /// Takes the node's latency out of the pool's mean, for as long as it is not listed.
    pub(crate) fn detach(&self, fleet: &Fleet) {
        self.detached.store(true, Ordering::Release);
        self.unmark(fleet);
    }

    /// The node is listed again.
    pub(crate) fn attach(&self) {
        self.detached.store(false, Ordering::Release);
    }

    fn unmark(&self, fleet: &Fleet) {
        let (before, after) =
            self.latency.update(|before| before.map(|s| Sample { mark: false, ..s }));
        fleet.mean.shift(part(before), part(after));
    }
}

/// What a node adds to the pool's sum of latencies.
#[inline]
fn part(sample: Option<Sample>) -> Option<u64> {
    sample.filter(|sample| sample.mark).map(|sample| sample.value as u64)
}

/// When a request ended, in nanoseconds of the fleet, and how long it had taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) now: u64,
    pub(crate) nanos: u64,
}

// === impl LatencyModel ===

impl LatencyModel {
    #[inline]
    fn fading(self) -> Fading {
        match self {
            Self::Peak => PEAK_FADES,
            Self::None | Self::Average => AVERAGE_FADES,
        }
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;

#[cfg(all(test, evenkeel_loom))]
mod models {
    use super::*;
    use crate::node::{Clock, Seeds};
    use loom::thread;
    use std::sync::Arc;

    fn success(stats: &Stats, fleet: &Fleet, nanos: u64) {
        let timing = Timing { now: fleet.instant(0), nanos };
        stats.learn(fleet, Outcome::Success.into(), Some((timing, LatencyModel::Average)));
    }

    /// A node that is no longer listed has no part in the mean, whenever its last answers come.
    #[test]
    fn a_detached_node_leaves_nothing_in_the_mean() {
        loom::model(|| {
            let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::Thread);
            let stats = Arc::new(Stats::new());
            let request = {
                let (stats, fleet) = (stats.clone(), fleet.clone());
                thread::spawn(move || success(&stats, &fleet, 7_000))
            };
            stats.detach(&fleet);
            request.join().unwrap();
            assert_eq!(fleet.mean.parts(), (0, 0));
            stats.attach();
            success(&stats, &fleet, 7_000);
            assert_eq!(fleet.mean.parts().1, 1);
        });
    }

    /// Two answers at once are one node, and what is added is taken away again.
    #[test]
    fn answers_at_once_count_the_node_once() {
        loom::model(|| {
            let (fleet, _attended) = Fleet::new(Clock::default(), Seeds::Thread);
            let stats = Arc::new(Stats::new());
            let request = {
                let (stats, fleet) = (stats.clone(), fleet.clone());
                thread::spawn(move || success(&stats, &fleet, 7_000))
            };
            success(&stats, &fleet, 9_000);
            request.join().unwrap();
            let part = part(stats.latency.get()).unwrap();
            assert_eq!(fleet.mean.parts(), (part, 1));
            stats.detach(&fleet);
            assert_eq!(fleet.mean.parts(), (0, 0));
        });
    }
}
