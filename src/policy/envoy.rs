//! Round robin and least request as Envoy does them.
//!
//! For a fleet that mixes this crate with Envoy and wants one behaviour of both. Where weights
//! differ these take turns by an earliest-deadline-first queue (`edf`), whose lock each pick holds
//! for a moment; [`RoundRobin`] and [`LeastRequest`] themselves hold none.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    LeastRequest, Pick, PickContext, Picker, Policy, RoundRobin, Tier, edf::Edf,
    position::Position, weights::Weights,
};
use crate::node::NodeId;

/// [`RoundRobin`] in Envoy's order: made by [`RoundRobin::envoy`].
///
/// Where weights are equal, one node after the other; where they differ, the earliest deadline
/// first. A weight that changes is heeded from the node's next turn on; the schedule starts anew,
/// at a random place, only when nodes come or go.
///
/// ```
/// use evenkeel::{Endpoint, Weight, policy::RoundRobin, pool::TestBed};
///
/// let heavy = Endpoint::new(([10, 0, 0, 2], 80)).with_weight(Weight(2));
/// let bed = TestBed::new(RoundRobin::envoy(), [Endpoint::new(([10, 0, 0, 1], 80)), heavy.clone()]);
/// let bed = bed.unwrap();
/// let picks = (0..300).filter(|_| bed.pick(None).unwrap().endpoint() == heavy);
/// assert_eq!(picks.count(), 200);
/// ```
#[derive(Debug, Default)]
pub struct EnvoyRoundRobin {
    tiers: Vec<EnvoyTier>,
    /// Picks that a new schedule starts after, where that is no matter of chance.
    start: Option<u32>,
}

/// [`LeastRequest`] by Envoy's rules: made by [`LeastRequest::envoy`].
///
/// Where weights are equal, the node with the fewest requests in flight of a few drawn at random,
/// with replacement: the same node may be drawn twice. Failures do not count. Where weights differ,
/// the earliest deadline first, with `weight / (in flight + 1)^bias` for a weight.
///
/// ```
/// use evenkeel::policy::LeastRequest;
/// let _of_two = LeastRequest::envoy();
/// let _of_five = LeastRequest::envoy().choices(5).active_request_bias(0.5);
/// ```
#[derive(Debug)]
pub struct EnvoyLeastRequest {
    tiers: Vec<EnvoyTier>,
    start: Option<u32>,
    choices: usize,
    bias: f64,
}

/// What one tier keeps across rebuilds.
#[derive(Debug)]
struct EnvoyTier {
    /// Turns where weights are equal.
    turns: Arc<Position>,
    nodes: Vec<NodeId>,
    queue: Option<Arc<Mutex<Edf>>>,
}

/// What a picker needs where weights differ.
#[derive(Debug)]
struct Deadlines {
    queue: Arc<Mutex<Edf>>,
    weights: Weights,
}

#[derive(Debug)]
struct EnvoyRoundRobinPicker {
    turns: Arc<Position>,
    deadlines: Option<Deadlines>,
}

#[derive(Debug)]
struct EnvoyLeastRequestPicker {
    choices: usize,
    bias: f64,
    deadlines: Option<Deadlines>,
}

/// Envoy starts a schedule after fewer picks than this.
const STARTS_BELOW: usize = 429_496_729;
/// Turns that may fall to nodes which are not accepted before one is drawn among those that are.
const TURNS: usize = 64;

impl RoundRobin {
    /// Round robin in Envoy's order, which differs from [`RoundRobin`]'s own where weights differ.
    pub const fn envoy() -> EnvoyRoundRobin {
        EnvoyRoundRobin { tiers: Vec::new(), start: None }
    }
}

impl LeastRequest {
    /// Least request by Envoy's rules: two choices, and a bias of 1 where weights differ.
    pub const fn envoy() -> EnvoyLeastRequest {
        EnvoyLeastRequest { tiers: Vec::new(), start: None, choices: 2, bias: 1.0 }
    }
}

