//! What can be set, and changed while the balancer runs.

use std::time::Duration;

use super::locality::LocalityPreference;
use super::subset::Subset;
use crate::{
    error::BuildError,
    node::LatencyModel,
    policy::{IntoPolicy, PolicyFactory},
};

/// Changes to a balancer's settings; what is not named stays as it is.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::{pool::Settings, policy::RoundRobin};
///
/// let settings = Settings::new().policy(RoundRobin::new()).attempt_timeout(Duration::from_secs(2));
/// # let _: Settings = settings;
/// ```
#[derive(Debug)]
#[must_use = "settings do nothing until a builder or a handle takes them"]
pub struct Settings<K = crate::policy::NoKey> {
    pub(crate) changes: Changes,
    pub(crate) policy: Option<Result<(PolicyFactory, K), BuildError>>,
}

/// The settings but for the policy, each where it was named.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) wait_for_endpoints: Option<Duration>,
    pub(crate) max_waiting: Option<usize>,
    pub(crate) attempt_timeout: Option<Option<Duration>>,
    pub(crate) max_in_flight: Option<Option<u32>>,
    pub(crate) drain_timeout: Option<Duration>,
    pub(crate) keep_connected: Option<usize>,
    pub(crate) measure_latency: Option<bool>,
    pub(crate) subset: Option<Subset>,
    pub(crate) prefer_locality: Option<LocalityPreference>,
}

/// The settings in force, but for the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) wait_for_endpoints: Duration,
    pub(crate) max_waiting: usize,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) drain_timeout: Duration,
    pub(crate) keep_connected: usize,
    pub(crate) measure_latency: bool,
    pub(crate) subset: Subset,
    pub(crate) prefer_locality: LocalityPreference,
}

/// The setters that [`Settings`] and [`Builder`](crate::Builder) have in common.
macro_rules! setters {
    ($($changes:ident).+) => {
        /// How long a call waits for an endpoint while there is hope of one; 5 s by default, 0 fails
        /// at once.
        pub fn wait_for_endpoints(mut self, wait: std::time::Duration) -> Self {
            self.$($changes).+.wait_for_endpoints = Some(wait);
            self
        }

        /// How many calls may wait for an endpoint at once; 10,000 by default. Further ones fail.
        pub fn max_waiting(mut self, calls: usize) -> Self {
            self.$($changes).+.max_waiting = Some(calls);
            self
        }

        /// How long one attempt may take up to the response head; no limit by default. An attempt
        /// that takes longer is a failure of its endpoint.
        pub fn attempt_timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
            self.$($changes).+.attempt_timeout = Some(timeout.into());
            self
        }

        /// How many requests may be in flight on one endpoint; no limit by default. A call for which
        /// every endpoint is at its cap fails at once. One that waits because others are not connected
        /// yet is told of the first place that becomes free, in the order in which they came; one that comes
        /// at that moment may be faster. A call by key that waits for the first dial of an endpoint is
        /// told of places on those that its key leads to before that, and on no others.
        pub fn max_in_flight(mut self, requests: impl Into<Option<u32>>) -> Self {
            self.$($changes).+.max_in_flight = Some(requests.into());
            self
        }

        /// How long the requests of a removed endpoint may still take; 30 s by default. What runs then is
        /// cut; connections on which nothing runs are closed in good order. A connection that an HTTP/1.1
        /// upgrade or CONNECT made the caller's own is neither.
        pub fn drain_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.$($changes).+.drain_timeout = Some(timeout);
            self
        }

        /// How many endpoints are kept connected without any traffic; 64 by default. Further ones are
        /// dialled when a request wants them.
        pub fn keep_connected(mut self, endpoints: usize) -> Self {
            self.$($changes).+.keep_connected = Some(endpoints);
            self
        }

        /// The part of the endpoints that is used, and so connected; all of them by default.
        pub fn subset(mut self, subset: $crate::pool::Subset) -> Self {
            self.$($changes).+.subset = Some(subset);
            self
        }

        /// Whether latency is measured also where the policy does not need it, so that
        /// [`status`](crate::pool::Status) shows it; off by default, as it costs two clock reads a request.
        pub fn measure_latency(mut self, measure: bool) -> Self {
            self.$($changes).+.measure_latency = Some(measure);
            self
        }

        /// Whether endpoints near this process are preferred, and which those are; as their hints
        /// say by default. See [`Builder::here`](crate::Builder::here) for where this process is.
        pub fn prefer_locality(mut self, preference: crate::pool::LocalityPreference) -> Self {
            self.$($changes).+.prefer_locality = Some(preference);
            self
        }
    };
}
pub(crate) use setters;

