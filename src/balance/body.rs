//! When a response is over: the lease moves from the call's future into the body.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    endpoint::Endpoint,
    error::{BoxError, Error},
    health::{AnyResponse, Classify, HttpClassify},
    node::{Head, Lease, LoadReport, Verdict},
};

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot tell when a response of type `{Res}` is complete",
    note = "by default responses are `http::Response`s: for others call `complete_at_response()` on the builder first"
)]
/// Decides when a response is complete, and what it said of its endpoint.
///
/// Implemented by [`AtBodyEnd`] and [`AtResponse`]; the request counts as in flight until then.
pub trait Complete<Res>: Clone + Send + Sync + 'static {
    /// What the caller gets.
    type Response;

    /// The response came. Whoever keeps the lease keeps the request in flight.
    fn complete(&self, lease: Lease, response: Res) -> Self::Response;

    /// What an error instead of a response says of its endpoint.
    fn error(&self, error: &(dyn StdError + 'static)) -> Verdict;
}

/// Complete when the body of an HTTP response has ended, broken off, or been dropped; or, for an
/// upgrade, with its head. The default.
#[derive(Clone, Copy, Debug)]
pub struct AtBodyEnd<Cl = HttpClassify> {
    pub(crate) classify: Cl,
    pub(crate) tell_endpoint: bool,
}

/// Complete with the response itself: for what is not HTTP, or has no body worth waiting for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtResponse<Cl = AnyResponse> {
    pub(crate) classify: Cl,
}

pin_project! {
    /// The body of a balanced response: the client's own, which keeps its request in flight.
    pub struct BalancedBody<B, Cl = HttpClassify> {
        #[pin]
        inner: B,
        lease: Lease,
        classify: Cl,
        over: bool,
    }
}

// === impl AtBodyEnd ===

impl Default for AtBodyEnd {
    fn default() -> Self {
        Self { classify: HttpClassify, tell_endpoint: true }
    }
}

impl<B, Cl> Complete<Response<B>> for AtBodyEnd<Cl>
where
    B: Body,
    Cl: Classify<Response<B>>,
{
    type Response = Response<BalancedBody<B, Cl>>;

    fn complete(&self, mut lease: Lease, mut response: Response<B>) -> Self::Response {
        lease.respond(self.classify.head(&response));
        hear_report(&lease, response.headers());
        if self.tell_endpoint {
            response.extensions_mut().insert(lease.endpoint());
        }
        response.map(|inner| {
            // Many callers never poll a body that says it is at its end.
            let over = inner.is_end_stream();
            if over {
                lease.finish(self.classify.end(None));
                lease.release();
            }
            BalancedBody { inner, lease, classify: self.classify.clone(), over }
        })
    }

    fn error(&self, error: &(dyn StdError + 'static)) -> Verdict {
        self.classify.error(error)
    }
}

// === impl AtResponse ===

impl<Res, Cl: Classify<Res>> Complete<Res> for AtResponse<Cl> {
    type Response = Res;

    #[inline]
    fn complete(&self, mut lease: Lease, response: Res) -> Res {
        match self.classify.head(&response) {
            Head::Decided(verdict) => lease.conclude(verdict),
            // It says nothing here, where the end is not seen.
            open => lease.respond(open),
        }
        response
    }

    fn error(&self, error: &(dyn StdError + 'static)) -> Verdict {
        self.classify.error(error)
    }
}

// === impl BalancedBody ===

impl<B, Cl> BalancedBody<B, Cl> {
    /// The endpoint that the response comes from.
    pub fn endpoint(&self) -> Endpoint {
        self.lease.endpoint()
    }

    /// The client's own body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }
}

impl<B, Cl> Body for BalancedBody<B, Cl>
where
    B: Body,
    B::Error: Into<BoxError>,
    Cl: Classify<Response<B>>,
{
    type Data = B::Data;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Error>>> {
        let mut this = self.project();
        let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Err(error)) => {
                let error = error.into();
                if !*this.over {
                    *this.over = true;
                    if is_callers(&*error) {
                        this.lease.pass();
                    } else {
                        this.lease.break_off(this.classify.broken(&*error));
                    }
                    this.lease.release();
                }
                let error = Error::broken_off(this.lease.endpoint(), error);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => Some(frame),
            None => None,
        };
        if *this.over {
            return Poll::Ready(frame.map(Ok));
        }
        let over = match &frame {
            None => {
                this.lease.finish(this.classify.end(None));
                true
            }
            Some(frame) => {
                let trailers = frame.trailers_ref();
                if let Some(trailers) = trailers {
                    hear_report(this.lease, trailers);
                }
                let over = trailers.is_some() || this.inner.is_end_stream();
                if over {
                    this.lease.finish(this.classify.end(trailers));
                }
                over
            }
        };
        if over {
            *this.over = true;
            this.lease.release();
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug, Cl> fmt::Debug for BalancedBody<B, Cl> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedBody")
            .field("inner", &self.inner)
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

/// Takes the load report in headers or trailers, if there is one and the policy wants it.
#[inline]
fn hear_report(lease: &Lease, headers: &HeaderMap) {
    if lease.wants_report() {
        match LoadReport::from_headers(headers) {
            Ok(Some(report)) => lease.report(&report),
            Ok(None) => {}
            Err(error) => tracing::trace!(endpoint = %lease.node(), %error, "left out"),
        }
    }
}

/// Whether `error` is the caller's own: the body of its request failed.
pub(crate) fn is_callers(error: &(dyn StdError + 'static)) -> bool {
    #[cfg(feature = "http")]
    {
        let mut next = Some(error);
        while let Some(error) = next {
            if is_bodys(error) {
                return true;
            }
            next = error.source();
        }
    }
    #[cfg(not(feature = "http"))]
    let _ = error;
    false
}

/// Whether `error` says that the body of the request failed.
#[cfg(feature = "http")]
fn is_bodys(error: &(dyn StdError + 'static)) -> bool {
    error.is::<crate::error::BodyError>()
        || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
}

/// The error of a balancer, if it is that.
fn as_balances<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    // It shows the balancer's as its own, and so skips it among its sources.
    #[cfg(feature = "reqwest")]
    if let Some(sent) = error.downcast_ref::<crate::error::SendError>() {
        return sent.balance();
    }
    error.downcast_ref()
}

/// Whether `error` can only have come before anything was sent: the peer refused the connection.
pub(crate) fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        #[cfg(feature = "http")]
        if is_bodys(error) {
            // Perhaps for a refusal of its own.
            return false;
        }
        if as_balances(error).is_some_and(Error::is_ambiguous) {
            // A balancer within knows better: the refusal may be that of a later hop.
            return false;
        }
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        // The source of a wrapping `io::Error` is that of the error inside, which would be skipped.
        let inside = io.and_then(std::io::Error::get_ref).map(|inside| inside as _);
        next = inside.or_else(|| error.source());
    }
    false
}

#[cfg(all(test, feature = "reqwest"))]
mod tests {
    use super::*;
    use crate::{endpoint::Endpoint, error::SendError};

    #[test]
    fn t14_what_a_client_within_may_have_had_processed_was_not_refused() {
        for unprocessed in [true, false] {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
            let error = Error::failed(endpoint, refused.into(), unprocessed);
            assert_eq!(is_refused(&SendError::Balance(error)), unprocessed);
        }
    }
}
