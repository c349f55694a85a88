//! Chance, as an argument: a small generator a pick, from seeds that a test can fix.

use std::cell::Cell;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A small, fast generator of random numbers (SplitMix64; Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", OOPSLA 2014). Not for secrets.
///
/// ```
/// let mut rng = evenkeel::policy::Rng::from_seed(7);
/// assert_eq!(rng.next_u64(), evenkeel::policy::Rng::from_seed(7).next_u64());
/// assert!(rng.below(10) < 10);
/// ```
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Where a pool's generators get their seeds.
#[derive(Debug)]
pub(crate) enum Seeds {
    /// From a generator of the thread's own, seeded by the system.
    Thread,
    /// A sequence that begins at a fixed seed.
    Fixed(AtomicU64),
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// From one generator of a thread to the next: another step than theirs, so that their sequences do
/// not meet, and the seed need not be mixed (the multiplier 1 of Steele, Vigna: "Computationally
/// easy, spectrally good multipliers", 2021).
const THREAD_STEP: u64 = 0xd134_2543_de82_ef95;

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

// === impl Rng ===

impl Rng {
    /// A generator whose sequence depends on `seed` alone.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 up to and without `bound`; 0 if `bound` is 0. Its bias is below
    /// `bound / 2^64`.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number from 0 up to and without 1.
    #[inline]
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[inline]
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The seed of a thread's first generator.
#[cold]
fn first_of_thread() -> u64 {
    rand::random::<u64>() | 1
}

// === impl Seeds ===

impl Seeds {
    pub(crate) fn fixed(seed: u64) -> Self {
        Self::Fixed(AtomicU64::new(seed))
    }

    #[inline]
    pub(crate) fn rng(&self) -> Rng {
        match self {
            Self::Thread => {
                let mut next = THREAD.get().wrapping_add(THREAD_STEP);
                if next == THREAD_STEP {
                    next = first_of_thread();
                }
                THREAD.set(next);
                Rng(next)
            }
            Self::Fixed(state) => Rng(mix(state.fetch_add(STEP, Ordering::Relaxed))),
        }
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// The first values of SplitMix64 from seed 1234567, as Vigna's reference code gives them.
    #[test]
    fn follows_the_reference() {
        let mut rng = Rng::from_seed(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| rng.next_u64()), expected);
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut rng = Rng::from_seed(1);
        let mut seen = [false; 7];
        (0..1_000).for_each(|_| seen[rng.below(7)] = true);
        assert_eq!(seen, [true; 7]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }
}
