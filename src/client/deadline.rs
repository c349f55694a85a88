//! A deadline over a whole call: from its start, through its waits and its head, to the end of its
//! body.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    endpoint::Endpoint,
    error::{BoxError, Error},
    node::{Clock, Fleet, RuntimeEnded, Sleep, after},
};

/// Whose clock a deadline goes by: the balancer's, or tokio's where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers(Option<Arc<Fleet>>);

/// The time that one call has, if it is limited. Moves from the call's future into its body.
#[derive(Default)]
pub(super) struct Deadline(Option<Box<Running>>);

/// Why a call is over before its time, or with it.
#[derive(Debug)]
pub(super) enum Over {
    /// Its deadline has passed, of this length.
    Late(Duration),
    /// The runtime of the balancer of `target` has ended: nothing that waits for its connections outlives
    /// that.
    Closed { target: Arc<str>, ended: RuntimeEnded },
}

struct Running {
    sleep: Pin<Box<Sleep>>,
    after: Duration,
    until: Instant,
    timers: Timers,
}

pin_project! {
    /// A body that fails once the deadline of its call has passed.
    pub(super) struct TimedBody<B> {
        // Gone once the deadline has passed, so that its connection hears of it.
        #[pin]
        inner: Option<B>,
        deadline: Deadline,
        endpoint: Option<Endpoint>,
    }
}

// === impl Timers ===

impl Timers {
    pub(super) fn of(fleet: &Arc<Fleet>) -> Self {
        Self(Some(Arc::clone(fleet)))
    }

    /// Whether they are those of the balancer with this fleet.
    pub(super) fn are_of(&self, fleet: &Arc<Fleet>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, fleet))
    }

    /// A deadline `limit` from now; none without a limit.
    pub(super) fn within(&self, limit: Option<Duration>) -> Deadline {
        Deadline(limit.map(|limit| {
            let until = after(self.now(), limit);
            let sleep = match &self.0 {
                Some(fleet) => fleet.sleep_until(until),
                None => Clock::default().sleep_until(until),
            };
            Box::new(Running { sleep: Box::pin(sleep), after: limit, until, timers: self.clone() })
        }))
    }

    fn now(&self) -> Instant {
        self.0.as_ref().map_or_else(|| Clock::default().now(), |fleet| fleet.now())
    }

    /// Whether `sleep` is over, or cannot end any more.
    fn poll_over(&self, sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let Some(fleet) = &self.0 else { return sleep.poll(cx).map(Ok) };
        let closed = |ended| Over::Closed { target: fleet.target(), ended };
        fleet.poll_sleep(sleep, cx).map_err(closed)
    }
}

// === impl Over ===

impl Over {
    /// The error of the call; `endpoint` is the last that may have processed the request, if it is known.
    pub(super) fn error(self, endpoint: Option<Endpoint>, unprocessed: bool) -> Error {
        match self {
            Self::Late(after) => Error::deadline(after, endpoint, unprocessed),
            Self::Closed { target, ended } => {
                let error = Error::closed(target).with_last(endpoint, Some(ended.into()));
                if unprocessed { error } else { error.after_all_ambiguous() }
            }
        }
    }
}

// === impl Deadline ===

impl Deadline {
    /// Ready once the deadline has passed, or nobody can tell any more when it will.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let Some(running) = &mut self.0 else { return Poll::Pending };
        let over = running.timers.poll_over(running.sleep.as_mut(), cx);
        over.map(|over| over.err().unwrap_or(Over::Late(running.after)))
    }

    /// Its length, if it has passed: for those who never wait, and whose timers so never run.
    fn passed(&self) -> Option<Duration> {
        let running = self.0.as_ref()?;
        (running.timers.now() >= running.until).then_some(running.after)
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deadline").field(&self.0.as_ref().map(|running| running.after)).finish()
    }
}

// === impl TimedBody ===

impl<B> TimedBody<B> {
    /// The body of `response` with what is left of the call's time.
    pub(super) fn of(response: Response<B>, deadline: Deadline) -> Response<Self> {
        let endpoint = response.extensions().get().cloned();
        response.map(|inner| Self { inner: Some(inner), deadline, endpoint })
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let over = match inner.poll_frame(cx) {
            Poll::Ready(frame) => match frame.is_some().then(|| this.deadline.passed()).flatten() {
                Some(after) => Poll::Ready(Over::Late(after)),
                None => return Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            },
            Poll::Pending => this.deadline.poll_over(cx),
        };
        over.map(|over| {
            this.inner.set(None);
            // It came from a server, whether or not the endpoint is told.
            Some(Err(over.error(this.endpoint.take(), false).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use super::*;
    use crate::node::Seeds;

    /// Sends nothing, ever.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_past_its_deadline_fails_once_and_then_ends() {
        let clock = Clock::default();
        let begun = clock.now();
        let limit = Duration::from_millis(300);
        let mut response = Response::new(Silent);
        response.extensions_mut().insert(Endpoint::new(([10, 0, 0, 1], 80)));
        let response = TimedBody::of(response, Timers::default().within(Some(limit)));
        let mut body = std::pin::pin!(response.into_body());
        let error = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap_err();
        let error = error.downcast::<Error>().unwrap();
        assert!(error.is_timeout() && error.is_ambiguous());
        assert_eq!(
            error.to_string(),
            "the call was not complete within 300ms at endpoint 10.0.0.1:80"
        );
        assert!(clock.now() - begun >= limit);
        assert!(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none());
        assert!(body.is_end_stream());
    }

    /// Sends without a pause, and never ends.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_always_ready_has_a_deadline_too() {
        let limit = Duration::from_millis(300);
        let response = TimedBody::of(Response::new(Endless), Timers::default().within(Some(limit)));
        let mut body = std::pin::pin!(response.into_body());
        for passed in 0..300 {
            let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap();
            assert!(frame.is_ok(), "after {passed} ms");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let error = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap_err();
        let error = error.downcast::<Error>().unwrap();
        assert!(error.is_timeout() && error.is_ambiguous(), "with no endpoint told, too");
        assert!(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none());
    }

    /// Asked from elsewhere, tokio's timer would panic.
    #[test]
    fn a_deadline_ends_with_the_runtime_of_its_balancer_and_not_with_its_task() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = Some(runtime.handle().clone());
        let (fleet, attended) = Fleet::on(handle, Clock::default(), Seeds::Thread);
        let limit = Duration::from_secs(1_000);
        let deadline = Timers::of(&fleet).within(Some(limit));
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = std::pin::pin!(TimedBody::of(Response::new(Silent), deadline).into_body());
        assert!(body.as_mut().poll_frame(&mut cx).is_pending());
        drop(attended);
        assert!(body.as_mut().poll_frame(&mut cx).is_pending());
        drop(runtime);
        let Poll::Ready(Some(Err(error))) = body.as_mut().poll_frame(&mut cx) else {
            panic!("it waits for a timer that is no more");
        };
        let error = error.downcast::<Error>().unwrap();
        assert!(error.is_closed() && error.is_ambiguous(), "{error}");
        assert!(!error.is_timeout(), "no time has passed");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_passes() {
        let mut deadline = Timers::default().within(None);
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll_over(cx).is_pending())).await);
    }
}
