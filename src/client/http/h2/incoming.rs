//! The body of an HTTP/2 response.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::trunk::{Slot, State};
use crate::error::BoxError;

/// A body that arrives, and what lives as long as its stream does.
pub(in super::super) struct Incoming {
    stream: RecvStream,
    /// Bytes that its head announced and that have not come.
    announced: Option<u64>,
    over: bool,
    slot: Option<Arc<Slot>>,
    state: Arc<State>,
    /// The rest of the request's body, which goes with the response unless that has ended.
    pump: Option<AbortHandle>,
}

impl Incoming {
    pub(super) fn new(
        stream: RecvStream,
        announced: Option<u64>,
        slot: Arc<Slot>,
        pump: Option<AbortHandle>,
    ) -> Self {
        let over = stream.is_end_stream();
        let state = Arc::clone(&slot.trunk.state);
        let slot = Some(slot).filter(|_| !over);
        let pump = pump.filter(|_| !over);
        Self { stream, announced, over, slot, state, pump }
    }

    fn end(&mut self) {
        self.over = true;
        self.pump = None;
        self.slot = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // An error says that the stream is gone, which the next poll tells better.
                let _ = self.stream.flow_control().release_capacity(data.len());
                if let Some(announced) = &mut self.announced {
                    *announced = announced.saturating_sub(data.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx));
                Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
            }
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let frame = ready!(this.poll(cx));
        let frame = match frame {
            Some(Ok(frame)) => {
                if frame.is_trailers() || this.stream.is_end_stream() {
                    this.end();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            // A peer that has answered in full may so tell that it wants no more of the request
            // (RFC 9113 section 8.1).
            Some(Err(error))
                if error.reason() == Some(Reason::NO_ERROR) && this.announced.unwrap_or(0) == 0 =>
            {
                None
            }
            Some(Err(error)) => {
                let cause = this.state.end.get().filter(|_| error.is_io());
                Some(Err(cause.map_or_else(|| error.into(), |&gone| gone.into())))
            }
            None => None,
        };
        // Also after an error: what else there is to say is not worth a poll.
        if let Some(pump) = this.pump.take().filter(|_| frame.is_some()) {
            pump.abort();
        }
        this.end();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.announced {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(announced) => SizeHint::with_exact(announced),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Nobody wants the response, so the stream is reset: the last handle on it is the pump's.
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}
