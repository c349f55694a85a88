//! The connections of one endpoint, and the requests that wait for one.
//!
//! A request without an idle HTTP/1.1 connection takes whichever comes first, one that another
//! request returns or a new one: it waits in line, and there is a dial for everyone near its head. A
//! dial belongs to nobody, so it goes on when its request gives up, and serves the next in line or
//! lies idle. HTTP/2 needs one connection and one dial for all.
//!
//! All reports to the endpoint's [`Link`] are made under the lock, so that they come in the order
//! of what they tell.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    Settings, dial,
    error::ConnectError,
    h1::Lane,
    h2::Trunk,
    head::Name,
    io::Monitor,
    secure::{Offer, Spoken},
    waiter::Waiter,
};
use crate::{
    endpoint::Endpoint,
    error::BoxError,
    node::{Clock, Dial, Link, after},
};

/// Dials at once to one endpoint: a burst of requests shall be no flood of connections.
const MOST_DIALS: usize = 64;

/// The connections of one endpoint.
pub(super) struct Pool {
    pub(super) settings: Arc<Settings>,
    pub(super) link: Link,
    pub(super) clock: Clock,
    pub(super) offer: Offer,
    this: Weak<Self>,
    /// Every value sent, and the end of the pool itself, end the dials that are on their way.
    cancel: watch::Sender<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one laid down last is used first.
    idle: VecDeque<Lane>,
    trunk: Option<Trunk>,
    line: VecDeque<oneshot::Sender<Granted>>,
    /// Those in line who still wait. A dial is on its way while there are any.
    waiting: usize,
    dialing: usize,
    /// Connections that are, or may be again, of use.
    open: usize,
    resting: bool,
    /// What the last connection spoke, or the next is bound to.
    spoken: Option<Spoken>,
    /// Cut on purpose: what ends now is no news. Until the next dial.
    closed: bool,
    last_id: u64,
    monitors: Vec<Weak<Monitor>>,
}

/// A connection for one request.
pub(super) enum Grant {
    Http1(Lane),
    Http2(Trunk),
}

pub(super) type Granted = Result<Grant, ConnectError>;

pub(super) enum Checkout {
    Now(Grant),
    Later(Waiter),
}

// === impl Grant ===

impl Grant {
    pub(super) fn name(&self) -> Arc<Name> {
        Arc::clone(match self {
            Self::Http1(lane) => &lane.name,
            Self::Http2(trunk) => &trunk.name,
        })
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(settings: Arc<Settings>, endpoint: &Endpoint, link: Link) -> Arc<Self> {
        let offer = settings.offer(endpoint);
        let pool = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            clock: link.clock(),
            offer,
            cancel: watch::Sender::new(()),
            state: Mutex::new(State { spoken: offer.foreseen(), ..State::default() }),
            settings,
            link,
        });
        pool.link.manage(pool.this.clone());
        pool
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, or a place in line for one; with `fresh` only one that was never idle.
    pub(super) fn checkout(self: &Arc<Self>, fresh: bool) -> Checkout {
        loop {
            let lane = {
                let mut state = self.state();
                if let Some(trunk) = &state.trunk {
                    match trunk.gone() {
                        None => return Checkout::Now(Grant::Http2(trunk.clone())),
                        Some(cause) => self.lose_trunk(&mut state, cause.into()),
                    }
                }
                match if fresh { None } else { state.idle.pop_back() } {
                    Some(lane) => lane,
                    None => return Checkout::Later(self.queue(&mut state)),
                }
            };
            // The socket is looked at without the lock.
            if lane.is_usable() {
                return Checkout::Now(Grant::Http1(lane));
            }
        }
    }

    fn queue(self: &Arc<Self>, state: &mut State) -> Waiter {
        let (grant, granted) = oneshot::channel();
        state.line.push_back(grant);
        state.waiting += 1;
        self.start_dials(state);
        Waiter::new(Arc::clone(self), granted)
    }

    /// Starts a dial for each in line, or one for all.
    fn start_dials(self: &Arc<Self>, state: &mut State) {
        let most = match state.spoken {
            Some(Spoken::Http1) => MOST_DIALS,
            // One connection carries all; and one tells what the peer speaks.
            Some(Spoken::Http2) | None => 1,
        };
        while state.dialing < state.waiting.min(most) && self.start_dial(state) {}
    }

    /// Starts one dial; false if there is no runtime to do it.
    fn start_dial(self: &Arc<Self>, state: &mut State) -> bool {
        let Some(runtime) = self.link.runtime().or_else(|| Handle::try_current().ok()) else {
            let error = ConnectError::failed(
                self.link.endpoint().addr(),
                "a tokio runtime is needed to connect",
            );
            self.dial_ended(state, error);
            return false;
        };
        state.dialing += 1;
        state.closed = false;
        if state.open == 0 && !state.resting {
            self.link.connecting();
        }
        state.last_id += 1;
        runtime.spawn(dial::run(self, state.last_id, self.cancel.subscribe()));
        true
    }

    /// A dial came through.
    pub(super) fn connected(self: &Arc<Self>, grant: Grant, monitor: &Arc<Monitor>) {
        let mut state = self.state();
        state.dialing -= 1;
        state.open += 1;
        state.resting = false;
        if state.monitors.len() > 2 * state.open + 8 {
            state.monitors.retain(|monitor| monitor.strong_count() > 0);
        }
        state.monitors.push(Arc::downgrade(monitor));
        self.link.up();
        match grant {
            Grant::Http1(lane) => {
                state.spoken = Some(Spoken::Http1);
                drop(self.give(&mut state, lane));
                self.start_dials(&mut state);
            }
            Grant::Http2(trunk) => {
                state.spoken = Some(Spoken::Http2);
                state.waiting = 0;
                for next in mem::take(&mut state.line) {
                    let _ = next.send(Ok(Grant::Http2(trunk.clone())));
                }
                state.trunk = Some(trunk);
            }
        }
    }

