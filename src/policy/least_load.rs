//! The least loaded of all nodes, or of a few drawn at random: what is compared times how many are
//! compared.

use std::sync::Arc;

use super::{
    LatencyModel, LoadMetric, Pick, PickContext, Picker, Plain, Policy, Tier, plain::two_of,
    weights::Weights,
};
use crate::node::Node;

/// The least loaded of all nodes, or of some drawn at random; the default policy.
///
/// Two choices already keep the longest queue exponentially shorter than one (Mitzenmacher, "The
/// Power of Two Choices in Randomized Load Balancing", 2001), and cost the same however many nodes
/// there are. A scan finds the best node there is, for a price in proportion to their number: so
/// [`default`](Self::default) scans where they are few, and compares several where they are many.
///
/// The first two draws are always of distinct nodes; further ones may repeat. Where weights differ,
/// nodes are drawn by weight, and a node of twice the mean weight counts half of its requests in
/// flight. Equal loads are decided by chance: idle nodes share by weight alone.
///
/// ```
/// use evenkeel::{Endpoint, policy::{LeastLoad, LoadMetric}, pool::TestBed};
///
/// let endpoints = [Endpoint::new(([10, 0, 0, 1], 80)), Endpoint::new(([10, 0, 0, 2], 80))];
/// let bed = TestBed::new(LeastLoad::by(LoadMetric::InFlight), endpoints).unwrap();
/// let first = bed.pick(None).unwrap();
/// let second = bed.pick(None).unwrap();
/// assert_ne!(first.endpoint(), second.endpoint(), "the idle one is less loaded");
///
/// // All nodes, as long as there are at most 20; above that five of them.
/// let _ = LeastLoad::by(LoadMetric::Cost).scan_up_to(20).choices(5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastLoad {
    metric: LoadMetric,
    choices: usize,
    scan_up_to: usize,
}

/// Power of two choices: the less loaded of two distinct nodes. By [`LoadMetric::Cost`] unless told
/// otherwise.
///
/// ```
/// use evenkeel::policy::{LoadMetric, P2c};
/// assert_eq!(P2c::default(), P2c::by(LoadMetric::Cost));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2c(LeastLoad);

/// The node with the fewest requests in flight: of two drawn at random, of more, or of all.
///
/// ```
/// use evenkeel::policy::LeastRequest;
/// let of_two = LeastRequest::new();
/// let of_five = LeastRequest::new().choices(5);
/// let of_all = LeastRequest::new().scan();
/// assert!(of_two != of_five && of_five != of_all);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastRequest(LeastLoad);

#[derive(Debug)]
struct LeastLoadPicker {
    metric: LoadMetric,
    how: Comparison,
    weights: Option<Weights>,
}

/// How many nodes of a tier are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    OfTwo,
    Of(usize),
    OfAll,
}

// === impl LeastLoad ===

impl LeastLoad {
    /// Up to so many nodes the [`default`](Self::default) compares all of them.
    pub const SCAN_UP_TO: usize = 64;
    /// So many it compares where there are more.
    pub const SAMPLE: usize = 6;

    /// The less loaded, by `metric`, of two nodes.
    pub const fn by(metric: LoadMetric) -> Self {
        Self { metric, choices: 2, scan_up_to: 0 }
    }

    /// How many nodes are compared, at least 2. More of them find the least loaded more surely, and
    /// cost more; with many balancers on the same endpoints they also agree on it more often.
    #[must_use]
    pub const fn choices(mut self, choices: usize) -> Self {
        self.choices = if choices < 2 { 2 } else { choices };
        self
    }

    /// All nodes are compared.
    #[must_use]
    pub const fn scan(self) -> Self {
        self.scan_up_to(usize::MAX)
    }

    /// In a tier of at most so many nodes all are compared; in a larger one as many as
    /// [`choices`](Self::choices) says.
    #[must_use]
    pub const fn scan_up_to(mut self, nodes: usize) -> Self {
        self.scan_up_to = nodes;
        self
    }
}

impl Default for LeastLoad {
    /// By [`LoadMetric::Cost`]: of all nodes up to [`SCAN_UP_TO`](Self::SCAN_UP_TO), above that of
    /// [`SAMPLE`](Self::SAMPLE).
    fn default() -> Self {
        Self::by(LoadMetric::Cost).choices(Self::SAMPLE).scan_up_to(Self::SCAN_UP_TO)
    }
}

impl Policy for LeastLoad {
    fn latency_model(&self) -> LatencyModel {
        self.metric.latency_model()
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let nodes = tier.nodes().len();
        let how = match self.choices {
            _ if nodes <= self.scan_up_to => Comparison::OfAll,
            2 => Comparison::OfTwo,
            // More draws than nodes would mostly find them again.
            choices => Comparison::Of(choices.min(nodes.max(2))),
        };
        Arc::new(LeastLoadPicker { metric: self.metric, how, weights: Weights::of(tier) })
    }
}

// === impl P2c ===

impl P2c {
    /// The less loaded of two by `metric`.
    pub const fn by(metric: LoadMetric) -> Self {
        Self(LeastLoad::by(metric))
    }

    /// The less loaded of two by [peak EWMA](LoadMetric::PeakEwma), as in Finagle and Linkerd, but for
    /// what the metric says of failures and of old memories.
    pub const fn peak_ewma() -> Self {
        Self::by(LoadMetric::PeakEwma)
    }
}

impl Default for P2c {
    fn default() -> Self {
        Self::by(LoadMetric::Cost)
    }
}

impl Policy for P2c {
    fn latency_model(&self) -> LatencyModel {
        self.0.latency_model()
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        self.0.build(tier)
    }
}

