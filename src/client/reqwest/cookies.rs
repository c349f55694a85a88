//! Cookies over a balancer: reqwest's own store, as a layer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    Request, Response,
    header::{COOKIE, SET_COOKIE},
};
use pin_project_lite::pin_project;
use reqwest::{
    Url,
    cookie::{CookieStore, Jar},
};
use tower_layer::Layer;
use tower_service::Service;

/// Keeps the cookies that servers set, and sends them back; for
/// [`ReqwestClient::layer`](super::ReqwestClient::layer).
///
/// They belong to the host of the URL, which all endpoints of a balancer share. Put it under a layer
/// that follows redirects (before it, that is), so that each hop has its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// # let _ = rustls::crypto::ring::default_provider().install_default();
/// use evenkeel::{Balance, client::Cookies};
///
/// let users = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
///     .reqwest(reqwest::Client::new())?
///     .layer(Cookies::default());
/// # let _ = users.get("http://users/");
/// # Ok(()) }
/// ```
pub struct Cookies<J = Jar> {
    jar: Arc<J>,
}

/// What [`Cookies`] makes of a service.
pub struct WithCookies<S, J = Jar> {
    inner: S,
    jar: Arc<J>,
}

pin_project! {
    /// The future of a call on [`WithCookies`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CookiesFuture<F, J> {
        #[pin]
        inner: F,
        jar: Arc<J>,
        url: Option<Url>,
    }
}

// === impl Cookies ===

impl<J> Cookies<J> {
    /// With a store of one's own, or a [`Jar`] that others use as well.
    pub fn new(jar: impl Into<Arc<J>>) -> Self {
        Self { jar: jar.into() }
    }
}

impl Default for Cookies {
    fn default() -> Self {
        Self::new(Jar::default())
    }
}

impl<J> Clone for Cookies<J> {
    fn clone(&self) -> Self {
        Self { jar: Arc::clone(&self.jar) }
    }
}

impl<J> fmt::Debug for Cookies<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl<S, J> Layer<S> for Cookies<J> {
    type Service = WithCookies<S, J>;

    fn layer(&self, inner: S) -> Self::Service {
        WithCookies { inner, jar: Arc::clone(&self.jar) }
    }
}

// === impl WithCookies ===

impl<S, J, A, B> Service<Request<A>> for WithCookies<S, J>
where
    S: Service<Request<A>, Response = Response<B>>,
    J: CookieStore,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = CookiesFuture<S::Future, J>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let url = Url::parse(&request.uri().to_string()).ok();
        if let (Some(url), false) = (&url, request.headers().contains_key(COOKIE)) {
            if let Some(cookies) = self.jar.cookies(url) {
                request.headers_mut().insert(COOKIE, cookies);
            }
        }
        CookiesFuture { inner: self.inner.call(request), jar: Arc::clone(&self.jar), url }
    }
}

impl<S: Clone, J> Clone for WithCookies<S, J> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), jar: Arc::clone(&self.jar) }
    }
}

impl<S: fmt::Debug, J> fmt::Debug for WithCookies<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithCookies").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// === impl CookiesFuture ===

impl<F, J, B, E> Future for CookiesFuture<F, J>
where
    F: Future<Output = Result<Response<B>, E>>,
    J: CookieStore,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let (Ok(response), Some(url)) = (&answer, this.url) {
            let mut set = response.headers().get_all(SET_COOKIE).iter().peekable();
            if set.peek().is_some() {
                this.jar.set_cookies(&mut set, url);
            }
        }
        Poll::Ready(answer)
    }
}

impl<F, J> fmt::Debug for CookiesFuture<F, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookiesFuture").field("url", &self.url).finish_non_exhaustive()
    }
}
