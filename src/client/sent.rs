//! Notes of a request, under all layers, what is asked for above them: the URI that was sent last, and
//! the endpoint that had the request when its deadline passed.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use http::{Extensions, Request, Response, Uri};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    balance::{Balance, Complete, ResponseFuture},
    endpoint::Endpoint,
    error::{BoxError, Error},
    policy::RequestKey,
};

/// A balancer under the layers of a client, which tells the client above them where a request went.
#[derive(Clone)]
pub struct Sent<S> {
    inner: S,
}

pin_project! {
    /// The future of a call on [`Sent`].
    #[must_use = "futures do nothing unless polled"]
    pub struct SentFuture<S, B, K, C>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        inner: ResponseFuture<S, Request<B>, K, C>,
        // Of requests that somebody wants to know of.
        noted: Option<(Witness, Uri)>,
    }

    impl<S, B, K, C> PinnedDrop for SentFuture<S, B, K, C>
    where
        S: Service<Request<B>>,
    {
        fn drop(this: Pin<&mut Self>) {
            if let (Some((witness, _)), Some(endpoint)) = (&this.noted, this.inner.endpoint()) {
                let _ = witness.0.set(endpoint);
            }
        }
    }
}

/// The URI whose response it is, in its extensions: after redirects another than the caller's.
#[derive(Clone)]
#[cfg_attr(not(feature = "reqwest"), allow(dead_code, reason = "tonic follows no redirects"))]
pub(super) struct SentTo(pub(super) Uri);

/// Which endpoint had a request that was given up; goes down in the request's extensions.
#[derive(Clone)]
pub(super) struct Witness(Arc<OnceLock<Endpoint>>);

// === impl Sent ===

impl<S> Sent<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The balancer.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B, K, C, Body> Service<Request<B>> for Sent<Balance<S, K, C>>
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + 'static,
    B: 'static,
    K: RequestKey<Request<B>>,
    C: Complete<S::Response, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = SentFuture<S, B, K, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let witness = request.extensions().get::<Witness>().cloned();
        let noted = witness.map(|witness| (witness, request.uri().clone()));
        SentFuture { inner: self.inner.call(request), noted }
    }
}

impl<S: fmt::Debug> fmt::Debug for Sent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sent").field(&self.inner).finish()
    }
}

// === impl SentFuture ===

impl<S, B, K, C, Body> Future for SentFuture<S, B, K, C>
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + 'static,
    B: 'static,
    K: Send + Sync + 'static,
    C: Complete<S::Response, Response = Response<Body>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some((_, uri)) = this.noted.take() {
            response.extensions_mut().insert(SentTo(uri));
        }
        Poll::Ready(Ok(response))
    }
}

impl<S, B, K, C> fmt::Debug for SentFuture<S, B, K, C>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentFuture").finish_non_exhaustive()
    }
}

// === impl Witness ===

impl Witness {
    /// Puts one into the extensions of a request.
    pub(super) fn in_extensions(extensions: &mut Extensions) -> Self {
        let witness = Self(Arc::default());
        extensions.insert(witness.clone());
        witness
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.0.get().cloned()
    }
}
