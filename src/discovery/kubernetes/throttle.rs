//! What the API server asks of a client with `Retry-After`, which kube's errors do not tell.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, header::RETRY_AFTER};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::node::{Clock, after};

/// When the server wishes to be asked again. One for all that share a client.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle {
    clock: Clock,
    until: Arc<Mutex<Option<Instant>>>,
}

/// A client whose answers are looked at.
#[derive(Clone, Debug)]
pub(super) struct Throttled<S> {
    pub(super) inner: S,
    pub(super) throttle: Throttle,
    /// Shows that the client works: its runtime drops it at its end.
    pub(super) _alive: Arc<()>,
}

pin_project! {
    pub(super) struct Answer<F> {
        #[pin]
        inner: F,
        throttle: Throttle,
    }
}

// === impl Throttle ===

impl Throttle {
    /// How much longer the server wishes to be left alone.
    pub(super) fn rest(&self) -> Option<Duration> {
        let until = (*self.until.lock().unwrap_or_else(PoisonError::into_inner))?;
        let rest = until.saturating_duration_since(self.clock.now());
        (!rest.is_zero()).then_some(rest)
    }

    fn look<B>(&self, response: &Response<B>) {
        if !matches!(response.status().as_u16(), 429 | 503) {
            return;
        }
        // API servers give seconds, never a date.
        let value = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        if let Some(seconds) = value.and_then(|text| text.trim().parse().ok()) {
            let until = after(self.clock.now(), Duration::from_secs(seconds));
            *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
    }
}

// === impl Throttled ===

impl<S, A, B> Service<Request<A>> for Throttled<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        Answer { inner: self.inner.call(request), throttle: self.throttle.clone() }
    }
}

// === impl Answer ===

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = std::task::ready!(this.inner.poll(cx));
        if let Ok(response) = &answer {
            this.throttle.look(response);
        }
        Poll::Ready(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{Service, service_fn};

    use super::*;

    /// The longest wish that an answer of `code` with this header leaves behind.
    async fn rest(code: u16, header: &'static str) -> Option<Duration> {
        let answer = move |_: Request<()>| async move {
            let response = Response::builder().status(code).header(RETRY_AFTER, header);
            Ok::<_, Infallible>(response.body(()).unwrap())
        };
        let throttle = Throttle::default();
        let inner = service_fn(answer);
        let mut throttled = Throttled { inner, throttle: throttle.clone(), _alive: Arc::default() };
        throttled.call(Request::new(())).await.unwrap();
        throttle.rest()
    }

    #[tokio::test(start_paused = true)]
    async fn seconds_are_heard_from_a_server_that_has_too_much_to_do() {
        assert_eq!(rest(429, "7").await, Some(Duration::from_secs(7)));
        assert_eq!(rest(503, " 1 ").await, Some(Duration::from_secs(1)));
        for (code, header) in [(200, "7"), (500, "7"), (429, "soon"), (429, "-1"), (429, "0")] {
            assert_eq!(rest(code, header).await, None, "{code} {header}");
        }
        assert!(rest(429, "18446744073709551615").await.is_some(), "and it does not overflow");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wish_passes() {
        let throttle = Throttle::default();
        let clock = Clock::default();
        *throttle.until.lock().unwrap() = Some(after(clock.now(), Duration::from_secs(5)));
        clock.sleep(Duration::from_secs(2)).await;
        assert_eq!(throttle.rest(), Some(Duration::from_secs(3)));
        clock.sleep(Duration::from_secs(3)).await;
        assert_eq!(throttle.rest(), None);
    }
}
