//! The one task of a balancer: applies what discovery says, publishes snapshots, dials, drains.
//!
//! It needs no traffic to make progress, and ends when the last handle and the last call are gone.
//! If it dies, whoever waits is told.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};

use super::{
    apply::{Applying, Settling},
    build::{Blueprint, Built, Draft},
    dials::{Dials, Rested},
    diff::{Roster, can_be_dialled},
    failback::Gates,
    leaving::Leaving,
    locality::{Place, Standpoint},
    make::MakeEndpoint,
    observer::{Discovered, Observer, Telling},
    settings::{Changes, Limits},
    shared::{Command, DriverEnds, Held, Shared, model_of},
    snapshot::Snapshot,
    status::DiscoveryView,
    subset::Selection,
    turns::{Turn, let_go, let_go_of_shared, off_worker},
    upkeep::Upkeep,
};
use crate::{
    discovery::{Endpoints, OnEmpty, Reason, RefreshHandle, Update},
    endpoint::Endpoint,
    error::{DiscoverError, SharedError},
    node::{Fleet, LatencyModel, Node, after},
    policy::{Policy, Preconnect, Scope},
};

/// Updates, or nodes that ask for attention, taken together before their effect is published.
const BATCH: usize = 256;
/// A policy that wants its pickers built anew all the time does not get the worker for itself.
const LEAST_BETWEEN_REBUILDS: Duration = Duration::from_millis(10);

pub(crate) type Updates = Pin<Box<dyn Stream<Item = Update> + Send>>;

/// The state of the task.
pub(crate) struct Driver<M: MakeEndpoint, K: Clone> {
    /// First, so that it goes first: before the services, and also if the task never ran.
    farewell: Farewell<M::Service, K>,
    shared: Arc<Shared<M::Service, K>>,
    fleet: Arc<Fleet>,
    make: M,
    /// Away only while a build has it.
    policy: Option<Box<dyn Policy>>,
    key: K,
    limits: Limits,
    on_empty: OnEmpty,
    refresh: RefreshHandle,
    roster: Roster<M::Service>,
    /// What discovery lists, of which the roster has the subset.
    known: Arc<Endpoints>,
    outside: Arc<[Endpoint]>,
    subset_seed: u64,
    place: Place,
    gates: Gates,
    dials: Dials,
    view: DiscoveryView,
    telling: Telling,
    /// When a set that is known to be gone is no longer kept.
    clear_at: Option<Instant>,
    /// When the policy wants its pickers built anew.
    rebuild_at: Option<Instant>,
    /// The snapshot no longer says what the roster does.
    outdated: bool,
    /// So does the list of those that drain.
    drained: bool,
    /// Nodes whose service was made anew: their backoff ends when requests see the new one.
    remade: Vec<Arc<Node>>,
    /// Who waits until what was heard is published.
    caught_up: Vec<oneshot::Sender<()>>,
    /// Once no handle is left.
    leaving: Option<Leaving>,
}

/// Says so when the driver is gone, however it went.
struct Farewell<S, K: Clone> {
    shared: Weak<Shared<S, K>>,
    is_expected: bool,
}

// === impl Driver ===

