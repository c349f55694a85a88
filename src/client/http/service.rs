//! The service of one endpoint: a request to a connection, and back if it was not sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, uri::Scheme};
use http_body::Body;
use tower_service::Service;

use super::{
    body::{HttpBody, RequestBody},
    error::ConnectError,
    h2,
    head::check_scheme,
    pool::{Checkout, Grant, Granted, Pool},
    waiter::Waiter,
};
use crate::{
    error::{BoxError, Unsent},
    node::after,
};

/// Talks plain HTTP to one endpoint; made by [`Http`](super::Http).
///
/// Clones share the endpoint's connections, and the last one to go takes the idle ones with it.
/// It is always ready: waiting for a connection is part of the call, and bounded by the connect
/// timeout.
///
/// A request that was never sent comes back inside the [`Unsent`]; one that the peer may have
/// processed is [ambiguous](Unsent::is_unprocessed).
#[derive(Clone, Debug)]
pub struct HttpService(Arc<Pool>);

/// The future of a call on [`HttpService`].
///
/// Dropped, its request is cancelled: an HTTP/2 stream is reset, an HTTP/1.1 connection closed. A
/// dial that it waited for goes on for the next request.
#[must_use = "futures do nothing unless polled"]
pub struct HttpFuture<B> {
    inner: Pin<Box<dyn Future<Output = Called<B>> + Send>>,
}

type Called<B> = Result<Response<HttpBody>, Unsent<Request<B>>>;

/// How many idle connections may turn out closed before the request asks for a new one.
const IDLE_TRIES: usize = 3;

const fn is_shared<T: Clone + Send + Sync + 'static>() {}
const _: () = is_shared::<HttpService>();

// === impl HttpService ===

impl HttpService {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self(pool)
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
        HttpFuture { inner: Box::pin(send(Arc::clone(&self.0), request)) }
    }
}

/// A connection that is returned or made within the connect timeout.
async fn in_time(pool: &Pool, waiter: Waiter) -> Granted {
    let timeout = pool.settings.connect_timeout;
    let deadline = after(pool.clock.now(), timeout);
    tokio::select! {
        biased;
        granted = waiter => granted,
        () = pool.link.sleep_until(deadline) => {
            Err(ConnectError::timed_out(pool.link.endpoint().addr(), timeout))
        }
    }
}

async fn send<B>(pool: Arc<Pool>, request: Request<B>) -> Called<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    // What no connection will carry is refused without a dial.
    let carries = if pool.settings.secure.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    check_scheme(request.uri(), &carries).map_err(Unsent::unprocessed)?;
    let mut request = request.map(RequestBody::new);
    let mut tries = 0;
    loop {
        let granted = match pool.checkout(tries >= IDLE_TRIES) {
            Checkout::Now(grant) => Ok(grant),
            Checkout::Later(waiter) => in_time(&pool, waiter).await,
        };
        let grant = match granted {
            // Returned by another request, it may have been closed meanwhile.
            Ok(Grant::Http1(lane)) if lane.used && !lane.is_usable() => continue,
            Ok(grant) => grant,
            Err(error) => return Err(give_back(request, error)),
        };
        let name = grant.name();
        check_scheme(request.uri(), name.scheme()).map_err(Unsent::unprocessed)?;
        let (sent, original, fresh) = match grant {
            Grant::Http1(lane) => {
                let original = name.dress_http1(&mut request);
                let fresh = !lane.used;
                (lane.send(request, &pool).await, original, fresh)
            }
            Grant::Http2(mut trunk) => {
                let original = name.dress_http2(&mut request);
                let sent = trunk.send(request).await;
                if sent.as_ref().is_err_and(|error| error.message().is_some()) {
                    let cause = trunk.gone().unwrap_or(h2::Gone::Closed);
                    pool.http2_gone(trunk.id, cause.into());
                }
                (sent, original, false)
            }
        };
        let mut error = match sent {
            Ok(response) => return Ok(response.map(HttpBody::new)),
            Err(error) => error,
        };
        let Some(mut back) = error.take_message() else {
            let error = error.into_error();
            return Err(match h2::is_unprocessed(&error) {
                true => Unsent::unprocessed(error),
                false => Unsent::ambiguous(error),
            });
        };
        original.restore(&mut back);
        tries += 1;
        // A new connection that dies before its first request, or one too many that did.
        if fresh || tries > IDLE_TRIES {
            return Err(give_back(back, error.into_error()));
        }
        request = back;
    }
}

fn give_back<B: 'static>(
    request: Request<RequestBody>,
    cause: impl Into<BoxError>,
) -> Unsent<Request<B>> {
    let (parts, body) = request.into_parts();
    match body.take_back() {
        Some(body) => Unsent::returned(Request::from_parts(parts, body), cause),
        None => Unsent::unprocessed(cause),
    }
}

// === impl HttpFuture ===

impl<B> Future for HttpFuture<B> {
    type Output = Called<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Called<B>> {
        self.inner.as_mut().poll(cx)
    }
}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFuture").finish_non_exhaustive()
    }
}
