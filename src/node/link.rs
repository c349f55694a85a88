//! A node's connection, as whoever owns it reports it.
//!
//! ```text
//!            wanted            first bytes or connect
//!  Idle ───────────────▶ Connecting ───────────▶ Up ◀──────────▶ Resting
//!   ▲                     │      ▲                │    closed cleanly,
//!   │ backoff over,       │      │ backoff over   │    next request dials
//!   │ not kept connected  ▼      │                │
//!   └────────────────── Failed ──┘◀───────────────┘ soon after it came up: lost,
//!                                                   or closed before it carried anything
//! ```
//! A client that reports nothing leaves its link `Unreported`, which counts as up.

mod backoff;
mod cell;
mod handle;
mod on_node;

use std::time::{Duration, Instant};

pub(super) use self::cell::LinkCell;
pub use self::handle::Link;

const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// What the pool asks of a client that manages its connection.
///
/// Called from the pool's task or from a request's; it must return at once, and so spawns what
/// takes time.
pub trait Dial: Send + Sync + 'static {
    /// Connect, unless connected or connecting: report [`Link::connecting`] (or, if connected, only
    /// [`Link::up`]), then [`Link::up`] or
    /// [`Link::failed`], in any case within its [`limit`](Self::limit). Requests that a
    /// hash policy sends here wait for that.
    fn dial(&self);

    /// How long a dial may take until it has been reported; 10 s by default. A dial that takes longer
    /// counts as failed, for a client that forgets to report.
    fn limit(&self) -> Duration {
        DIAL_LIMIT
    }

    /// The endpoint is gone, or the balancer, and no request runs on it: close its connections in good
    /// order, as the protocol has it.
    fn close(&self);

    /// The endpoint is gone, or the service was made anew, and the time to drain is over: cut what is
    /// left. As [`close`](Self::close) by default.
    fn cut(&self) {
        self.close();
    }
}

/// The state of a node's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// The client reports nothing; counts as up.
    Unreported,
    /// Not dialled yet.
    Idle,
    /// A dial is under way.
    Connecting,
    /// Connected.
    Up,
    /// Closed after being up, by either side: idle for too long, say, or with a request over HTTP/1.1
    /// that was given up. The next request dials. Counts as up.
    Resting,
    /// The last dial, or the client's readiness, failed.
    Failed {
        /// When the pool dials again.
        until: Instant,
    },
}

// === impl LinkState ===

impl LinkState {
    /// The state in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreported => "unreported",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Resting => "resting",
            Self::Failed { .. } => "failed",
        }
    }
}
