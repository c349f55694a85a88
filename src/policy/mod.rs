//! Which node gets a request.
//!
//! A [`Policy`] is configuration and a factory: for each tier of the pool it builds a [`Picker`],
//! which is immutable, shared by all requests, and thrown away at the next change of the set. What
//! must survive a rebuild lives in the policy (a round robin's position) or in the nodes (requests
//! in flight, latency, failures).

mod built;
mod edf;
mod envoy;
mod grpc;
mod hash;
mod key;
mod least_load;
mod metric;
mod pick_first;
mod plain;
mod position;
mod random;
mod round_robin;
mod schedule;
mod weighted_round_robin;
mod weights;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use self::weights::are_equal;
pub use self::{
    envoy::{EnvoyLeastRequest, EnvoyRoundRobin},
    grpc::GrpcLeastRequest,
    hash::{BoundedLoad, HashPolicy, Ketama, Maglev, Rendezvous, RingFunction, RingHash},
    key::{
        ByCookie, ByExtension, ByFn, ByHeader, ByPath, ByQuery, HashKey, HashedBy, KeyHash, Keyed,
        NoKey, RequestKey, Terminal, Then, hash_bytes,
    },
    least_load::{LeastLoad, LeastRequest, P2c},
    metric::LoadMetric,
    pick_first::PickFirst,
    random::Random,
    round_robin::RoundRobin,
    weighted_round_robin::WeightedRoundRobin,
};
pub(crate) use self::{
    plain::{Found, Plain},
    schedule::greatest_common_divisor,
};
pub use crate::node::{LatencyModel, Rng, WeighReport};
use crate::{
    error::BuildError,
    node::{Counted, Crowd, Fleet, Moment, Node, NodeId},
};

/// Configuration and factory of pickers.
///
/// Called by the pool's task, or on a blocking thread where a build
/// [takes long](Self::build_work); never while
/// another build of the same policy runs. It may allocate and take its time, but must not wait for
/// anything. A policy of one's own is a small file:
///
/// ```
/// use std::sync::Arc;
/// use evenkeel::{Endpoint, policy::{Pick, PickContext, Picker, Policy, Tier}, pool::TestBed};
///
/// /// The first node that may be used.
/// #[derive(Clone, Debug)]
/// struct First;
///
/// impl Policy for First {
///     fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
///         Arc::new(First)
///     }
/// }
///
/// impl Picker for First {
///     fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
///         (0..cx.len()).find(|&index| cx.accepts(index)).map_or(Pick::Fail, Pick::Use)
///     }
/// }
///
/// let endpoints = [Endpoint::new(([10, 0, 0, 1], 80)), Endpoint::new(([10, 0, 0, 2], 80))];
/// let bed = TestBed::new(First, endpoints).unwrap();
/// assert_eq!(bed.pick(None).unwrap().endpoint().to_string(), "10.0.0.1:80");
/// ```
pub trait Policy: Send + Sync + 'static {
    /// Which nodes the pickers are built over; [`Scope::Usable`] by default.
    fn scope(&self) -> Scope {
        Scope::Usable
    }

    /// What its load needs of the nodes' latency; nothing by default.
    fn latency_model(&self) -> LatencyModel {
        LatencyModel::None
    }

    /// Which nodes are connected before a request wants them; [`Preconnect::Many`] by default.
    fn preconnect(&self) -> Preconnect {
        Preconnect::Many
    }

    /// How the [load reports](crate::node::LoadReport) of endpoints become weights; by default they
    /// are not looked for in responses, and cost nothing.
    fn weigh_reports(&self) -> Option<WeighReport> {
        None
    }

    /// How often pickers are built anew although no endpoint has changed, for what they take from
    /// the nodes at that time: at most every 10 ms. By default they are not.
    fn rebuild_every(&self) -> Option<Duration> {
        None
    }

    /// The hash that the keys of requests are read by; xxHash64 by default.
    fn key_hash(&self) -> KeyHash {
        KeyHash::XxHash64
    }

    /// How much there is to do in a build over so many endpoints, at most: as so many entries of a table,
    /// of some 30 ns each. A build of 16,384 or more, and any over 512 or more endpoints, is done on a
    /// blocking thread, so that it holds up no worker of the runtime. One for each endpoint by default.
    fn build_work(&self, endpoints: usize) -> usize {
        endpoints
    }

    /// Whether the configuration makes sense: asked before a balancer is built.
    ///
    /// # Errors
    /// What is wrong with it, mostly a [`BuildError::Setting`].
    fn check(&self) -> Result<(), BuildError> {
        Ok(())
    }

    /// A picker over the nodes of one tier.
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker>;
}

