//! The share of a node's requests that succeed, and whether it asked to be spared.

use super::{
    Verdict,
    epoch::nanos,
    fade::{Faded, Fading, Sample, Tick},
};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Weight of one outcome in the share of failures: a failure tells more than an answer, since most
/// endpoints do not fail at all.
const OUTCOME_WEIGHT: f32 = 0.25;
/// Below this a remembered share of failures is forgotten, and costs nothing to read.
const FORGOTTEN: f32 = 1e-3;
/// The least success a load is divided by.
pub(super) const FLOOR: f64 = 1e-3;
const FADES: Fading = Fading::OVER_FIVE_SECONDS;
const SPARE_LIMIT_NANOS: u64 = 60_000_000_000;

#[derive(Debug)]
pub(super) struct Success {
    /// The share of failures, 0 to 1.
    failures: Faded,
    /// Until when, in nanoseconds of the fleet, the endpoint asked to be spared.
    spared_until: AtomicU64,
}

// === impl Success ===

impl Success {
    pub(super) fn new() -> Self {
        Self { failures: Faded::new(), spared_until: AtomicU64::new(0) }
    }

    /// Whether reading it needs the time at all.
    #[inline]
    pub(super) fn is_blameless(&self) -> bool {
        self.failures.is_empty() & (self.spared_until.load(Ordering::Relaxed) == 0)
    }

    /// From 0.001 to 1; 1 if nothing is known.
    #[inline]
    pub(super) fn share(&self, now: u64) -> f64 {
        if self.is_blameless() {
            return 1.0;
        }
        if now < self.spared_until.load(Ordering::Relaxed) {
            return FLOOR;
        }
        let tick = Tick::from_nanos(now);
        let failures = self
            .failures
            .get()
            .map_or(0.0, |sample| f64::from(sample.value * FADES.left(tick, sample.at)));
        (1.0 - failures).max(FLOOR)
    }

    /// A request succeeded while something is held against the node.
    #[cold]
    pub(super) fn forgive(&self, now: u64) {
        let spared_until = self.spared_until.load(Ordering::Relaxed);
        if now >= spared_until {
            // Over: from now on it costs no clock read. A hint that comes meanwhile stands.
            let _ = self.spared_until.compare_exchange(
                spared_until,
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        let tick = Tick::from_nanos(now);
        self.failures.update(|before| {
            let sample = before?;
            let value = sample.value * FADES.left(tick, sample.at) * (1.0 - OUTCOME_WEIGHT);
            (value >= FORGOTTEN).then_some(Sample { value, at: tick })
        });
    }

    /// A request failed.
    #[cold]
    pub(super) fn fail(&self, now: u64, verdict: Verdict) {
        let tick = Tick::from_nanos(now);
        self.failures.update(|before| {
            let memory = before.map_or(0.0, |sample| sample.value * FADES.left(tick, sample.at));
            Some(Sample { value: memory + OUTCOME_WEIGHT * (1.0 - memory), at: tick })
        });
        if let Some(spare_for) = verdict.spare_for {
            let until = now.saturating_add(nanos(spare_for).min(SPARE_LIMIT_NANOS));
            self.spared_until.fetch_max(until, Ordering::Relaxed);
        }
    }
}
