//! What a client above its layers is told of a call by the balancer under them: which URI was sent last,
//! and whether a server may have processed the request when the call's deadline passes.
//!
//! It goes by the task and not by the request, since layers make requests of their own: one that
//! redirects across origins drops the extensions, say.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::{Request, Response, Uri, header::LOCATION, uri::Scheme};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::deadline::{Over, Timers};
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
    /// Whether layers may follow redirects.
    redirects: bool,
}

pin_project! {
    /// The future of a call on [`Sent`].
    #[must_use = "futures do nothing unless polled"]
    pub struct SentFuture<S, B, K, C>
    where
        S: Service<Request<B>>,
    {
        // None of a request that is refused.
        #[pin]
        inner: Option<ResponseFuture<S, Request<B>, K, C>>,
        refused: Option<Error>,
        // Of a call that somebody wants to know of.
        note: Option<Note>,
        uri: Option<Uri>,
    }

    impl<S, B, K, C> PinnedDrop for SentFuture<S, B, K, C>
    where
        S: Service<Request<B>>,
    {
        fn drop(this: Pin<&mut Self>) {
            let inner = this.inner.as_ref();
            if let (Some(note), Some(at)) = (&this.note, inner.and_then(|inner| inner.may_be_at())) {
                note.exposed(Some(at));
            }
        }
    }
}

/// The URI whose response it is, in its extensions: after redirects another than the caller's.
#[derive(Clone)]
#[cfg_attr(not(feature = "reqwest"), allow(dead_code, reason = "tonic follows no redirects"))]
pub(super) struct SentTo(pub(super) Uri);

/// What is known of one call of a client, over all that its layers make of it.
#[derive(Clone)]
pub(super) struct Note(Arc<Noted>);

struct Noted {
    /// Those of the balancer that it is a call of.
    timers: Timers,
    so_far: Mutex<SoFar>,
}

#[derive(Default)]
struct SoFar {
    progress: Progress,
    /// Whose response was a redirect, if the last was one.
    redirected_from: Option<Uri>,
}

/// How far a call has come; it never goes back.
#[derive(Default)]
enum Progress {
    /// No layer has it.
    #[default]
    Held,
    /// What layers do with it is not known, and some may send it where nobody notes it.
    Given,
    /// The balancer has it, and no server.
    Reached,
    /// A server may have processed it: the last that may is known to some.
    Exposed(Option<Endpoint>),
}

tokio::task_local! {
    static CALL: Note;
}

// === impl Sent ===

impl<S> Sent<S> {
    #[cfg(feature = "tonic")]
    pub(super) fn new(inner: S) -> Self {
        Self { inner, redirects: false }
    }

    /// Tells the URI with each response, and refuses a redirect to where the balancer does not lead.
    #[cfg(feature = "reqwest")]
    pub(super) fn redirected(inner: S) -> Self {
        Self { inner, redirects: true }
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
        let note = CALL.try_with(Note::clone).ok();
        let note = note.filter(|note| note.0.timers.are_of(self.inner.fleet()));
        let uri = self.redirects.then(|| request.uri().clone());
        if let Some(Err(error)) = note.as_ref().map(|note| note.reach(uri.as_ref())) {
            return SentFuture { inner: None, refused: Some(error), note: None, uri: None };
        }
        SentFuture { inner: Some(self.inner.call(request)), refused: None, note, uri }
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
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Err(this
                .refused
                .take()
                .expect("a future is not polled after its end")));
        };
        let mut answer = ready!(inner.poll(cx));
        if let Some(note) = &this.note {
            match &answer {
                Ok(response) => note.answered(response, this.uri.as_ref()),
                Err(error) if error.is_ambiguous() => note.exposed(error.endpoint().cloned()),
                Err(_) => {}
            }
        }
        if let (Ok(response), Some(uri)) = (&mut answer, this.uri.take()) {
            response.extensions_mut().insert(SentTo(uri));
        }
        Poll::Ready(answer)
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

