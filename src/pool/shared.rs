//! What the handles of a balancer, the calls that pick again and its driver have in common.
//!
//! A call on the straight way holds nothing of it but the lease of its node: to count all calls in
//! one place would have all threads wait for one another. One that has to pick again comes home by
//! way of its lease ([`Shared::of`]).

use std::{
    collections::HashSet,
    fmt,
    ops::Deref,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::{
    settings::{Changes, Limits, Settings},
    snapshot::Snapshot,
    status::{DiscoveryView, EndpointStatus, Status},
};
use crate::{
    error::{BuildError, Error},
    node::{Fleet, Home, LatencyModel, Lease, LinkState, Listener, Node, NodeId},
    policy::Policy,
};

/// Held by the driver, and by every call that picks again.
pub(crate) struct Shared<S, K> {
    pub(crate) snapshot: ArcSwap<Snapshot<S, K>>,
    pub(crate) discovery: ArcSwap<DiscoveryView>,
    pub(crate) draining: ArcSwap<Vec<Arc<Node>>>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) target: Arc<str>,
    waiting: AtomicUsize,
    closed: AtomicBool,
    commands: mpsc::UnboundedSender<Command<K>>,
}

/// What the handles hold together: tells the driver, by its drop, that none is left. Not on the cache
/// line of its reference count, which changes with every clone.
#[repr(align(64))]
pub(crate) struct Held<S, K> {
    shared: Arc<Shared<S, K>>,
    /// Never sent on.
    _alive: oneshot::Sender<std::convert::Infallible>,
}

/// What the driver is told.
pub(crate) enum Command<K> {
    /// New settings, checked.
    Change { changes: Changes, policy: Option<(Box<dyn Policy>, K)> },
    /// Answer once all that discovery has said by now is in force.
    CatchUp(oneshot::Sender<()>),
}

/// The driver's ends of what [`Shared`] holds.
pub(crate) struct DriverEnds<K> {
    pub(crate) commands: mpsc::UnboundedReceiver<Command<K>>,
    pub(crate) gone: oneshot::Receiver<std::convert::Infallible>,
}

/// A call's place among those that wait.
pub(crate) struct WaitingPlace<S, K>(Arc<Shared<S, K>>);

// === impl Shared ===

impl<S, K> Shared<S, K> {
    pub(crate) fn begin(
        key: K,
        limits: Limits,
        fleet: Arc<Fleet>,
        target: Arc<str>,
    ) -> (Arc<Held<S, K>>, DriverEnds<K>)
    where
        S: Send + Sync + 'static,
        K: Send + Sync + 'static,
    {
        let (commands, commanded) = mpsc::unbounded_channel();
        let (alive, gone) = oneshot::channel();
        let shared = Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty(key, limits)),
            discovery: ArcSwap::default(),
            draining: ArcSwap::default(),
            fleet,
            target,
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            commands,
        };
        let shared = Arc::new(shared);
        let pool: Weak<Self> = Arc::downgrade(&shared);
        shared.fleet.belongs_to(Home { pool, target: Arc::clone(&shared.target) });
        (Arc::new(Held { shared, _alive: alive }), DriverEnds { commands: commanded, gone })
    }

    /// The pool that `lease` is of.
    ///
    /// # Errors
    /// It is closed: the error that says so.
    pub(crate) fn of(lease: &Lease) -> Result<Arc<Self>, Error>
    where
        S: Send + Sync + 'static,
        K: Send + Sync + 'static,
    {
        let fleet = lease.node().fleet();
        let pool = fleet.home().and_then(|home| home.pool.upgrade());
        pool.and_then(|pool| pool.downcast().ok()).ok_or_else(|| Error::closed(fleet.target()))
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The driver is gone: nothing will ever change again, so nothing is served any more.
    pub(crate) fn close(&self)
    where
        K: Clone,
    {
        self.closed.store(true, Ordering::Release);
        let (key, limits) = {
            let last = self.snapshot.load();
            (last.key.clone(), last.limits)
        };
        self.snapshot.store(Arc::new(Snapshot::empty(key, limits)));
        self.fleet.signal.raise();
    }

    pub(crate) fn closed_error(&self) -> Error {
        Error::closed(Arc::clone(&self.target))
    }

    pub(crate) fn listen(&self) -> Listener {
        self.fleet.signal.listen()
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    pub(crate) fn wait(self: &Arc<Self>, limit: usize) -> Result<WaitingPlace<S, K>, Error> {
        let place = WaitingPlace(Arc::clone(self));
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= limit {
            return Err(Error::too_many_waiting(Arc::clone(&self.target), limit));
        }
        Ok(place)
    }

    /// The error of a call that tried the nodes in `tried` and found none in `snapshot`; with a
    /// failed connection for its cause, unless its own attempts give a better one.
    pub(crate) fn no_endpoint(&self, snapshot: &Snapshot<S, K>, tried: &[NodeId]) -> Error {
        let discovery = self.discovery.load().last_word();
        let census = snapshot.census(tried);
        let (endpoint, cause) = snapshot.failure().unzip();
        Error::no_endpoint(Arc::clone(&self.target), census, discovery)
            .with_last(endpoint, cause.map(Into::into))
    }
}

impl<S, K> fmt::Debug for Shared<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("target", &self.target)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl<S, K> Deref for Held<S, K> {
    type Target = Arc<Shared<S, K>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.shared
    }
}

