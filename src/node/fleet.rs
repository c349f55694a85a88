//! What the nodes of one pool share: the time base, the average latency, and the way to the driver.

use std::{
    any::Any,
    sync::{Arc, OnceLock, Weak},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    Clock, Node, Signal, Sleep,
    crowd::CrowdCount,
    epoch::Epoch,
    report::Reports,
    rng::{Rng, Seeds},
};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The latency that a pool assumes before its first answer.
const UNKNOWN_LATENCY_NANOS: f32 = 30e6;
/// Weight of one answer in the average of the pool.
const ANSWER_WEIGHT: f32 = 0.05;

/// Shared by all nodes of a pool.
#[derive(Debug)]
pub(crate) struct Fleet {
    clock: Clock,
    epoch: Epoch,
    /// Where timers run, for calls that are polled outside of it.
    runtime: Option<tokio::runtime::Handle>,
    pub(crate) seeds: Seeds,
    pub(crate) recent: RecentLatency,
    /// What the policy makes of load reports.
    pub(crate) reports: Reports,
    pub(crate) crowd: CrowdCount,
    /// Whether the policy in force needs the time.
    timed: AtomicBool,
    /// Set by any response head, cleared by a node whose requests begin to be abandoned: tells a
    /// node that hangs alone from a pool that does.
    answered: AtomicBool,
    /// Woken when a node comes up, goes down, or the snapshot changes.
    pub(crate) signal: Arc<Signal>,
    attention: mpsc::UnboundedSender<Arc<Node>>,
    home: OnceLock<Home>,
}

/// The pool that a fleet belongs to, for calls that hold no more of it than a lease.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) pool: Weak<dyn Any + Send + Sync>,
    pub(crate) target: Arc<str>,
}

/// The average latency of the pool's latest answers, in nanoseconds: what memories fade to.
///
/// An average over answers, and not over nodes: what a node remembers from long ago has no part in
/// what it fades to, or it would never be forgotten. On cache lines of its own: the rest of the fleet
/// is read by all requests, and hardly ever written.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct RecentLatency(AtomicU32);

/// Chance and time for a pick.
///
/// Begun before the snapshot is loaded: the processor then works on both while it waits for the
/// exchange of that load, which lets no memory access past it.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) rng: Rng,
    /// In nanoseconds of the fleet, once the time was read.
    nanos: Option<u64>,
}

/// One reading of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recent(u32);

const NO_ANSWER_YET: u32 = 0;

// === impl Fleet ===

impl Fleet {
    /// A fleet without a runtime of its own, and where its nodes ask for the driver's attention.
    pub(crate) fn new(
        clock: Clock,
        seeds: Seeds,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Node>>) {
        Self::on(None, clock, seeds)
    }

    /// The same with its timers on `runtime`.
    pub(crate) fn on(
        runtime: Option<tokio::runtime::Handle>,
        clock: Clock,
        seeds: Seeds,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Node>>) {
        let (attention, attended) = mpsc::unbounded_channel();
        let epoch = Epoch::new(clock.now());
        let fleet = Self {
            clock,
            epoch,
            runtime,
            seeds,
            recent: RecentLatency::new(),
            reports: Reports::default(),
            crowd: CrowdCount::new(),
            timed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            signal: Arc::new(Signal::new()),
            attention,
            home: OnceLock::new(),
        };
        (Arc::new(fleet), attended)
    }

    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    #[cfg(feature = "http")]
    pub(crate) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        self.runtime.clone()
    }

    /// A wait for `until`, whatever runtime the caller is polled on, if any.
    pub(crate) fn sleep_until(&self, until: Instant) -> Sleep {
        let _on_runtime = self.runtime.as_ref().map(tokio::runtime::Handle::enter);
        self.clock.sleep_until(until)
    }

    /// Nanoseconds from the pool's beginning to `now`.
    #[inline]
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        self.epoch.nanos(now)
    }

    #[inline]
    pub(crate) fn now_nanos(&self) -> u64 {
        self.nanos(self.now())
    }

    /// What a pick begins with.
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        let rng = self.seeds.rng();
        Moment { rng, nanos: self.timed.load(Ordering::Relaxed).then(|| self.now_nanos()) }
    }

    /// From now on picks begin with a reading of the clock, or without: a hint, since each reads it
    /// where it needs the time after all.
    pub(crate) fn expect_timed(&self, timed: bool) {
        self.timed.store(timed, Ordering::Relaxed);
    }

    /// The moment `nanos` after the pool's beginning.
    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        self.epoch.instant(nanos)
    }

    #[inline]
    pub(crate) fn note_answer(&self) {
        // Mostly a read of a shared line; a write only after somebody asked.
        if !self.answered.load(Ordering::Relaxed) {
            self.answered.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget_answers(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Says where the fleet belongs; the first word stands.
    pub(crate) fn belongs_to(&self, home: Home) {
        let _ = self.home.set(home);
    }

    pub(crate) fn home(&self) -> Option<&Home> {
        self.home.get()
    }

    /// Asks the driver to look at `node`. Without a driver there is nobody to ask.
    pub(crate) fn attend(&self, node: Arc<Node>) {
        let _ = self.attention.send(node);
    }
}

// === impl Moment ===

impl Moment {
    /// The time; read at the first use, if not before.
    #[inline]
    pub(crate) fn nanos(&mut self, fleet: &Fleet) -> u64 {
        *self.nanos.get_or_insert_with(|| fleet.now_nanos())
    }
}

// === impl RecentLatency ===

impl RecentLatency {
    fn new() -> Self {
        Self(AtomicU32::new(NO_ANSWER_YET))
    }

    #[inline]
    pub(crate) fn read(&self) -> Recent {
        Recent(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn nanos(&self) -> f32 {
        self.read().nanos()
    }

    /// Moves the average on from an earlier reading.
    #[inline]
    pub(crate) fn observe(&self, before: Recent, nanos: f32) {
        let average = f32::from_bits(before.0);
        let mut after = average + ANSWER_WEIGHT * (nanos - average);
        // A step too small for the last bit would leave the average beside the truth for good.
        if before.0 == NO_ANSWER_YET || after == average {
            after = nanos;
        }
        // One of many: an answer that another overtakes here is not missed.
        self.0.store(after.max(f32::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }
}

// === impl Recent ===

impl Recent {
    #[inline]
    pub(crate) fn nanos(self) -> f32 {
        if self.0 == NO_ANSWER_YET { UNKNOWN_LATENCY_NANOS } else { f32::from_bits(self.0) }
    }
}