// === impl Note ===

impl Note {
    /// That of a call through the balancer whose timers these are.
    pub(super) fn new(timers: &Timers) -> Self {
        Self(Arc::new(Noted { timers: timers.clone(), so_far: Mutex::default() }))
    }

    /// Runs a piece of the call, so that its balancer finds the note.
    #[cfg(feature = "tonic")]
    pub(super) fn during<T>(&self, piece: impl FnOnce() -> T) -> T {
        CALL.sync_scope(self.clone(), piece)
    }

    /// The call, whose balancer finds the note.
    #[cfg(feature = "reqwest")]
    pub(super) fn throughout<F: Future>(
        &self,
        call: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        CALL.scope(self.clone(), call)
    }

    /// The layers get the request.
    pub(super) fn given(&self) {
        let mut so_far = self.lock();
        if matches!(so_far.progress, Progress::Held) {
            so_far.progress = Progress::Given;
        }
    }

    /// The error of the call once it is over and all of it was dropped.
    pub(super) fn error(&self, over: Over) -> Error {
        match &self.lock().progress {
            Progress::Held | Progress::Reached => over.error(None, true),
            Progress::Given => over.error(None, false),
            Progress::Exposed(endpoint) => over.error(endpoint.clone(), false),
        }
    }

    /// The balancer gets the request for `uri`, unless a redirect leads there from another origin.
    fn reach(&self, uri: Option<&Uri>) -> Result<(), Error> {
        let mut so_far = self.lock();
        if let Some(error) = uri.and_then(|uri| so_far.leads_away(uri)) {
            return Err(error);
        }
        if matches!(so_far.progress, Progress::Held | Progress::Given) {
            so_far.progress = Progress::Reached;
        }
        Ok(())
    }

    fn exposed(&self, at: Option<Endpoint>) {
        self.lock().progress = Progress::Exposed(at);
    }

    fn answered<B>(&self, response: &Response<B>, uri: Option<&Uri>) {
        let redirects =
            response.status().is_redirection() && response.headers().contains_key(LOCATION);
        let mut so_far = self.lock();
        so_far.progress = Progress::Exposed(response.extensions().get().cloned());
        so_far.redirected_from = uri.filter(|_| redirects).cloned();
    }

    fn lock(&self) -> MutexGuard<'_, SoFar> {
        self.0.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SoFar ===

impl SoFar {
    /// Why the call does not go on at `uri`: a redirect leads there, to another origin.
    fn leads_away(&self, uri: &Uri) -> Option<Error> {
        let from = self.redirected_from.as_ref().filter(|from| !is_same_origin(from, uri))?;
        let endpoint = match &self.progress {
            Progress::Exposed(endpoint) => endpoint.clone(),
            _ => None,
        };
        Some(Error::redirected(endpoint, from, uri.clone()))
    }
}

/// The same scheme, host and port (RFC 6454 section 5).
fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    fn host(uri: &Uri) -> &str {
        uri.host().unwrap_or_default()
    }
    fn port(uri: &Uri) -> u16 {
        let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        uri.port_u16().unwrap_or(default)
    }
    one.scheme() == other.scheme()
        && host(one).eq_ignore_ascii_case(host(other))
        && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text: &'static str| Uri::from_static(text);
        for (one, other) in [
            ("http://users/a", "http://users/b?c"),
            ("http://users/", "http://USERS:80/"),
            ("https://users:443/", "https://ann@users/"),
            ("http://[::1]:8080/", "http://[::1]:8080/a"),
        ] {
            assert!(is_same_origin(&of(one), &of(other)), "{one} {other}");
        }
        for (one, other) in [
            ("http://users/", "https://users/"),
            ("http://users/", "http://carts/"),
            ("http://users/", "http://users:81/"),
            ("https://users/", "https://users:80/"),
        ] {
            assert!(!is_same_origin(&of(one), &of(other)), "{one} {other}");
        }
    }
}
