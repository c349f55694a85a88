//! Round robin by the load that endpoints report.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Picker, Policy, Tier, WeighReport,
    built::Built,
    round_robin::{Positions, Turns},
    schedule::Schedule,
};
use crate::node::{LoadReport, Node};

/// Round robin by weights that endpoints report themselves (gRFC A58, `weighted_round_robin`).
///
/// Responses over HTTP bring [load reports](LoadReport) (ORCA) in a header or trailer; for other
/// protocols see [`Lease::report`](crate::node::Lease::report). A report's weight is
/// `rps / (utilization + eps / rps * penalty)`: what the endpoint could serve, were it fully used. The
/// weights are taken up every [`update_period`](Self::update_period) into an exact, lock-free schedule
/// (A58's static stride), whose position survives that.
///
/// An endpoint without a usable report has the mean weight of those with one, and none counts for more
/// than ten times the mean or less than a hundredth of it, as in gRPC core. Where fewer than two
/// have one, the weights of discovery decide, as in round robin; from then on the reports alone do.
///
/// | setting | default |
/// |---|---|
/// | [`blackout_period`](Self::blackout_period) | 10 s |
/// | [`weight_expiration`](Self::weight_expiration) | 3 min |
/// | [`update_period`](Self::update_period) | 1 s |
/// | [`error_penalty`](Self::error_penalty) | 1 |
/// | [`utilization_metrics`](Self::utilization_metrics) | none |
///
/// ```
/// use evenkeel::{Balance, policy::WeightedRoundRobin};
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = WeightedRoundRobin::new().blackout_period(Duration::from_secs(5));
/// # #[cfg(feature = "http")]
/// let service = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?.policy(policy).http()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct WeightedRoundRobin {
    blackout: Duration,
    expiration: Duration,
    update: Duration,
    penalty: f64,
    metrics: Arc<[Box<str>]>,
    positions: Positions,
    /// The turns while no reports say otherwise, which are made anew as often.
    unreported: Built<Turns>,
}

/// Weights are not taken up more often than this (A58).
const LEAST_UPDATE: Duration = Duration::from_millis(100);

// === impl WeightedRoundRobin ===

impl WeightedRoundRobin {
    /// With gRPC's defaults; the penalty for errors is 1, as in A58's text.
    pub fn new() -> Self {
        Self {
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            update: Duration::from_secs(1),
            penalty: 1.0,
            metrics: Arc::new([]),
            positions: Positions::new(),
            unreported: Built::default(),
        }
    }

    /// How long an endpoint's reports must have come, since it connected, before they count: its first
    /// ones say little. 0 for at once.
    #[must_use]
    pub fn blackout_period(mut self, period: Duration) -> Self {
        self.blackout = period;
        self
    }

    /// The age at which a report counts no longer.
    #[must_use]
    pub fn weight_expiration(mut self, period: Duration) -> Self {
        self.expiration = period;
        self
    }

    /// How often the schedule takes up new weights, at least 0.1 s.
    #[must_use]
    pub fn update_period(mut self, period: Duration) -> Self {
        self.update = period.max(LEAST_UPDATE);
        self
    }

    /// How much the share of errors adds to the utilization; 0 for not at all. Below 0, or no number,
    /// is 0.
    #[must_use]
    pub fn error_penalty(mut self, penalty: f64) -> Self {
        self.penalty = if penalty > 0.0 { penalty } else { 0.0 };
        self
    }

    /// Metrics that say how much of an endpoint is used, by the names that [`LoadReport::metric`]
    /// takes: of those above 0 the highest counts (gRFC A114). Without any, the application's own
    /// utilization, or else that of the CPU.
    ///
    /// ```
    /// use evenkeel::policy::WeightedRoundRobin;
    /// let _policy = WeightedRoundRobin::new()
    ///     .utilization_metrics(["named_metrics.queue", "mem_utilization"]);
    /// ```
    #[must_use]
    pub fn utilization_metrics<N: Into<Box<str>>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.metrics = names.into_iter().map(Into::into).collect();
        self
    }

    fn weight(&self, node: &Node, now: Instant) -> f64 {
        node.reported_weight(self.blackout, self.expiration, now).unwrap_or(0.0)
    }
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for WeightedRoundRobin {
    fn weigh_reports(&self) -> Option<WeighReport> {
        let (penalty, metrics) = (self.penalty, Arc::clone(&self.metrics));
        Some(WeighReport::new(move |report| weigh(report, penalty, &metrics)))
    }

    fn rebuild_every(&self) -> Option<Duration> {
        Some(self.update)
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let now = tier.now();
        let weights: Vec<_> = tier.nodes().iter().map(|node| self.weight(node, now)).collect();
        let reported = weights.iter().filter(|&&weight| weight > 0.0).count() > 1;
        let positions = &mut self.positions;
        if reported {
            return Arc::new(positions.turns(tier, Schedule::of_measured(&weights)));
        }
        self.unreported.reuse_or(tier, || positions.turns(tier, Schedule::of(tier.weights())))
    }
}

