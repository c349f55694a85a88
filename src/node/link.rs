//! A node's connection, as whoever owns it reports it.
//!
//! ```text
//!            wanted            first bytes or connect
//!  Idle ───────────────▶ Connecting ───────────▶ Up ◀──────────▶ Resting
//!   ▲                     │      ▲                │    closed cleanly,
//!   │ backoff over,       │      │ backoff over   │    next request dials
//!   │ not kept connected  ▼      │                │
//!   └────────────────── Failed ──┘◀───────────────┘ soon after it came up: lost,
//!                                                   or closed before it carried anything
//! ```
//! A client that reports nothing leaves its link `Unreported`, which counts as up.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{Node, epoch::nanos};
use crate::{
    endpoint::Endpoint,
    error::{BoxError, SharedError, chain},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_FACTOR: f64 = 1.6;
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// The same where the peer accepts connections and soon ends them. It may serve a request yet, so one that
/// has nobody else and waits, by default 5 s, shall see the next dial, whatever the jitter.
const BACKOFF_LIMIT_ACCEPTED: Duration = Duration::from_secs(4);
const BACKOFF_JITTER: f64 = 0.2;
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// A connection that lasted this long was a good one: the backoff begins anew.
const PROVEN_AFTER: Duration = Duration::from_secs(1);

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

/// What the pool asks of a client that manages its connection.
///
/// Called from the pool's task or from a request's; it must return at once, and so spawns what
/// takes time.
pub trait Dial: Send + Sync + 'static {
    /// Connect, unless connected or connecting: report [`Link::connecting`] (or, if connected, only
    /// [`Link::up`]), then [`Link::up`] or
    /// [`Link::failed`], in any case within its [`limit`](Self::limit). Requests that a
    /// hash policy sends here wait for that.
    fn dial(&self);

    /// How long a dial may take until it has been reported; 10 s by default. A dial that takes longer
    /// counts as failed, for a client that forgets to report.
    fn limit(&self) -> Duration {
        DIAL_LIMIT
    }

    /// The endpoint is gone, or the balancer, and no request runs on it: close its connections in good
    /// order, as the protocol has it.
    fn close(&self);

    /// The endpoint is gone, or the service was made anew, and the time to drain is over: cut what is
    /// left. As [`close`](Self::close) by default.
    fn cut(&self) {
        self.close();
    }
}

/// The state of a node's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// The client reports nothing; counts as up.
    Unreported,
    /// Not dialled yet.
    Idle,
    /// A dial is under way.
    Connecting,
    /// Connected.
    Up,
    /// Closed after being up, by either side: idle for too long, say, or with a request over HTTP/1.1
    /// that was given up. The next request dials. Counts as up.
    Resting,
    /// The last dial, or the client's readiness, failed.
    Failed {
        /// When the pool dials again.
        until: Instant,
    },
}

/// The link's part of a [`Node`].
#[derive(Debug)]
pub(crate) struct LinkCell {
    /// Kind (3 bits), whether it has failed since it was last up (1 bit), and the nanoseconds of
    /// the fleet at which it came up, or until which it rests after a failure.
    word: AtomicU64,
    wanted: AtomicBool,
    failures_in_a_row: AtomicU32,
    cause: Mutex<Option<SharedError>>,
    /// Of the service that was made last.
    dialer: Mutex<Option<Dialer>>,
    /// How often a service was made: only the last has a say.
    generation: AtomicU32,
    /// The generation whose readiness failed: its service is to be made anew.
    unfit: AtomicU32,
    /// What closes the connections after the last request, where the pool is gone before.
    survivor: Survivor,
    /// It failed by a connection that was closed unused, and a request that finds nothing better may
    /// have it dialled before its backoff ends. Once: the dial may go as the one before did.
    early: AtomicBool,
    dialled_early: AtomicBool,
}

struct Dialer(Weak<dyn Dial>);

#[derive(Default)]
struct Survivor(Mutex<Option<Arc<dyn Dial>>>);

const KIND: u64 = 0b111;
const FAILING: u64 = 0b1000;
const TIME_SHIFT: u32 = 4;

const UNREPORTED: u64 = 0;
const UP: u64 = 1;
const RESTING: u64 = 2;
/// Kinds up to here count as up.
const LAST_UP: u64 = RESTING;
const IDLE: u64 = 3;
const CONNECTING: u64 = 4;
const FAILED: u64 = 5;

// === impl LinkState ===

impl LinkState {
    /// The state in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreported => "unreported",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Resting => "resting",
            Self::Failed { .. } => "failed",
        }
    }
}

// === impl LinkCell ===