impl<S, K> Drop for WaitingPlace<S, K> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What can be asked of a balancer whatever its service.
pub(crate) trait Control<K>: Send + Sync {
    fn status(&self) -> Status;
    fn update(&self, settings: Settings<K>) -> Result<(), BuildError>;
    fn listen(&self) -> Listener;
    /// Ends once all that discovery has said by now is in force, or the driver is gone.
    fn catch_up(&self) -> oneshot::Receiver<()>;
    /// `Some` once a request could be served, or never will be.
    fn readiness(&self) -> Option<Result<(), Error>>;
}

impl<S: Send + Sync, K: Send + Sync> Control<K> for Held<S, K> {
    fn status(&self) -> Status {
        let now = self.fleet.now();
        let snapshot = self.snapshot.load();
        let draining = self.draining.load();
        let of = |node: &Arc<Node>| EndpointStatus::of(node, snapshot.model, now);
        let left_out = |node: &Arc<Node>| of(node).left_out();
        let draining_too: HashSet<_> =
            draining.iter().map(|node| node.endpoint().identity().clone()).collect();
        let outside = snapshot.outside.iter();
        let outside = outside.filter(|endpoint| !draining_too.contains(endpoint.identity()));
        Status {
            target: Arc::clone(&self.target),
            discovery: self.discovery.load().status(now),
            endpoints: snapshot
                .nodes()
                .map(of)
                .chain(snapshot.left_out.iter().map(left_out))
                .chain(outside.map(EndpointStatus::outside))
                .chain(draining.iter().map(of))
                .collect(),
            waiting: self.waiting(),
            closed: self.is_closed(),
        }
    }

    fn update(&self, settings: Settings<K>) -> Result<(), BuildError> {
        // Checked against what is in force, so that the caller hears of a mistake.
        self.snapshot.load().limits.with(&settings.changes)?;
        let policy = match settings.policy {
            None => None,
            Some(policy) => {
                let (factory, key) = policy?;
                Some((factory.make(), key))
            }
        };
        // Without a driver nothing is balanced any more, and there is nothing to change.
        let _ = self.commands.send(Command::Change { changes: settings.changes, policy });
        Ok(())
    }

    fn listen(&self) -> Listener {
        self.shared.listen()
    }

    fn catch_up(&self) -> oneshot::Receiver<()> {
        let (caught_up, until) = oneshot::channel();
        // Refused, it is dropped: then nobody waits for it.
        let _ = self.commands.send(Command::CatchUp(caught_up));
        until
    }

    fn readiness(&self) -> Option<Result<(), Error>> {
        if self.is_closed() {
            return Some(Err(self.closed_error()));
        }
        let snapshot = self.snapshot.load();
        if snapshot.nodes().any(|node| node.link.is_up()) {
            return Some(Ok(()));
        }
        // One dial under way is enough to wait for.
        if !snapshot.nodes().any(|node| node.link_state() == LinkState::Connecting) {
            let next = snapshot.next(&self.fleet).filter(|node| node.link.is_idle());
            let idle = next.or_else(|| snapshot.nodes().find(|node| node.link.is_idle()));
            if let Some(idle) = idle {
                idle.want();
            }
        }
        None
    }
}

/// What is measured by a policy under the limits in force.
pub(crate) fn model_of(policy: &dyn Policy, limits: &Limits) -> LatencyModel {
    limits.latency_model(policy.latency_model())
}
