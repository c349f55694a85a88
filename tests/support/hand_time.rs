//! Time that only a test moves.

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

/// Time that stands still until it is told.
#[derive(Clone)]
pub(crate) struct HandTime {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl HandTime {
    pub(crate) fn new() -> Self {
        // Any moment serves, if there is a past to go back to.
        Self { start: Clock::default().now(), nanos: Arc::default() }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::custom(self.clone())
    }

    /// So long after the start.
    pub(crate) fn set(&self, after: Duration) {
        self.nanos.store(after.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Time for HandTime {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}
