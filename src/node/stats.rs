//! What a node remembers of its requests: counters, latency, failures. Lock-free, and exact where
//! it counts.

use super::{
    Outcome, Verdict,
    epoch::nanos,
    fade::{Faded, Fading, Sample, Tick, ages, shares},
    fleet::Fleet,
    oldest::{Generation, Oldest, age_of},
    places::{Occupancy, Places},
    recent::{Batch, Gathered, Recent},
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
    /// A moving average over successful responses, weight 0.1 a sample, which fades towards that of
    /// the whole pool within some 5 s.
    Average,
    /// Rises to a peak at once and sinks over 10 s (peak EWMA, from Finagle). A failure counts as
    /// ten times the average of the whole pool, at most 5 s.
    Peak,
}

/// Weight of one sample in the moving average of the latency.
const SAMPLE_WEIGHT: f32 = 0.1;
/// Weight of one outcome in that of the failures: a failure tells more than an answer, since most
/// endpoints do not fail at all.
const OUTCOME_WEIGHT: f32 = 0.25;
/// No more than so many averages of the pool's latest answers are guessed of a fresh node.
const GUESS_LIMIT_AVERAGES: f32 = 2.0;
/// Below this a remembered share of failures is forgotten, and costs nothing to read.
const FORGOTTEN: f32 = 1e-3;
/// The least success a load is divided by.
const SUCCESS_FLOOR: f64 = 1e-3;
const AVERAGE_FADES: Fading = Fading::by(&OVER_FIVE_SECONDS);
const PEAK_FADES: Fading = Fading::by(&OVER_TEN_SECONDS);
const FAILURE_FADES: Fading = Fading::by(&OVER_FIVE_SECONDS);

static OVER_FIVE_SECONDS: [f32; ages(5.0)] = shares(5.0);
static OVER_TEN_SECONDS: [f32; ages(10.0)] = shares(10.0);
const PENALTY_AVERAGES: f32 = 10.0;
const PENALTY_LIMIT_NANOS: f32 = 5e9;
const SPARE_LIMIT_NANOS: u64 = 60_000_000_000;
/// Requests abandoned in a row, without a byte, that count as one failure while others answer.
const ABANDONED_IN_A_ROW: u32 = 5;

/// The counters and estimates of one node.
#[derive(Debug)]
pub(crate) struct Stats {
    places: Places,
    abandoned_in_a_row: AtomicU32,
    /// The latency is another node's, until the first sample.
    guessed: AtomicBool,
    /// The share of failures, 0 to 1.
    failures: Faded,
    /// Nanoseconds.
    latency: Faded,
    gathered: Gathered,
    /// Until when, in nanoseconds of the fleet, the endpoint asked to be spared.
    spared_until: AtomicU64,
    oldest: Oldest,
}