    /// A dial came to nothing.
    pub(super) fn dial_failed(&self, error: ConnectError) {
        let mut state = self.state();
        state.dialing -= 1;
        self.dial_ended(&mut state, error);
    }

    fn dial_ended(&self, state: &mut State, error: ConnectError) {
        if state.open == 0 && state.dialing == 0 && !state.closed {
            state.resting = false;
            self.link.failed(error.clone());
        }
        // While others dial, the one that this dial was for has had its chance; while connections
        // are open, one of them may yet be returned, and the connect timeout bounds the wait.
        let mut fails = match (state.open, state.dialing) {
            (0, 0) => usize::MAX,
            (0, _) if state.spoken == Some(Spoken::Http1) => 1,
            _ => 0,
        };
        while fails > 0 && state.waiting > 0 {
            let Some(next) = state.line.pop_front() else {
                state.waiting = 0;
                break;
            };
            if next.send(Err(error.clone())).is_ok() {
                state.waiting -= 1;
                fails -= 1;
            }
        }
        if state.waiting == 0 {
            state.line.clear();
        }
    }

    /// Serves the next in line, or lays the lane down; returns a lane to be dropped.
    fn give(&self, state: &mut State, mut lane: Lane) -> Option<Lane> {
        while let Some(next) = state.line.pop_front() {
            match next.send(Ok(Grant::Http1(lane))) {
                Ok(()) => {
                    state.waiting -= 1;
                    return None;
                }
                Err(Ok(Grant::Http1(back))) => lane = back,
                Err(_) => return None,
            }
        }
        if lane.is_closed() {
            // Its end was told already, and nobody would ever take it out again.
            return Some(lane);
        }
        lane.parked_at = Some(self.clock.now());
        state.idle.push_back(lane);
        (state.idle.len() > self.settings.max_idle).then(|| state.idle.pop_front()).flatten()
    }

    /// A place in line is given up: what it was given goes to the next.
    pub(super) fn leave_line(&self, granted: &mut oneshot::Receiver<Granted>) {
        let mut state = self.state();
        // Under the lock it is given something, or never.
        granted.close();
        let too_many = match granted.try_recv() {
            Ok(Ok(Grant::Http1(lane))) => self.give(&mut state, lane),
            Ok(_) => None,
            Err(_) => {
                state.waiting = state.waiting.saturating_sub(1);
                None
            }
        };
        drop(state);
        drop(too_many);
    }

    /// A lane is ready for its next request.
    pub(super) fn park(&self, lane: Lane) {
        let too_many = self.give(&mut self.state(), lane);
        drop(too_many);
    }

    /// Closes a lane that has been idle for too long, or says when it will have been, if it is.
    pub(super) fn expire(&self, id: u64) -> Option<Instant> {
        let mut state = self.state();
        let index = state.idle.iter().position(|lane| lane.id == id)?;
        let expiry = after(state.idle[index].parked_at?, self.settings.idle_timeout);
        if self.clock.now() < expiry {
            return Some(expiry);
        }
        let lane = state.idle.remove(index);
        drop(state);
        drop(lane);
        None
    }

    /// The task of an HTTP/1.1 connection ends.
    pub(super) fn http1_ended(&self, id: u64, clean: bool) {
        let mut state = self.state();
        state.open -= 1;
        let index = state.idle.iter().position(|lane| lane.id == id);
        let lane = index.and_then(|index| state.idle.remove(index));
        if state.open == 0 && !state.closed {
            match (clean, state.dialing) {
                (true, 0) => {
                    state.resting = true;
                    self.link.resting();
                }
                (false, 0) => self.link.lost("the last connection broke"),
                (true, _) => {}
                (false, _) => self.link.connecting(),
            }
        }
        drop(state);
        drop(lane);
    }

    /// The HTTP/2 connection takes no more requests. Says nothing new if that is known.
    pub(super) fn http2_gone(&self, id: u64, cause: BoxError) {
        let mut state = self.state();
        if state.trunk.as_ref().is_some_and(|trunk| trunk.id == id) {
            self.lose_trunk(&mut state, cause);
        }
    }

    fn lose_trunk(&self, state: &mut State, cause: BoxError) {
        let served = state.trunk.take().is_some_and(|trunk| trunk.has_served());
        state.open -= 1;
        if state.dialing == 0 && !state.closed {
            if served {
                self.link.outlived(cause)
            } else {
                self.link.lost(cause)
            };
        }
    }
}

impl Dial for Pool {
    fn dial(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let mut state = this.state();
        if state.open > 0 {
            this.link.up();
        } else if state.dialing > 0 {
            this.link.connecting();
        } else {
            this.start_dial(&mut state);
        }
    }

    fn close(&self) {
        let (idle, trunk, monitors) = {
            let mut state = self.state();
            state.closed = true;
            let monitors = mem::take(&mut state.monitors);
            (mem::take(&mut state.idle), state.trunk.clone(), monitors)
        };
        self.cancel.send_replace(());
        for monitor in monitors.iter().filter_map(Weak::upgrade) {
            monitor.cut();
        }
        drop((idle, trunk));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Pool")
            .field("link", &self.link)
            .field("spoken", &state.spoken)
            .field("open", &state.open)
            .field("idle", &state.idle.len())
            .field("dialing", &state.dialing)
            .field("waiting", &state.waiting)
            .finish()
    }
}

#[cfg(test)]
mod tests;
