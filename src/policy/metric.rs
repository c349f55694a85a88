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
    /// answer, slow to forget it. Not as in Finagle, a failure counts as ten times the average latency of
    /// the pool's latest answers (and the success divides the load, see above), a memory fades to that
    /// average and not to nothing, and a node never heard of counts as another does.
    PeakEwma,
    /// The expected cost: average latency, or the age of the oldest request without an answer if
    /// that is more, times the requests in flight, and this one. Memories fade to the average
    /// of the pool's latest answers, so that neither an old good time attracts a flood nor an old bad
    /// one starves. The default.
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

/// Bounds the loads of many nodes from below, at a fraction of the price of the loads themselves: a
/// scan need look closely only at nodes that may still win.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yardstick {
    /// What memories of latency fade to, where the metric has any.
    recent: Option<f32>,
}

impl LoadMetric {
    #[inline]
    pub(super) fn yardstick(self, cx: &PickContext<'_>) -> Yardstick {
        let recent = match self {
            Self::InFlight => None,
            Self::PeakEwma | Self::Cost => Some(cx.recent_latency_nanos()),
        };
        Yardstick { recent }
    }
}

impl Yardstick {
    /// No more than the load that [`LoadMetric::load`] would say.
    #[inline]
    pub(super) fn at_least(self, node: &Node, queue: f64) -> f64 {
        let places = queue + 1.0;
        match self.recent {
            None => places,
            Some(recent) => places * f64::from(node.least_latency_nanos(recent)),
        }
    }
}

#[cold]
fn squared_success(node: &Node, cx: &mut PickContext<'_>) -> f64 {
    node.success(cx.now()).powi(2)
}