/// The weight of a report by A58, with A114's choice of the utilization.
fn weigh(report: &LoadReport, penalty: f64, metrics: &[Box<str>]) -> Option<f64> {
    let named = metrics.iter().filter_map(|name| report.metric(name));
    let named = named.filter(|&value| value > 0.0).fold(0.0, f64::max);
    let utilization = if named > 0.0 {
        named
    } else if report.application_utilization > 0.0 {
        report.application_utilization
    } else {
        report.cpu_utilization
    };
    if !(report.rps > 0.0 && utilization > 0.0) {
        return None;
    }
    let errors = if report.eps > 0.0 { report.eps / report.rps * penalty } else { 0.0 };
    Some(report.rps / (utilization + errors))
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    fn report(rps: f64, eps: f64, cpu: f64, application: f64) -> LoadReport {
        let mut report = LoadReport { rps, eps, cpu_utilization: cpu, ..LoadReport::default() };
        report.application_utilization = application;
        report
    }

    /// grpc-go, weightedroundrobin/balancer_test.go: TwoAddresses_ReportingEnabledPerCall,
    /// -ReportingEnabledOOB (application over CPU), -ErrorPenalty, AddressesChanging.
    #[test]
    fn grpc_go_weights() {
        let weight = |rps, eps, cpu, application, penalty| {
            weigh(&report(rps, eps, cpu, application), penalty, &[]).unwrap()
        };
        assert_eq!(weight(10.0, 0.0, 0.0, 1.0, 0.0), 10.0);
        assert_eq!(weight(10.0, 0.0, 0.0, 0.1, 0.0), 100.0);
        assert_eq!(weight(10.0, 0.0, 0.1, 0.0, 0.0), 100.0, "the CPU alone");
        assert_eq!(weight(10.0, 0.0, 2.0, 0.1, 0.0), 100.0, "the application's own over the CPU");
        assert_eq!(weight(10.0, 10.0, 0.0, 0.1, 0.0), 100.0, "no penalty");
        assert_eq!(weight(10.0, 10.0, 0.0, 0.1, 0.9), 10.0, "a penalty of 0.9");
        assert_eq!(weight(20.0, 0.0, 0.0, 1.0, 0.0), 20.0);
        assert_eq!(weight(20.0, 0.0, 0.0, 0.1, 0.0), 200.0);
    }

    /// A58: a report without requests or without utilization is none.
    #[test]
    fn a_report_that_says_nothing_is_left_out() {
        for (rps, cpu) in [(0.0, 0.5), (10.0, 0.0), (-1.0, 0.5), (10.0, -0.5), (0.0, 0.0)] {
            assert_eq!(weigh(&report(rps, 0.0, cpu, 0.0), 1.0, &[]), None, "{rps} {cpu}");
        }
    }

    /// A114: of the metrics named the highest above 0; without one, as if none were named.
    #[test]
    fn named_metrics_decide_where_they_are_above_zero() {
        let metrics =
            ["named_metrics.queue".into(), "utilization.disk".into(), "mem_utilization".into()];
        let mut report = report(100.0, 0.0, 0.5, 0.0);
        let weight = |report: &LoadReport| weigh(report, 1.0, &metrics).unwrap();
        assert_eq!(weight(&report), 200.0, "none of them is there");
        report.named_metrics.insert("queue".into(), -3.0);
        assert_eq!(weight(&report), 200.0);
        report.utilization.insert("disk".into(), 0.25);
        assert_eq!(weight(&report), 400.0);
        report.memory_utilization = 0.8;
        assert_eq!(weight(&report), 125.0);
    }
}
