//! Waits that may be for nothing.

use std::time::Instant;

use crate::node::Clock;

/// Waits for `until`; for ever, if there is none.
pub(super) async fn sleep_until(clock: &Clock, until: Option<Instant>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}
