//! The one task of a balancer: applies what discovery says, publishes snapshots, dials, drains.
//!
//! It needs no traffic to make progress, and ends when the last handle and the last call are gone.
//! If it dies, whoever waits is told.

mod connect;
mod hear;
mod news;
mod publish;

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};

use self::{
    hear::{end, next},
    news::News,
};
use super::{
    dials::Dials,
    diff::Roster,
    failback::Gates,
    leaving::Leaving,
    locality::Place,
    make::MakeEndpoint,
    observer::{Observer, Telling},
    settings::Limits,
    shared::{Command, DriverEnds, Held, Shared},
    status::DiscoveryView,
    turns::{Turn, let_go},
};
use crate::{
    discovery::{Endpoints, OnEmpty, RefreshHandle, Update},
    endpoint::Endpoint,
    node::{Fleet, Node},
    policy::Policy,
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
    news: News,
    /// When a set that is known to be gone is no longer kept.
    clear_at: Option<Instant>,
    /// When the policy wants its pickers built anew.
    rebuild_at: Option<Instant>,
    /// As so many endpoints the snapshot takes to drop.
    published_size: usize,
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
            news: News::default(),
            clear_at: None,
            rebuild_at: None,
            published_size: 0,
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
        let served = catch_panic(self.serve(updates, ends, attended)).await;
        let empty = Roster::new(Arc::clone(&self.fleet));
        let roster = std::mem::replace(&mut self.roster, empty);
        // The farewell goes before the services.
        drop(self);
        close(&roster).await;
        let_go(roster.listed().len(), roster);
        if let Err(panic) = served {
            resume_unwind(panic);
        }
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
            // At the end, since all of this may make some.
            let (calls, nodes) = (self.shared.waiting(), self.roster.listed().len());
            self.news.pass_on(&self.fleet.signal, calls, nodes, self.fleet.now());
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let dials = self.dials.next_due().map(|nanos| self.fleet.instant(nanos));
        let leaving = self.leaving.as_ref().map(Leaving::next_look);
        let news = self.news.due();
        [dials, self.clear_at, self.rebuild_at, self.roster.next_overdue(), leaving, news]
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
}

/// What panicked is not polled again, nor looked at but for its end.
async fn catch_panic<T>(work: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        polled.map_or_else(|panic| Poll::Ready(Err(panic)), |polled| polled.map(Ok))
    })
    .await
}

/// Closes what the services have open, which a peer that reads no more could else keep for ever.
async fn close<S>(roster: &Roster<S>) {
    let mut turn = Turn::begin(&roster.fleet);
    for node in roster.nodes() {
        node.outlive_pool();
        if !turn.goes_on(&roster.fleet) {
            tokio::task::yield_now().await;
            turn = Turn::begin(&roster.fleet);
        }
    }
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
