//! The service of one endpoint: a request to a connection, and back if it was not processed.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    attempt::{self, Failed, Job, Why},
    body::HttpBody,
    pool::Pool,
};
use crate::error::{Began, BoxError, Unsent};

/// Talks plain HTTP to one endpoint; made by [`Http`](super::Http).
///
/// Clones share the endpoint's connections, and the last one to go takes the idle ones with it.
/// It is always ready: waiting for a connection is part of the call, and bounded by the connect
/// timeout.
///
/// A request that was never sent comes back inside the [`Unsent`]; one that the peer may have
/// processed is [ambiguous](Unsent::is_unprocessed). One that was sent and provably not processed is
/// sent again, with what was kept of its body (the first 64 KiB, until the response head comes): on a
/// new connection where the peer said GOAWAY, and through a [`Balance`](crate::Balance) on another
/// endpoint, or here, where it refused the stream. So is one whose method is idempotent, when a
/// connection died before a byte of the response (RFC 9110 section 9.2.2): once on a new
/// connection, where it had served others, and through a balancer once on another endpoint.
///
/// An upgrade of HTTP/1.1, and CONNECT, is taken from the response with `hyper::upgrade::on`. From then on
/// the connection is the caller's: no longer in flight, and neither closed nor cut when its endpoint is
/// removed, however long it lasts. On HTTP/2 the two bodies are the tunnel (RFC 9113 section 8.5), which
/// is one of many streams: in flight until its end, and cut when its endpoint is removed and the time to
/// drain is over. There is no `Upgrade` on HTTP/2: where ALPN agreed on that, such a request is handed back as
/// not sent, for a [`ProtocolError`](super::ProtocolError): another endpoint may have it. Its WebSockets are made by extended CONNECT (RFC 8441), of
/// servers that allow it: a CONNECT with a path, and with `hyper::ext::Protocol` among its extensions.
#[derive(Clone, Debug)]
pub struct HttpService(Arc<Pool>);

/// The future of a call on [`HttpService`].
///
/// Dropped, its request is cancelled: an HTTP/2 stream is reset, an HTTP/1.1 connection closed. A
/// dial that it waited for goes on for the next request.
#[must_use = "futures do nothing unless polled"]
pub struct HttpFuture<B> {
    inner: Pin<Box<dyn Future<Output = Result<Response<HttpBody>, Failed>> + Send>>,
    /// What comes back if it was not sent.
    body: PhantomData<fn() -> B>,
}

const fn is_shared<T: Clone + Send + Sync + 'static>() {}
const _: () = is_shared::<HttpService>();

// === impl HttpService ===

impl HttpService {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self(pool)
    }

    fn begin<B>(&self, job: Box<Job>) -> HttpFuture<B> {
        let inner = Box::pin(attempt::send(Arc::clone(&self.0), job));
        HttpFuture { inner, body: PhantomData }
    }
}

impl<B> Service<Request<B>> for HttpService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<HttpBody>;
    type Error = Unsent<Request<B>>;
    type Future = HttpFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HttpFuture<B> {
        self.begin(Job::new(request))
    }
}

// === impl HttpFuture ===

impl<B: 'static> Future for HttpFuture<B> {
    type Output = Result<Response<HttpBody>, Unsent<Request<B>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.inner.as_mut().poll(cx));
        Poll::Ready(result.map_err(unsent))
    }
}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFuture").finish_non_exhaustive()
    }
}

/// The request as it was, if it was not begun; else as what another service of this kind takes up.
fn unsent<B: 'static>(failed: Failed) -> Unsent<Request<B>> {
    let (job, cause, why) = match failed {
        Failed::Back { job, cause, why } => (job, cause, why),
        Failed::Unprocessed(cause) => return Unsent::unprocessed(cause),
        Failed::Ambiguous(cause) => return Unsent::ambiguous(cause),
    };
    let cause = if why == Why::Died { cause } else { job.with_past(cause) };
    let how =
        Began { here: why == Why::Refused, died: why == Why::Died, ambiguous: job.is_ambiguous() };
    match job.into_request() {
        Ok(request) => Unsent::returned(request, cause),
        Err(job) => {
            let resume = move |service: &mut HttpService| service.begin::<B>(job);
            Unsent::begun::<HttpService, _>(resume, cause, how)
        }
    }
}
