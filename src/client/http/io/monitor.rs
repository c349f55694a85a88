//! What is known of a stream from outside, and how it is cut.

use std::{
    io, mem,
    sync::{
        Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::super::frames::{GoAway, Seen};
use crate::{
    error::BoxError,
    node::{Clock, after},
};

/// What others know of a [`Wire`](super::Wire), and how they cut it.
pub(in super::super) struct Monitor {
    notes: AtomicU8,
    news: Notify,
    wakers: Mutex<Wakers>,
    pub(super) clock: Clock,
    began: Instant,
    /// When the peer last gave a sign of life, in nanoseconds from the beginning.
    life: AtomicU64,
    /// How often it was seen to work on a request.
    data: AtomicU32,
    /// The last GOAWAY: its last stream, and its code in the upper half.
    goaway: AtomicU64,
    /// The last HTTP/2 stream that was begun to be sent.
    pub(super) sent: AtomicU32,
    ends: OnceLock<Weak<dyn StreamEnds>>,
    /// Why reading or writing first failed.
    cause: OnceLock<io::Error>,
}

/// Hears of the streams that an HTTP/2 peer has ended, from the task of the connection.
pub(in super::super) trait StreamEnds: Send + Sync {
    fn peer_ended(&self, stream: u32);
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

#[derive(Clone, Copy)]
pub(super) enum Half {
    Read,
    Write,
}

pub(super) const CUT: u8 = 1;
const BROKEN: u8 = 2;
pub(super) const HEARD: u8 = 4;
const GOING_AWAY: u8 = 8;
pub(super) const CLOSED: u8 = 16;
pub(super) const ENDED: u8 = 32;
const DEAF: u8 = 64;
pub(super) const GIVEN_AWAY: u8 = 128;

// === impl Monitor ===

impl Monitor {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            notes: AtomicU8::new(0),
            news: Notify::new(),
            wakers: Mutex::default(),
            began: clock.now(),
            clock,
            life: AtomicU64::new(0),
            data: AtomicU32::new(0),
            goaway: AtomicU64::new(0),
            sent: AtomicU32::new(0),
            ends: OnceLock::new(),
            cause: OnceLock::new(),
        }
    }

    pub(super) fn note(&self, note: u8) {
        if self.notes.fetch_or(note, Ordering::AcqRel) & note == 0 {
            self.news.notify_waiters();
        }
    }

    pub(super) fn has(&self, note: u8) -> bool {
        self.notes.load(Ordering::Acquire) & note != 0
    }

    /// Closes the stream: at once where someone waits for it, else when it is next touched.
    pub(in super::super) fn cut(&self) {
        self.note(CUT);
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let Wakers { read, write } = mem::take(&mut *wakers);
        drop(wakers);
        read.into_iter().chain(write).for_each(Waker::wake);
    }

    /// Whether it was cut.
    pub(in super::super) fn is_cut(&self) -> bool {
        self.has(CUT)
    }

    /// Whether reading failed.
    pub(in super::super) fn is_broken(&self) -> bool {
        self.has(BROKEN)
    }

    /// Whether writing failed.
    pub(in super::super) fn is_deaf(&self) -> bool {
        self.has(DEAF)
    }

    /// The stream is about to be its caller's own: its errors are told as they come.
    pub(in super::super) fn give_away(&self) {
        self.note(GIVEN_AWAY);
    }

    /// Whether the peer was seen to have closed its side.
    pub(in super::super) fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    pub(in super::super) fn note_closed(&self) {
        self.note(CLOSED);
    }

    /// Why reading or writing first failed: the protocol's library tells it to one, if to anybody, of those
    /// who want to know.
    pub(in super::super) fn cause(&self) -> Option<BoxError> {
        self.cause.get().map(copy_of)
    }

    pub(super) fn fail(&self, error: &io::Error, note: u8) {
        let _ = self.cause.set(again(error));
        self.note(note);
    }

    /// Whether an HTTP/2 peer has said that it will take no more requests.
    pub(in super::super) fn is_going_away(&self) -> bool {
        self.has(GOING_AWAY)
    }

    /// The last GOAWAY of an HTTP/2 peer, which allows the fewest streams.
    pub(in super::super) fn goaway(&self) -> Option<GoAway> {
        let word = self.goaway.load(Ordering::Acquire);
        let goaway = GoAway { last_stream: word as u32, code: (word >> 32) as u32 };
        self.is_going_away().then_some(goaway)
    }

    /// The last HTTP/2 stream of which the peer can have seen anything.
    pub(in super::super) fn last_sent(&self) -> u32 {
        self.sent.load(Ordering::Acquire)
    }

    /// When an HTTP/2 peer last sent anything but a PING.
    pub(in super::super) fn last_life(&self) -> Instant {
        after(self.began, Duration::from_nanos(self.life.load(Ordering::Acquire)))
    }

    /// Changes whenever an HTTP/2 peer sends DATA or HEADERS.
    pub(in super::super) fn data_seen(&self) -> u32 {
        self.data.load(Ordering::Acquire)
    }

    /// From now on a byte of an HTTP/1.1 peer is news.
    pub(in super::super) fn listen_anew(&self) {
        self.notes.fetch_and(!HEARD, Ordering::AcqRel);
    }

    /// Whether an HTTP/1.1 peer has sent a byte since.
    pub(in super::super) fn has_heard(&self) -> bool {
        self.has(HEARD)
    }

    /// Whom to tell that the peer ended a stream. The first to ask stands.
    pub(in super::super) fn tell_ends(&self, to: Weak<dyn StreamEnds>) {
        let _ = self.ends.set(to);
    }

    pub(super) fn see_end(&self, stream: u32) {
        if let Some(ends) = self.ends.get().and_then(Weak::upgrade) {
            ends.peer_ended(stream);
        }
    }

    pub(super) fn see(&self, seen: &Seen) {
        if seen.life {
            let passed = self.clock.now().saturating_duration_since(self.began);
            let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
            self.life.store(nanos, Ordering::Release);
        }
        if seen.data {
            self.data.fetch_add(1, Ordering::AcqRel);
        }
        if seen.preface {
            self.note(HEARD);
        }
        if let Some(GoAway { last_stream, code }) = seen.goaway {
            self.goaway.store(u64::from(code) << 32 | u64::from(last_stream), Ordering::Release);
            self.note(GOING_AWAY);
        }
    }

    /// Waits until an HTTP/2 peer has sent its preface.
    pub(in super::super) async fn heard(&self) {
        self.noted(HEARD).await;
    }

    /// Waits until an HTTP/2 peer says that it is going away.
    pub(in super::super) async fn going_away(&self) {
        self.noted(GOING_AWAY).await;
    }

    /// Waits until the stream is cut.
    pub(in super::super) async fn was_cut(&self) {
        self.noted(CUT).await;
    }

    /// Waits until nobody holds the stream any more.
    pub(in super::super) async fn ended(&self) {
        self.noted(ENDED).await;
    }

    async fn noted(&self, note: u8) {
        loop {
            // Made before the look: `notify_waiters` reaches every future that exists by then.
            let news = self.news.notified();
            if self.has(note) {
                return;
            }
            news.await;
        }
    }

    pub(super) fn remember(&self, cx: &Context<'_>, which: Half) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = which.waker(&mut wakers);
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }
}

// === impl Half ===

impl Half {
    fn waker(self, wakers: &mut Wakers) -> &mut Option<Waker> {
        match self {
            Self::Read => &mut wakers.read,
            Self::Write => &mut wakers.write,
        }
    }

    pub(super) fn failure(self) -> u8 {
        match self {
            Self::Read => BROKEN,
            Self::Write => DEAF,
        }
    }
}

/// The same error once more, as far as there can be two of it.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), copy_of(error)),
    }
}

/// Likewise, without what it is wrapped in.
fn copy_of(error: &io::Error) -> BoxError {
    if let Some(code) = error.raw_os_error() {
        return io::Error::from_raw_os_error(code).into();
    }
    let inside = error.get_ref();
    // What was copied before is inside.
    if let Some(io) = inside.and_then(|inside| inside.downcast_ref::<io::Error>()) {
        return copy_of(io);
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = inside.and_then(|inside| inside.downcast_ref::<rustls::Error>()) {
        return tls.clone().into();
    }
    match inside {
        Some(inside) => io::Error::new(error.kind(), inside.to_string()).into(),
        None => io::Error::from(error.kind()).into(),
    }
}
