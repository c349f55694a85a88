//! What an endpoint says of its own load (ORCA, Open Request Cost Aggregation), and what its node
//! keeps of it: one weight, and since when.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;

use super::epoch::nanos;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How busy an endpoint says it is: the fields of ORCA's `OrcaLoadReport`
/// (`xds/data/orca/v3/orca_load_report.proto`). What a report leaves out is 0.
///
/// ```
/// use evenkeel::node::LoadReport;
/// use http::HeaderMap;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(
///     "endpoint-load-metrics",
///     "TEXT cpu_utilization=0.5,rps_fractional=100,eps=2,named_metrics.queue=0.8".parse().unwrap(),
/// );
/// let report = LoadReport::from_headers(&headers).unwrap().unwrap();
/// assert_eq!((report.cpu_utilization, report.rps, report.eps), (0.5, 100.0, 2.0));
/// assert_eq!(report.metric("named_metrics.queue"), Some(0.8));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// CPU use as a share of what there is; above 1 where it may burst.
    pub cpu_utilization: f64,
    /// Memory use as a share of what there is, 0 to 1.
    pub memory_utilization: f64,
    /// Use by a measure of the application's own; above 1 where it is over its limit.
    pub application_utilization: f64,
    /// Requests a second.
    pub rps: f64,
    /// Errors a second.
    pub eps: f64,
    /// Use of further resources by name, 0 to 1.
    pub utilization: BTreeMap<Box<str>, f64>,
    /// Costs of the request by name.
    pub request_cost: BTreeMap<Box<str>, f64>,
    /// Metrics of the application by name.
    pub named_metrics: BTreeMap<Box<str>, f64>,
}

/// What a policy makes of a report: a weight above 0, or nothing where the report cannot be used.
///
/// ```
/// use evenkeel::policy::WeighReport;
/// let _by_memory = WeighReport::new(|report| {
///     (report.memory_utilization > 0.0).then(|| 1.0 / report.memory_utilization)
/// });
/// ```
#[derive(Clone)]
pub struct WeighReport(Arc<Weigh>);

type Weigh = dyn Fn(&LoadReport) -> Option<f64> + Send + Sync;

/// Whether reports are read at all, and what they are worth.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Looked at by every response, so that those who want no reports pay for nothing else.
    wanted: AtomicBool,
    weigh: ArcSwapOption<WeighReport>,
}

/// What a node remembers of its endpoint's reports. Written by responses, whichever comes last
/// stands; read when a picker is built.
#[derive(Debug)]
pub(crate) struct ReportCell {
    /// The bits of a positive `f64`.
    weight: AtomicU64,
    /// Nanoseconds of the fleet, and one; 0 for never.
    updated: AtomicU64,
    /// The same of the first report since the endpoint connected, or since the last one expired.
    since: AtomicU64,
}

const NEVER: u64 = 0;

// === impl LoadReport ===

impl LoadReport {
    /// A metric by the name that gRFC A114 gives it: `cpu_utilization`, `mem_utilization`,
    /// `application_utilization`, or one of a map, such as `utilization.disk` and
    /// `named_metrics.queue`. `None` if the report does not have it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        match name.split_once('.') {
            Some(("utilization", name)) => self.utilization.get(name).copied(),
            Some(("request_cost", name)) => self.request_cost.get(name).copied(),
            Some(("named_metrics", name)) => self.named_metrics.get(name).copied(),
            Some(_) => None,
            None => match name {
                "cpu_utilization" => Some(self.cpu_utilization),
                "mem_utilization" => Some(self.memory_utilization),
                "application_utilization" => Some(self.application_utilization),
                _ => None,
            },
        }
    }
}

// === impl WeighReport ===

impl WeighReport {
    /// Weighs by `weigh`. Called on the way of a response, so it must return at once.
    pub fn new(weigh: impl Fn(&LoadReport) -> Option<f64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(weigh))
    }

    /// The weight that `report` comes to; anything but a finite number above 0 is none.
    pub(crate) fn weigh(&self, report: &LoadReport) -> Option<f64> {
        (self.0)(report).filter(|weight| weight.is_finite() && *weight > 0.0)
    }
}

