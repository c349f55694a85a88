//! One call: from the pick to the response, with as many picks between as it takes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    body::Complete,
    judge::{Judged, judge},
    wait::{Detour, Heard},
};
use crate::{
    error::{Began, BoxError, Error, Resume, SharedError},
    node::{Lease, RuntimeEnded, Sleep, after},
    pool::{shared::Shared, snapshot::Choice},
};

pin_project! {
    /// The future of a call through a [`Balance`](crate::Balance).
    #[must_use = "a future does nothing unless it is polled"]
    pub struct ResponseFuture<S, Req, K, C>
    where
        S: Service<Req>,
    {
        complete: C,
        key: Option<u64>,
        // Only there once the call left the straight way.
        detour: Option<Box<Detour<S, K>>>,
        attempt_timeout: Option<Duration>,
        // Of the attempt that is being made; beside the stage, which is moved about.
        #[pin]
        timeout: Option<Sleep>,
        #[pin]
        stage: Stage<S, Work<S, Req, S::Future>, S::Future>,
    }

    impl<S, Req, K, C> PinnedDrop for ResponseFuture<S, Req, K, C>
    where
        S: Service<Req>,
    {
        fn drop(this: Pin<&mut Self>) {
            // Nothing was sent, so nothing was abandoned.
            if let StageProjection::Picked { lease, .. } = this.project().stage.project() {
                lease.pass();
            }
        }
    }
}

pin_project! {
    #[project = StageProjection]
    #[project_replace = StageReplaced]
    enum Stage<S, W, F> {
        // A place is taken; the service of the node is asked whether it is ready. Here and below, what
        // is in flight goes before its place is free.
        Picked { service: S, request: W, lease: Lease },
        // No place yet, or no more: look (again).
        Looking { request: W },
        // Nothing to use now, and something to hope for.
        Waiting { request: W },
        // The node has the request.
        Calling { #[pin] future: F, lease: Lease },
        // Over, or never begun.
        Failed { error: Error },
        Done,
    }
}

/// What is to be sent: the request as the caller gave it, or one that a client has begun.
enum Work<S, Req, F> {
    New(Req),
    Begun(Resume<S, F>),
}

/// Why a call does not end on the node that was picked.
enum Aside<S> {
    /// The request never went out.
    Unsent(BoxError),
    /// It went out, and was not processed.
    Begun(Began, BoxError),
    /// The service has no room for it now.
    Unready(S),
}

// === impl ResponseFuture ===

impl<S, Req, K, C> ResponseFuture<S, Req, K, C>
where
    S: Service<Req> + Clone,
{
    /// Picks at once, from the request; nothing is sent before the first poll.
    #[inline]
    pub(super) fn new(
        shared: &Arc<Shared<S, K>>,
        complete: C,
        request: Req,
        key: impl FnOnce(&K, &Req) -> Option<u64>,
    ) -> Self {
        let moment = shared.fleet.moment();
        let snapshot = shared.snapshot.load();
        let key = key(&snapshot.key, &request);
        let attempt_timeout = snapshot.limits.attempt_timeout;
        let request = Work::New(request);
        let (stage, detour) = match snapshot.choose(&shared.fleet, key, &[], moment) {
            Choice::Take(lease, service) => {
                (Stage::Picked { lease, service: service.clone(), request }, None)
            }
            _ => (Stage::Looking { request }, Some(Detour::new(Arc::clone(shared)))),
        };
        Self { complete, key, detour, attempt_timeout, timeout: None, stage }
    }
}

impl<S, Req, K, C> ResponseFuture<S, Req, K, C>
where
    S: Service<Req>,
{
    /// The endpoint that may have processed the request, of a call that goes on: the one that has it
    /// now, else the last that was tried if one did not prove that it had not.
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    pub(crate) fn may_be_at(&self) -> Option<crate::endpoint::Endpoint> {
        match &self.stage {
            Stage::Calling { lease, .. } => Some(lease.endpoint()),
            _ => self.detour.as_ref()?.may_be_at(),
        }
    }
}

impl<S, Req, K, C> Future for ResponseFuture<S, Req, K, C>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + 'static,
    Req: 'static,
    K: Send + Sync + 'static,
    C: Complete<S::Response>,
{
    type Output = Result<C::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                StageProjection::Calling { future, lease } => {
                    if let Poll::Ready(result) = future.poll(cx) {
                        if this.timeout.is_some() {
                            this.timeout.set(None);
                        }
                        let StageReplaced::Calling { mut lease, .. } =
                            this.stage.as_mut().project_replace(Stage::Done)
                        else {
                            unreachable!("the stage was just seen")
                        };
                        match result {
                            Ok(response) => {
                                return Poll::Ready(Ok(this.complete.complete(lease, response)));
                            }
                            Err(error) => {
                                match judge::<S, Req, C>(this.complete, &mut lease, error) {
                                    Judged::Returned { request, cause } => {
                                        let aside = Aside::Unsent(cause);
                                        step_aside(this.detour, lease, aside, Work::New(request))
                                    }
                                    Judged::Begun { resume, how, cause } => {
                                        let aside = Aside::Begun(how, cause);
                                        step_aside(this.detour, lease, aside, Work::Begun(resume))
                                    }
                                    Judged::Failed(error) => Stage::Failed { error },
                                }
                            }
                        }
                    } else {
                        let timeout = this.timeout.as_mut().as_pin_mut();
                        let Some(timeout) = timeout else { return Poll::Pending };
                        let over = ready!(lease.node().fleet().poll_sleep(timeout, cx));
                        Stage::Failed { error: overdue(lease, *this.attempt_timeout, over) }
                    }
                }
                StageProjection::Picked { service, .. } => {
                    let ready = service.poll_ready(cx);
                    let StageReplaced::Picked { lease, mut service, request } =
                        this.stage.as_mut().project_replace(Stage::Done)
                    else {
                        unreachable!("the stage was just seen")
                    };
                    match ready {
                        Poll::Ready(Ok(())) => {
                            if let Some(detour) = this.detour.as_mut() {
                                detour.unpark();
                            }
                            if let Some(timeout) = *this.attempt_timeout {
                                let fleet = lease.node().fleet();
                                let until = after(fleet.now(), timeout);
                                this.timeout.set(Some(fleet.sleep_until(until)));
                            }
                            let future = match request {
                                Work::New(request) => service.call(request),
                                Work::Begun(resume) => resume(&mut service),
                            };
                            Stage::Calling { lease, future }
                        }
                        Poll::Ready(Err(error)) => {
                            let cause = SharedError::new(error);
                            lease.node().fail_readiness(cause.clone());
                            drop(service);
                            step_aside(this.detour, lease, Aside::Unsent(cause.into()), request)
                        }
                        Poll::Pending => {
                            step_aside(this.detour, lease, Aside::Unready(service), request)
                        }
                    }
                }
                StageProjection::Looking { .. } => {
                    let StageReplaced::Looking { request } =
                        this.stage.as_mut().project_replace(Stage::Done)
                    else {
                        unreachable!("the stage was just seen")
                    };
                    match begun(this.detour).look(*this.key) {
                        Ok(Some((lease, service))) => Stage::Picked { lease, service, request },
                        Ok(None) => Stage::Waiting { request },
                        Err(error) => Stage::Failed { error },
                    }
                }
                StageProjection::Waiting { .. } => {
                    let detour = begun(this.detour);
                    // The first that was not ready keeps its place in its own queue.
                    let parked = detour.poll_parked(cx, |service, cx| service.poll_ready(cx));
                    let found = match parked {
                        Poll::Ready(found) => found,
                        Poll::Pending => match detour.poll_heard(cx) {
                            Poll::Ready(Heard::News) => None,
                            Poll::Ready(Heard::TooLate) => {
                                this.stage.set(Stage::Failed { error: detour.too_late() });
                                continue;
                            }
                            Poll::Pending => return Poll::Pending,
                        },
                    };
                    let StageReplaced::Waiting { request } =
                        this.stage.as_mut().project_replace(Stage::Done)
                    else {
                        unreachable!("the stage was just seen")
                    };
                    match found {
                        Some((service, lease)) => {
                            detour.stop_waiting();
                            // It said that it is ready; the same clone is asked once more, which by
                            // its contract says so again, and then called.
                            Stage::Picked { lease, service, request }
                        }
                        None => Stage::Looking { request },
                    }
                }
                StageProjection::Failed { .. } => {
                    let StageReplaced::Failed { error } =
                        this.stage.as_mut().project_replace(Stage::Done)
                    else {
                        unreachable!("the stage was just seen")
                    };
                    return Poll::Ready(Err(error));
                }
                StageProjection::Done => panic!("a call was polled after its end"),
            };
            // Mostly nothing is left of what stood there, and to find that out in line takes less.
            match this.stage.as_mut().project_replace(next) {
                StageReplaced::Done => {}
                left => let_go(left),
            }
        }
    }
}

