//! What a node remembers of its latency, and how its requests move that.

use super::{
    fade::{Faded, Fading, Sample, Tick},
    fleet::Fleet,
    recent::{Batch, Gathered, Recent},
};
use crate::sync::atomic::{AtomicBool, Ordering};

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
    /// It is another node's, until the first sample.
    guessed: AtomicBool,
}

/// When a request ended, in nanoseconds of the fleet, and how long it had taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) now: u64,
    pub(crate) nanos: u64,
}

/// What the latencies of many nodes are reckoned by, read once for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    fading: Fading,
    tick: Tick,
    pub(super) now: u64,
    recent: f32,
}

/// What a sample moves on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// The last sample, and the share of it that is left.
    remembered: Option<(Sample, f32)>,
    batch: Batch,
    /// Where it is needed.
    recent: Option<Recent>,
    guessed: bool,
}

// === impl Latency ===

impl Latency {
    pub(super) fn new() -> Self {
        Self {
            remembered: Faded::new(),
            gathered: Gathered::new(),
            guessed: AtomicBool::new(false),
        }
    }

    // --- reading ---

    /// What `model` remembers, faded towards the average of the pool.
    #[inline]
    pub(super) fn nanos(&self, model: LatencyModel, fleet: &Fleet, now: u64) -> f32 {
        match self.remembered.get() {
            Some(sample) => {
                let left = model.fading().left(Tick::from_nanos(now), sample.at);
                faded(sample, left, || fleet.recent.nanos())
            }
            None => fleet.recent.nanos(),
        }
    }

    /// The same for one who compares many nodes.
    ///
    /// Without a branch on the age: of many nodes some were just picked and some were not, which the
    /// processor cannot foresee.
    #[inline]
    pub(super) fn nanos_in(&self, scan: &Scan) -> f32 {
        match self.remembered.get() {
            Some(sample) => {
                let left = scan.fading.left(scan.tick, sample.at);
                let faded = scan.recent + (sample.value - scan.recent) * left;
                if left == 1.0 { sample.value } else { faded }
            }
            None => scan.recent,
        }
    }

    /// As the last sample left it.
    #[inline]
    pub(super) fn remembered_nanos(&self) -> Option<f32> {
        self.remembered.get().map(|sample| sample.value)
    }

    /// Whether it is of this node's own answers.
    #[inline]
    pub(super) fn is_measured(&self) -> bool {
        !self.remembered.is_empty() && !self.guessed.load(Ordering::Relaxed)
    }

    // --- learning ---

    /// Until it has answered, a fresh node is taken for `peer`.
    ///
    /// For the average it would be sooner the best in the eyes of all clients than one of many: of
    /// noisy estimates the low ones are put to the test at once, and the high ones stand.
    pub(super) fn guess(&self, peer: &Self, fleet: &Fleet) {
        if let Some(Sample { value, at }) = peer.remembered.get() {
            self.guessed.store(true, Ordering::Relaxed);
            let value = value.min(GUESS_LIMIT_AVERAGES * fleet.recent.nanos());
            self.remembered.update(|_| Some(Sample { value, at }));
        }
    }

    #[inline]
    pub(super) fn sample(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        self.sample_after(self.before(fleet, model, timing), fleet, model, timing);
    }

    /// What there is before a sample: read early, so that the processor need not wait for it.
    #[inline]
    pub(super) fn before(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) -> Before {
        let tick = Tick::from_nanos(timing.now);
        let remembered = self.remembered.get();
        let remembered = remembered.map(|sample| (sample, model.fading().left(tick, sample.at)));
        let batch = self.gathered.with(timing.nanos as f32, timing.now);
        let has_faded = remembered.is_some_and(|(_, left)| left != 1.0);
        Before {
            remembered,
            batch,
            recent: (batch.is_due() | has_faded).then(|| fleet.recent.read()),
            guessed: self.guessed.load(Ordering::Relaxed),
        }
    }

    /// Moves the estimates on from what was read of them.
    #[inline]
    pub(super) fn sample_after(
        &self,
        before: Before,
        fleet: &Fleet,
        model: LatencyModel,
        timing: Timing,
    ) {
        if before.guessed {
            self.guessed.store(false, Ordering::Relaxed);
        }
        let recent = || before.recent.unwrap_or_else(|| fleet.recent.read());
        let nanos = timing.nanos as f32;
        let value = match before.remembered {
            None => nanos,
            Some((sample, left)) => {
                let projected = faded(sample, left, || recent().nanos());
                match model {
                    LatencyModel::Peak if nanos > projected => nanos,
                    LatencyModel::Peak => sample.value * left + nanos * (1.0 - left),
                    LatencyModel::Average | LatencyModel::None => {
                        projected + SAMPLE_WEIGHT * (nanos - projected)
                    }
                }
            }
        };
        self.remembered.set(Sample { value, at: Tick::from_nanos(timing.now) });
        self.gathered.keep(before.batch);
        if before.batch.is_due() {
            fleet.recent.observe(recent(), before.batch);
        }
    }

    /// A failure under [`LatencyModel::Peak`]: a peak, and no measurement.
    #[cold]
    pub(super) fn penalise(&self, fleet: &Fleet, now: u64) {
        let tick = Tick::from_nanos(now);
        let penalty = (PENALTY_AVERAGES * fleet.recent.nanos()).min(PENALTY_LIMIT_NANOS);
        self.remembered.update(|before| {
            let memory = before.map_or(0.0, |sample| {
                faded(sample, PEAK_FADES.left(tick, sample.at), || fleet.recent.nanos())
            });
            Some(Sample { value: memory.max(penalty), at: tick })
        });
    }
}

/// What a latency comes to of which the share `left` is left; the rest is the average of the pool.
///
/// That is asked for where it counts: any answer may have just moved it, and to read what another
/// thread has written costs as much as the rest of a pick.
#[inline]
fn faded(sample: Sample, left: f32, recent: impl FnOnce() -> f32) -> f32 {
    if left == 1.0 {
        return sample.value;
    }
    // In this form equals stay equal: a hair would decide a scan.
    let recent = recent();
    recent + (sample.value - recent) * left
}

// === impl Scan ===

impl Scan {
    #[inline]
    pub(crate) fn new(model: LatencyModel, fleet: &Fleet, now: u64) -> Self {
        let recent = fleet.recent.nanos();
        Self { fading: model.fading(), tick: Tick::from_nanos(now), now, recent }
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
