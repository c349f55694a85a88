//! What the nodes of one pool share: the time base, the mean latency, and the way to the driver.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Clock, Node, Signal, fade::Tick, rng::Seeds};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The latency that a pool assumes before its first answer.
const UNKNOWN_LATENCY_NANOS: f64 = 30e6;

/// Shared by all nodes of a pool.
#[derive(Debug)]
pub(crate) struct Fleet {
    clock: Clock,
    epoch: Instant,
    pub(crate) seeds: Seeds,
    pub(crate) mean: MeanLatency,
    /// Set by any response head, cleared by a node whose requests begin to be abandoned: tells a
    /// node that hangs alone from a pool that does.
    answered: AtomicBool,
    /// Woken when a node comes up, goes down, or the snapshot changes.
    pub(crate) signal: Arc<Signal>,
    attention: mpsc::UnboundedSender<Arc<Node>>,
}

/// The mean of the latency estimates of the nodes that have one.
///
/// Whole nanoseconds, added and taken away exactly, so that it neither drifts nor depends on the
/// order of updates. On cache lines of its own: the rest of the fleet is read by all requests, and
/// hardly ever written.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct MeanLatency {
    sum_nanos: AtomicU64,
    nodes: AtomicU32,
}

// === impl Fleet ===

impl Fleet {
    /// A fleet, and where its nodes ask for the driver's attention.
    pub(crate) fn new(
        clock: Clock,
        seeds: Seeds,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Node>>) {
        let (attention, attended) = mpsc::unbounded_channel();
        let epoch = clock.now();
        let fleet = Self {
            clock,
            epoch,
            seeds,
            mean: MeanLatency::new(),
            answered: AtomicBool::new(false),
            signal: Arc::new(Signal::new()),
            attention,
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

    /// Nanoseconds from the pool's beginning to `now`; 584 years fit.
    #[inline]
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    #[inline]
    pub(crate) fn tick(&self, now: Instant) -> Tick {
        Tick::from_nanos(self.nanos(now))
    }

    /// The moment `nanos` after the pool's beginning.
    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        super::clock::after(self.epoch, Duration::from_nanos(nanos))
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

    /// Asks the driver to look at `node`. Without a driver there is nobody to ask.
    pub(crate) fn attend(&self, node: Arc<Node>) {
        let _ = self.attention.send(node);
    }
}

#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()))
}

// === impl MeanLatency ===

impl MeanLatency {
    fn new() -> Self {
        Self { sum_nanos: AtomicU64::new(0), nodes: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn nanos(&self) -> f64 {
        match self.nodes.load(Ordering::Relaxed) {
            0 => UNKNOWN_LATENCY_NANOS,
            // A reader between the two additions of a writer may see a sum that is short or, wrapped,
            // huge; both pass with the writer's next step. Taken signed, the second reads as zero.
            nodes => {
                (self.sum_nanos.load(Ordering::Relaxed) as i64).max(0) as f64 / f64::from(nodes)
            }
        }
    }

    /// Moves one node's part from `before` to `after`; `None` means that it has no part.
    #[inline]
    pub(crate) fn shift(&self, before: Option<u64>, after: Option<u64>) {
        let difference = after.unwrap_or(0).wrapping_sub(before.unwrap_or(0));
        if difference != 0 {
            self.sum_nanos.fetch_add(difference, Ordering::Relaxed);
        }
        match (before, after) {
            (None, Some(_)) => drop(self.nodes.fetch_add(1, Ordering::Relaxed)),
            (Some(_), None) => drop(self.nodes.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}
