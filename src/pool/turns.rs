//! How a large set costs the runtime's workers no more than a small one: work over all endpoints is
//! done in portions, between which other tasks have their turn, or not on a worker at all.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::node::{Fleet, after};

/// Endpoints that are worked on in one turn. One costs about a microsecond where its client is one of
/// this crate's.
pub(crate) const PORTION: usize = 64;
/// A turn ends earlier where endpoints take longer, as with clients that are costly to make.
const LONGEST_TURN: Duration = Duration::from_micros(100);
/// Endpoints from which on what cannot be divided goes to a blocking thread.
const OFF_WORKER_FROM: usize = 512;
/// Entries of a policy's table that take about as long as one endpoint.
const ENTRIES_AN_ENDPOINT: usize = 32;
/// Looks at whether a reader has let go of what is to be dropped.
const LOOKS: usize = 1_000;

/// A task's turn on its worker.
pub(crate) struct Turn {
    left: usize,
    until: Option<Instant>,
}

impl Turn {
    pub(crate) fn begin(fleet: &Fleet) -> Self {
        Self { left: PORTION, until: Some(after(fleet.now(), LONGEST_TURN)) }
    }

    /// One without an end, where nobody else waits for the thread.
    pub(crate) fn endless() -> Self {
        Self { left: usize::MAX, until: None }
    }

    /// One endpoint more was worked on; whether there may be another in this turn.
    pub(crate) fn goes_on(&mut self, fleet: &Fleet) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0 && self.until.is_none_or(|until| fleet.now() < until)
    }
}

/// How many endpoints a build over `endpoints` of them comes to, where the policy fills so many entries.
pub(crate) fn size_of_build(endpoints: usize, entries: usize) -> usize {
    endpoints.max(entries / ENTRIES_AN_ENDPOINT)
}

/// Does `work`, on so many endpoints: here, or on a blocking thread if they are many. `None` if the
/// runtime is shutting down.
///
/// # Panics
/// Where the work does.
pub(crate) async fn off_worker<T: Send + 'static>(
    endpoints: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if endpoints < OFF_WORKER_FROM {
        return Some(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => None,
        },
    }
}

/// Drops something of so many endpoints.
pub(crate) fn let_go(endpoints: usize, of: impl Send + 'static) {
    if endpoints >= OFF_WORKER_FROM {
        tokio::task::spawn_blocking(move || drop(of));
    }
}

/// Drops what requests may be looking at just now. A look takes less than a microsecond, and whoever
/// has the last one drops it all: that should not be a request.
pub(crate) fn let_go_of_shared<T: Send + Sync + 'static>(endpoints: usize, of: Arc<T>) {
    if endpoints >= OFF_WORKER_FROM {
        tokio::task::spawn_blocking(move || {
            for _ in 0..LOOKS {
                if Arc::strong_count(&of) == 1 {
                    break;
                }
                thread::yield_now();
            }
            drop(of);
        });
    }
}
