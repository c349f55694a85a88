//! Bodies: any request body as one type that gives the original back, and the response's.

use std::{
    any::Any,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// A request body whose type is forgotten, so that one connection serves any.
///
/// Until hyper polls it, it can be taken back as what it was: that is the request that a dying
/// connection returns. From the first poll on it is pinned.
pub(super) enum RequestBody {
    Fresh(Box<dyn AnyBody>),
    Running(Pin<Box<dyn AnyBody>>),
    Gone,
}

pub(super) trait AnyBody: Send {
    fn poll_bytes(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>;
    fn ended(&self) -> bool;
    fn size(&self) -> SizeHint;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// The body of a response.
///
/// Its connection serves the next request once this is read to its end; dropped before, an
/// HTTP/1.1 connection is closed and an HTTP/2 stream is reset. The default is empty.
#[derive(Default)]
pub struct HttpBody(Option<hyper::body::Incoming>);

// === impl RequestBody ===

impl RequestBody {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        Self::Fresh(Box::new(body))
    }

    /// The body that went in, unless it was polled.
    pub(super) fn take_back<B: 'static>(self) -> Option<B> {
        match self {
            Self::Fresh(body) => body.into_any().downcast().ok().map(|body| *body),
            _ => None,
        }
    }

    fn run(&mut self) -> Option<Pin<&mut (dyn AnyBody + 'static)>> {
        *self = match mem::replace(self, Self::Gone) {
            Self::Fresh(body) => Self::Running(Box::into_pin(body)),
            other => other,
        };
        match self {
            Self::Running(body) => Some(body.as_mut()),
            _ => None,
        }
    }
}

impl<B> AnyBody for B
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn poll_bytes(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.poll_frame(cx));
        // `Bytes` itself is passed on without a copy.
        Poll::Ready(frame.map(|result| match result {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn ended(&self) -> bool {
        self.is_end_stream()
    }

    fn size(&self) -> SizeHint {
        self.size_hint()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut().run() {
            Some(body) => body.poll_bytes(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Fresh(body) => body.ended(),
            Self::Running(body) => body.ended(),
            Self::Gone => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fresh(body) => body.size(),
            Self::Running(body) => body.size(),
            Self::Gone => SizeHint::with_exact(0),
        }
    }
}

// === impl HttpBody ===

impl HttpBody {
    pub(super) fn new(body: hyper::body::Incoming) -> Self {
        Self(Some(body))
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
            Some(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl fmt::Debug for HttpBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody")
            .field("is_end_stream", &self.is_end_stream())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomPinned;

    use super::*;

    struct Immovable(&'static str, PhantomPinned);

    impl Body for Immovable {
        type Data = &'static [u8];
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
            Poll::Ready(Some(Ok(Frame::data(self.0.as_bytes()))))
        }
    }

    #[test]
    fn a_body_comes_back_as_it_was_until_it_is_polled() {
        let body = RequestBody::new(Immovable("a", PhantomPinned));
        let body = body.take_back::<Immovable>().unwrap();
        let mut body = RequestBody::new(body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("a frame")
        };
        assert_eq!(frame.into_data().unwrap(), "a");
        assert!(body.take_back::<Immovable>().is_none());
    }
}
