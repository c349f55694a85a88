//! The stream under a connection: what passes is noted, and it can be cut from outside.
//!
//! The protocols' libraries own the stream and do not tell when the peer first or last spoke, that an
//! HTTP/2 peer said GOAWAY while requests run, or whether the stream broke or was closed. And hyper
//! does not let go of the socket when its driver is dropped. So all of that is seen to here.

use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    task::coop::has_budget_remaining,
};

use super::{
    connect::Stream,
    frames::{Frames, GoAway, Seen, Sent},
};
use crate::{
    error::BoxError,
    node::{Clock, Sleep, after},
};

/// The stream that hyper gets.
pub(super) struct Wire {
    /// Gone once it is cut.
    io: Option<TokioIo<Box<dyn Stream>>>,
    frames: Option<Frames>,
    sent: Option<Sent>,
    deaf: Option<Deaf>,
    /// Nothing more will be read.
    read_out: bool,
    monitor: Arc<Monitor>,
}

/// The peer can be written to no more. What it said before may still be there to be read: over HTTP/2 its
/// last GOAWAY above all, which tells the requests that it has not processed; over HTTP/1.1 its answer to
/// an upload of which it did not want the rest.
struct Deaf {
    why: io::Error,
    /// Until when HTTP/1.1, which reads no more once it was told, is not told.
    untold: Option<Pin<Box<Sleep>>>,
}

/// What others know of a [`Wire`], and how they cut it.
pub(super) struct Monitor {
    notes: AtomicU8,
    news: Notify,
    wakers: Mutex<Wakers>,
    clock: Clock,
    began: Instant,
    /// When the peer last gave a sign of life, in nanoseconds from the beginning.
    life: AtomicU64,
    /// How often it was seen to work on a request.
    data: AtomicU32,
    /// The last GOAWAY: its last stream, and its code in the upper half.
    goaway: AtomicU64,
    /// The last HTTP/2 stream that was begun to be sent.
    sent: AtomicU32,
    ends: OnceLock<Weak<dyn StreamEnds>>,
    /// Why reading or writing first failed.
    cause: OnceLock<io::Error>,
}

/// Hears of the streams that an HTTP/2 peer has ended, from the task of the connection.
pub(super) trait StreamEnds: Send + Sync {
    fn peer_ended(&self, stream: u32);
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Half {
    Read,
    Write,
}

/// How long an answer that came before the end of its request may lie unread, where that cannot be written.
const MOST_UNREAD: Duration = Duration::from_secs(5);

const CUT: u8 = 1;
const BROKEN: u8 = 2;
const HEARD: u8 = 4;
const GOING_AWAY: u8 = 8;
const CLOSED: u8 = 16;
const ENDED: u8 = 32;
const DEAF: u8 = 64;
const GIVEN_AWAY: u8 = 128;

// === impl Monitor ===

impl Monitor {
    fn new(clock: Clock) -> Self {
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

    fn note(&self, note: u8) {
        if self.notes.fetch_or(note, Ordering::AcqRel) & note == 0 {
            self.news.notify_waiters();
        }
    }

    fn has(&self, note: u8) -> bool {
        self.notes.load(Ordering::Acquire) & note != 0
    }

    /// Closes the stream: at once where someone waits for it, else when it is next touched.
    pub(super) fn cut(&self) {
        self.note(CUT);
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let Wakers { read, write } = mem::take(&mut *wakers);
        drop(wakers);
        read.into_iter().chain(write).for_each(Waker::wake);
    }

    /// Whether it was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.has(CUT)
    }

    /// Whether reading failed.
    pub(super) fn is_broken(&self) -> bool {
        self.has(BROKEN)
    }

    /// Whether writing failed.
    pub(super) fn is_deaf(&self) -> bool {
        self.has(DEAF)
    }

    /// The stream is about to be its caller's own: its errors are told as they come.
    pub(super) fn give_away(&self) {
        self.note(GIVEN_AWAY);
    }

    /// Whether the peer was seen to have closed its side.
    pub(super) fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    pub(super) fn note_closed(&self) {
        self.note(CLOSED);
    }

    /// Why reading or writing first failed: the protocol's library tells it to one, if to anybody, of those
    /// who want to know.
    pub(super) fn cause(&self) -> Option<BoxError> {
        self.cause.get().map(copy_of)
    }

    fn fail(&self, error: &io::Error, note: u8) {
        let _ = self.cause.set(again(error));
        self.note(note);
    }

    /// Whether an HTTP/2 peer has said that it will take no more requests.
    pub(super) fn is_going_away(&self) -> bool {
        self.has(GOING_AWAY)
    }

    /// The last GOAWAY of an HTTP/2 peer, which allows the fewest streams.
    pub(super) fn goaway(&self) -> Option<GoAway> {
        let word = self.goaway.load(Ordering::Acquire);
        let goaway = GoAway { last_stream: word as u32, code: (word >> 32) as u32 };
        self.is_going_away().then_some(goaway)
    }

