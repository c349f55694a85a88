//! A connection as the pool sees it, and the right to one of its streams.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::super::{
    head::Name,
    io::{Monitor, StreamEnds},
    pool::Pool,
};
use crate::node::after;

/// An HTTP/2 connection. While a clone lives, it is kept open.
#[derive(Clone)]
pub(in super::super) struct Trunk {
    pub(in super::super) id: u64,
    pub(in super::super) name: Arc<Name>,
    pub(super) sender: SendRequest<Bytes>,
    pub(super) state: Arc<State>,
}

/// What is remembered of a trunk, without keeping it open.
pub(in super::super) struct Record(Arc<State>);

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
    /// When, after the peer's last sign of life, the first stream began of those that began in a silence, and
    /// when the peer last answered a PING; likewise.
    begun_in_silence: AtomicU64,
    answered: AtomicU64,
    began: Instant,
    /// A first stream is open.
    pub(super) busy: Notify,
    /// The first stream since the peer's last sign of life has begun, in a silence.
    pub(super) doubted: Notify,
    /// Why the connection ended, where its driver knows better than the stream.
    pub(super) end: OnceLock<Gone>,
    streams: Mutex<HashMap<u32, Weak<Claim>>>,
}

/// The right to one stream of a connection, until it is dropped, or the stream is over before.
pub(in super::super) struct Slot {
    pub(in super::super) trunk: Trunk,
    claim: Arc<Claim>,
}

/// What is over of a stream. Both sides of it, and it counts no more, whether or not the response is
/// read: else callers who wait for all their responses before they read the first would wait for
/// themselves.
struct Claim {
    state: Arc<State>,
    pool: Weak<Pool>,
    over: AtomicU8,
    stream: AtomicU32,
}

const SENT: u8 = 1;
const RECEIVED: u8 = 2;
const RELEASED: u8 = 4;

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

/// A peer that was heard of within this time is not doubted, whoever comes.
const SILENCE: Duration = Duration::from_secs(1);

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
            begun_in_silence: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            began,
            busy: Notify::new(),
            doubted: Notify::new(),
            end: OnceLock::new(),
            streams: Mutex::default(),
        };
        let state = Arc::new(state);
        let ends: Weak<dyn StreamEnds> = Arc::downgrade(&state) as Weak<dyn StreamEnds>;
        state.monitor.tell_ends(ends);
        Self { id, name, sender, state }
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
        let claim = Claim {
            state: Arc::clone(&self.state),
            pool: Weak::clone(pool),
            over: AtomicU8::new(0),
            stream: AtomicU32::new(0),
        };
        Some(Slot { trunk: self.clone(), claim: Arc::new(claim) })
    }

    pub(in super::super) fn has_served(&self) -> bool {
        self.state.served.load(Ordering::Relaxed)
    }

    /// Cheaper than a clone, which takes the lock of the whole connection.
    pub(in super::super) fn record(&self) -> Record {
        Record(Arc::clone(&self.state))
    }
}

// === impl Record ===

impl Record {
    /// Whether a response has come on the connection.
    pub(in super::super) fn has_served(&self) -> bool {
        self.0.served.load(Ordering::Relaxed)
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
            self.set(&self.busy_since, now);
        }
        let life = self.monitor.last_life();
        if now.saturating_duration_since(life) > SILENCE {
            self.begin_in_silence(now, life);
        }
        if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
            self.busy.notify_one();
        }
    }

    #[cold]
    fn begin_in_silence(&self, now: Instant, life: Instant) {
        if self.begun_in_silence() <= life.max(self.answered()) {
            self.set(&self.begun_in_silence, now);
            self.doubted.notify_one();
        }
    }

    fn finish(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// When the first of the streams that are open began.
    pub(super) fn busy_since(&self) -> Instant {
        self.moment(&self.busy_since)
    }

    /// When the first of the streams began that began in a silence, after the peer's last sign of life: if
    /// there has been one since, it is no news.
    pub(super) fn begun_in_silence(&self) -> Instant {
        self.moment(&self.begun_in_silence)
    }

    /// When the peer last answered a PING; the connection's beginning if it never has.
    pub(super) fn answered(&self) -> Instant {
        self.moment(&self.answered)
    }

    pub(super) fn set_answered(&self, now: Instant) {
        self.set(&self.answered, now);
    }

    fn moment(&self, nanos: &AtomicU64) -> Instant {
        after(self.began, Duration::from_nanos(nanos.load(Ordering::Acquire)))
    }

    fn set(&self, moment: &AtomicU64, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        moment.store(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Weak<Claim>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamEnds for State {
    fn peer_ended(&self, stream: u32) {
        let claim = self.streams().get(&stream).and_then(Weak::upgrade);
        if let Some(claim) = claim {
            claim.end(RECEIVED);
        }
    }
}

// === impl Claim ===

impl Claim {
    fn end(&self, side: u8) {
        let before = self.over.fetch_or(side, Ordering::AcqRel);
        if (before | side) & (SENT | RECEIVED) == SENT | RECEIVED {
            self.release();
        }
    }

    fn release(&self) {
        if self.over.fetch_or(RELEASED, Ordering::AcqRel) & RELEASED != 0 {
            return;
        }
        self.state.finish();
        if let Some(pool) = self.pool.upgrade() {
            pool.stream_ended();
        }
    }
}

// === impl Slot ===

impl Slot {
    /// The slot's stream, so that its end is heard of. One that has ended by now is over when it has
    /// been read.
    pub(super) fn opened(&self, stream: u32) {
        self.claim.stream.store(stream, Ordering::Release);
        self.trunk.state.streams().insert(stream, Arc::downgrade(&self.claim));
    }

    /// Whether the peer's settings allow extended CONNECT (RFC 8441 section 3).
    pub(in super::super) fn allows_extended_connect(&self) -> bool {
        self.trunk.sender.is_extended_connect_protocol_enabled()
    }

    /// All of the request is sent.
    pub(super) fn sent(&self) {
        self.claim.end(SENT);
    }

    /// Gives the stream back unused, under the pool's lock: nobody is told.
    pub(in super::super) fn give_back(self) {
        if self.claim.over.fetch_or(RELEASED, Ordering::AcqRel) & RELEASED == 0 {
            self.trunk.state.finish();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match self.claim.stream.load(Ordering::Acquire) {
            0 => {}
            stream => drop(self.trunk.state.streams().remove(&stream)),
        }
        self.claim.release();
    }
}
