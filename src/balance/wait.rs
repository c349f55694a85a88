//! What a call carries once its first pick did not do: what it tried, and what it waits for.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use crate::{
    endpoint::Endpoint,
    error::{Began, BoxError, Error, SharedError},
    node::{Lease, Listener, NodeId, Outcome, Sleep, Turn, Wanted, after},
    policy::Scope,
    pool::{
        shared::{Shared, WaitingPlace},
        snapshot::{Choice, Snapshot},
    },
};

/// A service that is not ready. It goes before its place is free.
struct Parked<S> {
    service: S,
    lease: Lease,
    /// Which of the services of its node it is.
    generation: u32,
}

/// Kept off the straight way of a call, which never allocates it.
pub(super) struct Detour<S, K> {
    shared: Arc<Shared<S, K>>,
    tried: Vec<NodeId>,
    /// The endpoint that an error names, and what came of it there; see [`note`](Self::note).
    last: Option<(Endpoint, BoxError)>,
    /// The first node whose service was not ready: waited for when all are not.
    parked: Option<Parked<S>>,
    /// A node that may be asked once more, if no other takes the request.
    second_chance: Option<NodeId>,
    /// A peer may have processed the request, which does no harm if another does, too.
    ambiguous: bool,
    waiting: Option<Waiting<S, K>>,
    /// For a place that becomes free, once a cap has kept it waiting.
    turn: Option<Turn>,
    /// When hope ends; set at the first wait, and not moved by the next.
    deadline: Option<Instant>,
}

struct Waiting<S, K> {
    listener: Listener,
    timeout: Pin<Box<Sleep>>,
    _place: WaitingPlace<S, K>,
}

/// Looks in a row that may miss what others took, or what came up between two glances.
const LOOKS: u32 = 32;

/// Why a wait ended.
pub(super) enum Heard {
    /// Something changed: look again.
    News,
    /// The time that the settings allow is over.
    TooLate,
}

impl<S, K> Detour<S, K> {
    // What a detour does stays out of line: in the poll of a call, it costs those that go straight on.

    pub(super) fn new(shared: Arc<Shared<S, K>>) -> Box<Self> {
        Box::new(Self {
            shared,
            tried: Vec::new(),
            last: None,
            parked: None,
            second_chance: None,
            ambiguous: false,
            waiting: None,
            turn: None,
            deadline: None,
        })
    }

