//! What is compared: the load of a node.

use super::{LatencyModel, PickContext};
use crate::node::Node;

/// The load of a node; the lower is picked. All of them divide by the square of the success, so
/// that an endpoint that fails fast attracts nothing; the requests in flight are divided by the
/// node's weight relative to the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadMetric {
    /// Requests in flight, and this one: `(in flight + 1) / success²`. Reads no clock while nothing
    /// fails.
    InFlight,
    /// Peak EWMA (from Finagle) times the requests in flight, and this one. Quick to fear a slow
    /// answer, slow to forget it. A node never heard of counts as the pool's latest
    /// answers do on average.
    PeakEwma,
    /// The expected cost: average latency, or the age of the oldest request without an answer if
    /// that is more, times the requests in flight, and this one. Memories fade to the average
    /// of the pool's latest answers, so that neither an old good time attracts a flood nor an old bad one starves. The
    /// default.
    #[default]
    Cost,
}

impl LoadMetric {
    pub(super) fn latency_model(self) -> LatencyModel {
        match self {
            Self::InFlight => LatencyModel::None,
            Self::PeakEwma => LatencyModel::Peak,
            Self::Cost => LatencyModel::Average,
        }
    }

    /// The load of `node` with so many requests in flight for a node of its weight.
    #[inline]
    pub(super) fn load(self, node: &Node, queue: f64, cx: &mut PickContext<'_>) -> f64 {
        let places = queue + 1.0;
        let latency = match self {
            Self::InFlight => 1.0,
            Self::PeakEwma | Self::Cost => node.latency_nanos_at(self.latency_model(), cx.nanos()),
        };
        let load = latency * places;
        if node.is_blameless() { load } else { load / squared_success(node, cx) }
    }
}

#[cold]
fn squared_success(node: &Node, cx: &mut PickContext<'_>) -> f64 {
    node.success(cx.now()).powi(2)
}
