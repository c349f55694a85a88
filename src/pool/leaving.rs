//! The end of a pool: the last handle is gone, and calls that are out may yet come back.
//!
//! A call on the straight way holds no more of the pool than the lease of its node, so that calls
//! on many threads do not meet in one count. When the last handle goes, the driver therefore looks,
//! now and again, whether anybody is left: a request in flight may be given back and need another
//! pick.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::node::{Node, after};

/// How often it is looked whether the last call is gone.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What remains of a pool's time.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Requests in flight hold the pool no longer than this.
    until: Instant,
    look_at: Instant,
}

// === impl Leaving ===

impl Leaving {
    pub(super) fn begin(now: Instant, limit: Duration) -> Self {
        Self { until: after(now, limit), look_at: now }
    }

    pub(super) fn next_look(&self) -> Instant {
        self.look_at
    }

    /// Whether nobody needs the pool any more: neither a request in flight on one of `nodes`, nor
    /// one of those who hold `shared` besides the driver.
    pub(super) fn is_over<'a, T>(
        &mut self,
        now: Instant,
        mut nodes: impl Iterator<Item = &'a Arc<Node>>,
        shared: &Arc<T>,
    ) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = after(now, BETWEEN_LOOKS);
        // In this order: a call that picks again takes hold of the pool before its lease ends.
        let nobody_is_out = now >= self.until || nodes.all(|node| node.is_idle());
        nobody_is_out && Arc::strong_count(shared) == 1
    }
}