impl fmt::Debug for WeighReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeighReport")
    }
}

// === impl Reports ===

impl Reports {
    #[inline]
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, weigh: Option<WeighReport>) {
        self.wanted.store(weigh.is_some(), Ordering::Relaxed);
        self.weigh.store(weigh.map(Arc::new));
    }

    pub(crate) fn weigh(&self, report: &LoadReport) -> Option<f64> {
        self.weigh.load().as_ref()?.weigh(report)
    }
}

// === impl ReportCell ===

impl ReportCell {
    pub(crate) fn new() -> Self {
        Self {
            weight: AtomicU64::new(0),
            updated: AtomicU64::new(NEVER),
            since: AtomicU64::new(NEVER),
        }
    }

    /// Takes a report of `weight` at `now`, in nanoseconds of the fleet.
    pub(crate) fn learn(&self, weight: f64, now: u64) {
        let now = now.saturating_add(1);
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
        let _ = self.since.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
        // Last, so that who reads the time reads a weight that is no older.
        self.updated.store(now, Ordering::Release);
    }

    /// The endpoint connected anew: its first reports say little.
    pub(crate) fn connected(&self) {
        self.since.store(NEVER, Ordering::Relaxed);
    }

    /// The last weight at `now`, unless it is as old as `expiration` or reports have not come for as
    /// long as `blackout`. What has expired begins anew.
    pub(crate) fn weight(&self, blackout: Duration, expiration: Duration, now: u64) -> Option<f64> {
        let now = now.saturating_add(1);
        let updated = self.updated.load(Ordering::Acquire);
        if updated == NEVER {
            return None;
        }
        if now.saturating_sub(updated) >= nanos(expiration) {
            self.since.store(NEVER, Ordering::Relaxed);
            return None;
        }
        let since = self.since.load(Ordering::Relaxed);
        let settling = since == NEVER || now.saturating_sub(since) < nanos(blackout);
        let usable = blackout.is_zero() || !settling;
        usable.then(|| f64::from_bits(self.weight.load(Ordering::Relaxed)))
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// gRFC A58, "Subchannel Weights": blackout, expiration and reconnection.
    #[test]
    fn weights_wait_expire_and_begin_anew() {
        let cell = ReportCell::new();
        let (blackout, expiration) = (Duration::from_secs(10), Duration::from_secs(180));
        let weight = |now: u64| cell.weight(blackout, expiration, now);
        assert_eq!(weight(0), None, "no report");
        cell.learn(7.0, 0);
        assert_eq!(weight(10 * SECOND - 1), None, "blackout");
        assert_eq!(weight(10 * SECOND), Some(7.0));
        cell.learn(8.0, 100 * SECOND);
        assert_eq!(weight(280 * SECOND - 1), Some(8.0));
        assert_eq!(weight(280 * SECOND), None, "expired");
        cell.learn(9.0, 300 * SECOND);
        assert_eq!(weight(310 * SECOND - 1), None, "blackout again");
        assert_eq!(weight(310 * SECOND), Some(9.0));
        cell.connected();
        assert_eq!(weight(311 * SECOND), None, "nothing since it connected anew");
        assert_eq!(cell.weight(Duration::ZERO, expiration, 311 * SECOND), Some(9.0));
        cell.learn(5.0, 312 * SECOND);
        assert_eq!(weight(322 * SECOND), Some(5.0));
    }

    /// T11: a clock that goes back expires nothing and panics nowhere.
    #[test]
    fn t11_a_clock_that_goes_back_expires_nothing() {
        let cell = ReportCell::new();
        cell.learn(7.0, 100 * SECOND);
        assert_eq!(cell.weight(Duration::ZERO, Duration::from_secs(1), 0), Some(7.0));
    }

    #[test]
    fn what_is_no_weight_is_left_out() {
        for (value, expected) in
            [(2.0, Some(2.0)), (0.0, None), (-1.0, None), (f64::NAN, None), (f64::INFINITY, None)]
        {
            let weigh = WeighReport::new(move |_| Some(value));
            assert_eq!(weigh.weigh(&LoadReport::default()), expected);
        }
    }
}