// === impl EnvoyRoundRobin ===

impl Clone for EnvoyRoundRobin {
    /// A clone is for another balancer: it has a start of its own.
    fn clone(&self) -> Self {
        Self { tiers: Vec::new(), start: self.start }
    }
}

impl Policy for EnvoyRoundRobin {
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let own = EnvoyTier::of(&mut self.tiers, tier);
        let deadlines = own.deadlines(tier, self.start, |weight, _| weight);
        Arc::new(EnvoyRoundRobinPicker { turns: Arc::clone(&own.turns), deadlines })
    }
}

// === impl EnvoyLeastRequest ===

impl EnvoyLeastRequest {
    /// How many nodes are drawn where weights are equal, at least 2.
    #[must_use]
    pub fn choices(mut self, choices: usize) -> Self {
        self.choices = choices.max(2);
        self
    }

    /// How much requests in flight count where weights differ: 0 for not at all, 1, the default, in
    /// proportion. Below 0 it is 1, as in Envoy, and so it is where it is no finite number.
    #[must_use]
    pub fn active_request_bias(mut self, bias: f64) -> Self {
        self.bias = if bias.is_finite() && bias >= 0.0 { bias } else { 1.0 };
        self
    }
}

impl Clone for EnvoyLeastRequest {
    fn clone(&self) -> Self {
        Self { tiers: Vec::new(), start: self.start, choices: self.choices, bias: self.bias }
    }
}

impl Policy for EnvoyLeastRequest {
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let own = EnvoyTier::of(&mut self.tiers, tier);
        let bias = self.bias;
        let deadlines =
            own.deadlines(tier, self.start, |weight, active| biased(weight, active, bias));
        Arc::new(EnvoyLeastRequestPicker { choices: self.choices, bias, deadlines })
    }
}

fn biased(weight: f64, active: u32, bias: f64) -> f64 {
    weight / (f64::from(active) + 1.0).powf(bias)
}

// === impl EnvoyTier ===

impl EnvoyTier {
    fn of<'a>(tiers: &'a mut Vec<Self>, tier: &Tier<'_>) -> &'a mut Self {
        let mut rng = tier.rng();
        let fresh = || Self {
            turns: Arc::new(Position::anywhere(&mut rng)),
            nodes: Vec::new(),
            queue: None,
        };
        if tiers.len() <= tier.index() {
            tiers.resize_with(tier.index() + 1, fresh);
        }
        &mut tiers[tier.index()]
    }

    /// The queue, kept while the nodes stay the same.
    fn deadlines(
        &mut self,
        tier: &Tier<'_>,
        start: Option<u32>,
        weigh: impl Fn(f64, u32) -> f64,
    ) -> Option<Deadlines> {
        let Some(weights) = Weights::of(tier) else {
            self.queue = None;
            return None;
        };
        let nodes = tier.nodes();
        if !nodes.iter().map(|node| node.id()).eq(self.nodes.iter().copied()) {
            self.nodes = nodes.iter().map(|node| node.id()).collect();
            self.queue = None;
        }
        let queue = self.queue.get_or_insert_with(|| {
            let weighed = nodes.iter().zip(tier.weights());
            let weights: Vec<_> =
                weighed.map(|(node, &weight)| weigh(f64::from(weight), node.in_flight())).collect();
            let picks = start.unwrap_or_else(|| tier.rng().below(STARTS_BELOW) as u32);
            Arc::new(Mutex::new(Edf::with_picks(&weights, picks)))
        });
        Some(Deadlines { queue: Arc::clone(queue), weights })
    }
}

// === impl Deadlines ===

