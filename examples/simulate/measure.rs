//! What came of the requests of one run.

use std::ops::Range;

use crate::{
    scenario::Scenario,
    time::{MILLI, Nanos},
};

/// Shares are counted in steps of this.
pub(crate) const STEP: Nanos = 250 * MILLI;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    Failed,
    TimedOut,
}

/// One run's requests: those sent after the warm-up.
#[derive(Debug)]
pub(crate) struct Measured {
    from: Nanos,
    watched: Range<usize>,
    /// Nanoseconds until the answer, or until the client gave up. An error has none: it is never a
    /// fast answer.
    latencies: Vec<u32>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) timed_out: u64,
    /// Requests to the watched servers, and to all, in each step of the run.
    pub(crate) shares: Vec<(u32, u32)>,
}

impl Measured {
    pub(crate) fn new(scenario: Scenario, until: Nanos) -> Self {
        Self {
            from: scenario.measured_from(),
            watched: scenario.watched().0,
            latencies: Vec::new(),
            requests: 0,
            failed: 0,
            timed_out: 0,
            shares: vec![(0, 0); until.div_ceil(STEP) as usize],
        }
    }

    pub(crate) fn sent(&mut self, now: Nanos, server: usize) {
        if let Some((watched, all)) = self.shares.get_mut((now / STEP) as usize) {
            *all += 1;
            *watched += u32::from(self.watched.contains(&server));
        }
    }

    pub(crate) fn ended(&mut self, sent_at: Nanos, now: Nanos, ending: Ending) {
        if sent_at < self.from {
            return;
        }
        self.requests += 1;
        match ending {
            Ending::Failed => {
                self.failed += 1;
                return;
            }
            Ending::TimedOut => self.timed_out += 1,
            Ending::Answered => {}
        }
        // The longest is the timeout of 2 s, and 4.2 s fit.
        self.latencies.push((now - sent_at) as u32);
    }

    /// The latencies in milliseconds at `quantiles`, each from 0 to 1.
    pub(crate) fn latencies(&mut self, quantiles: impl IntoIterator<Item = f64>) -> Vec<f64> {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1) as f64;
        let at = |quantile: f64| self.latencies.get((quantile * last).round() as usize);
        let millis = |quantile| at(quantile).map_or(f64::NAN, |&nanos| f64::from(nanos) / 1e6);
        quantiles.into_iter().map(millis).collect()
    }

    /// The mean latency in milliseconds.
    pub(crate) fn mean_latency(&self) -> f64 {
        let sum: u64 = self.latencies.iter().map(|&nanos| u64::from(nanos)).sum();
        sum as f64 / 1e6 / self.latencies.len() as f64
    }
}
