//! An endpoint inside the pool, without its client: what is in flight, how it did, its connection.
//!
//! A [`Node`] lives as long as discovery lists its endpoint or a request holds it, so its counts
//! survive every update. Pickers read it, [leases](Lease) write it, clients report to its
//! [`Link`].

mod clock;
mod crowd;
mod epoch;
mod fade;
mod fleet;
mod latency;
mod lease;
mod line;
mod link;
mod oldest;
mod outcome;
mod places;
mod recent;
mod report;
mod rng;
mod room;
mod signal;
mod stats;
mod success;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

pub use self::{
    clock::{Clock, Time},
    latency::LatencyModel,
    lease::{Head, Lease},
    link::{Dial, Link, LinkState},
    outcome::{Outcome, Verdict},
    report::{LoadReport, WeighReport},
    rng::Rng,
};
pub(crate) use self::{
    clock::{RuntimeEnded, Sleep, after},
    crowd::{Counted, Crowd},
    fleet::{Fleet, Home, Moment},
    latency::{Average, Scan},
    line::TriedPlaces,
    places::Occupancy,
    rng::{Seeds, mix},
    room::{Turn, Wanted},
    signal::{Listener, Signal},
};
use self::{link::LinkCell, places::Left, report::ReportCell, stats::Stats};
use crate::{
    endpoint::{Endpoint, Parts, Protocol},
    sync::atomic::{AtomicBool, Ordering},
};

/// An endpoint with its counters, its estimates and the state of its connection.
// In this order for the threads that contend for it: what each request writes stands first, near the
// count of references, and what it only reads is a cache line away. To read a line that another thread
// wrote fetches it, and to write it then fetches it again.
#[repr(C)]
pub struct Node {
    pub(crate) stats: Stats,
    fleet: Arc<Fleet>,
    /// Discovery no longer lists it; the driver waits for the last request to leave.
    retired: AtomicBool,
    /// The driver was asked to look, and has not yet.
    queued: AtomicBool,
    pub(crate) link: LinkCell,
    report: ReportCell,
    id: NodeId,
    hash: u64,
    endpoint: ArcSwap<Parts>,
}

/// Tells nodes apart; never used twice in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

// === impl NodeId ===

