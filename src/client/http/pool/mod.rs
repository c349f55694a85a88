//! The connections of one endpoint, and the requests that wait for one.
//!
//! A request without an idle HTTP/1.1 connection takes whichever comes first, one that another
//! request returns or a new one: it waits in line, and there is a dial for everyone near its head. A
//! dial belongs to nobody, so it goes on when its request gives up, and serves the next in line or
//! lies idle. If an extra dial fails, those in line wait for a connection that is returned, if one that
//! is not new will do, and as long as one is within a quarter of the connect timeout; where none is, the
//! link fails, and they with it: so an endpoint that closed its listener is passed by while old
//! connections run to their end, and one that is full but serves is not. An HTTP/2 connection serves as
//! many as its peer allows streams, and there are more connections, up to a bound, where that is not
//! enough.
//!
//! All reports to the endpoint's [`Link`] are made under the lock, so that they come in the order
//! of what they tell.

mod close;
mod http2;
mod line;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU32},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    Settings, dial,
    error::ConnectError,
    eyeballs::Trail,
    h1::Lane,
    h2::{Slot, Trunk},
    head::Name,
    io::Monitor,
    secure::{Offer, Spoken},
    waiter::Waiter,
};
use crate::{
    endpoint::{Address, Endpoint},
    error::BoxError,
    node::{Clock, Dial, Link, LinkState},
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
    /// How often a peer complained of PINGs.
    calmed: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one laid down last is used first.
    idle: VecDeque<Lane>,
    /// The oldest first.
    trunks: VecDeque<Trunk>,
    line: VecDeque<Place>,
    /// Those in line who still wait. A dial is on its way while there are any.
    waiting: usize,
    dialing: usize,
    /// Connections that are, or may be again, of use.
    open: usize,
    resting: bool,
    /// Since the link last failed, an HTTP/1.1 connection has brought a response: this is a server, and
    /// one that closes what was never used does no harm.
    served: bool,
    /// HTTP/1.1: dials fail, and no connection was returned in time; or the runtime has ended. The link
    /// has failed, though some are open. Until one is returned or a dial comes through.
    shut: bool,
    /// Since when somebody in line waits, or waited, without any having been served.
    unserved_since: Option<Instant>,
    /// A task waits to see whether a connection is returned in time.
    judging: bool,
    /// What the last connection spoke, or the next is bound to.
    spoken: Option<Spoken>,
    /// Closed on purpose: what ends now is no news. Until the next dial.
    closed: bool,
    last_id: u64,
    /// Addresses that dials have tried in vain.
    shunned: Vec<Address>,
    /// Of all connections that have not ended and have not become somebody's own.
    monitors: Vec<(u64, Weak<Monitor>)>,
}

/// One who waits in line.
struct Place {
    grant: oneshot::Sender<Granted>,
    /// Only for a connection that has carried nothing yet.
    fresh: bool,
}

