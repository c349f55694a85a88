//! What the pool and requests ask of a node's link.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    DIAL_LIMIT, Dial, LinkState,
    backoff::{BACKOFF_LIMIT, backoff},
    cell::{CONNECTING, FAILED, FAILING, IDLE, KIND, RESTING, TIME_SHIFT, UNREPORTED, UP},
};
use crate::{
    error::{SharedError, chain},
    node::{Node, epoch::nanos},
    sync::atomic::Ordering,
};

impl Node {
    /// The state of the connection, as the client reports it.
    pub fn link_state(&self) -> LinkState {
        let word = self.link.word.load(Ordering::Acquire);
        match word & KIND {
            UP => LinkState::Up,
            RESTING => LinkState::Resting,
            IDLE => LinkState::Idle,
            CONNECTING => LinkState::Connecting,
            FAILED => LinkState::Failed { until: self.fleet.instant(word >> TIME_SHIFT) },
            _ => LinkState::Unreported,
        }
    }

    /// Asks for a dial; the driver grants it.
    pub(crate) fn want(self: &Arc<Self>) {
        if !self.link.wanted.swap(true, Ordering::AcqRel) {
            self.attend();
        }
    }

    pub(crate) fn take_wanted(&self) -> bool {
        self.link.wanted.swap(false, Ordering::AcqRel)
    }

    /// Marks the link failed and begins its backoff.
    pub(crate) fn fail_link(self: &Arc<Self>, cause: SharedError) {
        self.fail_link_for(BACKOFF_LIMIT, false, cause);
    }

    /// The same with a backoff of at most `limit` and its jitter, which a request may end `early`; false if
    /// it had failed already.
    pub(super) fn fail_link_for(
        self: &Arc<Self>,
        limit: Duration,
        early: bool,
        cause: SharedError,
    ) -> bool {
        let now = self.fleet.now_nanos();
        // Of many who report one failure at once, one counts it.
        let until = |backoff: Duration| now.saturating_add(nanos(backoff)) << TIME_SHIFT;
        let failed = FAILED | FAILING;
        let Some(before) =
            self.link.shift(|kind| kind != FAILED, |_| failed | until(BACKOFF_LIMIT))
        else {
            return false;
        };
        self.link.early.store(early, Ordering::Release);
        if self.link.is_proven(before, now) {
            self.link.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        let failures = self.link.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        let backoff = backoff(failures, limit, self.fleet.seeds.rng().next_f64());
        *self.link.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause.clone());
        self.link.shift(|kind| kind == FAILED, |_| failed | until(backoff));
        if before & FAILING == 0 {
            tracing::warn!(endpoint = %self, error = %chain(&cause), retry_in = ?backoff, "connection failed");
        } else {
            tracing::debug!(endpoint = %self, error = %chain(&cause), retry_in = ?backoff, "connection failed again");
        }
        self.fleet.signal.note();
        self.attend();
        true
    }

    /// The client's readiness failed: as a link that failed, and no dial mends it.
    pub(crate) fn fail_readiness(self: &Arc<Self>, cause: SharedError) {
        self.fail_readiness_of(self.link.generation(), cause);
    }

    /// The same of the client of a `generation`, which may not be the last any more.
    pub(crate) fn fail_readiness_of(self: &Arc<Self>, generation: u32, cause: SharedError) {
        if generation == self.link.generation() {
            self.link.unfit.fetch_max(generation, Ordering::AcqRel);
            self.fail_link(cause);
        }
    }

    pub(super) fn dial_anew(self: &Arc<Self>, cause: &SharedError) {
        tracing::debug!(endpoint = %self, error = %chain(cause), "connection lost");
        self.link.advance(IDLE);
        self.forget_failures();
        self.fleet.signal.note();
        self.want();
    }

    /// The backoff is over, as the driver says: it may dial, or leave the node for when it is wanted.
    pub(crate) fn end_backoff(&self) {
        // Without a client that reports it counts as up from now on; if that lasts, its next failure
        // is a first one.
        let unreported = UNREPORTED | FAILING | self.fleet.now_nanos() << TIME_SHIFT;
        let managed = self.link.is_managed();
        let next = |word: u64| if managed { word & FAILING | IDLE } else { unreported };
        if self.link.shift(|kind| kind == FAILED, next).is_some() {
            if managed { self.fleet.signal.note() } else { self.fleet.signal.raise() }
        }
    }

    /// Ends the backoff for a request that wants it, if it may be dialled early.
    pub(crate) fn end_backoff_early(&self) {
        if self.link.may_be_early() && self.link.early.swap(false, Ordering::AcqRel) {
            self.link.dialled_early.store(true, Ordering::Release);
            self.end_backoff();
        }
    }

    /// Starts a dial, if the client manages its connection.
    pub(crate) fn dial(&self) {
        let Some(dialer) = self.dialer() else { return };
        if self.link.shift(|kind| kind == IDLE, |word| word & FAILING | CONNECTING).is_some() {
            dialer.dial();
        }
    }

    /// How long its client may take to say how a dial went.
    pub(crate) fn dial_limit(&self) -> Duration {
        self.dialer().map_or(DIAL_LIMIT, |dialer| dialer.limit())
    }

    /// Closes the connections, on which nothing runs.
    pub(crate) fn close(&self) {
        if let Some(dialer) = self.dialer() {
            dialer.close();
        }
    }

    /// Ends the connections and all that runs on them.
    pub(crate) fn cut(&self) {
        if let Some(dialer) = self.dialer() {
            dialer.cut();
        }
    }

    /// The pool ends. Closes the connections: now, or after the last request, for which the client has
    /// to be kept.
    pub(crate) fn outlive_pool(&self) {
        *self.link.survivor.0.lock().unwrap_or_else(PoisonError::into_inner) = self.dialer();
        if self.retire() {
            self.close_survivor();
        }
    }

    /// The last request left, and the node is retired.
    pub(crate) fn close_survivor(&self) {
        let survivor = self.link.survivor.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = survivor {
            client.close();
        }
    }

    pub(super) fn dialer(&self) -> Option<Arc<dyn Dial>> {
        let dialer = self.link.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        dialer.as_ref().and_then(|dialer| dialer.0.upgrade())
    }

    /// Discovery lists the endpoint anew: old failures say nothing of it.
    pub(crate) fn forget_failures(&self) {
        self.link.failures_in_a_row.store(0, Ordering::Relaxed);
    }
}