impl NodeId {
    /// The number behind it, for those who keep it in an atomic; never `u64::MAX`.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn new(id: u64, endpoint: &Endpoint, fleet: Arc<Fleet>) -> Arc<Self> {
        Self::placed(id, endpoint, fleet, &mut TriedPlaces::for_nodes(1))
    }

    /// The same for one of a set, whose nodes look for good places together.
    pub(crate) fn placed(
        id: u64,
        endpoint: &Endpoint,
        fleet: Arc<Fleet>,
        tried: &mut TriedPlaces,
    ) -> Arc<Self> {
        let hash = hash_of(endpoint);
        tried.place(|| Self {
            stats: Stats::new(),
            fleet: Arc::clone(&fleet),
            retired: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            link: LinkCell::new(),
            report: ReportCell::new(),
            id: NodeId(id),
            hash,
            endpoint: ArcSwap::from(Arc::clone(endpoint.parts())),
        })
    }

    /// A node of no pool.
    pub(crate) fn standalone(endpoint: &Endpoint) -> Arc<Self> {
        let (fleet, _) = Fleet::new(Clock::default(), Seeds::Thread);
        Self::new(0, endpoint, fleet)
    }

    /// Tells this node from any other of its pool.
    #[inline]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The endpoint, as discovery describes it now.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from_parts(self.endpoint.load_full())
    }

    /// A hash of what identifies the endpoint: the same in every process, whatever the order of
    /// endpoints (xxHash64 with seed 0 of the address and, where they are given, of the server name
    /// and the protocol).
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Requests in flight: picked, and their response not yet at its end.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.stats.in_flight()
    }

    /// The share of requests that succeed, from 0.001 to 1: a moving average of weight 0.25 whose
    /// memory of failures fades over some 5 s. At its floor while the endpoint asks to be spared.
    #[inline]
    pub fn success(&self, now: Instant) -> f64 {
        self.stats.success(self.fleet.nanos(now))
    }

    /// Whether [`success`](Self::success) is 1 without looking at the clock.
    #[inline]
    pub fn is_blameless(&self) -> bool {
        self.stats.is_blameless()
    }

    /// The latency to expect, up to the response head, in nanoseconds: the estimate of `model`
    /// faded towards the average of the pool's latest answers, or the age of the oldest request
    /// without a response head, if that is higher. A node never heard of is taken for another of
    /// its pool, or has that average.
    #[inline]
    pub fn latency_nanos(&self, model: LatencyModel, now: Instant) -> f64 {
        self.latency_nanos_at(model, self.fleet.nanos(now))
    }

    /// The same at `now` in nanoseconds of the fleet.
    #[inline]
    pub(crate) fn latency_nanos_at(&self, model: LatencyModel, now: u64) -> f64 {
        let scan = Scan::of_few(model, &self.fleet, now);
        f64::from(self.stats.expected_nanos(self.occupancy(), &scan))
    }

    /// Requests in flight, and one that waits for its response head.
    #[inline]
    pub(crate) fn occupancy(&self) -> Occupancy {
        self.stats.occupancy()
    }

    /// Whether it is up, and nothing is held against it.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.link.is_up() & self.is_blameless()
    }

    /// What one more request costs here, in nanoseconds, while nothing is held against it.
    #[inline]
    pub(crate) fn plain_cost(&self, occupancy: Occupancy, scan: &Scan<impl Average>) -> f32 {
        self.stats.cost(occupancy, scan)
    }

    /// No more than [`latency_nanos_at`](Self::latency_nanos_at) whatever the time, while memories
    /// fade to `recent`.
    #[inline]
    pub(crate) fn least_latency_nanos(&self, recent: f32) -> f32 {
        self.stats.remembered_nanos().map_or(recent, |remembered| remembered.min(recent))
    }

    /// [`latency_nanos`](Self::latency_nanos) as a duration, or nothing where no response was measured yet.
    pub fn latency(&self, model: LatencyModel, now: Instant) -> Option<Duration> {
        let waits = self.stats.oldest_nanos(self.fleet.nanos(now)) > 0;
        let known = self.stats.has_latency() || waits;
        known.then(|| Duration::from_nanos(self.latency_nanos(model, now) as u64))
    }

    /// What the endpoint's [load reports](LoadReport) come to by the policy's
    /// [`weigh_reports`](crate::policy::Policy::weigh_reports): nothing while there is none yet, for
    /// `blackout` after the first since it connected, and when the last is as old as `expiration`.
    pub fn reported_weight(
        &self,
        blackout: Duration,
        expiration: Duration,
        now: Instant,
    ) -> Option<f64> {
        self.report.weight(blackout, expiration, self.fleet.nanos(now))
    }

    /// Expects of a fresh node what is known of `peer`, if anything, until it has answered.
    pub(crate) fn take_for(&self, peer: &Node) {
        self.stats.guess(&peer.stats, &self.fleet);
    }

    pub(crate) fn replace_endpoint(&self, endpoint: &Endpoint) {
        self.endpoint.store(Arc::clone(endpoint.parts()));
    }

    /// Asks the driver to look at this node; once until it has.
    pub(crate) fn attend(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.fleet.attend(Arc::clone(self));
        }
    }

    /// The driver looks: what changes from here on asks again.
    ///
    /// A swap, not a store: whoever found the flag still set has changed something before, and the
    /// look that follows must see it.
    pub(crate) fn attended(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }

    /// Discovery no longer lists it. True if no request is in flight.
    pub(crate) fn retire(&self) -> bool {
        self.retired.store(true, Ordering::Release);
        self.stats.is_idle_for_good()
    }

    /// Discovery lists it again.
    pub(crate) fn revive(&self) {
        self.retired.store(false, Ordering::Release);
        self.forget_failures();
    }

    #[inline]
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether no request is in flight, and whatever the last that left did before is seen.
    pub(crate) fn is_idle(&self) -> bool {
        self.stats.is_idle_for_good()
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Marks that a call waits for a place, and reads how many are taken: whoever leaves after this
    /// tells the room.
    pub(crate) fn mark_awaited(&self) -> u32 {
        self.stats.mark_awaited()
    }

    /// A request in flight left.
    #[inline]
    fn left(self: &Arc<Self>, left: Left) {
        if left.was_last() && self.is_retired() {
            self.left_for_good();
        }
        if left.is_awaited() {
            self.fleet.room.left(self);
        }
    }

    #[cold]
    fn left_for_good(self: &Arc<Self>) {
        // Where the pool is gone, nobody else does.
        self.close_survivor();
        self.attend();
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint().fmt(f)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id.0)
            .field("endpoint", &self.endpoint())
            .field("in_flight", &self.in_flight())
            .field("link", &self.link_state())
            .finish_non_exhaustive()
    }
}

fn hash_of(endpoint: &Endpoint) -> u64 {
    let mut text = endpoint.addr().to_string();
    if let Some(name) = endpoint.server_name() {
        text.push('\n');
        text.push_str(name);
    }
    // Nothing where none is given, which is nearly everywhere: a hash says whose a key is.
    let protocol = match endpoint.protocol() {
        Protocol::Unspecified => "",
        Protocol::Http1 => "\0http/1.1",
        Protocol::Http2 => "\0h2",
    };
    text.push_str(protocol);
    xxhash_rust::xxh64::xxh64(text.as_bytes(), 0)
}

#[cfg(all(test, evenkeel_loom))]
mod models;
