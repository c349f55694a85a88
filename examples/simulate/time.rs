//! Virtual time: what the balancers take for the clock, and what the event loop moves.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel::node::{Clock, Time};

/// Nanoseconds since the run began.
pub(crate) type Nanos = u64;

pub(crate) const MICRO: Nanos = 1_000;
pub(crate) const MILLI: Nanos = 1_000_000;
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Time that stands still until the event loop moves it.
#[derive(Clone)]
pub(crate) struct VirtualTime {
    start: Instant,
    now: Arc<AtomicU64>,
}

impl VirtualTime {
    pub(crate) fn new() -> Self {
        // Any moment serves: only differences are looked at.
        Self { start: Clock::default().now(), now: Arc::default() }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::custom(self.clone())
    }

    pub(crate) fn set(&self, now: Nanos) {
        self.now.store(now, Ordering::Relaxed);
    }
}

impl Time for VirtualTime {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// Nothing in a simulation sleeps.
    fn sleep_until(&self, _until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}
