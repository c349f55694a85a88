//! What a balancer is made of, before and after it has been checked.

use super::service::Balance;
use crate::{
    discovery::{Discover, OnEmpty, refresh},
    endpoint::Locality,
    error::BuildError,
    node::{Clock, Fleet, Seeds},
    policy::PolicyFactory,
    pool::{
        MakeEndpoint,
        driver::Driver,
        locality::Place,
        observer::ObserverFactory,
        settings::{Changes, Limits},
        shared::Shared,
    },
};

/// What a builder collects besides its source.
pub(super) struct Plan<K> {
    pub(super) changes: Changes,
    pub(super) policy: Result<(PolicyFactory, K), BuildError>,
    pub(super) on_empty: Option<OnEmpty>,
    pub(super) here: Option<Locality>,
    pub(super) clock: Clock,
    pub(super) seed: Option<u64>,
    pub(super) observer: Option<ObserverFactory>,
}

/// A plan that has been checked: balancers can be made of it without fail.
#[derive(Clone)]
pub(super) struct Checked<K> {
    limits: Limits,
    policy: PolicyFactory,
    key: K,
    on_empty: Option<OnEmpty>,
    here: Option<Locality>,
    clock: Clock,
    seed: Option<u64>,
    observer: Option<ObserverFactory>,
    runtime: tokio::runtime::Handle,
}

// === impl Plan ===

impl<K> Plan<K> {
    pub(super) fn check(self) -> Result<Checked<K>, BuildError> {
        let (policy, key) = self.policy?;
        let limits = Limits::default().with(&self.changes)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        if !self.clock.has_timers() {
            return Err(BuildError::NoTimers);
        }
        Ok(Checked {
            limits,
            policy,
            key,
            on_empty: self.on_empty,
            here: self.here,
            clock: self.clock,
            seed: self.seed,
            observer: self.observer,
            runtime,
        })
    }
}

// === impl Checked ===

impl<K: Clone + Send + Sync + 'static> Checked<K> {
    /// Starts the one task of a balancer over `source`.
    pub(super) fn start<D, M, C>(self, source: D, make: M, complete: C) -> Balance<M::Service, K, C>
    where
        D: Discover,
        M: MakeEndpoint,
    {
        let seeds = self.seed.map_or(Seeds::Thread, Seeds::fixed);
        let (fleet, attended) = Fleet::on(Some(self.runtime.clone()), self.clock, seeds);
        let (shared, ends) = Shared::begin(self.key, self.limits, fleet, source.target());
        let (refresh, requests) = refresh::channel();
        let on_empty = self.on_empty.unwrap_or_else(|| source.on_empty());
        let known = self.here.unwrap_or_default().or(&Locality::from_env());
        let place = Place::new(known, source.here());
        let observer = self.observer.map(|observer| observer(&shared.target));
        let policy = self.policy.make();
        let driver = Driver::new(&shared, make, policy, on_empty, refresh, place, observer);
        let updates = move || -> crate::pool::driver::Updates { Box::pin(source.watch(requests)) };
        self.runtime.spawn(driver.run(updates, ends, attended));
        Balance::new(shared, complete)
    }
}
