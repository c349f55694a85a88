//! Gauges by the `metrics` facade, for whichever recorder the program installs.
//!
//! Balancers of the same target share a series, so that a program has as many as it has targets,
//! whatever their endpoints do. Each therefore adds what is its own and takes it back, and none sets
//! the whole. That needs one handle from beginning to end: asked for anew each time, it could be of
//! a recorder that was installed in between, and take from it what it never gave.

use std::sync::Arc;

use metrics::{Gauge, Unit, describe_gauge, gauge};

use crate::{
    balance::Builder,
    pool::observer::{Discovered, Observer},
};

const FAILING: &str = "evenkeel_discovery_failing";
const ENDPOINTS: &str = "evenkeel_endpoints";

/// What one balancer has added to the series of its target.
struct DiscoveryGauges {
    failing: Gauge,
    endpoints: Gauge,
    added: Discovered,
}

// === impl Builder ===

impl<D, K, C> Builder<D, K, C> {
    /// Keeps gauges of the balancer by the [`metrics`](::metrics) facade; off by default. Feature `metrics`.
    ///
    /// | gauge | what it says |
    /// |---|---|
    /// | `evenkeel_discovery_failing` | 1 while the last word of discovery is an error (a watch that is refused, a nameserver that is silent, a set that is partly stale), else 0 |
    /// | `evenkeel_endpoints` | how many endpoints are known: listed by discovery, or kept from before it failed; with those outside of a [`Subset`](crate::pool::Subset) |
    ///
    /// Both have one label, `target`: the name of what is balanced, as in errors. Balancers of the
    /// same target, such as those that a [layer](Self::layer) makes, are added up: of two whose
    /// discovery fails, the first gauge says 2. When a balancer ends, what it has added is taken
    /// back, so the series of a target without balancers stand at 0.
    ///
    /// The recorder must be installed before the balancer is made; without one the gauges cost
    /// nothing, and go nowhere. They are written when they change: an exporter that forgets what is
    /// idle must not be told to forget gauges.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use evenkeel::{Balance, Endpoint};
    /// use tower::service_fn;
    ///
    /// // First the recorder: `PrometheusBuilder::new().install()?`, say. Then:
    /// let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
    ///     .metrics()
    ///     .complete_at_response()
    ///     .make(|_: &Endpoint| service_fn(|_: ()| std::future::ready(Ok::<_, std::io::Error>(()))))?;
    /// # drop(balance);
    /// # Ok(()) }
    /// ```
    pub fn metrics(self) -> Self {
        self.observe(Arc::new(|target| Box::new(DiscoveryGauges::of(target))))
    }
}

// === impl DiscoveryGauges ===

impl DiscoveryGauges {
    fn of(target: &Arc<str>) -> Self {
        describe_gauge!(FAILING, Unit::Count, "Balancers whose discovery fails.");
        describe_gauge!(ENDPOINTS, Unit::Count, "Endpoints that are known to balancers.");
        let gauges = Self {
            failing: gauge!(FAILING, "target" => Arc::clone(target)),
            endpoints: gauge!(ENDPOINTS, "target" => Arc::clone(target)),
            added: Discovered::default(),
        };
        // So that the series are there, and alerts on them can be trusted, before anything happens.
        gauges.failing.increment(0.0);
        gauges.endpoints.increment(0.0);
        gauges
    }
}

impl Observer for DiscoveryGauges {
    fn discovered(&mut self, now: Discovered) {
        let of = |discovered: Discovered| {
            [f64::from(u8::from(discovered.failing)), discovered.endpoints as f64]
        };
        let ([failing, endpoints], [failed, counted]) = (of(now), of(self.added));
        // Whole numbers below 2^53 add up exactly.
        self.failing.increment(failing - failed);
        self.endpoints.increment(endpoints - counted);
        self.added = now;
    }
}

impl Drop for DiscoveryGauges {
    fn drop(&mut self) {
        self.discovered(Discovered::default());
    }
}