    /// That of a call, which begins with `lease` if it has not.
    ///
    /// # Errors
    /// The pool is closed.
    pub(super) fn of<'a>(
        detour: &'a mut Option<Box<Self>>,
        lease: &Lease,
    ) -> Result<&'a mut Self, Error>
    where
        S: Send + Sync + 'static,
        K: Send + Sync + 'static,
    {
        let begun = match detour.take() {
            Some(begun) => begun,
            None => Self::new(Shared::of(lease)?),
        };
        Ok(detour.insert(begun))
    }

    /// The request never went out on `lease`: another node, then.
    pub(super) fn leave(&mut self, lease: Lease, cause: Option<BoxError>) {
        self.tried.push(lease.node().id());
        if let Some(cause) = cause {
            self.note(lease.endpoint(), cause, false);
        }
        lease.cancel();
    }

    /// The last endpoint that was tried is what an error names, unless one before may have processed the
    /// request: then only another that it died with says more.
    fn note(&mut self, endpoint: Endpoint, cause: BoxError, died: bool) {
        if died || !self.ambiguous {
            self.last = Some((endpoint, cause));
        }
    }

    /// The peer on `lease` did not process what it was sent, and all of it is here.
    pub(super) fn leave_begun(&mut self, mut lease: Lease, how: Began, cause: BoxError) {
        self.note(lease.endpoint(), cause, how.died);
        self.ambiguous |= how.ambiguous;
        if how.here {
            self.second_chance = Some(lease.node().id());
            // It had no room, and must not look fast for that.
            lease.fail(Outcome::Overloaded.into());
        }
        if how.died {
            lease.fail(Outcome::Failure.into());
        }
        self.leave(lease, None);
    }

    /// The service is not ready. The first such keeps its place; of others nothing is kept, so that
    /// no reservation is held that nobody will use.
    pub(super) fn park(&mut self, lease: Lease, service: S) {
        if self.parked.is_some() {
            drop(service);
            return self.leave(lease, None);
        }
        self.tried.push(lease.node().id());
        let generation = lease.node().link.generation();
        self.parked = Some(Parked { service, lease, generation });
    }

    /// Looks for a place. `None` if it is worth waiting for one: then news will be heard from before
    /// the look, so that none is missed.
    #[inline(never)]
    pub(super) fn look(&mut self, key: Option<u64>) -> Result<Option<(Lease, S)>, Error>
    where
        S: Clone,
    {
        let shared = Arc::clone(&self.shared);
        let listener = shared.listen();
        if shared.is_closed() {
            return Err(self.explain(shared.closed_error()));
        }
        if let Some(turn) = &mut self.turn {
            turn.hear();
        }
        let (mut looks, mut looked_in_turn) = (0, false);
        let (snapshot, deadline) = loop {
            looks += 1;
            let moment = shared.fleet.moment();
            let snapshot = shared.snapshot.load();
            let asked_to_wait = match snapshot.choose(&shared.fleet, key, &self.tried, moment) {
                Choice::Take(lease, service) => {
                    let service = service.clone();
                    self.waiting = None;
                    if let Some(turn) = &mut self.turn {
                        turn.end_on(lease.node());
                    }
                    return Ok(Some((lease, service)));
                }
                // Its successor is published already, or the node was listed again.
                Choice::Stale => continue,
                Choice::Raced if looks < LOOKS => continue,
                // It came up, or a place became free, since the picker looked.
                Choice::Fail if looks < LOOKS && snapshot.has_room(&self.tried) => continue,
                Choice::Wait | Choice::Fail | Choice::Raced if self.second_chance.is_some() => {
                    let again = self.second_chance.take();
                    self.tried.retain(|&id| Some(id) != again);
                    continue;
                }
                Choice::Wait => true,
                Choice::Fail | Choice::Raced => false,
            };
            let now = shared.fleet.now();
            let wait = snapshot.limits.wait_for_endpoints;
            let deadline = *self.deadline.get_or_insert_with(|| after(now, wait));
            // What the pick waits for may have come meanwhile: then there is news already.
            let hope = snapshot.may_serve_by(&shared.fleet, deadline, &self.tried)
                || asked_to_wait
                || self.parked.is_some()
                || snapshot.listed == 0;
            if !hope || deadline <= now {
                return Err(self.explain(shared.no_endpoint(&snapshot, &self.tried)));
            }
            // One more look, at what became free before. Of what does later, word comes.
            let led = key.filter(|_| asked_to_wait && snapshot.scope == Scope::Listed);
            if looked_in_turn || !self.has_room_or_awaits(&snapshot, led) {
                break (snapshot, deadline);
            }
            looked_in_turn = true;
        };
        if let Some(turn) = &mut self.turn {
            turn.settle(|node| snapshot.takes_on(node));
        }
        match &mut self.waiting {
            Some(waiting) => waiting.listener = listener,
            None => {
                let place = match shared.wait(snapshot.limits.max_waiting) {
                    Ok(place) => place,
                    Err(error) => return Err(self.explain(error)),
                };
                let timeout = Box::pin(shared.fleet.sleep_until(deadline));
                self.waiting = Some(Waiting { listener, timeout, _place: place });
            }
        }
        Ok(None)
    }

    /// Whether there is a place after all that may be of use. If not, word comes of the next, where a
    /// cap keeps the call waiting. One whose key `led` it to the dial of a node has no use for places
    /// behind that.
    fn has_room_or_awaits(&mut self, snapshot: &Snapshot<S, K>, led: Option<u64>) -> bool {
        let fleet = &self.shared.fleet;
        let is_capped = snapshot.limits.max_in_flight.is_some();
        let before = led.filter(|_| is_capped);
        let before = before.map(|key| snapshot.preferred(fleet, key, &self.tried));
        if !is_capped || before.as_ref().is_some_and(Vec::is_empty) {
            if let Some(turn) = &mut self.turn {
                turn.leave();
            }
            return false;
        }
        let turn = self.turn.get_or_insert_with(|| Turn::new(fleet));
        match before {
            Some(nodes) => {
                turn.want(Wanted::OneOf(nodes.iter().map(|node| node.id()).collect()));
                snapshot.have_room_or_await(nodes)
            }
            None => {
                turn.want(Wanted::AnyBut(self.tried.as_slice().into()));
                snapshot.have_room_or_await(snapshot.untried(&self.tried))
            }
        }
    }

    /// The parked service, once it is ready; `None` once it has failed. Pending also without one.
    #[inline(never)]
    pub(super) fn poll_parked<E: Into<BoxError>>(
        &mut self,
        cx: &mut Context<'_>,
        poll_ready: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Option<(S, Lease)>> {
        let Some(parked) = &mut self.parked else { return Poll::Pending };
        if let Err(error) = ready!(poll_ready(&mut parked.service, cx)) {
            let lease = &mut parked.lease;
            let cause = SharedError::new(error);
            let endpoint = lease.endpoint();
            lease.node().fail_readiness_of(parked.generation, cause.clone());
            lease.pass();
            self.parked = None;
            self.note(endpoint, cause.into(), false);
        }
        Poll::Ready(self.parked.take().map(|parked| (parked.service, parked.lease)))
    }

    #[inline(never)]
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Heard::News) };
        if Pin::new(&mut waiting.listener).poll(cx).is_ready() {
            return Poll::Ready(Heard::News);
        }
        if self.turn.as_ref().is_some_and(|turn| turn.poll(cx).is_ready()) {
            return Poll::Ready(Heard::News);
        }
        // Where its runtime has ended, it is too late as well.
        self.shared.fleet.poll_sleep(waiting.timeout.as_mut(), cx).map(|_| Heard::TooLate)
    }

    pub(super) fn stop_waiting(&mut self) {
        self.waiting = None;
        if let Some(turn) = &mut self.turn {
            turn.leave();
        }
    }

    /// The request goes out elsewhere, or nowhere: what is parked gives up its place, and counts as
    /// untried.
    pub(super) fn unpark(&mut self) {
        if let Some(Parked { service, lease, .. }) = self.parked.take() {
            self.tried.retain(|&id| id != lease.node().id());
            drop(service);
            lease.cancel();
        }
    }

    /// The endpoint that may have processed the request, if one may.
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    pub(super) fn may_be_at(&self) -> Option<Endpoint> {
        let (endpoint, _) = self.last.as_ref().filter(|_| self.ambiguous)?;
        Some(endpoint.clone())
    }

    /// The error of a call that waited for as long as it may.
    pub(super) fn too_late(&mut self) -> Error {
        let shared = &self.shared;
        let error = if shared.is_closed() {
            shared.closed_error()
        } else {
            shared.no_endpoint(&shared.snapshot.load(), &self.tried)
        };
        self.explain(error)
    }

    fn explain(&mut self, error: Error) -> Error {
        // At once, and not when the future is dropped, which may be kept.
        self.stop_waiting();
        self.unpark();
        let (endpoint, cause) = self.last.take().unzip();
        let error = error.with_last(endpoint, cause);
        if self.ambiguous { error.after_all_ambiguous() } else { error }
    }
}

impl<S, K> Drop for Detour<S, K> {
    fn drop(&mut self) {
        // Nothing was sent to what is parked, so nothing was abandoned there.
        if let Some(Parked { lease, .. }) = &mut self.parked {
            lease.pass();
        }
    }
}