impl<M, K> Driver<M, K>
where
    M: MakeEndpoint,
    K: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(
        held: &Held<M::Service, K>,
        make: M,
        policy: Box<dyn Policy>,
        on_empty: OnEmpty,
        refresh: RefreshHandle,
        place: Place,
        observer: Option<Box<dyn Observer>>,
    ) -> Self {
        let shared: &Arc<Shared<_, _>> = held;
        let snapshot = shared.snapshot.load();
        shared.fleet.reports.set(policy.weigh_reports());
        Self {
            farewell: Farewell { shared: Arc::downgrade(shared), is_expected: false },
            shared: Arc::clone(shared),
            fleet: Arc::clone(&shared.fleet),
            make,
            policy: Some(policy),
            key: snapshot.key.clone(),
            limits: snapshot.limits,
            on_empty,
            refresh,
            roster: Roster::new(Arc::clone(&shared.fleet)),
            known: Arc::default(),
            outside: Arc::default(),
            subset_seed: shared.fleet.seeds.rng().next_u64(),
            place,
            gates: Gates::default(),
            dials: Dials::default(),
            view: DiscoveryView::default(),
            telling: Telling::to(observer),
            clear_at: None,
            rebuild_at: None,
            outdated: false,
            drained: false,
            remade: Vec::new(),
            caught_up: Vec::new(),
            leaving: None,
        }
    }

    /// Runs until nobody needs the balancer any longer.
    pub(crate) async fn run(
        mut self,
        updates: impl FnOnce() -> Updates,
        ends: DriverEnds<K>,
        attended: mpsc::UnboundedReceiver<Arc<Node>>,
    ) {
        self.serve(updates, ends, attended).await;
        let empty = Roster::new(Arc::clone(&self.fleet));
        let roster = std::mem::replace(&mut self.roster, empty);
        // The farewell goes before the services.
        drop(self);
        let_go(roster.listed().len(), roster);
    }

    async fn serve(
        &mut self,
        updates: impl FnOnce() -> Updates,
        mut ends: DriverEnds<K>,
        mut attended: mpsc::UnboundedReceiver<Arc<Node>>,
    ) {
        let mut updates = Some(updates());
        loop {
            let due = self.next_due();
            tokio::select! {
                biased;
                _ = &mut ends.gone, if self.leaving.is_none() => self.leave(),
                Some(command) = ends.commands.recv() => match command {
                    Command::Change { changes, policy } => self.change(&changes, policy).await,
                    Command::CatchUp(caught_up) => {
                        self.hear_what_is_ready(&mut updates).await;
                        self.caught_up.push(caught_up);
                    }
                },
                update = next(&mut updates) => match update {
                    Some(update) => {
                        self.hear(update).await;
                        self.hear_what_is_ready(&mut updates).await;
                    }
                    None => end(&mut updates),
                },
                Some(node) = attended.recv() => self.attend(&node),
                () = sleep_until(&self.fleet, due) => {}
            }
            // Whatever it was that woke the task: updates without a pause must not keep nodes waiting.
            for _ in 1..BATCH {
                let Ok(node) = attended.try_recv() else { break };
                self.attend(&node);
            }
            self.on_time().await;
            if self.drained {
                self.show_draining();
            }
            if self.has_left() {
                return;
            }
            if self.outdated && self.publish().await.is_none() {
                return;
            }
            for caught_up in self.caught_up.drain(..) {
                // Whoever has gone meanwhile need not hear it.
                let _ = caught_up.send(());
            }
            self.tell();
            self.connect_next();
            self.dials.start(&self.fleet);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let dials = self.dials.next_due().map(|nanos| self.fleet.instant(nanos));
        let leaving = self.leaving.as_ref().map(Leaving::next_look);
        [dials, self.clear_at, self.rebuild_at, self.roster.next_overdue(), leaving]
            .into_iter()
            .flatten()
            .min()
    }

    // --- the end ---

    fn leave(&mut self) {
        self.farewell.is_expected = true;
        self.leaving = Some(Leaving::begin(self.fleet.now(), self.limits.drain_timeout));
    }

    fn has_left(&mut self) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        let listed = self.roster.listed().iter().map(|member| &member.node);
        leaving.is_over(self.fleet.now(), listed.chain(self.roster.draining()), &self.shared)
    }

    // --- discovery ---

    /// Several updates at once cost one snapshot.
    async fn hear_what_is_ready(&mut self, updates: &mut Option<Updates>) {
        for _ in 1..BATCH {
            let Some(stream) = updates.as_mut() else { return };
            match poll_fn(|cx| Poll::Ready(stream.as_mut().poll_next(cx))).await {
                Poll::Ready(Some(update)) => self.hear(update).await,
                // Asked again, many a stream panics.
                Poll::Ready(None) => return end(updates),
                Poll::Pending => return,
            }
        }
        // A source that always has something to say must not keep the worker for itself.
        tokio::task::yield_now().await;
    }

    async fn hear(&mut self, update: Update) {
        let now = self.fleet.now();
        self.view.heard_at = Some(now);
        let error = match update {
            Update::Set(endpoints) if endpoints.is_empty() => {
                self.hear_empty(Reason::NothingListed, now).await;
                None
            }
            Update::Set(endpoints) => self.hear_set(endpoints, now).await,
            // A merged view of nothing is no view: no part of the source has ever answered.
            Update::Partial(endpoints, error) if endpoints.is_empty() => Some(error),
            Update::Partial(endpoints, error) => {
                let invalid = self.hear_set(endpoints, now).await;
                Some(invalid.unwrap_or(error))
            }
            Update::Empty(reason) => {
                self.hear_empty(reason, now).await;
                None
            }
            Update::Failed(error) => Some(error),
        };
        match (&self.view.error, &error) {
            (None, Some(error)) => tracing::warn!(%error, "discovery failed, the last set stands"),
            (Some(_), Some(error)) => tracing::debug!(%error, "discovery failed again"),
            (Some(_), None) => tracing::info!("discovery answers again"),
            (None, None) => {}
        }
        self.view.error = error;
        self.outdated |= self.place.has_moved();
        self.shared.discovery.store(Arc::new(self.view.clone()));
    }

    async fn hear_set(&mut self, endpoints: Endpoints, now: Instant) -> Option<DiscoverError> {
        if !endpoints.iter().any(can_be_dialled) {
            // A mistake and no answer: it does not take away what works.
            return invalid(endpoints.iter());
        }
        self.view.answered_at = Some(now);
        self.view.empty = None;
        self.clear_at = None;
        self.apply(endpoints).await
    }

    async fn hear_empty(&mut self, reason: Reason, now: Instant) {
        self.view.answered_at = Some(now);
        self.view.empty = Some(reason);
        match self.on_empty {
            OnEmpty::Clear => drop(self.apply(Endpoints::default()).await),
            OnEmpty::KeepFor(time) => {
                self.clear_at.get_or_insert(after(now, time));
            }
            OnEmpty::Keep => {}
        }
    }

    /// Makes the roster the subset of what `endpoints` say; an error names what of it cannot be used.
    async fn apply(&mut self, endpoints: Endpoints) -> Option<DiscoverError> {
        let before = std::mem::replace(&mut self.known, Arc::new(endpoints));
        let_go(before.len(), before);
        self.apply_subset().await
    }

    async fn apply_subset(&mut self) -> Option<DiscoverError> {
        let (inside, mut selection, news) = self.select().await?;
        let mut applying = Applying::begin(inside, &mut self.roster);
        let diff = loop {
            let mut turn = Turn::begin(&self.fleet);
            match applying.go_on(&mut self.roster, &self.make, &mut turn) {
                Some(diff) => break diff,
                None => tokio::task::yield_now().await,
            }
        };
        let_go(self.known.len(), applying);
        self.outdated |= self.roster.take_shares(|index| selection.share(index));
        if news {
            self.outside = std::mem::take(&mut selection.outside).into();
            self.outdated = true;
        }
        let_go(self.known.len(), selection);
        if !diff.is_empty() {
            self.outdated = true;
            tracing::info!(
                added = diff.added,
                removed = diff.removed,
                changed = diff.changed,
                endpoints = self.roster.listed().len(),
                outside = self.outside.len(),
                "the set of endpoints changed"
            );
        }
        invalid(diff.invalid.iter())
    }

    /// The endpoints of the subset, with their shares and with what is outside, and whether that is
    /// another than before. `None` if the runtime is shutting down.
    async fn select(&mut self) -> Option<(Arc<Endpoints>, Selection, bool)> {
        let (subset, seed) = (self.limits.subset, self.subset_seed);
        let (known, outside) = (Arc::clone(&self.known), Arc::clone(&self.outside));
        if subset.is_all() {
            return Some((known, Selection::default(), !outside.is_empty()));
        }
        let select = move || {
            let mut selection = subset.select(Endpoints::clone(&known), seed);
            let inside = std::mem::take(&mut selection.inside);
            let news = *outside != *selection.outside;
            (Arc::new(inside.into()), selection, news)
        };
        off_worker(self.known.len(), select).await
    }

    fn tell(&mut self) {
        self.telling.tell(Discovered {
            failing: self.view.error.is_some(),
            endpoints: self.roster.listed().len() + self.outside.len(),
        });
    }

    // --- connections ---

    fn attend(&mut self, node: &Arc<Node>) {
        node.attended();
        self.dials.attend(node);
        if node.link.is_failed() {
            self.refresh.request();
        }
        if node.is_retired() {
            self.roster.release(node);
            self.drained = true;
        }
    }

    async fn on_time(&mut self) {
        let now = self.fleet.now();
        if self.clear_at.is_some_and(|at| at <= now) {
            self.clear_at = None;
            self.apply(Endpoints::default()).await;
        }
        if self.roster.next_overdue().is_some_and(|at| at <= now) {
            self.roster.cut_overdue(now);
            self.drained = true;
        }
        if self.rebuild_at.is_some_and(|at| at <= now) {
            self.outdated = true;
        }
        for node in self.dials.silent(&self.fleet) {
            node.fail_link(SharedError::new("the client did not say how its dial went"));
        }
        let rested = self.dials.rested(&self.fleet);
        if rested.is_empty() {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        let always = self.scope() == Scope::Listed;
        // A policy that keeps one node connected says itself which.
        let skips = self.preconnect() == Preconnect::Many;
        let tiers = snapshot.tiers.iter();
        let tiers = tiers.map(|tier| (&*tier.nodes, skips && tier.gate.is_shut()));
        let mut upkeep = Upkeep::of(tiers, self.keep_connected());
        for rested in rested {
            match rested {
                Rested::Managed(node) => {
                    node.end_backoff();
                    if always || upkeep.takes(&node) {
                        self.dials.want(node);
                    }
                }
                Rested::Unmanaged(node) => {
                    if self.roster.remake(&node, &self.make) {
                        self.outdated = true;
                        self.remade.push(node);
                    }
                }
            }
        }
    }

    /// How many nodes are kept connected, whichever they are.
    fn keep_connected(&self) -> usize {
        match self.preconnect() {
            Preconnect::Many => self.limits.keep_connected,
            Preconnect::Next => 0,
        }
    }

    /// Under a policy that wants one node connected: dials that, if it is idle.
    fn connect_next(&mut self) {
        if self.preconnect() != Preconnect::Next || self.limits.keep_connected == 0 {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        if let Some(node) = snapshot.next(&self.fleet).filter(|node| node.link.is_idle()) {
            self.dials.want(Arc::clone(node));
        }
    }

    // --- what requests see ---

    async fn change(&mut self, changes: &Changes, policy: Option<(Box<dyn Policy>, K)>) {
        // Checked when it was given, against limits that may have changed since: nonsense is left out.
        if let Ok(limits) = self.limits.with(changes) {
            let subset_changed = limits.subset != self.limits.subset;
            self.limits = limits;
            if subset_changed {
                self.apply_subset().await;
            }
        }
        if let Some((policy, key)) = policy {
            self.fleet.reports.set(policy.weigh_reports());
            self.policy = Some(policy);
            self.key = key;
        }
        self.outdated = true;
        tracing::info!("settings changed");
    }

    /// Publishes a snapshot of the roster, then wakes who waits for it, and only then retires what
    /// it no longer lists. `None` if the runtime is gone.
    async fn publish(&mut self) -> Option<()> {
        self.outdated = false;
        let keep_connected = self.keep_connected();
        let policy = self.policy.take()?;
        let (scope, model) = (policy.scope(), model_of(&*policy, &self.limits));
        let standpoint =
            Standpoint { preference: self.limits.prefer_locality, here: self.place.settle() };
        let count = self.roster.listed().len();
        let mut draft = Draft::of_so_many(count);
        while !draft.go_on(self.roster.listed(), &self.fleet, &mut Turn::begin(&self.fleet)) {
            tokio::task::yield_now().await;
        }
        let blueprint = Blueprint {
            policy,
            gates: std::mem::take(&mut self.gates),
            draft,
            fleet: Arc::clone(&self.fleet),
            standpoint,
            keep_connected,
            now: self.fleet.now(),
        };
        let built = off_worker(count, move || blueprint.build()).await?;
        let Built { policy, gates, tiers, left_out, eager } = built;
        self.gates = gates;
        self.rebuild_at = policy
            .rebuild_every()
            .map(|every| after(self.fleet.now(), every.max(LEAST_BETWEEN_REBUILDS)));
        self.policy = Some(policy);
        let snapshot = Snapshot {
            tiers,
            left_out,
            outside: Arc::clone(&self.outside),
            key: self.key.clone(),
            limits: self.limits,
            scope,
            model,
            listed: count,
        };
        self.fleet.expect_timed(model != LatencyModel::None);
        let before = self.shared.snapshot.swap(Arc::new(snapshot));
        let_go_of_shared(before.listed, before);
        self.remade.drain(..).for_each(|node| node.end_backoff());
        self.fleet.signal.raise();
        self.dials.follow(eager);
        self.settle().await;
        Some(())
    }

    /// Retires what no snapshot lists any longer.
    async fn settle(&mut self) {
        let until = after(self.fleet.now(), self.limits.drain_timeout);
        let mut settling = Settling::begin(&mut self.roster, until);
        let some_left = !settling.is_over();
        while !settling.go_on(&mut self.roster, &mut Turn::begin(&self.fleet)) {
            tokio::task::yield_now().await;
        }
        // Also where none left: some may be back.
        self.show_draining();
        if some_left {
            self.dials.forget_retired();
        }
    }

    fn scope(&self) -> Scope {
        self.policy.as_ref().map_or(Scope::Usable, |policy| policy.scope())
    }

    fn preconnect(&self) -> Preconnect {
        self.policy.as_ref().map_or(Preconnect::Many, |policy| policy.preconnect())
    }

    fn show_draining(&mut self) {
        self.drained = false;
        let draining: Vec<_> = self.roster.draining().cloned().collect();
        if !(draining.is_empty() && self.shared.draining.load().is_empty()) {
            self.shared.draining.store(Arc::new(draining));
        }
    }
}

/// The error that names endpoints which cannot be dialled, if there are any.
fn invalid<'a>(
    mut endpoints: impl ExactSizeIterator<Item = &'a Endpoint>,
) -> Option<DiscoverError> {
    let count = endpoints.len();
    let first = endpoints.next()?;
    let text = format!("{count} endpoints with port 0 are left out, first {first}");
    Some(DiscoverError::new(text))
}

/// The next update; pending for ever once there are no more.
async fn next(updates: &mut Option<Updates>) -> Option<Update> {
    match updates {
        Some(updates) => poll_fn(|cx| updates.as_mut().poll_next(cx)).await,
        None => std::future::pending().await,
    }
}

/// There are no more updates.
fn end(updates: &mut Option<Updates>) {
    tracing::debug!("discovery ended; its last set stands");
    *updates = None;
}

fn sleep_until(fleet: &Fleet, due: Option<Instant>) -> impl Future<Output = ()> + Send + use<> {
    let sleep = due.map(|due| fleet.clock().sleep_until(due));
    async move {
        match sleep {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    }
}

// === impl Farewell ===

impl<S, K: Clone> Drop for Farewell<S, K> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        if !self.is_expected {
            tracing::warn!(target = %shared.target, "the balancer's task is gone, calls fail from here on");
        }
        shared.close();
    }
}