impl Deadlines {
    fn pick(&self, cx: &mut PickContext<'_>, weigh: impl Fn(f64, u32) -> f64) -> Pick {
        let nodes = cx.nodes();
        for _ in 0..nodes.len().min(TURNS) {
            let weight =
                |index: usize| weigh(self.weights.absolute(index), nodes[index].in_flight());
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = queue.pick(weight);
            drop(queue);
            match turn {
                Some(index) if cx.accepts(index) => return Pick::Use(index),
                _ => {}
            }
        }
        self.weights.draw_accepted(cx).map_or(Pick::Fail, Pick::Use)
    }
}

// === impl EnvoyRoundRobinPicker ===

impl Picker for EnvoyRoundRobinPicker {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        if let Some(deadlines) = &self.deadlines {
            return deadlines.pick(cx, |weight, _| weight);
        }
        for _ in 0..cx.len().min(TURNS) {
            let index = self.turns.next_of(cx.len());
            if cx.accepts(index) {
                return Pick::Use(index);
            }
        }
        cx.any_accepted().map_or(Pick::Fail, Pick::Use)
    }
}

// === impl EnvoyLeastRequestPicker ===

impl Picker for EnvoyLeastRequestPicker {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        if let Some(deadlines) = &self.deadlines {
            return deadlines.pick(cx, |weight, active| biased(weight, active, self.bias));
        }
        least_of(self.choices, cx)
    }
}

/// The node with the fewest requests in flight of `choices` draws, which may repeat; of equals the
/// one drawn first.
pub(super) fn least_of(choices: usize, cx: &mut PickContext<'_>) -> Pick {
    let nodes = cx.len();
    let mut best: Option<(u32, usize)> = None;
    for _ in 0..choices {
        let index = cx.rng().below(nodes);
        if cx.accepts(index) {
            let active = cx.nodes()[index].in_flight();
            if best.is_none_or(|(least, _)| active < least) {
                best = Some((active, index));
            }
        }
    }
    let found = best.map(|(_, index)| index).or_else(|| cx.any_accepted());
    found.map_or(Pick::Fail, Pick::Use)
}

#[cfg(all(test, not(evenkeel_loom)))]
#[allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]
mod tests {
    use super::*;
    use crate::{Endpoint, Weight, node::Lease, pool::TestBed};

    fn endpoints(weights: &[(u8, u32)]) -> Vec<Endpoint> {
        let endpoint = |&(last, weight): &(u8, u32)| {
            Endpoint::new(([10, 0, 0, last], 80)).with_weight(Weight(weight))
        };
        weights.iter().map(endpoint).collect()
    }

    /// The last parts of the addresses that so many requests go to, each over before the next.
    fn picks(bed: &TestBed, count: usize) -> Vec<u8> {
        (0..count).map(|_| last_part(&bed.pick(None).unwrap())).collect()
    }

