//! One node for all requests, until its connection fails.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::{Pick, PickContext, Picker, Policy, Preconnect, Tier};
use crate::node::{Node, mix};

/// All requests go to one node for as long as its connection holds; then to another.
///
/// gRPC's `pick_first` (gRFC A62), for the many who need one good connection and no more: only the
/// node that is used is kept connected. It begins with the first of the list, or of a
/// [shuffled](Self::shuffle) one. When the connection fails it moves on to the first that has not
/// failed itself, and stays there: a node that comes back does not get its requests back. It stays,
/// too, when the list changes, as long as it is listed.
///
/// A request that has tried the node, or finds it at its cap (`max_in_flight`), goes to the next of
/// the list alone, and the others stay.
///
/// ```
/// use evenkeel::{Endpoint, policy::PickFirst, pool::TestBed};
///
/// let endpoints = (1..=3).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let bed = TestBed::new(PickFirst::new(), endpoints).unwrap();
/// let names = || (0..3).map(|_| bed.pick(None).unwrap().endpoint().to_string());
/// assert!(names().all(|name| name == "10.0.0.1:80"));
///
/// bed.links().next().unwrap().failed("reset");
/// assert!(names().all(|name| name == "10.0.0.2:80"));
/// bed.links().next().unwrap().up();
/// assert!(names().all(|name| name == "10.0.0.2:80"), "it does not flap back");
/// ```
#[derive(Debug, Default)]
pub struct PickFirst {
    shuffle: bool,
    /// What a balancer's own order comes from; drawn at its first build.
    seed: Option<u64>,
    /// One a tier: the number of the node in use.
    current: Vec<Arc<AtomicU64>>,
}

#[derive(Debug)]
struct PickFirstPicker {
    /// The nodes' indices, the preferred first.
    order: Box<[usize]>,
    current: Arc<AtomicU64>,
    /// Where the node in use was last seen among this picker's nodes.
    at: AtomicUsize,
}

/// No node yet.
const NONE: u64 = u64::MAX;

// === impl PickFirst ===

impl PickFirst {
    /// The first of the list, as discovery gives it. All balancers over one list use the same node,
    /// unless that is [shuffled](Self::shuffle).
    pub const fn new() -> Self {
        Self { shuffle: false, seed: None, current: Vec::new() }
    }

    /// Every balancer has an order of its own, so that many of them spread over the endpoints, in
    /// proportion to their weights (gRFC A62's `shuffleAddressList`; weights as in A113). The order
    /// lasts as long as the balancer, whatever comes and goes.
    #[must_use]
    pub const fn shuffle(mut self) -> Self {
        self.shuffle = true;
        self
    }
}

impl Clone for PickFirst {
    /// A clone is for another balancer: it has an order and a node of its own.
    fn clone(&self) -> Self {
        Self { shuffle: self.shuffle, ..Self::new() }
    }
}

impl Policy for PickFirst {
    fn preconnect(&self) -> Preconnect {
        Preconnect::Next
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let mut order: Vec<usize> = (0..tier.nodes().len()).collect();
        if self.shuffle {
            let seed = *self.seed.get_or_insert_with(|| tier.rng().next_u64());
            let key = |index: usize| key(seed, &tier.nodes()[index], tier.weights()[index]);
            let mut keyed: Vec<_> = order.into_iter().map(|index| (key(index), index)).collect();
            keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
            order = keyed.into_iter().map(|(_, index)| index).collect();
        }
        if self.current.len() <= tier.index() {
            self.current.resize_with(tier.index() + 1, || Arc::new(AtomicU64::new(NONE)));
        }
        Arc::new(PickFirstPicker {
            order: order.into(),
            current: Arc::clone(&self.current[tier.index()]),
            at: AtomicUsize::new(0),
        })
    }
}

/// Sorted by it, nodes are shuffled by weight: the least of exponentially distributed times at rates
/// in proportion to the weights (Efraimidis, Spirakis: "Weighted random sampling with a reservoir",
/// 2006, in logarithms).
fn key(seed: u64, node: &Node, weight: u32) -> f64 {
    let point = ((mix(seed ^ node.hash()) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -point.ln() / f64::from(weight)
}

// === impl PickFirstPicker ===

impl PickFirstPicker {
    /// The index of the node in use, if it is one of this picker's.
    #[inline]
    fn in_use(&self, number: u64, nodes: &[Arc<Node>]) -> Option<usize> {
        let at = self.at.load(Ordering::Relaxed);
        if nodes.get(at).is_some_and(|node| node.id().number() == number) {
            return Some(at);
        }
        self.look_for(number, nodes)
    }

    #[cold]
    fn look_for(&self, number: u64, nodes: &[Arc<Node>]) -> Option<usize> {
        let at = nodes.iter().position(|node| node.id().number() == number)?;
        self.at.store(at, Ordering::Relaxed);
        Some(at)
    }

    /// Another than the node in use: the first that is up, or else that has not failed since it last
    /// was, or else any.
    #[cold]
    fn pick_another(&self, number: u64, at: Option<usize>, cx: &mut PickContext<'_>) -> Pick {
        let nodes = cx.nodes();
        let rank = |index: usize| match &nodes[index].link {
            link if link.is_up() => 0,
            link if !link.is_failing() => 1,
            _ => 2,
        };
        let accepted = self.order.iter().copied().filter(|&index| cx.accepts(index));
        // Of equals the first.
        let Some(index) = accepted.min_by_key(|&index| rank(index)) else { return Pick::Fail };
        let gone = at.is_none_or(|at| {
            let link = &nodes[at].link;
            link.is_failed() || (cx.must_be_up && !link.is_up())
        });
        let next = nodes[index].id().number();
        if gone
            && self
                .current
                .compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::debug!(endpoint = %nodes[index], "picked for the requests from here on");
        }
        Pick::Use(index)
    }
}

impl Picker for PickFirstPicker {
    #[inline]
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let number = self.current.load(Ordering::Relaxed);
        let at = self.in_use(number, cx.nodes());
        match at {
            Some(at) if cx.accepts(at) => Pick::Use(at),
            _ => self.pick_another(number, at, cx),
        }
    }
}
