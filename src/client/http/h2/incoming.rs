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

use super::{super::request_body::Failure, trunk::Slot};
use crate::error::BoxError;

/// A body that arrives, and what lives as long as its stream does.
pub(in super::super) struct Incoming(Option<Arriving>);

struct Arriving {
    stream: RecvStream,
    /// Bytes that its head announced and that have not come.
    announced: Option<u64>,
    slot: Arc<Slot>,
    rest: Option<Rest>,
}

/// A request's body that goes on after the response's head. It goes with the response where nobody wants
/// that any more; where it has ended, a peer may still want all of the request (RFC 9113 section 8.1), or
/// else it resets the stream.
pub(super) struct Rest {
    task: AbortHandle,
    failure: Arc<Failure>,
    /// Of gRPC, where nothing counts after the status.
    ends_with_response: bool,
}

/// Though its reason is `NO_ERROR`, which alone reads as if all were well.
#[derive(Debug, thiserror::Error)]
#[error("the peer reset the stream before the end of the body")]
struct Cut(#[source] h2::Error);

impl Incoming {
    pub(super) fn new(
        stream: RecvStream,
        announced: Option<u64>,
        slot: Arc<Slot>,
        rest: Option<Rest>,
    ) -> Self {
        let mut arriving = Arriving { stream, announced, slot, rest };
        if arriving.stream.is_end_stream() {
            arriving.end(false);
            return Self(None);
        }
        Self(Some(arriving))
    }
}

impl Rest {
    pub(super) fn new(task: AbortHandle, failure: Arc<Failure>, ends_with_response: bool) -> Self {
        Self { task, failure, ends_with_response }
    }
}

impl Arriving {
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

    /// All of the response is here, or will never be.
    fn end(&mut self, broken: bool) {
        if let Some(rest) = self.rest.take().filter(|rest| broken || rest.ends_with_response) {
            rest.task.abort();
        }
    }

    /// What an error of the stream is to the reader of the body.
    fn fail(&self, error: h2::Error) -> Option<BoxError> {
        // We reset it, since there is no more of the request to send.
        if let Some(failure) = self.rest.as_ref().and_then(|rest| rest.failure.take()) {
            return Some(failure.into());
        }
        // A peer that has answered in full may so tell that it wants no more of the request (RFC 9113
        // section 8.1). Without the end of the stream, only what was announced tells a full answer.
        let full = self.announced == Some(0) || self.stream.is_end_stream();
        if error.reason() == Some(Reason::NO_ERROR) {
            return (!full).then(|| Cut(error).into());
        }
        let gone = self.slot.trunk.state.end.get().filter(|_| error.is_io());
        Some(gone.map_or_else(|| error.into(), |&gone| gone.into()))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(arriving) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match ready!(arriving.poll(cx)) {
            Some(Ok(frame)) => {
                if frame.is_trailers() || arriving.stream.is_end_stream() {
                    arriving.end(false);
                    self.0 = None;
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) => arriving.fail(error).map(Err),
            None => None,
        };
        arriving.end(frame.is_some());
        // The stream is let go of, for the next request and for the end of its connection.
        self.0 = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|arriving| arriving.stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(arriving) if !arriving.stream.is_end_stream() => {
                arriving.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            _ => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Nobody wants the response, so the stream is reset: the last handle on it is the pump's.
        if let Some(Arriving { rest: Some(rest), .. }) = &self.0 {
            rest.task.abort();
        }
    }
}