// === impl Changes ===

impl Changes {
    /// These changes, and then `later`.
    pub(crate) fn then(self, later: Self) -> Self {
        Self {
            wait_for_endpoints: later.wait_for_endpoints.or(self.wait_for_endpoints),
            max_waiting: later.max_waiting.or(self.max_waiting),
            attempt_timeout: later.attempt_timeout.or(self.attempt_timeout),
            max_in_flight: later.max_in_flight.or(self.max_in_flight),
            drain_timeout: later.drain_timeout.or(self.drain_timeout),
            keep_connected: later.keep_connected.or(self.keep_connected),
            measure_latency: later.measure_latency.or(self.measure_latency),
            subset: later.subset.or(self.subset),
            prefer_locality: later.prefer_locality.or(self.prefer_locality),
        }
    }
}

// === impl Settings ===

impl<K> Settings<K> {
    /// No change.
    pub fn new() -> Self {
        Self { changes: Changes::default(), policy: None }
    }

    /// Another policy, over the same kind of request key. Nodes keep their connections, counts and
    /// estimates.
    ///
    /// A balancer that reads no key takes no policy that hashes one:
    ///
    /// ```compile_fail,E0271
    /// use evenkeel::{policy::{NoKey, Rendezvous}, pool::Settings};
    /// let _ = Settings::<NoKey>::new().policy(Rendezvous::by_header("x-user"));
    /// ```
    pub fn policy(mut self, policy: impl IntoPolicy<Key = K>) -> Self {
        self.policy = Some(policy.into_policy());
        self
    }

    setters!(changes);
}

impl<K> Default for Settings<K> {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            wait_for_endpoints: Duration::from_secs(5),
            max_waiting: 10_000,
            attempt_timeout: None,
            max_in_flight: None,
            drain_timeout: Duration::from_secs(30),
            keep_connected: 64,
            measure_latency: false,
            subset: Subset::all(),
            prefer_locality: LocalityPreference::default(),
        }
    }
}

impl Limits {
    /// These limits with `changes`.
    pub(crate) fn with(self, changes: &Changes) -> Result<Self, BuildError> {
        let out_of_range = |setting, reason| Err(BuildError::Setting { setting, reason });
        let limits = Self {
            wait_for_endpoints: changes.wait_for_endpoints.unwrap_or(self.wait_for_endpoints),
            max_waiting: changes.max_waiting.unwrap_or(self.max_waiting),
            attempt_timeout: changes.attempt_timeout.unwrap_or(self.attempt_timeout),
            max_in_flight: changes.max_in_flight.unwrap_or(self.max_in_flight),
            drain_timeout: changes.drain_timeout.unwrap_or(self.drain_timeout),
            keep_connected: changes.keep_connected.unwrap_or(self.keep_connected),
            measure_latency: changes.measure_latency.unwrap_or(self.measure_latency),
            subset: changes.subset.unwrap_or(self.subset),
            prefer_locality: changes.prefer_locality.unwrap_or(self.prefer_locality),
        };
        if limits.attempt_timeout == Some(Duration::ZERO) {
            return out_of_range("attempt_timeout", "no attempt can succeed in no time");
        }
        if let Err(reason) = limits.subset.check() {
            return out_of_range("subset", reason);
        }
        if limits.max_in_flight == Some(0) {
            return out_of_range("max_in_flight", "no endpoint could take a request");
        }
        Ok(limits)
    }

    /// What is measured under a policy that needs `model`.
    pub(crate) fn latency_model(&self, model: LatencyModel) -> LatencyModel {
        if self.measure_latency { model.max(LatencyModel::Average) } else { model }
    }
}