    /// The last HTTP/2 stream of which the peer can have seen anything.
    pub(super) fn last_sent(&self) -> u32 {
        self.sent.load(Ordering::Acquire)
    }

    /// When an HTTP/2 peer last sent anything but a PING.
    pub(super) fn last_life(&self) -> Instant {
        after(self.began, Duration::from_nanos(self.life.load(Ordering::Acquire)))
    }

    /// Changes whenever an HTTP/2 peer sends DATA or HEADERS.
    pub(super) fn data_seen(&self) -> u32 {
        self.data.load(Ordering::Acquire)
    }

    /// From now on a byte of an HTTP/1.1 peer is news.
    pub(super) fn listen_anew(&self) {
        self.notes.fetch_and(!HEARD, Ordering::AcqRel);
    }

    /// Whether an HTTP/1.1 peer has sent a byte since.
    pub(super) fn has_heard(&self) -> bool {
        self.has(HEARD)
    }

    /// Whom to tell that the peer ended a stream. The first to ask stands.
    pub(super) fn tell_ends(&self, to: Weak<dyn StreamEnds>) {
        let _ = self.ends.set(to);
    }

    fn see_end(&self, stream: u32) {
        if let Some(ends) = self.ends.get().and_then(Weak::upgrade) {
            ends.peer_ended(stream);
        }
    }

