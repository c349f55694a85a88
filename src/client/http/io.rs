//! The stream under a connection: what passes is noted, and it can be cut from outside.
//!
//! The protocols' libraries own the stream and do not tell when the peer first or last spoke, that an
//! HTTP/2 peer said GOAWAY while requests run, or whether the stream broke or was closed. And hyper
//! does not let go of the socket when its driver is dropped. So all of that is seen to here.

mod monitor;

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::has_budget_remaining,
};

use self::monitor::{CLOSED, CUT, ENDED, GIVEN_AWAY, HEARD, Half, again};
pub(super) use self::monitor::{Monitor, StreamEnds};
use super::{
    connect::Stream,
    frames::{Frames, Sent},
};
use crate::node::{Clock, Sleep, after};

type Io = TokioIo<Box<dyn Stream>>;

/// The stream that hyper gets.
pub(super) struct Wire {
    /// Gone once it is cut.
    io: Option<Io>,
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

/// How long an answer that came before the end of its request may lie unread, where that cannot be written.
const MOST_UNREAD: Duration = Duration::from_secs(5);

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
        operation: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<T>>,
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
        operation: impl FnOnce(Pin<&mut Io>, &mut Context<'_>) -> Poll<io::Result<T>>,
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

impl Drop for Wire {
    fn drop(&mut self) {
        // First the stream, then the news.
        self.io = None;
        self.monitor.note(ENDED);
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
mod tests;
