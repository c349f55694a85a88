//! The body of a request, as fast as the peer's windows allow.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::super::request_body::RequestBody;
use crate::error::BoxError;

/// Sends a body on a stream. What has been taken from the body and not been sent is here.
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    waiting: Bytes,
    /// What may still be queued whatever the windows say.
    early: usize,
    over: bool,
}

/// How much of a body is queued at once with its head. A stream gets no window before its connection's
/// task has opened it: a short body that waited for one would cost two more turns of that task, of the
/// caller's, and a segment of its own. What the peer's windows do not take yet lies in the queue.
const EARLY: usize = 16 * 1024;

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, over: bool) -> Self {
        Self { stream, waiting: Bytes::new(), early: EARLY, over }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Sends what can be sent; ready when there is nothing left to do. An error is the body's own, after
    /// which whoever polls [breaks off](Self::break_off): if the stream ends before it, the response says
    /// why.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
    ) -> Poll<Result<(), BoxError>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let polled = self.poll_send(cx, body);
        if polled.is_pending() && self.stream.poll_reset(cx).is_pending() {
            return Poll::Pending;
        }
        self.over = true;
        self.waiting = Bytes::new();
        match polled {
            Poll::Ready(Err(Broken::Body(error))) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Resets the stream: the peer will not get all of the body. The reader of the response hears of it,
    /// too.
    pub(super) fn break_off(&mut self) {
        self.stream.send_reset(Reason::INTERNAL_ERROR);
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.waiting.is_empty() {
                let room = match mem::take(&mut self.early) {
                    0 => match ready!(self.poll_room(cx)) {
                        Some(room) => room?,
                        None => return Poll::Ready(Err(Broken::Stream)),
                    },
                    early => {
                        self.early = early.saturating_sub(self.waiting.len());
                        early
                    }
                };
                let part = self.waiting.split_to(room.min(self.waiting.len()));
                if part.is_empty() {
                    continue;
                }
                let last = self.waiting.is_empty() && body.is_end_stream();
                self.stream.send_data(part, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(Broken::Body(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if data.is_empty() && body.is_end_stream() {
                            self.stream.send_data(data, true)?;
                            return Poll::Ready(Ok(()));
                        }
                        self.waiting = data;
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
            }
        }
    }

    /// How much of what waits the windows take now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<usize, h2::Error>>> {
        self.stream.reserve_capacity(self.waiting.len());
        match self.stream.capacity() {
            0 => self.stream.poll_capacity(cx),
            room => Poll::Ready(Some(Ok(room))),
        }
    }
}

/// Why a body did not get through.
enum Broken {
    Body(BoxError),
    /// The response's future has the cause.
    Stream,
}

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Self {
        Self::Stream
    }
}