    fn last_part(lease: &Lease) -> u8 {
        match lease.endpoint().addr().socket().unwrap().ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => unreachable!("all are IPv4"),
        }
    }

    /// A request in flight on one of the nodes without a pick, which would move the schedule on: the
    /// published tests set the counter.
    fn hold(bed: &TestBed, on: usize) -> Lease {
        Lease::acquire(bed.nodes().nth(on).unwrap(), None, None).unwrap()
    }

    /// Envoy, round_robin_lb_test.cc: RoundRobinLoadBalancerTest.Weighted, all of it, as it is since
    /// schedules begin with `createWithPicks` (edf_lb_host_scheduler_init_fix); older ones break ties
    /// the other way. The host that comes last, its number 1 by then, is 3 here.
    #[test]
    fn envoy_round_robin_weighted() {
        let policy = EnvoyRoundRobin { tiers: Vec::new(), start: Some(0) };
        let mut bed = TestBed::new(policy, endpoints(&[(0, 1), (1, 2)])).unwrap();
        assert_eq!(picks(&bed, 6), [1, 0, 1, 1, 0, 1], "initial weights");
        bed.update(endpoints(&[(0, 2), (1, 1)]));
        assert_eq!(picks(&bed, 8), [1, 0, 0, 1, 0, 0, 1, 0], "modified weights");
        bed.update(endpoints(&[(0, 2), (1, 1), (2, 3)]));
        assert_eq!(picks(&bed, 12), [2, 0, 2, 1, 0, 2, 2, 0, 2, 1, 0, 2], "a host added");
        bed.update(endpoints(&[(0, 1), (3, 4)]));
        assert_eq!(picks(&bed, 10), [3, 3, 3, 0, 3, 3, 3, 3, 0, 3], "hosts replaced");
    }

    /// The same: WeightedSeed, where the generator says 1.
    #[test]
    fn envoy_round_robin_weighted_seed() {
        let policy = EnvoyRoundRobin { tiers: Vec::new(), start: Some(1) };
        let bed = TestBed::new(policy, endpoints(&[(0, 1), (1, 2)])).unwrap();
        assert_eq!(picks(&bed, 6), [0, 1, 1, 0, 1, 1]);
    }

    /// The same: WeightedInitializationPicksAllHosts, where ten balancers of which each begins one
    /// pick later make ten first picks.
    #[test]
    fn envoy_round_robin_weighted_initialization_picks_all_hosts() {
        let mut counts = [0; 3];
        for start in 0..10 {
            let policy = EnvoyRoundRobin { tiers: Vec::new(), start: Some(start) };
            let bed = TestBed::new(policy, endpoints(&[(0, 6), (1, 3), (2, 1)])).unwrap();
            counts[usize::from(picks(&bed, 1)[0])] += 1;
        }
        assert_eq!(counts, [6, 3, 1]);
    }

    /// Envoy, least_request_lb_test.cc: LeastRequestLoadBalancerTest.WeightImbalance.
    #[test]
    fn envoy_least_request_weight_imbalance() {
        let policy = EnvoyLeastRequest { start: Some(0), ..LeastRequest::envoy() };
        let bed = TestBed::new(policy, endpoints(&[(0, 1), (1, 2)])).unwrap();
        assert_eq!(picks(&bed, 6), [1, 0, 1, 1, 0, 1], "2:1");
        let held = hold(&bed, 1);
        assert_eq!(picks(&bed, 5), [1, 0, 1, 0, 1], "1:1");
        drop(held);
        let _held = hold(&bed, 0);
        assert_eq!(picks(&bed, 10), [0, 1, 1, 1, 0, 1, 1, 1, 1, 0], "4:1");
    }

    /// The same: WeightImbalanceWithInvalidActiveRequestBias (as with 1),
    /// WeightImbalanceWithCustomActiveRequestBias (0: requests in flight do not count).
    #[test]
    fn envoy_least_request_bias() {
        for (bias, expected) in [(-1.0, [1, 0, 1, 0, 1, 0]), (0.0, [1, 0, 1, 1, 0, 1])] {
            let policy = EnvoyLeastRequest { start: Some(0), ..LeastRequest::envoy() };
            let policy = policy.active_request_bias(bias);
            let bed = TestBed::new(policy, endpoints(&[(0, 1), (1, 2)])).unwrap();
            let _held = hold(&bed, 1);
            assert_eq!(picks(&bed, 6), expected, "bias {bias}");
        }
    }

    /// PNC of the same file asks for draws that can repeat. Of k draws with replacement, as Envoy makes them, the one least loaded of n wins unless it is
    /// never drawn: with a chance of 1 - ((n - 1) / n)^k.
    #[test]
    fn envoy_least_request_draws_with_replacement() {
        let bed =
            TestBed::new(LeastRequest::envoy(), endpoints(&[(0, 1), (1, 1)])).unwrap().seed(5);
        let _held = hold(&bed, 0);
        let idle = picks(&bed, 40_000).into_iter().filter(|&last| last == 1).count();
        // 1 - (1/2)^2 of 40,000; a standard deviation is 87, five of them are allowed.
        assert!(idle.abs_diff(30_000) < 433, "{idle}");
    }
}