// === impl LeastRequest ===

impl LeastRequest {
    /// The node with fewer requests in flight of two.
    pub const fn new() -> Self {
        Self(LeastLoad::by(LoadMetric::InFlight))
    }

    /// How many nodes are compared, at least 2.
    #[must_use]
    pub const fn choices(self, choices: usize) -> Self {
        Self(self.0.choices(choices))
    }

    /// All nodes are compared.
    #[must_use]
    pub const fn scan(self) -> Self {
        Self(self.0.scan())
    }

    /// In a tier of at most so many nodes all are compared; in a larger one as many as
    /// [`choices`](Self::choices) says.
    #[must_use]
    pub const fn scan_up_to(self, nodes: usize) -> Self {
        Self(self.0.scan_up_to(nodes))
    }
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for LeastRequest {
    fn latency_model(&self) -> LatencyModel {
        self.0.latency_model()
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        self.0.build(tier)
    }
}

// === impl LeastLoadPicker ===

impl LeastLoadPicker {
    /// The requests in flight, as many as they are to a node of its weight.
    #[inline]
    fn queue(&self, index: usize, node: &Node) -> f64 {
        let queue = f64::from(node.in_flight());
        match &self.weights {
            None => queue,
            Some(weights) => queue / weights.relative(index),
        }
    }

    #[inline]
    fn load(&self, index: usize, cx: &mut PickContext<'_>) -> f64 {
        let node = &cx.nodes()[index];
        self.metric.load(node, self.queue(index, node), cx)
    }

    /// Two distinct nodes at random, by weight.
    #[inline]
    fn draw_two(&self, cx: &mut PickContext<'_>) -> [usize; 2] {
        // The draw of the plain way, which may have led here.
        let plain = self.weights.is_none().then(|| two_of(cx.len(), cx.rng().next_u64()));
        let (first, second) = plain.flatten().unwrap_or_else(|| {
            let first = self.draw(None, cx);
            (first, self.draw(Some(first), cx))
        });
        [first, second]
    }

    /// A node at random by weight; another than `first`, if that is given.
    #[inline]
    fn draw(&self, first: Option<usize>, cx: &mut PickContext<'_>) -> usize {
        let nodes = cx.len();
        match (&self.weights, first) {
            (None, None) => cx.rng().below(nodes),
            (None, Some(first)) => {
                let other = cx.rng().below(nodes - 1);
                other + usize::from(other >= first)
            }
            (Some(weights), None) => weights.draw(cx.rng()),
            (Some(weights), Some(first)) => weights.draw_other(first, cx.rng()),
        }
    }

    /// Draws until enough accepted nodes were compared, or until too many were not accepted. Where
    /// that leaves nothing to compare it looks at all of them, so that the one accepted node among
    /// many is found, and of two the less loaded.
    #[inline(never)]
    fn pick_among(&self, choices: usize, cx: &mut PickContext<'_>) -> Pick {
        if cx.len() < 2 {
            return self.pick_by_scan(cx);
        }
        let mut best: Option<(f64, usize)> = None;
        let mut compared = 0;
        let mut pair = self.draw_two(cx).into_iter();
        for _ in 0..2 * choices + 4 {
            let first = best.filter(|_| compared == 1).map(|(_, first)| first);
            let index = pair.next().unwrap_or_else(|| self.draw(first, cx));
            if !cx.accepts(index) {
                continue;
            }
            let load = self.load(index, cx);
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, index));
            }
            compared += 1;
            if compared == choices {
                break;
            }
        }
        match best {
            Some((_, index)) if compared > 1 => Pick::Use(index),
            _ => self.pick_by_scan(cx),
        }
    }

    /// The least loaded of all accepted; equals are decided by chance, by weight.
    #[inline(never)]
    fn pick_by_scan(&self, cx: &mut PickContext<'_>) -> Pick {
        let mut chosen = None;
        let mut least = f64::INFINITY;
        let mut equals = 0.0;
        let yardstick = self.metric.yardstick(cx);
        for (index, node) in cx.nodes().iter().enumerate() {
            let queue = self.queue(index, node);
            if yardstick.at_least(node, queue) > least || !cx.accepts_node(node) {
                continue;
            }
            let load = self.metric.load(node, queue, cx);
            let weight = self.weights.as_ref().map_or(1.0, |weights| weights.relative(index));
            if load < least || chosen.is_none() {
                (chosen, least, equals) = (Some(index), load, weight);
            } else if load == least {
                // Reservoir sampling by weight (Chao 1982), with a sample of one.
                equals += weight;
                if cx.rng().next_f64() * equals < weight {
                    chosen = Some(index);
                }
            }
        }
        chosen.map_or(Pick::Fail, Pick::Use)
    }
}

impl Picker for LeastLoadPicker {
    fn plain(&self) -> Plain {
        if self.weights.is_some() {
            return Plain::Other;
        }
        match (self.how, self.metric.latency_model()) {
            (Comparison::OfTwo, LatencyModel::None) => Plain::TwoInFlight,
            (Comparison::OfTwo, model) => Plain::TwoByLatency(model),
            (Comparison::OfAll, LatencyModel::None) => Plain::AllInFlight,
            (Comparison::OfAll, model) => Plain::AllByLatency(model),
            (Comparison::Of(choices), LatencyModel::None) => Plain::SomeInFlight(choices),
            (Comparison::Of(choices), model) => Plain::SomeByLatency(choices, model),
        }
    }

    #[inline]
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        match self.how {
            Comparison::OfTwo => self.pick_among(2, cx),
            Comparison::Of(choices) => self.pick_among(choices, cx),
            Comparison::OfAll => self.pick_by_scan(cx),
        }
    }
}
