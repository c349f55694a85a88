//! From a source, a policy and a client to a balancer.

use std::fmt;

use super::{
    body::{AtBodyEnd, AtResponse},
    layer::BalanceLayer,
    plan::Plan,
    service::{Balance, Unset},
};
use crate::{
    discovery::{Discover, OnEmpty, Target},
    endpoint::Locality,
    error::BuildError,
    health::AnyResponse,
    node::Clock,
    policy::{IntoPolicy, LeastLoad, NoKey},
    pool::{
        MakeEndpoint, Settings,
        settings::{Changes, setters},
    },
};

/// Collects what a balancer is made of.
///
/// | setting | default |
/// |---|---|
/// | [`policy`](Self::policy) | [`LeastLoad`]: the least expected cost of all endpoints, above 64 of six at random |
/// | [`wait_for_endpoints`](Self::wait_for_endpoints) | 5 s |
/// | [`max_waiting`](Self::max_waiting) | 10,000 calls |
/// | [`attempt_timeout`](Self::attempt_timeout) | none |
/// | [`max_in_flight`](Self::max_in_flight) | none |
/// | [`drain_timeout`](Self::drain_timeout) | 30 s |
/// | [`keep_connected`](Self::keep_connected) | 64 endpoints |
/// | [`subset`](Self::subset) | all endpoints |
/// | [`on_empty`](Self::on_empty) | the source's own choice |
/// | [`prefer_locality`](Self::prefer_locality) | as the endpoints' hints say |
/// | [`here`](Self::here) | as the environment and the source say |
/// | [`measure_latency`](Self::measure_latency) | where the policy needs it, as the default does |
/// | [`classify`](Self::classify) | HTTP and gRPC, by status and trailers |
/// | [`tell_endpoint`](Self::tell_endpoint) | in each response's extensions |
///
/// It ends with [`make`](Self::make) or [`layer`](Self::layer), for any client, or with one of those
/// of the crate: `http` (feature `http`), `https` (`tls`), `reqwest` and `tonic` (features of their
/// names).
#[must_use = "a builder does nothing until `make`, `layer`, `http` or the like ends it"]
pub struct Builder<D, K = NoKey, C = AtBodyEnd> {
    source: D,
    plan: Plan<K>,
    complete: C,
}

// === impl Balance ===

impl Balance<Unset> {
    /// A balancer over what `target` names, such as `static://10.0.0.1:80,10.0.0.2:80`.
    ///
    /// # Errors
    /// A target that does not parse, or whose scheme this build does not serve.
    ///
    /// ```
    /// use evenkeel::Balance;
    ///
    /// let error = Balance::to("static://10.0.0.1:80,10.0.0.1:0").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "endpoint list, byte 21: `10.0.0.1:0` has port 0, which cannot be dialled",
    /// );
    /// ```
    pub fn to(target: &str) -> Result<Builder<Target>, BuildError> {
        Ok(Self::builder(target.parse::<Target>()?))
    }

    /// A balancer over what `source` discovers: a [`Registry`](crate::discovery::Registry), a
    /// stream of updates, or any [`Discover`]. Every builder begins with its source, so that none can
    /// be without:
    ///
    /// ```compile_fail,E0061
    /// let balance = evenkeel::Balance::builder().http();
    /// ```
    pub fn builder<D: Discover>(source: D) -> Builder<D> {
        let plan = Plan {
            changes: Changes::default(),
            policy: LeastLoad::default().into_policy(),
            on_empty: None,
            here: None,
            clock: Clock::default(),
            seed: None,
            observer: None,
        };
        Builder { source, plan, complete: AtBodyEnd::default() }
    }
}

// === impl Builder ===

impl<D, K, C> Builder<D, K, C> {
    /// How an endpoint is picked.
    pub fn policy<P: IntoPolicy>(self, policy: P) -> Builder<D, P::Key, C> {
        let plan = Plan {
            changes: self.plan.changes,
            policy: policy.into_policy(),
            on_empty: self.plan.on_empty,
            here: self.plan.here,
            clock: self.plan.clock,
            seed: self.plan.seed,
            observer: self.plan.observer,
        };
        Builder { source: self.source, plan, complete: self.complete }
    }

    /// What a known-empty answer of discovery does, whatever the source would choose.
    pub fn on_empty(mut self, on_empty: OnEmpty) -> Self {
        self.plan.on_empty = Some(on_empty);
        self
    }

    /// Where this process runs, for endpoints that are preferred for being
    /// [near](crate::pool::LocalityPreference). What is not said here is taken from the environment
    /// ([`Locality::from_env`]), and what that does not say from the source, where it finds out.
    pub fn here(mut self, here: Locality) -> Self {
        self.plan.here = Some(here);
        self
    }

