//! How a client reports its connection.

#[cfg(feature = "http")]
use std::time::Instant;
use std::{
    fmt,
    sync::{Arc, PoisonError, Weak},
};

use super::{
    Dial, LinkState,
    backoff::BACKOFF_LIMIT_ACCEPTED,
    cell::{CONNECTING, Dialer, FAILED, FAILING, IDLE, KIND, RESTING, TIME_SHIFT, UP},
};
#[cfg(feature = "http")]
use crate::node::Clock;
use crate::{
    endpoint::Endpoint,
    error::{BoxError, SharedError},
    node::Node,
    sync::atomic::Ordering,
};

/// A client's handle on the connection state of its endpoint.
///
/// Given to [`MakeEndpoint::make`](crate::pool::MakeEndpoint::make). A client that owns its connection registers
/// with [`manage`](Self::manage) and then reports every change; one that does not, ignores it.
/// Reports may come from any task and never block. Once the client's readiness has failed they count for
/// nothing: the service is made anew, with a link of its own.
#[derive(Clone)]
pub struct Link {
    node: Arc<Node>,
    generation: u32,
}

// === impl Link ===

impl Link {
    /// Of the service that is made next.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let generation = node.link.generation();
        Self { node, generation }
    }

    /// A link that no pool looks at, for trying a client on its own.
    pub fn standalone(endpoint: &Endpoint) -> Self {
        Self::new(Node::standalone(endpoint))
    }

    /// The endpoint, as discovery describes it now.
    pub fn endpoint(&self) -> Endpoint {
        self.node.endpoint()
    }

    /// The clock of the pool, for a client's own timers.
    #[cfg(feature = "http")]
    pub(crate) fn clock(&self) -> Clock {
        self.node.fleet.clock().clone()
    }

    /// Where the pool's tasks run.
    #[cfg(feature = "http")]
    pub(crate) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        self.node.fleet.runtime()
    }

    /// A number from 0 to 1, by chance.
    #[cfg(feature = "http")]
    pub(crate) fn chance(&self) -> f64 {
        self.node.fleet.seeds.rng().next_f64()
    }

    /// A wait for `until`, wherever it is polled; or for the end of the pool's runtime, after which
    /// nothing is worth a wait.
    #[cfg(feature = "http")]
    pub(crate) async fn sleep_until(&self, until: Instant) {
        let fleet = &self.node.fleet;
        let mut sleep = std::pin::pin!(fleet.sleep_until(until));
        let _ = std::future::poll_fn(|cx| fleet.poll_sleep(sleep.as_mut(), cx)).await;
    }

    /// The state that was last reported.
    pub fn state(&self) -> LinkState {
        self.node.link_state()
    }

    /// Declares that the client reports its connection, which is idle now. Held weakly, since the
    /// client holds its link; the last registration stands, since a service may be made anew.
    pub fn manage(&self, dialer: Weak<dyn Dial>) {
        let link = &self.node.link;
        let mut registered = link.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        if link.generation() != self.generation {
            return;
        }
        *registered = Some(Dialer(dialer));
        drop(registered);
        // One that failed is not dialled before requests see the new service.
        link.shift(|kind| kind != FAILED, |word| word & FAILING | IDLE);
    }

    /// The node, if what this client says of it counts: no longer once its service was made anew, nor
    /// while that is due, which no connection mends.
    fn heard(&self) -> Option<&Arc<Node>> {
        let link = &self.node.link;
        let rests_unready = link.is_failed() && link.is_unready();
        (link.generation() == self.generation && !rests_unready).then_some(&self.node)
    }

    /// A dial began.
    pub fn connecting(&self) {
        if let Some(node) = self.heard() {
            node.link.advance(CONNECTING);
        }
    }

    /// The connection is there: the peer accepted it, or, where the protocol lets it speak first,
    /// has spoken.
    pub fn up(&self) {
        let Some(node) = self.heard() else { return };
        let up = UP | node.fleet.now_nanos() << TIME_SHIFT;
        let Some(before) = node.link.shift(|kind| kind != UP, |_| up) else { return };
        if before & KIND == RESTING {
            // It counted as up, and a connection a request is no change worth telling.
            return;
        }
        if before & FAILING == 0 {
            tracing::debug!(endpoint = %node, "connected");
        } else {
            tracing::info!(endpoint = %node, "connected again");
        }
        node.report.connected();
        node.attend();
        node.fleet.signal.raise();
    }

    /// The last connection was closed cleanly, as idle ones are; the next request dials. For one that
    /// was of use, or closed by the client itself: what the peer closed before it had carried anything
    /// is [`closed_unused`](Self::closed_unused).
    pub fn resting(&self) {
        let Some(node) = self.heard() else { return };
        node.link.advance(RESTING);
        tracing::trace!(endpoint = %node, "connection closed while idle");
    }

    /// The peer closed the last connection, cleanly, and no request was ever sent on it. A second after
    /// it came up or later, the link is [`resting`](Self::resting). Before that it has
    /// [`failed`](Self::failed): a TCP proxy without a server behind it accepts, and closes. Should it
    /// be a server after all, that closes what is idle very soon: a request that nobody else can serve
    /// does not wait for the end of the backoff.
    pub fn closed_unused(&self, cause: impl Into<BoxError>) {
        let Some(node) = self.heard() else { return };
        let link = &node.link;
        let word = link.word.load(Ordering::Acquire);
        if word & KIND == RESTING || link.is_proven(word, node.fleet.now_nanos()) {
            return self.resting();
        }
        let early = !link.dialled_early.load(Ordering::Acquire);
        if node.fail_link_for(BACKOFF_LIMIT_ACCEPTED, early, SharedError::new(cause)) {
            link.dialled_early.store(false, Ordering::Release);
        }
    }

    /// The last connection broke, or the peer is about to close it: the pool dials anew, at once
    /// unless it had only just come up.
    pub fn lost(&self, cause: impl Into<BoxError>) {
        let Some(node) = self.heard() else { return };
        let cause = SharedError::new(cause);
        let word = node.link.word.load(Ordering::Acquire);
        let proven = node.link.is_proven(word, node.fleet.now_nanos());
        if word & KIND != RESTING && !proven {
            // Only just up, or never: dialled at once, this could go round and round.
            node.fail_link_for(BACKOFF_LIMIT_ACCEPTED, false, cause);
            return;
        }
        node.dial_anew(&cause);
    }

    /// The connection served its purpose and is gone or about to be, as after a GOAWAY: the pool dials
    /// anew at once, and counts no failure.
    pub fn outlived(&self, cause: impl Into<BoxError>) {
        if let Some(node) = self.heard() {
            node.dial_anew(&SharedError::new(cause));
        }
    }

    /// The dial failed. The pool dials again after a backoff: 0.25 s, times 1.6 for each failure in
    /// a row, at most 10 s, and 20 % more or less by chance. (At most 4 s where it came up each time, and
    /// was [`lost`](Self::lost) or [closed](Self::closed_unused) within a second.)
    pub fn failed(&self, cause: impl Into<BoxError>) {
        if let Some(node) = self.heard() {
            node.fail_link(SharedError::new(cause));
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.node.endpoint())
            .field("state", &self.state())
            .finish()
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// R9: a call that waits its 5 s for an endpoint that accepts connections sees one of its dials.
    #[tokio::test(start_paused = true)]
    async fn r9_where_connections_are_accepted_the_backoff_ends_within_a_wait() {
        let longest = |report: fn(&Link)| {
            let link = Link::standalone(&Endpoint::new(([10, 0, 0, 1], 80)));
            let rests = (0..100).map(|_| {
                link.up();
                report(&link);
                let LinkState::Failed { until } = link.state() else { panic!("{link:?}") };
                until.saturating_duration_since(link.node.fleet.now())
            });
            rests.max().unwrap().as_secs_f64()
        };
        let closed = longest(|link| link.closed_unused("closed"));
        let lost = longest(|link| link.lost("reset"));
        let refused = longest(|link| link.failed("refused"));
        assert!((4.0..=4.8).contains(&closed), "{closed}");
        assert!((4.0..=4.8).contains(&lost), "{lost}");
        assert!((10.0..=12.0).contains(&refused), "{refused}");
    }

    #[test]
    fn a_link_that_nobody_reports_counts_as_up_until_readiness_fails() {
        let node = Node::standalone(&Endpoint::new(([10, 0, 0, 1], 80)));
        assert_eq!(node.link_state(), LinkState::Unreported);
        assert!(node.link.is_up());
        node.fail_link(SharedError::new("refused"));
        assert!(matches!(node.link_state(), LinkState::Failed { .. }));
        assert!(!node.link.is_up() && node.link.is_failing());
        node.end_backoff();
        assert!(node.link.is_up());
    }

    /// What dials nothing.
    struct Idler;

    impl Dial for Idler {
        fn dial(&self) {}

        fn close(&self) {}
    }

    #[test]
    fn reports_of_a_client_count_until_its_service_is_made_anew() {
        let link = Link::standalone(&Endpoint::new(([10, 0, 0, 1], 80)));
        let client: Arc<dyn Dial> = Arc::new(Idler);
        let node = Arc::clone(&link.node);
        link.manage(Arc::downgrade(&client));
        link.up();
        node.fail_readiness(SharedError::new("broken"));
        let failed = node.link_state();
        let report = |link: &Link| {
            link.connecting();
            link.up();
            link.resting();
            link.outlived("a GOAWAY");
            link.lost("reset");
            link.closed_unused("closed");
            link.failed("refused");
        };
        report(&link);
        assert_eq!(node.link_state(), failed, "no dial mends it");
        assert!(node.link.is_unfit() && !node.link.may_be_early());

        assert!(node.link.renew().is_some());
        let another = Link::new(Arc::clone(&node));
        another.manage(Arc::downgrade(&client));
        link.manage(Weak::<Idler>::new());
        assert!(node.dialer().is_some() && !node.link.is_unfit());
        report(&link);
        assert_eq!(node.link_state(), failed);
        another.up();
        report(&link);
        node.fail_readiness_of(link.generation, SharedError::new("broken"));
        assert_eq!(node.link_state(), LinkState::Up);
        assert!(!node.link.is_unfit());
    }

    /// No request has a service dialled that is to be made anew.
    #[test]
    fn a_failed_readiness_rests_to_the_end_of_its_backoff() {
        let link = Link::standalone(&Endpoint::new(([10, 0, 0, 1], 80)));
        let client: Arc<dyn Dial> = Arc::new(Idler);
        link.manage(Arc::downgrade(&client));
        link.up();
        link.closed_unused("closed");
        assert!(link.node.link.may_be_early());
        link.node.fail_readiness(SharedError::new("broken"));
        assert!(!link.node.link.may_be_early());
        link.node.end_backoff_early();
        assert!(link.node.link.is_failed());
    }
}