/// Picks one node for one request.
///
/// Called on the way of each request, from any number of tasks at once: it must not lock, wait,
/// allocate or panic. It may call [`PickContext::accepts`] as often as it likes, and must not
/// return a node that it did not accept.
pub trait Picker: Send + Sync + 'static {
    /// The node for this request, by its index in [`PickContext::nodes`].
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick;

    /// For the crate's own pickers.
    #[doc(hidden)]
    fn plain(&self) -> Plain {
        Plain::Other
    }
}

/// A picker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pick {
    /// Use the node at this index.
    Use(usize),
    /// Use the node at `index` if fewer than `cap` requests are in flight there at that moment. Where
    /// others were faster, the picker is asked again.
    UseBelow {
        /// The node's index in [`PickContext::nodes`].
        index: usize,
        /// From how many requests in flight on it is full for this one.
        cap: u32,
    },
    /// Ask again when a node's connection or the set has changed, although one might be used now.
    Wait,
    /// No node of this tier is accepted.
    Fail,
}

/// Which nodes pickers are built over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// The healthy ones: built anew when health changes. A request whose pick is not connected yet
    /// goes to another node that is.
    Usable,
    /// All that discovery lists, so that a key keeps its node while others come and go: the picker
    /// walks past the unusable. A request waits for the first dial of its node; once that failed it
    /// walks on until the node is up.
    Listed,
}

/// Which nodes are connected before a request wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preconnect {
    /// As many as the settings keep connected (`keep_connected`), in random order.
    #[default]
    Many,
    /// One: that to which the picker would send the next request. When its dial fails the picker is
    /// asked again.
    Next,
}

/// The nodes that a picker is built over.
#[derive(Clone, Copy)]
pub struct Tier<'a> {
    nodes: &'a [Arc<Node>],
    weights: &'a [u32],
    index: usize,
    seed: u64,
    now: Instant,
}

/// What a picker knows of the request and of the moment.
pub struct PickContext<'a> {
    nodes: &'a [Arc<Node>],
    fleet: &'a Fleet,
    key: Option<u64>,
    tried: &'a [NodeId],
    cap: Option<u32>,
    scope: Scope,
    must_be_up: bool,
    moment: Moment,
    /// The place of this request among those that are counted for a bounded load.
    counted: Option<Counted<'a>>,
}

/// Makes the policies of balancers: any [`Policy`] that is `Clone`, or one with a request key.
pub trait IntoPolicy {
    /// How a request's key is read; [`NoKey`] where the policy needs none.
    type Key: Clone + Send + Sync + 'static;

    /// A source of policies, one for each balancer, and the key.
    ///
    /// # Errors
    /// A key that can never match is a [`BuildError::Key`]; or what [`Policy::check`] says.
    fn into_policy(self) -> Result<(PolicyFactory, Self::Key), BuildError>;
}

/// Makes a policy for each balancer that a configuration is used for.
#[derive(Clone)]
pub struct PolicyFactory(Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>);

// === impl Tier ===

impl<'a> Tier<'a> {
    pub(crate) fn new(
        nodes: &'a [Arc<Node>],
        weights: &'a [u32],
        index: usize,
        seed: u64,
        now: Instant,
    ) -> Self {
        debug_assert_eq!(nodes.len(), weights.len());
        Self { nodes, weights, index, seed, now }
    }

    /// The time of the build.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// How many tiers are preferred to this one.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The nodes, in the order that [`PickContext::nodes`] will have.
    pub fn nodes(&self) -> &'a [Arc<Node>] {
        self.nodes
    }

    /// The nodes' weights: all above zero, and all 1 where discovery gives every node weight 0.
    pub fn weights(&self) -> &'a [u32] {
        self.weights
    }

    /// Whether the weights differ at all.
    pub fn is_weighted(&self) -> bool {
        !are_equal(self.weights)
    }

    /// Chance for the build, such as a random start: another at each build.
    pub fn rng(&self) -> Rng {
        Rng::from_seed(self.seed)
    }
}

impl fmt::Debug for Tier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tier").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

// === impl PickContext ===

