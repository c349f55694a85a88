//! The stream under a connection: what passes is noted, and it can be cut from outside.
//!
//! hyper owns the stream and does not tell when the peer first spoke, that an HTTP/2 peer said
//! GOAWAY while requests run, or whether the stream broke or was closed. And it does not let go
//! of the socket when its driver is dropped. So all of that is seen to here.

use std::{
    io, mem,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::{connect::Stream, frames::Frames};

/// The stream that hyper gets.
pub(super) struct Wire {
    /// Gone once it is cut.
    io: Option<TokioIo<Box<dyn Stream>>>,
    frames: Option<Frames>,
    monitor: Arc<Monitor>,
}

/// What others know of a [`Wire`], and how they cut it.
#[derive(Default)]
pub(super) struct Monitor {
    notes: AtomicU8,
    news: Notify,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

const CUT: u8 = 1;
const BROKEN: u8 = 2;
const HEARD: u8 = 4;
const GOING_AWAY: u8 = 8;

// === impl Monitor ===

impl Monitor {
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

    /// Whether reading or writing failed.
    pub(super) fn is_broken(&self) -> bool {
        self.has(BROKEN)
    }

    /// Whether an HTTP/2 peer has said that it will take no more requests.
    pub(super) fn is_going_away(&self) -> bool {
        self.has(GOING_AWAY)
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

    fn remember(&self, cx: &Context<'_>, which: fn(&mut Wakers) -> &mut Option<Waker>) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = which(&mut wakers);
        if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(io: Box<dyn Stream>, http2: bool) -> (TokioIo<Self>, Arc<Monitor>) {
        let monitor = Arc::new(Monitor::default());
        let frames = http2.then(Frames::new);
        let wire = Self { io: Some(TokioIo::new(io)), frames, monitor: Arc::clone(&monitor) };
        (TokioIo::new(wire), monitor)
    }

    /// Does `operation` on the stream, unless it is cut.
    fn with<T>(
        &mut self,
        cx: &mut Context<'_>,
        which: fn(&mut Wakers) -> &mut Option<Waker>,
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
            Poll::Ready(Err(_)) => self.monitor.note(BROKEN),
            Poll::Ready(Ok(_)) => {}
        }
        polled
    }
}

fn read(wakers: &mut Wakers) -> &mut Option<Waker> {
    &mut wakers.read
}

fn write(wakers: &mut Wakers) -> &mut Option<Waker> {
    &mut wakers.write
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.with(cx, read, |io, cx| io.poll_read(cx, buf));
        let this = &mut *self;
        if let (Poll::Ready(Ok(())), Some(frames)) = (&polled, &mut this.frames) {
            let seen = frames.pass(&buf.filled()[before..]);
            if seen.preface {
                this.monitor.note(HEARD);
            }
            if seen.going_away {
                this.monitor.note(GOING_AWAY);
            }
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
        self.with(cx, write, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(cx, write, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, write, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, write, |io, cx| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_wakes_readers_and_lets_go_of_the_stream() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (wire, monitor) = Wire::new(Box::new(TokioIo::new(ours)), false);
        let mut wire = wire.into_inner();
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
}