// === impl Stats ===

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            places: Places::new(),
            abandoned_in_a_row: AtomicU32::new(0),
            guessed: AtomicBool::new(false),
            failures: Faded::new(),
            latency: Faded::new(),
            gathered: Gathered::new(),
            spared_until: AtomicU64::new(0),
            oldest: Oldest::new(),
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

    /// Counts one more request, unless `cap` are in flight already.
    #[inline]
    pub(crate) fn enter(&self, cap: Option<u32>) -> bool {
        self.places.enter(cap)
    }

    /// The same for one that waits for its response head from `nanos` on, and where it does.
    #[inline]
    pub(crate) fn enter_waiting(&self, cap: Option<u32>, nanos: u64) -> Option<Waits> {
        let alone = self.places.enter_waiting(cap, nanos)?;
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

    /// Counts one request less; true if it was the last.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        self.places.leave()
    }

    /// Both at once.
    #[inline]
    pub(crate) fn leave_waiting(&self, waits: Waits, nanos: u64) -> bool {
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

    // --- reading ---

    /// Whether reading the success needs the time at all.
    #[inline]
    pub(crate) fn is_blameless(&self) -> bool {
        self.failures.is_empty() & (self.spared_until.load(Ordering::Relaxed) == 0)
    }

    /// The share of requests that succeed, from 0.001 to 1; 1 if nothing is known.
    #[inline]
    pub(crate) fn success(&self, now: u64) -> f64 {
        if self.is_blameless() {
            return 1.0;
        }
        if now < self.spared_until.load(Ordering::Relaxed) {
            return SUCCESS_FLOOR;
        }
        let tick = Tick::from_nanos(now);
        let failures = self
            .failures
            .get()
            .map_or(0.0, |sample| f64::from(sample.value * FAILURE_FADES.left(tick, sample.at)));
        (1.0 - failures).max(SUCCESS_FLOOR)
    }

    /// What `model` remembers of the latency, in nanoseconds, faded towards the average of the pool.
    #[inline]
    pub(crate) fn latency_nanos(&self, model: LatencyModel, fleet: &Fleet, now: u64) -> f32 {
        match self.latency.get() {
            Some(sample) => {
                let left = model.fading().left(Tick::from_nanos(now), sample.at);
                faded(sample, left, || fleet.recent.nanos())
            }
            None => fleet.recent.nanos(),
        }
    }

    /// The same, or the age of the oldest request without a response head if that is more.
    #[inline]
    pub(crate) fn expected_nanos(
        &self,
        occupancy: Occupancy,
        model: LatencyModel,
        fleet: &Fleet,
        now: u64,
    ) -> f32 {
        self.or_age_of_oldest(self.latency_nanos(model, fleet, now), occupancy, now)
    }

    /// What one more request costs here, in nanoseconds.
    #[inline]
    pub(crate) fn cost(&self, model: LatencyModel, fleet: &Fleet, now: u64) -> f32 {
        let occupancy = self.occupancy();
        let remembered = self.latency_nanos(model, fleet, now);
        self.times_places(remembered, occupancy, now)
    }

    /// The same for one who compares many nodes.
    ///
    /// Without a branch on the age: of many nodes some were just picked and some were not, which the
    /// processor cannot foresee.
    #[inline]
    pub(crate) fn cost_in(&self, scan: &Scan) -> f32 {
        let occupancy = self.occupancy();
        let remembered = match self.latency.get() {
            Some(sample) => {
                let left = scan.fading.left(scan.tick, sample.at);
                let faded = scan.recent + (sample.value - scan.recent) * left;
                if left == 1.0 { sample.value } else { faded }
            }
            None => scan.recent,
        };
        self.times_places(remembered, occupancy, scan.now)
    }

    #[inline]
    fn times_places(&self, remembered: f32, occupancy: Occupancy, now: u64) -> f32 {
        if occupancy.count() == 0 {
            return remembered;
        }
        let places = occupancy.count() as f32 + 1.0;
        self.or_age_of_oldest(remembered, occupancy, now) * places
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
        self.latency.get().map(|sample| sample.value)
    }

    #[inline]
    pub(crate) fn has_latency(&self) -> bool {
        !self.latency.is_empty() && !self.guessed.load(Ordering::Relaxed)
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
    ///
    /// For the average it would be sooner the best in the eyes of all clients than one of many: of
    /// noisy estimates the low ones are put to the test at once, and the high ones stand.
    pub(crate) fn guess(&self, peer: &Self, fleet: &Fleet) {
        if let Some(Sample { value, at }) = peer.latency.get() {
            self.guessed.store(true, Ordering::Relaxed);
            let value = value.min(GUESS_LIMIT_AVERAGES * fleet.recent.nanos());
            self.latency.update(|_| Some(Sample { value, at }));
        }
    }

    /// A request that waited leaves with an answer, in time `timing`; true if it was the last.
    #[inline]
    pub(crate) fn leave_answered(
        &self,
        fleet: &Fleet,
        model: LatencyModel,
        timing: Timing,
        (waits, since): (Waits, u64),
    ) -> bool {
        // Read before, reckoned and written after: the processor then does the arithmetic while it
        // waits for the count, whose exchange lets no memory access past it.
        let before = self.before(fleet, model, timing);
        let was_last = self.leave_waiting(waits, since);
        self.sample_after(before, fleet, model, timing);
        was_last
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
                    self.sample(fleet, model, timing);
                }
            }
            Outcome::Failure | Outcome::Overloaded => {
                let now = timing.map_or_else(|| fleet.now_nanos(), |(timing, _)| timing.now);
                self.fail(now, verdict);
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
                    self.fail(fleet.now_nanos(), Outcome::Failure.into());
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
        let nanos_now = now.unwrap_or_else(|| fleet.now_nanos());
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
            let value = sample.value * FAILURE_FADES.left(tick, sample.at) * (1.0 - OUTCOME_WEIGHT);
            (value >= FORGOTTEN).then_some(Sample { value, at: tick })
        });
    }

    #[cold]
    fn fail(&self, now: u64, verdict: Verdict) {
        let tick = Tick::from_nanos(now);
        self.failures.update(|before| {
            let memory =
                before.map_or(0.0, |sample| sample.value * FAILURE_FADES.left(tick, sample.at));
            Some(Sample { value: memory + OUTCOME_WEIGHT * (1.0 - memory), at: tick })
        });
        if let Some(spare_for) = verdict.spare_for {
            let until = now.saturating_add(nanos(spare_for).min(SPARE_LIMIT_NANOS));
            self.spared_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    fn sample_if_higher(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        if timing.nanos as f32 > self.latency_nanos(model, fleet, timing.now) {
            self.sample(fleet, model, timing);
        }
    }

    #[inline]
    fn sample(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) {
        self.sample_after(self.before(fleet, model, timing), fleet, model, timing);
    }

    #[inline]
    fn before(&self, fleet: &Fleet, model: LatencyModel, timing: Timing) -> Before {
        let tick = Tick::from_nanos(timing.now);
        let remembered = self.latency.get();
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
    fn sample_after(&self, before: Before, fleet: &Fleet, model: LatencyModel, timing: Timing) {
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
        self.latency.set(Sample { value, at: Tick::from_nanos(timing.now) });
        self.gathered.keep(before.batch);
        if before.batch.is_due() {
            fleet.recent.observe(recent(), before.batch);
        }
    }

    /// A failure under [`LatencyModel::Peak`]: a peak, and no measurement.
    #[cold]
    fn penalise(&self, fleet: &Fleet, now: u64) {
        let tick = Tick::from_nanos(now);
        let penalty = (PENALTY_AVERAGES * fleet.recent.nanos()).min(PENALTY_LIMIT_NANOS);
        self.latency.update(|before| {
            let memory = before.map_or(0.0, |sample| {
                faded(sample, PEAK_FADES.left(tick, sample.at), || fleet.recent.nanos())
            });
            Some(Sample { value: memory.max(penalty), at: tick })
        });
    }
}

/// What the costs of many nodes are reckoned by, read once for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    fading: Fading,
    tick: Tick,
    now: u64,
    recent: f32,
}

impl Scan {
    #[inline]
    pub(crate) fn new(model: LatencyModel, fleet: &Fleet, now: u64) -> Self {
        let recent = fleet.recent.nanos();
        Self { fading: model.fading(), tick: Tick::from_nanos(now), now, recent }
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

/// What a sample moves on.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// The last sample, and the share of it that is left.
    remembered: Option<(Sample, f32)>,
    batch: Batch,
    /// Where it is needed.
    recent: Option<Recent>,
    guessed: bool,
}

/// Where it is kept that a request waits for its response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// In the word that counts it.
    Alone,
    /// In a generation of those that came while another did so.
    Among(Generation),
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
