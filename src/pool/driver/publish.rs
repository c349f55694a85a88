//! What requests see of it all: settings, snapshots, and the end of what is no longer listed.

use std::sync::Arc;

use super::{Driver, LEAST_BETWEEN_REBUILDS};
use crate::{
    node::{LatencyModel, after},
    policy::{Policy, Preconnect, Scope},
    pool::{
        apply::Settling,
        build::{Blueprint, Built, Draft},
        locality::Standpoint,
        make::MakeEndpoint,
        settings::Changes,
        shared::model_of,
        snapshot::Snapshot,
        turns::{Turn, let_go_of_shared, off_worker, size_of_build},
    },
};

impl<M, K> Driver<M, K>
where
    M: MakeEndpoint,
    K: Clone + Send + Sync + 'static,
{
    pub(super) async fn change(&mut self, changes: &Changes, policy: Option<(Box<dyn Policy>, K)>) {
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
    pub(super) async fn publish(&mut self) -> Option<()> {
        self.outdated = false;
        let keep_connected = self.keep_connected();
        let policy = self.policy.take()?;
        let (scope, model) = (policy.scope(), model_of(&*policy, &self.limits));
        let standpoint =
            Standpoint { preference: self.limits.prefer_locality, here: self.place.settle() };
        let count = self.roster.listed().len();
        let size = size_of_build(count, policy.build_work(count));
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
        let built = off_worker(size, move || blueprint.build()).await?;
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
        let_go_of_shared(std::mem::replace(&mut self.published_size, size), before);
        let remade = std::mem::take(&mut self.remade);
        self.dial_again(remade);
        self.fleet.signal.raise();
        self.dials.follow(eager);
        self.settle().await;
        Some(())
    }

    /// Retires what no snapshot lists any longer.
    pub(super) async fn settle(&mut self) {
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

    pub(super) fn scope(&self) -> Scope {
        self.policy.as_ref().map_or(Scope::Usable, |policy| policy.scope())
    }

    pub(super) fn preconnect(&self) -> Preconnect {
        self.policy.as_ref().map_or(Preconnect::Many, |policy| policy.preconnect())
    }

    pub(super) fn show_draining(&mut self) {
        self.drained = false;
        let draining: Vec<_> = self.roster.draining().cloned().collect();
        if !(draining.is_empty() && self.shared.draining.load().is_empty()) {
            self.shared.draining.store(Arc::new(draining));
        }
    }
}