impl<'a> PickContext<'a> {
    #[inline]
    pub(crate) fn new(
        nodes: &'a [Arc<Node>],
        fleet: &'a Fleet,
        key: Option<u64>,
        tried: &'a [NodeId],
        cap: Option<u32>,
        scope: Scope,
        moment: Moment,
    ) -> Self {
        Self { nodes, fleet, key, tried, cap, scope, must_be_up: false, moment, counted: None }
    }

    /// What is left of the moment, for another pick of the same request.
    #[inline]
    pub(crate) fn into_moment(self) -> Moment {
        self.moment
    }

    /// From here on only nodes that are up are accepted.
    #[inline]
    pub(crate) fn require_up(&mut self) {
        self.must_be_up = true;
    }

    /// The nodes of the tier.
    #[inline]
    pub fn nodes(&self) -> &'a [Arc<Node>] {
        self.nodes
    }

    /// How many nodes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The hash of the request's key, if it has one.
    #[inline]
    pub fn key(&self) -> Option<u64> {
        self.key
    }

    /// Whether this request may use the node at `index`: its connection has not failed, it is below
    /// its cap of requests in flight, and this request has not tried it. On the second pass, when
    /// the first pick was not connected, it must be up besides. False outside the tier.
    #[inline]
    pub fn accepts(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|node| self.accepts_node(node))
    }

    /// The same of a node of the tier.
    #[inline]
    pub(crate) fn accepts_node(&self, node: &Node) -> bool {
        // What is up is connected enough on either pass.
        (node.link.is_up() || self.accepts_unconnected(node))
            && self.cap.is_none_or(|cap| node.in_flight() < cap)
            && (self.tried.is_empty() || !self.tried.contains(&node.id()))
    }

    #[cold]
    fn accepts_unconnected(&self, node: &Node) -> bool {
        let link = &node.link;
        !self.must_be_up && !link.is_failed() && (self.scope == Scope::Usable || !link.is_failing())
    }

    /// The time; read once, at the first use.
    #[inline]
    pub fn now(&mut self) -> Instant {
        let nanos = self.nanos();
        self.fleet.instant(nanos)
    }

    /// The time in nanoseconds of the fleet.
    #[inline]
    pub(crate) fn nanos(&mut self) -> u64 {
        self.moment.nanos(self.fleet)
    }

    /// The average latency of the pool's latest answers, which memories fade to.
    #[inline]
    pub(crate) fn recent_latency_nanos(&self) -> f32 {
        self.fleet.recent.nanos()
    }

    /// The generator of this pick.
    #[inline]
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.moment.rng
    }

    /// The requests that are counted for a bounded load: this one with them, from the first look on.
    #[inline]
    pub(crate) fn crowd(&mut self) -> Crowd {
        let fleet = self.fleet;
        self.counted.get_or_insert_with(|| fleet.crowd.enter());
        fleet.crowd.look()
    }

    /// The place that the lease of this request takes over, if it is to be counted.
    #[inline]
    pub(crate) fn take_counted(&mut self) -> Option<Counted<'a>> {
        self.counted.take()
    }

    /// One of the accepted nodes, each as likely as any other; for when drawing at random has met
    /// too many that are not accepted.
    pub fn any_accepted(&mut self) -> Option<usize> {
        let mut chosen = None;
        let mut seen = 0;
        for index in 0..self.len() {
            if self.accepts(index) {
                seen += 1;
                // Reservoir sampling: the k-th candidate replaces the choice with chance 1/k.
                if self.rng().below(seen) == 0 {
                    chosen = Some(index);
                }
            }
        }
        chosen
    }
}

impl fmt::Debug for PickContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickContext")
            .field("nodes", &self.nodes.len())
            .field("key", &self.key)
            .field("tried", &self.tried.len())
            .finish_non_exhaustive()
    }
}

// === impl PolicyFactory ===

impl PolicyFactory {
    /// A factory that clones `policy`.
    pub fn cloning<P: Policy + Clone + Sync>(policy: P) -> Self {
        Self(Arc::new(move || Box::new(policy.clone())))
    }

    pub(crate) fn make(&self) -> Box<dyn Policy> {
        (self.0)()
    }
}

impl fmt::Debug for PolicyFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyFactory")
    }
}

impl<P: Policy + Clone + Sync> IntoPolicy for P {
    type Key = NoKey;

    fn into_policy(self) -> Result<(PolicyFactory, NoKey), BuildError> {
        self.check()?;
        Ok((PolicyFactory::cloning(self), NoKey))
    }
}
