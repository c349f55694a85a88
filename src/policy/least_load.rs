//! The least loaded of a few nodes drawn at random: what is compared times how many are compared.

use std::sync::Arc;

use super::{LatencyModel, LoadMetric, Pick, PickContext, Picker, Policy, Tier, weights::Weights};

/// The least loaded of `choices` nodes drawn at random.
///
/// Two choices already keep the longest queue exponentially shorter than one (Mitzenmacher, "The
/// Power of Two Choices in Randomized Load Balancing", 2001). The first two draws are always of
/// distinct nodes; further ones may repeat. Where weights differ, nodes are drawn by weight, and a
/// node of twice the mean weight counts half of its requests in flight. Equal loads are decided by
/// the order of the draws, so by chance: idle nodes share by weight alone.
///
/// ```
/// use evenkeel::{Endpoint, policy::{LeastLoad, LoadMetric}, pool::TestBed};
///
/// let endpoints = [Endpoint::new(([10, 0, 0, 1], 80)), Endpoint::new(([10, 0, 0, 2], 80))];
/// let bed = TestBed::new(LeastLoad::by(LoadMetric::InFlight), endpoints).unwrap();
/// let first = bed.pick(None).unwrap();
/// let second = bed.pick(None).unwrap();
/// assert_ne!(first.endpoint(), second.endpoint(), "the idle one is less loaded");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastLoad {
    metric: LoadMetric,
    choices: usize,
}

/// Power of two choices: the less loaded of two distinct nodes. By [`LoadMetric::Cost`] unless told
/// otherwise; this is the default policy.
///
/// ```
/// use evenkeel::policy::{LoadMetric, P2c};
/// assert_eq!(P2c::default(), P2c::by(LoadMetric::Cost));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2c(LeastLoad);

/// The node with the fewest requests in flight, of two or more drawn at random.
///
/// ```
/// use evenkeel::policy::LeastRequest;
/// let of_two = LeastRequest::new();
/// let of_five = LeastRequest::new().choices(5);
/// assert_ne!(of_two, of_five);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeastRequest(LeastLoad);

#[derive(Debug)]
struct LeastLoadPicker {
    metric: LoadMetric,
    choices: usize,
    weights: Option<Weights>,
}

// === impl LeastLoad ===

impl LeastLoad {
    /// The less loaded, by `metric`, of two nodes.
    pub const fn by(metric: LoadMetric) -> Self {
        Self { metric, choices: 2 }
    }

    /// How many nodes are compared, at least 2. More of them find the least loaded more surely, and
    /// cost more; with many balancers on the same endpoints they also agree on it more often.
    #[must_use]
    pub const fn choices(mut self, choices: usize) -> Self {
        self.choices = if choices < 2 { 2 } else { choices };
        self
    }
}

impl Policy for LeastLoad {
    fn latency_model(&self) -> LatencyModel {
        self.metric.latency_model()
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(LeastLoadPicker {
            metric: self.metric,
            // More draws than nodes would only find them again.
            choices: self.choices.min(tier.nodes().len().max(2)),
            weights: Weights::of(tier),
        })
    }
}

// === impl P2c ===

impl P2c {
    /// The less loaded of two by `metric`.
    pub const fn by(metric: LoadMetric) -> Self {
        Self(LeastLoad::by(metric))
    }

    /// The less loaded of two by peak EWMA, as in Finagle and Linkerd.
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
    #[inline]
    fn load(&self, index: usize, cx: &mut PickContext<'_>) -> f64 {
        let node = &cx.nodes()[index];
        let queue = f64::from(node.in_flight());
        let queue = match &self.weights {
            None => queue,
            Some(weights) => queue / weights.relative(index),
        };
        self.metric.load(node, queue, cx)
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
    fn pick_among(&self, cx: &mut PickContext<'_>) -> Pick {
        let mut best: Option<(f64, usize)> = None;
        let mut compared = 0;
        for _ in 0..2 * self.choices + 4 {
            let first = best.filter(|_| compared == 1).map(|(_, first)| first);
            let index = self.draw(first, cx);
            if !cx.accepts(index) {
                continue;
            }
            let load = self.load(index, cx);
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, index));
            }
            compared += 1;
            if compared == self.choices {
                break;
            }
        }
        match best {
            Some((_, index)) if compared > 1 => Pick::Use(index),
            _ => self.pick_by_scan(cx),
        }
    }

    #[inline(never)]
    fn is_less(&self, index: usize, than: usize, cx: &mut PickContext<'_>) -> bool {
        let than = self.load(than, cx);
        self.load(index, cx) < than
    }

    #[inline(never)]
    fn pick_otherwise(&self, cx: &mut PickContext<'_>) -> Pick {
        match cx.len() {
            0 | 1 if cx.accepts(0) => Pick::Use(0),
            0 | 1 => Pick::Fail,
            _ => self.pick_among(cx),
        }
    }

    /// The least loaded of all accepted; equals are decided by chance.
    #[cold]
    fn pick_by_scan(&self, cx: &mut PickContext<'_>) -> Pick {
        let mut best: Option<(f64, usize)> = None;
        let mut equals = 0;
        for index in 0..cx.len() {
            if !cx.accepts(index) {
                continue;
            }
            let load = self.load(index, cx);
            match best {
                Some((least, _)) if load > least => continue,
                Some((least, _)) if load == least => equals += 1,
                _ => equals = 1,
            }
            if cx.rng().below(equals) == 0 {
                best = Some((load, index));
            }
        }
        best.map_or(Pick::Fail, |(_, index)| Pick::Use(index))
    }
}

impl Picker for LeastLoadPicker {
    #[inline]
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let nodes = cx.nodes();
        let plain = self.choices == 2 && self.weights.is_none();
        if !plain || nodes.len() < 2 || nodes.len() > u32::MAX as usize {
            return self.pick_otherwise(cx);
        }
        // Two distinct nodes from one draw: the second is one of the others.
        let bits = cx.rng().next_u64();
        let first = (((bits & 0xffff_ffff) * nodes.len() as u64) >> 32) as usize;
        let mut second = (((bits >> 32) * (nodes.len() as u64 - 1)) >> 32) as usize;
        if second >= first {
            second += 1;
        }
        let (one, other) = (&nodes[first], &nodes[second]);
        if !(cx.accepts_node(one) && cx.accepts_node(other)) {
            return self.pick_among(cx);
        }
        let blameless = one.is_blameless() && other.is_blameless();
        let other_is_less = if self.metric == LoadMetric::InFlight && blameless {
            other.in_flight() < one.in_flight()
        } else {
            self.is_less(second, first, cx)
        };
        Pick::Use(if other_is_less { second } else { first })
    }
}
