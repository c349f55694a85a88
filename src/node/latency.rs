//! What a node remembers of its latency, and how its requests move that.

use super::{
    fade::{Faded, Fading, Sample, Tick},
    fleet::Fleet,
    recent::{Gathered, RecentLatency},
};

/// What is measured of latency, and so whether a request pays for reading the clock.
///
/// A [`Policy`](crate::policy::Policy) states what its load needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LatencyModel {
    /// Nothing: no clock is read on the way of a request.
    #[default]
    None,
    /// A moving average over successful responses, weight 0.1 a sample, which fades towards that of
    /// the whole pool within some 5 s.
    Average,
    /// Rises to a peak at once and sinks over 10 s (peak EWMA, from Finagle). A failure counts as
    /// ten times the average of the whole pool, at most 5 s.
    Peak,
}

/// Weight of one sample in the moving average.
const SAMPLE_WEIGHT: f32 = 0.1;
/// No more than so many averages of the pool's latest answers are guessed of a fresh node.
const GUESS_LIMIT_AVERAGES: f32 = 2.0;
const PEAK_FADES: Fading = Fading::OVER_TEN_SECONDS;
const PENALTY_AVERAGES: f32 = 10.0;
const PENALTY_LIMIT_NANOS: f32 = 5e9;

/// In nanoseconds.
#[derive(Debug)]
pub(super) struct Latency {
    remembered: Faded,
    gathered: Gathered,
}

/// When a request ended, in nanoseconds of the fleet, and how long it had taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) now: u64,
    pub(crate) nanos: u64,
}

/// What the latencies of several nodes are reckoned by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan<A> {
    fading: Fading,
    tick: Tick,
    pub(super) now: u64,
    average: A,
}

/// What memories fade to.
pub(crate) trait Average {
    /// In nanoseconds; zero unless it is `needed`.
    fn nanos_if(&self, needed: bool) -> f32;
}

// === impl Latency ===

impl Latency {
    pub(super) fn new() -> Self {
        Self { remembered: Faded::new(), gathered: Gathered::new() }
    }

    // --- reading ---

    /// What is remembered, faded towards the average of the pool.
    #[inline]
    pub(super) fn nanos(&self, scan: &Scan<impl Average>) -> f32 {
        let Some(sample) = self.remembered.get() else { return scan.average.nanos_if(true) };
        let average = scan.average.nanos_if(sample.at != scan.tick);
        projected(sample, scan.fading.left(scan.tick, sample.at), average)
    }

    /// As the last sample left it.
    #[inline]
    pub(super) fn remembered_nanos(&self) -> Option<f32> {
        self.remembered.get().map(|sample| sample.value)
    }

    /// Whether a request was ever measured here: what is remembered may be a guess or a penalty.
    #[inline]
    pub(super) fn is_measured(&self) -> bool {
        !self.gathered.is_new()
    }

    // --- learning ---

    /// Until it has answered, a fresh node is taken for `peer`.
    ///
    /// For the average it would be sooner the best in the eyes of all clients than one of many: of
    /// noisy estimates the low ones are put to the test at once, and the high ones stand.
    pub(super) fn guess(&self, peer: &Self, fleet: &Fleet) {
        if let Some(Sample { value, at }) = peer.remembered.get() {
            let value = value.min(GUESS_LIMIT_AVERAGES * fleet.recent.nanos());
            self.remembered.update(|_| Some(Sample { value, at }));
        }
    }

    #[inline]
    pub(super) fn sample(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        let nanos = timing.nanos as f32;
        let tick = Tick::from_nanos(timing.now);
        let value = match self.remembered.get() {
            None => nanos,
            Some(sample) if sample.at == tick => moved_on(model, sample.value, 1.0, sample, nanos),
            Some(sample) => {
                let left = model.fading().left(tick, sample.at);
                let projected = projected(sample, left, fleet.recent.nanos());
                moved_on(model, projected, left, sample, nanos)
            }
        };
        self.remembered.set(Sample { value, at: tick });
        if let Some(batch) = self.gathered.add(nanos, timing.now) {
            fleet.recent.observe(batch);
        }
    }

    /// A failure under [`LatencyModel::Peak`]: a peak, and no measurement.
    #[cold]
    pub(super) fn penalise(&self, fleet: &Fleet, now: u64) {
        let tick = Tick::from_nanos(now);
        let penalty = (PENALTY_AVERAGES * fleet.recent.nanos()).min(PENALTY_LIMIT_NANOS);
        self.remembered.update(|before| {
            let memory = before.map_or(0.0, |sample| {
                projected(sample, PEAK_FADES.left(tick, sample.at), fleet.recent.nanos())
            });
            Some(Sample { value: memory.max(penalty), at: tick })
        });
    }
}

/// What a latency comes to of which the share `left` is left; the rest is the average of the pool, which
/// is zero where all of it is left.
///
/// In this form equals stay equal, and what has not faded is what it was: a hair would decide a scan.
#[inline]
fn projected(sample: Sample, left: f32, recent: f32) -> f32 {
    recent + (sample.value - recent) * left
}

/// What is remembered after one sample more, of which there is the last, the share of it that is left and
/// what it has faded to.
#[inline]
fn moved_on(model: LatencyModel, projected: f32, left: f32, last: Sample, nanos: f32) -> f32 {
    match model {
        LatencyModel::Peak if nanos > projected => nanos,
        LatencyModel::Peak => last.value * left + nanos * (1.0 - left),
        LatencyModel::Average | LatencyModel::None => {
            projected + SAMPLE_WEIGHT * (nanos - projected)
        }
    }
}

// === impl Scan ===

impl<A> Scan<A> {
    #[inline]
    fn new(model: LatencyModel, now: u64, average: A) -> Self {
        Self { fading: model.fading(), tick: Tick::from_nanos(now), now, average }
    }
}

impl Scan<f32> {
    /// Of many nodes: the average is read once for all.
    #[inline]
    pub(crate) fn of_many(model: LatencyModel, fleet: &Fleet, now: u64) -> Self {
        Self::new(model, now, fleet.recent.nanos())
    }
}

impl<'a> Scan<&'a RecentLatency> {
    /// Of a few nodes: the average is read for those whose memory has faded.
    #[inline]
    pub(crate) fn of_few(model: LatencyModel, fleet: &'a Fleet, now: u64) -> Self {
        Self::new(model, now, &fleet.recent)
    }
}

// === impl Average ===

impl Average for f32 {
    #[inline]
    fn nanos_if(&self, needed: bool) -> f32 {
        if needed { *self } else { 0.0 }
    }
}

impl Average for &RecentLatency {
    #[inline]
    fn nanos_if(&self, needed: bool) -> f32 {
        RecentLatency::nanos_if(self, needed)
    }
}

// === impl LatencyModel ===

impl LatencyModel {
    #[inline]
    fn fading(self) -> Fading {
        match self {
            Self::Peak => PEAK_FADES,
            Self::None | Self::Average => Fading::OVER_FIVE_SECONDS,
        }
    }
}
