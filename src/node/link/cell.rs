//! What is known of a link: its state in one word, and what there is beside it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::Dial;
use crate::{
    error::SharedError,
    node::epoch::nanos,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// A connection that lasted this long was a good one: the backoff begins anew.
const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// The link's part of a [`Node`](crate::node::Node); first what each request reads.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct LinkCell {
    /// Kind (3 bits), whether it has failed since it was last up (1 bit), and the nanoseconds of
    /// the fleet at which it came up, or until which it rests after a failure.
    pub(super) word: AtomicU64,
    pub(super) wanted: AtomicBool,
    pub(super) failures_in_a_row: AtomicU32,
    pub(super) cause: Mutex<Option<SharedError>>,
    /// Of the service that was made last.
    pub(super) dialer: Mutex<Option<Dialer>>,
    /// How often a service was made: only the last has a say.
    generation: AtomicU32,
    /// The generation whose readiness failed: its service is to be made anew.
    pub(super) unfit: AtomicU32,
    /// What closes the connections after the last request, where the pool is gone before.
    pub(super) survivor: Survivor,
    /// It failed by a connection that was closed unused, and a request that finds nothing better may
    /// have it dialled before its backoff ends. Once: the dial may go as the one before did.
    pub(super) early: AtomicBool,
    pub(super) dialled_early: AtomicBool,
}

pub(super) struct Dialer(pub(super) Weak<dyn Dial>);

#[derive(Default)]
pub(super) struct Survivor(pub(super) Mutex<Option<Arc<dyn Dial>>>);

pub(super) const KIND: u64 = 0b111;
pub(super) const FAILING: u64 = 0b1000;
pub(super) const TIME_SHIFT: u32 = 4;

pub(super) const UNREPORTED: u64 = 0;
pub(super) const UP: u64 = 1;
pub(super) const RESTING: u64 = 2;
/// Kinds up to here count as up.
const LAST_UP: u64 = RESTING;
pub(super) const IDLE: u64 = 3;
pub(super) const CONNECTING: u64 = 4;
pub(super) const FAILED: u64 = 5;

// === impl LinkCell ===

impl LinkCell {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(UNREPORTED),
            wanted: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            cause: Mutex::new(None),
            dialer: Mutex::new(None),
            generation: AtomicU32::new(1),
            unfit: AtomicU32::new(0),
            survivor: Survivor::default(),
            early: AtomicBool::new(false),
            dialled_early: AtomicBool::new(false),
        }
    }

    #[inline]
    fn kind(&self) -> u64 {
        self.word.load(Ordering::Acquire) & KIND
    }

    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        self.kind() <= LAST_UP
    }

    #[inline]
    pub(crate) fn is_failed(&self) -> bool {
        self.kind() == FAILED
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.kind() == IDLE
    }

    /// Whether a request that finds nothing better may have it dialled before its backoff ends.
    pub(crate) fn may_be_early(&self) -> bool {
        self.is_failed() && self.early.load(Ordering::Acquire) && !self.is_unfit()
    }

    /// Whether it failed and has not been up since.
    #[inline]
    pub(crate) fn is_failing(&self) -> bool {
        self.word.load(Ordering::Acquire) & FAILING != 0
    }

    /// Whether a dial was asked for that the driver has not heard of yet.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.dialer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether its service is to be made anew: the client's readiness failed, or it knows nothing of
    /// dials.
    pub(crate) fn is_unfit(&self) -> bool {
        self.is_unready() || !self.is_managed()
    }

    pub(super) fn is_unready(&self) -> bool {
        self.unfit.load(Ordering::Acquire) == self.generation()
    }

    /// Which of its services is the last.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Its service is about to be made anew: what the client before says counts for nothing any more.
    /// Returns that client.
    pub(crate) fn renew(&self) -> Option<Weak<dyn Dial>> {
        let mut dialer = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        dialer.take().map(|dialer| dialer.0)
    }

    /// The nanoseconds of the fleet until which a failed link rests.
    pub(crate) fn failed_until(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        (word & KIND == FAILED).then_some(word >> TIME_SHIFT)
    }

    pub(crate) fn cause(&self) -> Option<SharedError> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has been up for so long that older failures say nothing any more.
    pub(super) fn is_proven(&self, word: u64, now: u64) -> bool {
        matches!(word & KIND, UP | UNREPORTED)
            && now.saturating_sub(word >> TIME_SHIFT) >= nanos(PROVEN_AFTER)
    }

    /// Whether it is up and has been for a while, or rests after it was of use.
    pub(crate) fn is_lasting(&self, now: u64) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & KIND == RESTING || self.is_proven(word, now)
    }

    /// Moves on from the kinds that `from` accepts; the word before, if that was so.
    pub(super) fn shift(&self, from: impl Fn(u64) -> bool, to: impl Fn(u64) -> u64) -> Option<u64> {
        let next = |word| from(word & KIND).then(|| to(word));
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()
    }

    /// Moves to `kind`, keeping the memory of a failure.
    pub(super) fn advance(&self, kind: u64) {
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(word & FAILING | kind));
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl fmt::Debug for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Survivor")
    }
}