impl LinkCell {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(UNREPORTED),
            wanted: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            cause: Mutex::new(None),
            dialer: Mutex::new(None),
            generation: AtomicU32::new(1),
            unfit: AtomicU32::new(0),
            survivor: Survivor::default(),
            early: AtomicBool::new(false),
            dialled_early: AtomicBool::new(false),
        }
    }

    #[inline]
    fn kind(&self) -> u64 {
        self.word.load(Ordering::Acquire) & KIND
    }

    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        self.kind() <= LAST_UP
    }

    #[inline]
    pub(crate) fn is_failed(&self) -> bool {
        self.kind() == FAILED
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.kind() == IDLE
    }

    /// Whether a request that finds nothing better may have it dialled before its backoff ends.
    pub(crate) fn may_be_early(&self) -> bool {
        self.is_failed() && self.early.load(Ordering::Acquire) && !self.is_unfit()
    }

    /// Whether it failed and has not been up since.
    #[inline]
    pub(crate) fn is_failing(&self) -> bool {
        self.word.load(Ordering::Acquire) & FAILING != 0
    }

    /// Whether a dial was asked for that the driver has not heard of yet.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.dialer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether its service is to be made anew: the client's readiness failed, or it knows nothing of
    /// dials.
    pub(crate) fn is_unfit(&self) -> bool {
        self.is_unready() || !self.is_managed()
    }

    fn is_unready(&self) -> bool {
        self.unfit.load(Ordering::Acquire) == self.generation()
    }

    /// Which of its services is the last.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Its service is about to be made anew: what the client before says counts for nothing any more.
    /// Returns that client.
    pub(crate) fn renew(&self) -> Option<Weak<dyn Dial>> {
        let mut dialer = self.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        dialer.take().map(|dialer| dialer.0)
    }

    /// The nanoseconds of the fleet until which a failed link rests.
    pub(crate) fn failed_until(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        (word & KIND == FAILED).then_some(word >> TIME_SHIFT)
    }

    pub(crate) fn cause(&self) -> Option<SharedError> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has been up for so long that older failures say nothing any more.
    fn is_proven(&self, word: u64, now: u64) -> bool {
        matches!(word & KIND, UP | UNREPORTED)
            && now.saturating_sub(word >> TIME_SHIFT) >= nanos(PROVEN_AFTER)
    }

    /// Whether it is up and has been for a while, or rests after it was of use.
    pub(crate) fn is_lasting(&self, now: u64) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & KIND == RESTING || self.is_proven(word, now)
    }

    /// Moves on from the kinds that `from` accepts; the word before, if that was so.
    fn shift(&self, from: impl Fn(u64) -> bool, to: impl Fn(u64) -> u64) -> Option<u64> {
        let next = |word| from(word & KIND).then(|| to(word));
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()
    }

    /// Moves to `kind`, keeping the memory of a failure.
    fn advance(&self, kind: u64) {
        let _ = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(word & FAILING | kind));
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl fmt::Debug for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Survivor")
    }
}

// === impl Node: what the pool and requests ask of the link ===

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
    fn fail_link_for(self: &Arc<Self>, limit: Duration, early: bool, cause: SharedError) -> bool {
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

    fn dial_anew(self: &Arc<Self>, cause: &SharedError) {
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
    pub(super) fn close_survivor(&self) {
        let survivor = self.link.survivor.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = survivor {
            client.close();
        }
    }

    fn dialer(&self) -> Option<Arc<dyn Dial>> {
        let dialer = self.link.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        dialer.as_ref().and_then(|dialer| dialer.0.upgrade())
    }

    /// Discovery lists the endpoint anew: old failures say nothing of it.
    pub(crate) fn forget_failures(&self) {
        self.link.failures_in_a_row.store(0, Ordering::Relaxed);
    }
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
    pub(crate) fn clock(&self) -> super::Clock {
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

/// The rest after so many failures in a row; `chance` is from 0 to 1.
fn backoff(failures: u32, limit: Duration, chance: f64) -> Duration {
    let step = BACKOFF_FIRST.as_secs_f64() * BACKOFF_FACTOR.powf(f64::from(failures.min(64)));
    let jitter = 1.0 + BACKOFF_JITTER * (2.0 * chance - 1.0);
    Duration::from_secs_f64(step.min(limit.as_secs_f64()) * jitter)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_by_its_factor_and_stops_at_its_limit() {
        let seconds = |failures| backoff(failures, BACKOFF_LIMIT, 0.5).as_secs_f64();
        for (failures, expected) in
            [(0, 0.25), (1, 0.4), (2, 0.64), (7, 6.710_886_4), (8, 10.0), (4_000_000, 10.0)]
        {
            assert!(
                (seconds(failures) - expected).abs() < 1e-9,
                "{failures}: {}",
                seconds(failures)
            );
        }
        assert!((backoff(0, BACKOFF_LIMIT, 0.0).as_secs_f64() - 0.2).abs() < 1e-9);
        assert!((backoff(0, BACKOFF_LIMIT, 1.0).as_secs_f64() - 0.3).abs() < 1e-9);
    }

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
