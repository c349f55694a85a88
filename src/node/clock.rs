//! The one place where time is read and waited for.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

/// Where a balancer reads the time, and what it sleeps on.
///
/// The default follows tokio's clock, so that `tokio::time::pause` moves everything together. A
/// simulator hands in its own through [`Clock::custom`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// let clock = evenkeel::node::Clock::default();
/// let before = clock.now();
/// clock.sleep(Duration::from_secs(3600)).await;
/// assert!(clock.now() - before >= Duration::from_secs(3600));
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Time>>);

/// A source of time of one's own.
pub trait Time: Send + Sync {
    /// The time now. It may stand still or go back: durations are taken saturating.
    fn now(&self) -> Instant;

    /// A future that ends when `now()` has reached `until`.
    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

pin_project! {
    /// A wait for a moment of a [`Clock`].
    #[project = SleepProjection]
    pub(crate) enum Sleep {
        Tokio { #[pin] sleep: tokio::time::Sleep },
        Custom { sleep: Pin<Box<dyn Future<Output = ()> + Send>> },
    }
}

/// The runtime that a sleep was to be woken by is no more.
#[derive(Debug, thiserror::Error)]
#[error("the runtime of the balancer's timers has ended")]
pub(crate) struct RuntimeEnded;

// === impl Clock ===

impl Clock {
    /// A clock over one's own time.
    pub fn custom(time: impl Time + 'static) -> Self {
        Self(Some(Arc::new(time)))
    }

    /// The time now.
    #[inline]
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => tokio::time::Instant::now().into_std(),
            Some(time) => time.now(),
        }
    }

    /// Waits for `duration`, counted from now.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(after(self.now(), duration)).await;
    }

    /// Whether there are timers for it here.
    pub(crate) fn has_timers(&self) -> bool {
        // Tokio cannot be asked: where it has none, it panics.
        let try_tokio = || drop(tokio::time::sleep(Duration::ZERO));
        self.0.is_some() || std::panic::catch_unwind(try_tokio).is_ok()
    }

    pub(crate) fn sleep_until(&self, until: Instant) -> Sleep {
        match &self.0 {
            None => Sleep::Tokio { sleep: tokio::time::sleep_until(until.into()) },
            Some(time) => Sleep::Custom { sleep: time.sleep_until(until) },
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(custom)" } else { "Clock(tokio)" })
    }
}

// === impl Sleep ===

impl Sleep {
    /// Whether a runtime has to wake it.
    #[inline]
    pub(crate) fn needs_runtime(&self) -> bool {
        matches!(self, Self::Tokio { .. })
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project() {
            SleepProjection::Tokio { sleep } => sleep.poll(cx),
            SleepProjection::Custom { sleep } => sleep.as_mut().poll(cx),
        }
    }
}

/// `duration` after `start`; a sum beyond what the clock can say is some thirty years off.
pub(crate) fn after(start: Instant, duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    start.checked_add(duration.min(FAR)).unwrap_or(start)
}