    fn see(&self, seen: &Seen) {
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
    pub(super) async fn heard(&self) {
        self.noted(HEARD).await;
    }

    /// Waits until an HTTP/2 peer says that it is going away.
    pub(super) async fn going_away(&self) {
        self.noted(GOING_AWAY).await;
    }

    /// Waits until the stream is cut.
    pub(super) async fn was_cut(&self) {
        self.noted(CUT).await;
    }

    /// Waits until nobody holds the stream any more.
    pub(super) async fn ended(&self) {
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

    fn remember(&self, cx: &Context<'_>, which: Half) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = which.waker(&mut wakers);
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(io: Box<dyn Stream>, http2: bool, clock: &Clock) -> (Self, Arc<Monitor>) {
        let monitor = Arc::new(Monitor::new(clock.clone()));
        let (frames, sent) = (http2.then(Frames::new), http2.then(Sent::new));
        let wire = Self {
            io: Some(TokioIo::new(io)),
            frames,
            sent,
            deaf: None,
            read_out: false,
            monitor: Arc::clone(&monitor),
        };
        (wire, monitor)
    }

    /// Does `operation` on the stream, unless it is cut.
    fn with<T>(
        &mut self,
        cx: &mut Context<'_>,
        which: Half,
        operation: impl FnOnce(
            Pin<&mut TokioIo<Box<dyn Stream>>>,
            &mut Context<'_>,
        ) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.monitor.has(CUT) {
            self.io = None;
        }
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        let polled = operation(Pin::new(io), cx);
        match &polled {
            Poll::Pending => {
                self.monitor.remember(cx, which);
                // Cut while it was polled: the waker may have come too late for that.
                if self.monitor.has(CUT) {
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Ready(Err(error)) => self.monitor.fail(error, which.failure()),
            Poll::Ready(Ok(_)) => {}
        }
        polled
    }

    /// Does `operation`, which writes, unless there is no use in it any more; `all` is what it would do.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        all: T,
        operation: impl FnOnce(
            Pin<&mut TokioIo<Box<dyn Stream>>>,
            &mut Context<'_>,
        ) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.deaf.is_none() {
            let why = match ready!(self.with(cx, Half::Write, operation)) {
                Err(error) if !self.monitor.has(CUT) => error,
                done => return Poll::Ready(done),
            };
            self.deaf = Some(Deaf { why, untold: None });
            // What there is to read may have been announced before.
            cx.waker().wake_by_ref();
        }
        let is_told = self.read_out || self.is_given_away();
        match &mut self.deaf {
            // HTTP/2 is told that all is well, and hears of the end when it reads.
            Some(Deaf { why, untold }) if self.frames.is_none() => {
                if is_told {
                    return Poll::Ready(Err(again(why)));
                }
                let clock = &self.monitor.clock;
                let untold = untold.get_or_insert_with(|| {
                    Box::pin(clock.sleep_until(after(clock.now(), MOST_UNREAD)))
                });
                untold.as_mut().poll(cx).map(|()| Err(again(why)))
            }
            _ => Poll::Ready(Ok(all)),
        }
    }

    fn is_given_away(&self) -> bool {
        self.monitor.has(GIVEN_AWAY)
    }

    /// What reading gave, which is the error of writing once all that there was has been read.
    fn heard(&mut self, polled: Poll<io::Result<()>>, nothing: bool) -> Poll<io::Result<()>> {
        // A task whose budget is used up is told to wait, whatever there is.
        let waits = |polled: &Poll<_>| polled.is_pending() && has_budget_remaining();
        let polled = match (polled, &self.deaf) {
            // Who owns the stream may wait for what a peer that hears nothing has to say.
            (polled, Some(Deaf { why, .. })) if waits(&polled) && !self.is_given_away() => {
                Poll::Ready(Err(again(why)))
            }
            // A reset that writing was told of already looks to reading like an end in good order.
            (Poll::Ready(Ok(())), Some(Deaf { why, .. })) if nothing && self.frames.is_none() => {
                Poll::Ready(Err(again(why)))
            }
            (polled, _) => polled,
        };
        self.read_out |= nothing && polled.is_ready();
        polled
    }

    fn wrote(&mut self, bytes: &[u8]) {
        // Of one who is deaf, nothing was.
        if let (Some(sent), None) = (&mut self.sent, &self.deaf) {
            self.monitor.sent.store(sent.pass(bytes), Ordering::Release);
        }
    }
}

/// The same error once more, as far as there can be two of it.
fn again(error: &io::Error) -> io::Error {
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

impl Drop for Wire {
    fn drop(&mut self) {
        // First the stream, then the news.
        self.io = None;
        self.monitor.note(ENDED);
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

    fn failure(self) -> u8 {
        match self {
            Self::Read => BROKEN,
            Self::Write => DEAF,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = self.with(cx, Half::Read, |io, cx| io.poll_read(cx, buf));
        let bytes = &buf.filled()[before..];
        let polled = self.heard(polled, bytes.is_empty() && room > 0);
        let this = &mut *self;
        let Poll::Ready(Ok(())) = &polled else { return polled };
        if !bytes.is_empty() {
            match &mut this.frames {
                Some(frames) => {
                    let seen = frames.pass(bytes, |stream| this.monitor.see_end(stream));
                    this.monitor.see(&seen);
                }
                None => this.monitor.note(HEARD),
            }
        } else if room > 0 {
            this.monitor.note(CLOSED);
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.write(cx, buf.len(), |io, cx| io.poll_write(cx, buf)))?;
        self.wrote(&buf[..written.min(buf.len())]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        let written = ready!(self.write(cx, all, |io, cx| io.poll_write_vectored(cx, bufs)))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            self.wrote(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, (), |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, Half::Write, |io, cx| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_wakes_readers_and_lets_go_of_the_stream() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut wire, monitor) = Wire::new(Box::new(TokioIo::new(ours)), false, &Clock::default());
        let reader = tokio::spawn(async move {
            let result = wire.read_u8().await;
            (result, wire)
        });
        tokio::task::yield_now().await;
        monitor.cut();
        let (result, _wire) = reader.await.unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        // The wire lives, yet the peer sees the end.
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(theirs.write_all(b"x").await.is_err());
        assert!(!monitor.is_broken());
        monitor.was_cut().await;
    }

    /// Takes nothing, and has something to say now and then.
    struct Hangs {
        says: bool,
    }

    impl AsyncRead for Hangs {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let coop = ready!(tokio::task::coop::poll_proceed(cx));
            if !self.says {
                return Poll::Pending;
            }
            coop.made_progress();
            buf.put_slice(b"x");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Hangs {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn hangs(says: bool, http2: bool) -> (Wire, Arc<Monitor>) {
        Wire::new(Box::new(TokioIo::new(Hangs { says })), http2, &Clock::default())
    }

    /// Its writer may be a task of its own, on any runtime or none.
    #[test]
    fn a_stream_that_was_given_away_tells_at_once_that_it_cannot_be_written() {
        let (mut wire, monitor) = hangs(false, false);
        monitor.give_away();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let Poll::Ready(Err(error)) = Pin::new(&mut wire).poll_write(&mut cx, b"x") else {
                panic!("it is not told");
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let mut byte = [0];
            let read = Pin::new(&mut wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
            assert!(read.is_pending(), "the peer may have more to say");
        }
        assert!(monitor.is_deaf() && !monitor.is_broken());
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_budget_has_not_read_all() {
        let (mut wire, _) = hangs(true, false);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut wire).poll_write(&mut cx, b"x").is_pending());
        let mut budget = 0;
        loop {
            let mut byte = [0];
            let read = Pin::new(&mut wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
            let Poll::Ready(read) = read else { break };
            read.unwrap();
            budget += 1;
            assert!(budget < 1_000_000, "it has no end");
        }
        tokio::task::yield_now().await;
        assert_eq!(wire.read_u8().await.unwrap(), b'x');
    }

    /// Told that all is well, it would else not look before the next frame comes.
    #[tokio::test(start_paused = true)]
    async fn http2_is_woken_to_hear_that_it_cannot_be_written() {
        struct Count(AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::AcqRel);
            }
        }
        let (mut wire, _) = hangs(false, true);
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut wire).poll_write(&mut cx, b"x").is_ready());
        assert_eq!(count.0.load(Ordering::Acquire), 1);
        assert!(wire.read_u8().await.is_err());
    }
}
