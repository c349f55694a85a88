//! HTTP/2 in the pool: streams instead of connections, and more connections where they run out.

use std::sync::{Arc, atomic::Ordering};

use super::{
    super::h2::{Gone, Keepalive, Lifetime, Slot, Trunk},
    Grant, Pool, State,
};
use crate::{
    error::{BoxError, SharedError},
    node::after,
};

impl Pool {
    /// A stream on the oldest connection that has one, so that those that were added for a burst
    /// lie idle after it.
    pub(super) fn take_slot(&self, state: &mut State) -> Option<Slot> {
        if state.trunks.is_empty() {
            return None;
        }
        let mut index = 0;
        let now = self.clock.now();
        while let Some(trunk) = state.trunks.get(index) {
            if let Some(gone) = trunk.gone() {
                self.lose_trunk(state, index, gone, gone.into());
                continue;
            }
            if let Some(slot) = trunk.slot(&self.this, now) {
                return Some(slot);
            }
            index += 1;
        }
        None
    }

    /// How many dials there may be, one for as many requests as a connection is known to take.
    pub(super) fn most_trunk_dials(&self, state: &State) -> usize {
        let room = self.settings.max_connections.saturating_sub(state.trunks.len());
        let streams = state.trunks.iter().map(Trunk::most_streams).max();
        match streams {
            None => 1.min(room),
            Some(streams) => state.waiting.div_ceil(streams.max(1)).min(room),
        }
    }

    /// Gives the streams that are free to those in line.
    pub(super) fn serve_line(&self, state: &mut State) {
        while !state.line.is_empty() {
            let Some(mut slot) = self.take_slot(state) else { return };
            loop {
                let Some(next) = state.line.pop_front() else {
                    slot.give_back();
                    break;
                };
                match next.grant.send(Ok(Grant::Http2(slot))) {
                    Ok(()) => {
                        state.waiting = state.waiting.saturating_sub(1);
                        break;
                    }
                    Err(Ok(Grant::Http2(back))) => slot = back,
                    Err(_) => break,
                }
            }
        }
    }

    /// A stream has ended: the next in line may have it.
    pub(in super::super) fn stream_ended(self: &Arc<Self>) {
        let mut state = self.state();
        if state.waiting > 0 {
            let trunks = state.trunks.len();
            self.serve_line(&mut state);
            if state.trunks.len() < trunks {
                // Found gone before that was told, which then says nothing new.
                self.start_dials(&mut state);
            }
        }
    }

    /// A connection takes no more requests. Says nothing new if that is known.
    pub(in super::super) fn trunk_gone(self: &Arc<Self>, id: u64, why: Gone, cause: BoxError) {
        let mut state = self.state();
        if why == Gone::Closed {
            // The last that is heard of it.
            state.forget(id);
        }
        if let Some(index) = state.trunks.iter().position(|trunk| trunk.id == id) {
            self.lose_trunk(&mut state, index, why, cause);
            self.start_dials(&mut state);
        }
    }

    /// Lets go of an idle connection, if another carries what comes.
    pub(in super::super) fn retire_surplus(&self, id: u64) -> bool {
        let mut state = self.state();
        let index = state.trunks.iter().position(|trunk| trunk.id == id);
        let idle = |index: &usize| state.trunks[*index].open_streams() == 0;
        // The oldest stays: it is the one that is used first.
        let Some(index) = index.filter(|&index| index > 0).filter(idle) else { return false };
        self.lose_trunk(&mut state, index, Gone::Idle, Gone::Idle.into());
        true
    }

    fn lose_trunk(&self, state: &mut State, index: usize, why: Gone, cause: BoxError) {
        let Some(trunk) = state.trunks.remove(index) else { return };
        state.open -= 1;
        if state.open > 0 || state.closed {
            return;
        }
        let cause = SharedError::new(cause);
        match why {
            // A dial would get as far as this one did, so the next waits for its turn.
            Gone::Silent(_) => self.link.failed(cause),
            _ if state.dialing > 0 => self.link.connecting(),
            Gone::Old | Gone::Idle | Gone::Exhausted => self.link.outlived(cause),
            Gone::GoAway | Gone::Closed if trunk.has_served() => self.link.outlived(cause),
            Gone::GoAway | Gone::Closed => self.link.lost(cause),
        }
    }

    /// A peer says that it gets too many PINGs.
    pub(in super::super) fn calm_down(&self) {
        self.calmed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(endpoint = %self.link.endpoint(), "asked to send fewer PINGs");
    }

    pub(in super::super) fn keepalive(&self) -> Keepalive {
        Keepalive { calmed: self.calmed.load(Ordering::Relaxed), ..self.settings.keepalive }
    }

    /// How long a connection that begins now may last.
    pub(in super::super) fn lifetime(&self) -> Lifetime {
        let age =
            self.settings.max_age.map(|age| age.mul_f64(1.0 - AGE_JITTER * self.link.chance()));
        Lifetime {
            until: age.map(|age| after(self.clock.now(), age)),
            idle: self.settings.idle_timeout,
        }
    }
}

/// By how much of it a connection may miss its maximum age, so that those that were opened together
/// do not end together.
const AGE_JITTER: f64 = 0.2;
