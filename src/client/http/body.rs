//! The body of a response, whichever protocol it comes by.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{h2::Incoming, request_body::Lent};
use crate::error::BoxError;

/// The body of a response.
///
/// Its connection serves the next request once this is read to its end; dropped before, an
/// HTTP/1.1 connection is closed and an HTTP/2 stream is reset. The default is empty.
#[derive(Default)]
pub struct HttpBody(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    /// With what is left of the request's body, which may have failed without a word of the connection's.
    Http1(hyper::body::Incoming, Lent),
    Http2(Incoming),
}

// === impl HttpBody ===

impl HttpBody {
    pub(super) fn http1(body: hyper::body::Incoming, request: Lent) -> Self {
        Self(Kind::Http1(body, request))
    }

    pub(super) fn http2(body: Incoming) -> Self {
        Self(Kind::Http2(body))
    }
}

impl Body for HttpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Http1(body, request) => Pin::new(body).poll_frame(cx).map_err(|error| {
                // The connection breaks off for it, and says nothing of it here.
                let own = request.take_failure();
                own.map_or_else(|| error.into(), BoxError::from)
            }),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Http1(body, _) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Http1(body, _) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody")
            .field("is_end_stream", &self.is_end_stream())
            .finish_non_exhaustive()
    }
}
