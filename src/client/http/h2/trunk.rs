//! A connection as the pool sees it, and the right to one of its streams.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::super::{head::Name, io::Monitor, pool::Pool};
use crate::node::after;

/// An HTTP/2 connection. While a clone lives, it is kept open.
#[derive(Clone)]
pub(in super::super) struct Trunk {
    pub(in super::super) id: u64,
    pub(in super::super) name: Arc<Name>,
    pub(super) sender: SendRequest<Bytes>,
    pub(super) state: Arc<State>,
}

/// What a trunk, its streams and its driver all know.
pub(super) struct State {
    pub(super) monitor: Arc<Monitor>,
    /// Streams that are open, or about to be.
    open: AtomicU32,
    /// Streams that ever were.
    opened: AtomicU32,
    /// Whether a response came on it: then its end says nothing against the peer.
    pub(super) served: AtomicBool,
    /// When the first of the open streams began, in nanoseconds from the connection's beginning.
    busy_since: AtomicU64,
    began: Instant,
    /// A first stream is open.
    pub(super) busy: Notify,
    /// Why the connection ended, where its driver knows better than the stream.
    pub(super) end: OnceLock<Gone>,
}

/// The right to one stream of a connection, until it is dropped.
pub(in super::super) struct Slot {
    pub(in super::super) trunk: Trunk,
    pool: Weak<Pool>,
    given_back: bool,
}

/// Why a connection takes no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Gone {
    #[error("the peer said GOAWAY")]
    GoAway,
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer did not answer a PING within {0:?}")]
    Silent(Duration),
    #[error("the connection has reached its maximum age")]
    Old,
    #[error("the connection lay idle")]
    Idle,
    #[error("the connection has no stream number left")]
    Exhausted,
}

/// Of the 2^30 streams that a client may open on a connection (RFC 9113 section 5.1.1).
const MOST_OPENED: u32 = 1_000_000_000;

// === impl Trunk ===

impl Trunk {
    pub(super) fn new(
        id: u64,
        name: Arc<Name>,
        sender: SendRequest<Bytes>,
        monitor: Arc<Monitor>,
        began: Instant,
    ) -> Self {
        let state = State {
            monitor,
            open: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            served: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
            began,
            busy: Notify::new(),
            end: OnceLock::new(),
        };
        Self { id, name, sender, state: Arc::new(state) }
    }

    /// Why no request may be sent, if none may.
    pub(in super::super) fn gone(&self) -> Option<Gone> {
        if self.state.monitor.is_going_away() {
            return Some(Gone::GoAway);
        }
        if self.state.opened.load(Ordering::Relaxed) >= MOST_OPENED {
            return Some(Gone::Exhausted);
        }
        self.state.end.get().copied()
    }

    /// How many streams the peer allows now.
    pub(in super::super) fn most_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    pub(in super::super) fn open_streams(&self) -> usize {
        self.state.open() as usize
    }

    /// A stream, if the peer allows one more. Called under the pool's lock, so by one at a time.
    pub(in super::super) fn slot(&self, pool: &Weak<Pool>, now: Instant) -> Option<Slot> {
        if self.open_streams() >= self.most_streams() {
            return None;
        }
        self.state.begin(now);
        Some(Slot { trunk: self.clone(), pool: Weak::clone(pool), given_back: false })
    }

    pub(in super::super) fn has_served(&self) -> bool {
        self.state.served.load(Ordering::Relaxed)
    }
}

// === impl State ===

impl State {
    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    fn begin(&self, now: Instant) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        // The time first: who sees the count finds it.
        if self.open() == 0 {
            let passed = now.saturating_duration_since(self.began);
            let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
            self.busy_since.store(nanos, Ordering::Release);
        }
        if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
            self.busy.notify_one();
        }
    }

    fn finish(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// When the first of the streams that are open began.
    pub(super) fn busy_since(&self) -> Instant {
        after(self.began, Duration::from_nanos(self.busy_since.load(Ordering::Acquire)))
    }
}

// === impl Slot ===

impl Slot {
    /// Gives the stream back unused, under the pool's lock: nobody is told.
    pub(in super::super) fn give_back(mut self) {
        self.given_back = true;
        self.trunk.state.finish();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        self.trunk.state.finish();
        if let Some(pool) = self.pool.upgrade() {
            pool.stream_ended();
        }
    }
}
