//! Notes of each request, under all layers, what is asked for above them: the URL that was sent last,
//! and the endpoint that had the request when its timeout passed.

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

/// A balancer under the layers of a [`ReqwestClient`](super::ReqwestClient), which remembers the URI of
/// each response: after redirects that is another than the caller's.
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
        uri: Uri,
        witness: Option<Witness>,
    }

    impl<S, B, K, C> PinnedDrop for SentFuture<S, B, K, C>
    where
        S: Service<Request<B>>,
    {
        fn drop(this: Pin<&mut Self>) {
            if let Some(endpoint) = this.inner.endpoint() {
                if let Some(witness) = &this.witness {
                    let _ = witness.0.set(endpoint);
                }
            }
        }
    }
}

/// Where the response comes from, in its extensions.
#[derive(Clone)]
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
    S: Service<Request<B>> + Clone + 'static,
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
        let uri = request.uri().clone();
        let witness = request.extensions().get::<Witness>().cloned();
        SentFuture { inner: self.inner.call(request), uri, witness }
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
    S: Service<Request<B>> + Clone + 'static,
    S::Error: Into<BoxError> + 'static,
    B: 'static,
    C: Complete<S::Response, Response = Response<Body>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        response.extensions_mut().insert(SentTo(std::mem::take(this.uri)));
        Poll::Ready(Ok(response))
    }
}

impl<S, B, K, C> fmt::Debug for SentFuture<S, B, K, C>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentFuture").field("uri", &self.uri).finish_non_exhaustive()
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