    /// Where time is read; tokio's clock by default.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.plan.clock = clock;
        self
    }

    /// Fixes chance, so that the same calls make the same picks; for tests. By default every
    /// balancer has its own.
    pub fn seed(mut self, seed: u64) -> Self {
        self.plan.seed = Some(seed);
        self
    }

    /// Takes over all that `settings` names.
    pub fn settings(mut self, settings: Settings<K>) -> Self {
        self.plan.changes = self.plan.changes.then(settings.changes);
        if let Some(policy) = settings.policy {
            self.plan.policy = policy;
        }
        self
    }

    /// Who keeps account of the balancers that are made of this.
    #[cfg(feature = "metrics")]
    pub(crate) fn observe(mut self, observer: crate::pool::observer::ObserverFactory) -> Self {
        self.plan.observer = Some(observer);
        self
    }

    /// What is looked for.
    #[cfg(feature = "tls")]
    pub(crate) fn target(&self) -> std::sync::Arc<str>
    where
        D: Discover,
    {
        self.source.target()
    }

    setters!(plan.changes);

    /// A response is complete as soon as it comes: for services that are not HTTP.
    pub fn complete_at_response(self) -> Builder<D, K, AtResponse> {
        let complete = AtResponse { classify: AnyResponse };
        Builder { source: self.source, plan: self.plan, complete }
    }
}

impl<D, K, Cl> Builder<D, K, AtBodyEnd<Cl>> {
    /// What counts as a failure; [`HttpClassify`](crate::health::HttpClassify) by default.
    pub fn classify<New>(self, classify: New) -> Builder<D, K, AtBodyEnd<New>> {
        let complete = AtBodyEnd { classify, tell_endpoint: self.complete.tell_endpoint };
        Builder { source: self.source, plan: self.plan, complete }
    }

    /// Whether the [`Endpoint`](crate::Endpoint) is put into the extensions of each response; on by
    /// default. It costs some allocations; [`BalancedBody::endpoint`](crate::BalancedBody::endpoint)
    /// tells it without.
    pub fn tell_endpoint(mut self, tell: bool) -> Self {
        self.complete.tell_endpoint = tell;
        self
    }
}

impl<D, K, Cl> Builder<D, K, AtResponse<Cl>> {
    /// What counts as a failure; any error, and no response, by default.
    pub fn classify<New>(self, classify: New) -> Builder<D, K, AtResponse<New>> {
        Builder { source: self.source, plan: self.plan, complete: AtResponse { classify } }
    }
}

impl<D, K, C> Builder<D, K, C>
where
    D: Discover,
    K: Clone + Send + Sync + 'static,
{
    /// A balancer over one service for each endpoint, made by `make`: a `Fn(&Endpoint) -> S`, or
    /// any [`MakeEndpoint`]. Its service is a tower service that is `Clone + Send + Sync`, and answers
    /// with `http` responses; for any other answer call
    /// [`complete_at_response`](Self::complete_at_response) first.
    ///
    /// An error of such a service that has a refused connection among its causes counts as unprocessed: the
    /// request got nowhere. A service with further hops, such as a client that follows redirects or goes
    /// through a proxy, can be refused by a later one; it has to say so by
    /// [`Unsent::ambiguous`](crate::Unsent::ambiguous).
    ///
    /// # Errors
    /// No tokio runtime here, or one without timers (see tokio's `enable_all`: the crate's own
    /// transport needs its IO, too), a setting out of range, or a key that can never match.
    ///
    /// # Panics
    /// Never; but tokio tells that it has no timers by a panic alone, which is caught here: its message is
    /// printed, and a program that aborts on panics ends. A panic in the source, the policy or `make`
    /// closes the balancer.
    pub fn make<M: MakeEndpoint>(self, make: M) -> Result<Balance<M::Service, K, C>, BuildError> {
        let checked = self.plan.check()?;
        Ok(checked.start(self.source, make, self.complete))
    }

    /// A layer over one client that dials what a request's URI says, as most plain HTTP clients
    /// do: each request's URI is pointed at the endpoint picked, and its `Host` is kept.
    ///
    /// The layer makes a balancer of its own for every client it is put over. It serves plain HTTP:
    /// a request for `https` is refused, since the client would check the certificate against an
    /// address.
    ///
    /// The client should go nowhere else: what follows redirects belongs over the balancer. Where a later
    /// hop refuses the connection, the error would say that the request is
    /// [unprocessed](crate::Error::is_unprocessed), though the first may have processed it.
    ///
    /// # Errors
    /// Those of [`make`](Self::make).
    pub fn layer(self) -> Result<BalanceLayer<D, K, C>, BuildError>
    where
        D: Clone,
    {
        Ok(BalanceLayer::new(self.source, self.plan.check()?, self.complete))
    }
}

impl<D, K, C> fmt::Debug for Builder<D, K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("changes", &self.plan.changes).finish_non_exhaustive()
    }
}
