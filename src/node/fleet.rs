//! What the nodes of one pool share: the time base, the average latency, and the way to the driver.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
    time::Instant,
};

use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    Clock, Node, RuntimeEnded, Signal, Sleep,
    crowd::CrowdCount,
    epoch::Epoch,
    recent::RecentLatency,
    report::Reports,
    rng::{Rng, Seeds},
    room::Room,
};
use crate::sync::atomic::{AtomicBool, Ordering};

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
    /// Raised when a node comes up or the snapshot changes; noted when one goes down or may be dialled
    /// again.
    pub(crate) signal: Arc<Signal>,
    /// Calls that wait for a request to leave.
    pub(super) room: Arc<Room>,
    attention: mpsc::UnboundedSender<Arc<Node>>,
    home: OnceLock<Home>,
    /// Ends with the runtime, once somebody wants to know.
    canary: OnceLock<Canary>,
}

/// A task that does nothing.
#[derive(Debug)]
struct Canary(AbortHandle);

/// The pool that a fleet belongs to, for calls that hold no more of it than a lease.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) pool: Weak<dyn Any + Send + Sync>,
    pub(crate) target: Arc<str>,
}

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
            room: Arc::default(),
            attention,
            home: OnceLock::new(),
            canary: OnceLock::new(),
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

    /// Whether one of its sleeps is over, asked from wherever.
    ///
    /// # Errors
    /// The runtime of the timers has ended: tokio's own poll would panic. It still does if the runtime
    /// ends on another thread between the look here and that poll.
    #[inline]
    pub(crate) fn poll_sleep(
        &self,
        sleep: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RuntimeEnded>> {
        // A runtime ends its tasks, and with them the driver, before its timers.
        if self.attention.is_closed() && sleep.needs_runtime() && self.has_runtime_ended() {
            return Poll::Ready(Err(RuntimeEnded));
        }
        sleep.poll(cx).map(Ok)
    }

    /// The driver may have ended without it.
    #[cold]
    fn has_runtime_ended(&self) -> bool {
        self.runtime.as_ref().is_some_and(|runtime| {
            // It cannot be asked; but it ends its tasks, and what is spawned on one that has ended is over
            // at once.
            let spawn = || Canary(runtime.spawn(std::future::pending::<()>()).abort_handle());
            self.canary.get_or_init(spawn).0.is_finished()
        })
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

    /// What the pool balances, for the errors of its calls.
    pub(crate) fn target(&self) -> Arc<str> {
        self.home().map_or_else(Arc::default, |home| Arc::clone(&home.target))
    }

    /// Asks the driver to look at `node`. Without a driver there is nobody to ask.
    pub(crate) fn attend(&self, node: Arc<Node>) {
        let _ = self.attention.send(node);
    }
}

// === impl Canary ===

impl Drop for Canary {
    fn drop(&mut self) {
        self.0.abort();
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

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::{task::Waker, time::Duration};

    use super::*;

    /// Nobody drives the runtime, and so nobody would clear away what is spawned there.
    #[test]
    fn to_ask_whether_the_runtime_has_ended_takes_one_task() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (fleet, attended) = Fleet::on(Some(handle.clone()), Clock::default(), Seeds::Thread);
        drop(attended);
        let mut cx = Context::from_waker(Waker::noop());
        let mut sleep = Box::pin(fleet.sleep_until(fleet.now() + Duration::from_secs(1_000)));
        for _ in 0..100 {
            assert!(fleet.poll_sleep(sleep.as_mut(), &mut cx).is_pending());
        }
        assert_eq!(handle.metrics().num_alive_tasks(), 1);
        drop(runtime);
        for _ in 0..100 {
            assert!(matches!(fleet.poll_sleep(sleep.as_mut(), &mut cx), Poll::Ready(Err(_))));
        }
    }
}