/// Of a call that looks for a place.
fn begun<S, K>(detour: &mut Option<Box<Detour<S, K>>>) -> &mut Detour<S, K> {
    detour.as_mut().expect("a call leaves the straight way before it looks")
}

#[cold]
#[inline(never)]
fn let_go<T>(_left: T) {}

/// Why an attempt is over without an answer.
#[cold]
fn overdue(lease: &mut Lease, after: Option<Duration>, over: Result<(), RuntimeEnded>) -> Error {
    let endpoint = lease.endpoint();
    if let Err(ended) = over {
        let error = Error::closed(lease.node().fleet().target());
        return error.with_last(Some(endpoint), Some(ended.into())).after_all_ambiguous();
    }
    lease.time_out();
    Error::attempt_timeout(endpoint, after.unwrap_or_default())
}

/// The call looks for another place, unless there is no pool any more in which to pick again.
#[cold]
fn step_aside<S, K, W, F>(
    detour: &mut Option<Box<Detour<S, K>>>,
    lease: Lease,
    why: Aside<S>,
    request: W,
) -> Stage<S, W, F>
where
    S: Send + Sync + 'static,
    K: Send + Sync + 'static,
{
    match (Detour::of(detour, &lease), why) {
        (Ok(detour), Aside::Unsent(cause)) => detour.leave(lease, Some(cause)),
        (Ok(detour), Aside::Begun(how, cause)) => detour.leave_begun(lease, how, cause),
        (Ok(detour), Aside::Unready(service)) => detour.park(lease, service),
        (Err(closed), why) => {
            let error = closed.with_last(Some(lease.endpoint()), why.into_cause());
            lease.cancel();
            return Stage::Failed { error };
        }
    }
    Stage::Looking { request }
}

// === impl Aside ===

impl<S> Aside<S> {
    fn into_cause(self) -> Option<BoxError> {
        match self {
            Self::Unsent(cause) | Self::Begun(_, cause) => Some(cause),
            Self::Unready(_) => None,
        }
    }
}

impl<S, Req, K, C> fmt::Debug for ResponseFuture<S, Req, K, C>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
