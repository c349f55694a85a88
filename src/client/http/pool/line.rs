//! The line of requests that wait for a connection, and the lanes that serve it.

use std::{collections::VecDeque, mem, time::Instant};

use tokio::{runtime::Handle, sync::oneshot};

use super::{
    super::{
        error::ConnectError,
        h1::{End, Lane},
        secure::Spoken,
    },
    Grant, Granted, Pool, State,
};
use crate::node::{LinkState, after};

/// The part of the connect timeout within which those in line shall see a connection returned, once a
/// dial has failed: 250 ms of the default.
const RETURNED_WITHIN: u32 = 4;

impl Pool {
    /// Serves the next in line, or lays the lane down; returns a lane to be dropped.
    pub(super) fn give(&self, state: &mut State, mut lane: Lane) -> Option<Lane> {
        let now = self.clock.now();
        state.served |= lane.used;
        if lane.is_old(now) || (state.closed && state.waiting == 0) {
            return Some(lane);
        }
        if !lane.is_closed() {
            state.unserved_since = state.unserved_since.map(|_| now);
            if mem::take(&mut state.shut) {
                self.link.up();
            }
        }
        loop {
            let index = state.line.iter().position(|place| !(place.fresh && lane.used));
            let Some(next) = index.and_then(|index| state.line.remove(index)) else { break };
            match next.grant.send(Ok(Grant::Http1(lane))) {
                Ok(()) => {
                    state.waiting = state.waiting.saturating_sub(1);
                    if state.waiting == 0 {
                        state.unserved_since = None;
                    }
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
        state.unserved_since = None;
        lane.parked_at = Some(now);
        state.idle.push_back(lane);
        (state.idle.len() > self.settings.max_idle).then(|| state.idle.pop_front()).flatten()
    }

    /// A place in line is given up: what it was given goes to the next.
    pub(in super::super) fn leave_line(&self, granted: &mut oneshot::Receiver<Granted>) {
        let mut state = self.state();
        // Under the lock it is given something, or never.
        granted.close();
        let (lane, unused) = match granted.try_recv() {
            Ok(Ok(Grant::Http1(lane))) => (self.give(&mut state, lane), None),
            Ok(unused) => (None, Some(unused)),
            Err(_) => {
                state.waiting = state.waiting.saturating_sub(1);
                // Callers who give up while nothing is granted would make it grow without end.
                if state.line.len() > 2 * state.waiting + 8 {
                    state.line.retain(|place| !place.grant.is_closed());
                }
                (None, None)
            }
        };
        // A stream that is let go of takes the lock itself.
        drop(state);
        drop((lane, unused));
    }

    /// A lane is ready for its next request.
    pub(in super::super) fn park(&self, lane: Lane) {
        let not_kept = self.give(&mut self.state(), lane);
        drop(not_kept);
    }

    /// Closes a lane that has been idle for too long, or says when it will have been, if it is.
    pub(in super::super) fn expire(&self, id: u64) -> Option<Instant> {
        let mut state = self.state();
        let index = state.idle.iter().position(|lane| lane.id == id)?;
        let lane = &state.idle[index];
        let idle = after(lane.parked_at?, self.settings.idle_timeout);
        let expiry = lane.until.map_or(idle, |until| until.min(idle));
        if self.clock.now() < expiry {
            return Some(expiry);
        }
        let lane = state.idle.remove(index);
        drop(state);
        drop(lane);
        None
    }

    /// The task of an HTTP/1.1 connection ends.
    pub(in super::super) fn http1_ended(&self, id: u64, end: End) {
        let mut state = self.state();
        state.open -= 1;
        state.forget(id);
        let index = state.idle.iter().position(|lane| lane.id == id);
        let lane = index.and_then(|index| state.idle.remove(index));
        state.served |= matches!(end, End::Served);
        // Of an endpoint that takes no new connection, the end of the last old one is no news.
        if state.open == 0 && !state.closed && !state.shut {
            match (end, state.dialing) {
                (End::Unused, 0) if !state.served => {
                    self.link
                        .closed_unused("the peer closed a connection that carried nothing yet");
                    state.resting = self.link.state() == LinkState::Resting;
                }
                (End::Served | End::Clean | End::Unused, 0) => {
                    state.resting = true;
                    self.link.resting();
                }
                (End::Broken(cause), 0) => {
                    state.served = false;
                    self.link.lost(cause);
                }
                (End::Served | End::Clean | End::Unused, _) => {}
                (End::Broken(_), _) => self.link.connecting(),
            }
        }
        drop(state);
        drop(lane);
    }

    /// Tells those in line for whom a dial that failed was the last hope.
    pub(super) fn fail_line(&self, state: &mut State, error: &ConnectError) {
        // While others dial, the one that this dial was for has had its chance; while connections
        // are open, one of them may yet be returned, unless that has been awaited in vain.
        let http1 = state.spoken == Some(Spoken::Http1);
        let mut fails = match (state.open > 0 && !state.shut, state.dialing) {
            (false, 0) => usize::MAX,
            (false, _) if http1 => 1,
            (true, 0) if http1 => return state.fail_fresh(error),
            _ => 0,
        };
        while fails > 0 && state.waiting > 0 {
            let Some(next) = state.line.pop_front() else {
                state.waiting = 0;
                break;
            };
            if next.grant.send(Err(error.clone())).is_ok() {
                state.waiting -= 1;
                fails -= 1;
            }
        }
        if state.waiting == 0 {
            state.line.clear();
        }
    }

    /// What a dial that failed says of an HTTP/1.1 endpoint that has connections, of which none is
    /// idle. One of them may be returned in time: then the endpoint serves, and nobody fails. If for
    /// a while none has been, it takes no more than what runs on it.
    pub(super) fn judge(&self, state: &mut State, error: &ConnectError) {
        let Some(since) = state.unserved_since else { return };
        let due = after(since, self.settings.connect_timeout / RETURNED_WITHIN);
        if due <= self.clock.now() {
            state.shut = true;
            state.unserved_since = None;
            state.served = false;
            self.link.failed(error.clone());
            return;
        }
        if state.waiting == 0 && state.dialing == 0 {
            state.unserved_since = None;
        }
        let runtime = self.link.runtime().or_else(|| Handle::try_current().ok());
        let (Some(runtime), false, true) = (runtime, state.judging, state.waiting > 0) else {
            return;
        };
        state.judging = true;
        let (pool, clock, error) = (self.this.clone(), self.clock.clone(), error.clone());
        runtime.spawn(async move {
            clock.sleep_until(due).await;
            if let Some(pool) = pool.upgrade() {
                let mut state = pool.state();
                state.judging = false;
                // A dial that is under way now decides for itself.
                if state.dialing == 0 && state.waiting > 0 {
                    pool.dial_ended(&mut state, error);
                }
            }
        });
    }
}

impl State {
    /// Tells those for whom nothing that is returned will do that no new connection is on its way.
    fn fail_fresh(&mut self, error: &ConnectError) {
        let (fresh, others): (VecDeque<_>, _) =
            mem::take(&mut self.line).into_iter().partition(|place| place.fresh);
        self.line = others;
        for place in fresh {
            if place.grant.send(Err(error.clone())).is_ok() {
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
        if self.waiting == 0 {
            self.unserved_since = None;
        }
    }
}