/// A connection for one request.
pub(super) enum Grant {
    Http1(Lane),
    Http2(Slot),
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
            Self::Http2(slot) => &slot.trunk.name,
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
            calmed: AtomicU32::new(0),
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
                if let Some(slot) = self.take_slot(&mut state) {
                    return Checkout::Now(Grant::Http2(slot));
                }
                match if fresh { None } else { state.idle.pop_back() } {
                    Some(lane) => lane,
                    None => return Checkout::Later(self.queue(&mut state, fresh)),
                }
            };
            // The socket is looked at without the lock.
            if lane.is_usable() {
                return Checkout::Now(Grant::Http1(lane));
            }
        }
    }

    /// Whether there are connections, though perhaps none is free.
    pub(super) fn has_connections(&self) -> bool {
        self.state().open > 0
    }

    fn queue(self: &Arc<Self>, state: &mut State, fresh: bool) -> Waiter {
        let (grant, granted) = oneshot::channel();
        state.line.push_back(Place { grant, fresh });
        state.waiting += 1;
        state.unserved_since.get_or_insert_with(|| self.clock.now());
        self.start_dials(state);
        Waiter::new(Arc::clone(self), granted)
    }

    /// Starts a dial for each in line, or as few as serve all.
    fn start_dials(self: &Arc<Self>, state: &mut State) {
        let most = match state.spoken {
            Some(Spoken::Http1) => MOST_DIALS,
            Some(Spoken::Http2) => self.most_trunk_dials(state),
            // The first tells what the peer speaks.
            None => 1,
        };
        while state.dialing < state.waiting.min(most) && self.start_dial(state) {}
    }

    /// Starts one dial; false if there is no runtime to do it, or only one that has ended.
    fn start_dial(self: &Arc<Self>, state: &mut State) -> bool {
        let Some(runtime) = self.link.runtime().or_else(|| Handle::try_current().ok()) else {
            let cause = BoxError::from("a tokio runtime is needed to connect");
            let error = ConnectError::failed(self.link.endpoint().addr(), cause.into());
            self.dial_ended(state, error);
            return false;
        };
        state.dialing += 1;
        state.closed = false;
        if (state.open == 0 || state.shut) && !state.resting {
            self.link.connecting();
        }
        state.last_id += 1;
        let shunned = state.shunned.clone();
        if dial::start(self, &runtime, state.last_id, shunned, self.cancel.subscribe()) {
            return true;
        }
        state.dialing -= 1;
        // What ran there has ended, too, and its connections with it.
        state.shut = true;
        self.dial_ended(state, ConnectError::closed(self.link.endpoint().addr()));
        false
    }

    /// Later dials try last what this one has tried in vain.
    pub(super) fn shun(&self, trail: Trail) {
        trail.add_to(&mut self.state().shunned);
    }

    /// A dial came through, to an HTTP/1.1 connection.
    pub(super) fn connected_lane(self: &Arc<Self>, lane: Lane, monitor: &Arc<Monitor>) {
        let mut state = self.state();
        self.came_up(&mut state, Spoken::Http1, lane.id, monitor);
        let not_kept = self.give(&mut state, lane);
        self.start_dials(&mut state);
        drop(state);
        drop(not_kept);
    }

    /// A dial came through, to an HTTP/2 connection.
    pub(super) fn connected_trunk(self: &Arc<Self>, trunk: Trunk, monitor: &Arc<Monitor>) {
        let mut state = self.state();
        self.came_up(&mut state, Spoken::Http2, trunk.id, monitor);
        state.trunks.push_back(trunk);
        self.serve_line(&mut state);
        self.start_dials(&mut state);
    }

    fn came_up(&self, state: &mut State, spoken: Spoken, id: u64, monitor: &Arc<Monitor>) {
        state.dialing -= 1;
        state.open += 1;
        state.resting = false;
        state.shut = false;
        state.spoken = Some(spoken);
        state.monitors.push((id, Arc::downgrade(monitor)));
        self.link.up();
    }

    /// A dial came to nothing.
    pub(super) fn dial_failed(&self, error: ConnectError) {
        let mut state = self.state();
        state.dialing -= 1;
        self.dial_ended(&mut state, error);
    }

    fn dial_ended(&self, state: &mut State, error: ConnectError) {
        if state.closed {
            // What was asked for is no news.
        } else if state.open == 0 || state.shut {
            if state.dialing == 0 {
                state.resting = false;
                state.served = false;
                self.link.failed(error.clone());
            } else if matches!(self.link.state(), LinkState::Up | LinkState::Resting) {
                // Picked as if it were up, it would be dialled again and again, and never be out.
                state.resting = false;
                self.link.connecting();
            }
        } else if state.spoken == Some(Spoken::Http1) && state.idle.is_empty() {
            self.judge(state, &error);
        }
        self.fail_line(state, &error);
    }
}

impl Dial for Pool {
    fn dial(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let mut state = this.state();
        if state.open > 0 && !state.shut {
            this.link.up();
        } else if state.dialing > 0 {
            this.link.connecting();
        } else {
            this.start_dial(&mut state);
        }
    }

    fn limit(&self) -> Duration {
        // The dial tells at its own timeout; only one that is not run is given up on.
        self.settings.connect_timeout.saturating_add(Duration::from_secs(10))
    }

    fn close(&self) {
        self.close_in_order();
    }

    fn cut(&self) {
        self.let_go().iter().for_each(|monitor| monitor.cut());
    }
}

impl State {
    /// A connection has ended, or is no longer the pool's.
    fn forget(&mut self, id: u64) {
        if let Some(index) = self.monitors.iter().position(|&(of, _)| of == id) {
            self.monitors.swap_remove(index);
        }
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
            .field("trunks", &state.trunks.len())
            .field("dialing", &state.dialing)
            .field("waiting", &state.waiting)
            .finish()
    }
}

#[cfg(test)]
mod tests;
