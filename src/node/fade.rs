//! Estimates that fade as they age: a value and the time of its last sample in one atomic word.
//!
//! Reading projects the value to now without writing it back, so that looking at a load never
//! changes it.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Time since the pool began, in steps of 2^24 ns (about 17 ms). Wraps after 2.3 years; ages are
/// signed differences, so half of that may pass between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u32);

/// What is left then is less than the noise of what it is compared with. Were it kept, a node with
/// an old bad memory would lose every comparison by a hair, where nothing else tells the nodes apart.
const FORGOTTEN_AFTER_HALVINGS: u64 = 6;

/// How fast a memory fades: the share left after each age in ticks, up to the age at which nothing is.
///
/// Read, not reckoned: a scan asks for each of its nodes, and the ages of nodes that are picked now and
/// then lie on the same few lines of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fading(&'static [f32]);

/// A value above zero, and the tick of its last sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) value: f32,
    pub(crate) at: Tick,
}

/// A [`Sample`] that any thread may read and move. Empty until the first sample.
#[derive(Debug)]
pub(crate) struct Faded(AtomicU64);

// === impl Tick ===

impl Tick {
    const SHIFT: u32 = 24;

    #[inline]
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32)
    }

    /// The ticks from `earlier` to here; none where the clock went back.
    #[inline]
    fn since(self, earlier: Self) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }
}

// === impl Fading ===

static OVER_FIVE_SECONDS: [f32; ages(5.0)] = shares(5.0);
static OVER_TEN_SECONDS: [f32; ages(10.0)] = shares(10.0);

impl Fading {
    pub(crate) const OVER_FIVE_SECONDS: Self = Self::by(&OVER_FIVE_SECONDS);
    pub(crate) const OVER_TEN_SECONDS: Self = Self::by(&OVER_TEN_SECONDS);

    /// By a table of [`shares`].
    const fn by(shares: &'static [f32]) -> Self {
        Self(shares)
    }

    /// The share of a memory of `earlier` that is left at `now`, within 0.02 %; nothing of one that
    /// would be below a sixty-fourth.
    #[inline]
    pub(crate) fn left(self, now: Tick, earlier: Tick) -> f32 {
        // A clock that went back makes an age beyond any table.
        match self.0.get(now.0.wrapping_sub(earlier.0) as usize) {
            Some(&left) => left,
            None => Self::beyond(now, earlier),
        }
    }

    #[cold]
    fn beyond(now: Tick, earlier: Tick) -> f32 {
        if now.since(earlier) == 0 { 1.0 } else { 0.0 }
    }
}

const fn halvings_per_tick(time_constant: f64) -> u64 {
    let tick_seconds = (1_u64 << Tick::SHIFT) as f64 * 1e-9;
    let halvings = tick_seconds * std::f64::consts::LOG2_E / time_constant;
    (halvings * (1_u64 << 32) as f64) as u64
}

/// How many ages leave something.
const fn ages(time_constant: f64) -> usize {
    ((FORGOTTEN_AFTER_HALVINGS << 32) / halvings_per_tick(time_constant)) as usize + 1
}

/// The share left after each of these ages, `e^(-age / time constant)`.
///
/// As 2^-halvings, since a constant cannot call `exp`: the whole part goes into the exponent, the next
/// six bits into a table, and what is left is so small that a straight line serves.
const fn shares<const AGES: usize>(time_constant: f64) -> [f32; AGES] {
    let mut shares = [1.0; AGES];
    let mut age = 1;
    while age < AGES {
        let halvings = age as u64 * halvings_per_tick(time_constant);
        let whole = (halvings >> 32) as u32;
        let step = (halvings >> (32 - STEP_BITS)) as usize % STEPS;
        let rest = (halvings & ((1 << (32 - STEP_BITS)) - 1)) as f32;
        let line = 1.0 - rest * (std::f32::consts::LN_2 / (1_u64 << 32) as f32);
        shares[age] = f32::from_bits(HALVING[step].to_bits() - (whole << 23)) * line;
        age += 1;
    }
    shares
}

const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
/// `2^(-step / 64)`.
const HALVING: [f32; STEPS] = halving();

const fn halving() -> [f32; STEPS] {
    const ONE_STEP: f64 = 0.989_228_013_193_975_5;
    let mut table = [1.0; STEPS];
    let mut exact = 1.0;
    let mut step = 1;
    while step < STEPS {
        exact *= ONE_STEP;
        table[step] = exact as f32;
        step += 1;
    }
    table
}

// === impl Faded ===

impl Faded {
    const EMPTY: u64 = 0;

    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(Self::EMPTY))
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<Sample> {
        Self::unpack(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::EMPTY
    }

    /// Replaces the sample by what `next` makes of it; `None` empties it. Under contention `next`
    /// runs again.
    pub(crate) fn update(&self, mut next: impl FnMut(Option<Sample>) -> Option<Sample>) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let packed = next(Self::unpack(word)).map_or(Self::EMPTY, Self::pack);
            match self.0.compare_exchange_weak(word, packed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Sets the sample to what was made of an earlier reading. For one of many, which is not missed when
    /// another thread overtakes it here: a load and a store, where an exchange would cost each request
    /// as much as a counter does.
    #[inline]
    pub(crate) fn set(&self, sample: Sample) {
        self.0.store(Self::pack(sample), Ordering::Relaxed);
    }

    #[inline]
    fn unpack(word: u64) -> Option<Sample> {
        (word != Self::EMPTY)
            .then(|| Sample { value: f32::from_bits((word >> 32) as u32), at: Tick(word as u32) })
    }

    /// A value of zero becomes the smallest one, since an all-zero word means empty.
    #[inline]
    fn pack(sample: Sample) -> u64 {
        u64::from(sample.value.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(sample.at.0)
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn fading_follows_the_exponential() {
        let fading = Fading::OVER_FIVE_SECONDS;
        for nanos in [0_u64, 20_000_000, 1_000_000_000, 5_000_000_000, 30_000_000_000] {
            let tick = Tick::from_nanos(nanos);
            let exact = (-f64::from(tick.0) * (1 << Tick::SHIFT) as f64 * 1e-9 / 5.0).exp();
            let left = f64::from(fading.left(tick, Tick(0)));
            let expected = if exact < 1.0 / 64.0 { 0.0 } else { exact };
            assert!((left - expected).abs() <= expected * 2e-4, "{nanos}: {left} for {exact}");
        }
        assert_eq!(fading.left(Tick::from_nanos(86_400 * 365 * 1_000_000_000), Tick(0)), 0.0);
    }

    /// T11: a clock that goes back ages nothing.
    #[test]
    fn t11_a_clock_that_goes_back_makes_no_age() {
        let fading = Fading::OVER_FIVE_SECONDS;
        assert_eq!(fading.left(Tick(5), Tick(900)), 1.0);
        assert_eq!(Tick(2).since(Tick(u32::MAX)), 3, "and the wrap is no step back");
    }

    #[test]
    fn a_zero_is_a_sample_all_the_same() {
        let faded = Faded::new();
        assert!(faded.is_empty());
        faded.update(|_| Some(Sample { value: 0.0, at: Tick(0) }));
        assert!(faded.get().is_some_and(|sample| sample.value < 1e-30));
    }
}
