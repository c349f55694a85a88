//! Bounded loads: no node takes more than its part of a hot key.

use std::{fmt, sync::Arc};

use super::{HashPolicy, Table, key_of, keyed_policy, shuffle::find_shuffled};
use crate::{
    error::BuildError,
    policy::{KeyHash, Pick, PickContext, Picker, Policy, Scope, Tier, built::Built},
};

/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016), over any policy
/// that picks by key.
///
/// A request goes to its key's node while fewer than `ceil(factor x mean)` requests are in flight
/// there, and else to the next that has room. The mean is that of all requests in flight with this
/// one, by weight. So a key that everybody asks for is served by as many nodes as it takes, in an
/// order of its own, and every other key by one.
///
/// The bound holds exactly, however many callers there are: a place is taken only while the count is
/// below the bound, by compare and increment, and whoever comes too late picks again. There is always
/// a node with room, since bounds add up to more than all requests. While some nodes cannot be used,
/// the mean is that of the others once these need it.
///
/// All requests of the balancer count, whatever their tier; those that began under another policy do
/// not, until they end.
///
/// ```
/// use evenkeel::{Endpoint, policy::RingHash, pool::TestBed};
///
/// let endpoints = (1..=5).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let bed = TestBed::new(RingHash::new().bounded(1.25), endpoints).unwrap();
/// // A hundred requests at once, all of one key: no node has more than 1.25 x 20.
/// let held: Vec<_> = (0..100).map(|_| bed.pick(Some(7)).unwrap()).collect();
/// assert!(bed.nodes().all(|node| node.in_flight() <= 25));
/// ```
pub struct BoundedLoad<P: HashPolicy> {
    policy: P,
    bound: Bound,
    exact: Built<ExactPicker<P::Table>>,
    as_published: Built<EnvoyPicker<P::Table>>,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// As a multiple of the mean.
    Exact(f64),
    /// The same in per cent, as Envoy has it.
    Envoy(u32),
}

/// Keeps the bound.
#[derive(Debug)]
struct ExactPicker<T> {
    table: T,
    weights: Box<[u32]>,
    sum: u64,
    /// The factor in millionths: whole numbers, so that the bound is exact.
    millionths: u64,
}

/// What a search for a node with room comes to.
enum Search {
    Found(Pick),
    /// Some node may be used, but none of those has room.
    Full,
    /// This request may use none at all.
    NoneUsable,
}

const MILLION: f64 = 1e6;

/// Keeps it as Envoy does.
#[derive(Debug)]
struct EnvoyPicker<T> {
    table: T,
    shares: Box<[f64]>,
    percent: u32,
}

// === impl BoundedLoad ===

impl<P: HashPolicy> BoundedLoad<P> {
    /// `policy` with no node above `factor` times the mean: from 1, where loads are even and keys
    /// move most, up; 1.25 is usual. Below 1, or no number, is an error when the balancer is built.
    pub fn new(policy: P, factor: f64) -> Self {
        Self::of(policy, Bound::Exact(factor))
    }

    /// As Envoy's `hash_balance_factor` in per cent: 100 or more.
    ///
    /// The bound is looked at before the request is counted and without taking the place, so a node
    /// may get above it; another node is looked for in an order that the hash seeds, and where none
    /// is below its bound, the one that is least above it is taken.
    ///
    /// ```
    /// use evenkeel::policy::{BoundedLoad, HashKey, Maglev};
    /// let policy = BoundedLoad::envoy(Maglev::envoy(), 150).keyed(HashKey::header("x-user"));
    /// ```
    pub fn envoy(policy: P, percent: u32) -> Self {
        Self::of(policy, Bound::Envoy(percent))
    }

    fn of(policy: P, bound: Bound) -> Self {
        Self { policy, bound, exact: Built::default(), as_published: Built::default() }
    }
}

keyed_policy!(BoundedLoad<P: HashPolicy>);

impl<P: HashPolicy> Clone for BoundedLoad<P> {
    fn clone(&self) -> Self {
        Self::of(self.policy.clone(), self.bound)
    }
}

impl<P: HashPolicy + fmt::Debug> fmt::Debug for BoundedLoad<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedLoad")
            .field("policy", &self.policy)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl<P: HashPolicy> Policy for BoundedLoad<P> {
    fn scope(&self) -> Scope {
        Scope::Listed
    }

    fn check(&self) -> Result<(), BuildError> {
        self.policy.check()?;
        let enough = match self.bound {
            Bound::Exact(factor) => factor.is_finite() && factor >= 1.0,
            Bound::Envoy(percent) => percent >= 100,
        };
        if enough {
            return Ok(());
        }
        Err(BuildError::Setting {
            setting: "factor of a bounded load",
            reason: "it is below the mean, or no number",
        })
    }

    fn key_hash(&self) -> KeyHash {
        self.policy.key_hash()
    }

    fn build_work(&self, endpoints: usize) -> usize {
        self.policy.build_work(endpoints)
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        let weights = tier.weights();
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let policy = &self.policy;
        match self.bound {
            Bound::Exact(factor) => self.exact.reuse_or(tier, || ExactPicker {
                table: policy.table(tier),
                weights: weights.into(),
                sum,
                millionths: (factor * MILLION).round() as u64,
            }),
            Bound::Envoy(percent) => self.as_published.reuse_or(tier, || EnvoyPicker {
                table: policy.table(tier),
                shares: weights.iter().map(|&weight| f64::from(weight) / sum as f64).collect(),
                percent,
            }),
        }
    }
}

// === impl ExactPicker ===

impl<T: Table> ExactPicker<T> {
    /// A node with room where `count` requests are in flight on nodes of the weight `sum`.
    #[inline]
    fn below_cap(&self, key: u64, cx: &PickContext<'_>, count: u32, sum: u64) -> Search {
        // The bound is the quotient of the two, rounded up. A whole number is below that if its
        // product is below the dividend: so most nodes are asked without a division.
        let dividend = |index: usize| {
            u128::from(self.millionths) * u128::from(count) * u128::from(self.weights[index])
        };
        let divisor = u128::from(sum) * MILLION as u128;
        let mut some_usable = false;
        let found = self.table.find(key, |index| {
            let usable = cx.accepts(index);
            some_usable |= usable;
            usable && u128::from(cx.nodes()[index].in_flight()) * divisor < dividend(index)
        });
        match found {
            Some(index) => {
                let cap = u32::try_from(dividend(index).div_ceil(divisor)).unwrap_or(u32::MAX);
                Search::Found(Pick::UseBelow { index, cap })
            }
            None if some_usable => Search::Full,
            None => Search::NoneUsable,
        }
    }

    /// Among listed nodes all that may be used are at their bounds. These add up to more than all
    /// requests, so some nodes cannot be used, or hold requests that are not counted.
    #[cold]
    fn among_usable(&self, key: u64, cx: &PickContext<'_>, count: u32) -> Pick {
        let usable = || (0..self.weights.len()).filter(|&index| cx.accepts(index));
        let sum: u64 = usable().map(|index| u64::from(self.weights[index])).sum();
        if sum == 0 {
            return Pick::Fail;
        }
        if let Search::Found(pick) = self.below_cap(key, cx, count, sum) {
            return pick;
        }
        let in_flight = |index: usize| cx.nodes()[index].in_flight();
        let load = |index: &usize| f64::from(in_flight(*index)) / f64::from(self.weights[*index]);
        let least = usable().min_by(|one, other| load(one).total_cmp(&load(other)));
        least.map_or(Pick::Fail, |index| Pick::UseBelow {
            index,
            cap: in_flight(index).saturating_add(1),
        })
    }
}

impl<T: Table> Picker for ExactPicker<T> {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let key = key_of(cx);
        let mut crowd = cx.crowd();
        loop {
            match self.below_cap(key, cx, crowd.count, self.sum) {
                Search::Found(pick) => return pick,
                // Whoever else comes, there is nothing for this one.
                Search::NoneUsable => return Pick::Fail,
                Search::Full => {}
            }
            // Requests that came meanwhile have their places by a larger count than this one knew.
            // Who is turned away takes back that it came, so each turn of this loop is for one that
            // got on, or is still looking.
            let now = cx.crowd();
            if now.came == crowd.came {
                return self.among_usable(key, cx, crowd.count);
            }
            crowd = now;
        }
    }
}

// === impl EnvoyPicker ===

impl<T: Table> EnvoyPicker<T> {
    /// Requests in flight over slots: Envoy's `hostOverloadFactor`.
    fn overload(&self, index: usize, in_flight: u32, count: u32) -> f64 {
        f64::from(in_flight) / f64::from(slots(self.shares[index], count, self.percent))
    }
}

impl<T: Table> Picker for EnvoyPicker<T> {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let key = key_of(cx);
        let count = cx.crowd().count;
        let cx = &*cx;
        let Some(owner) = self.table.find(key, |index| cx.accepts(index)) else {
            return Pick::Fail;
        };
        let overload = |index: usize| self.overload(index, cx.nodes()[index].in_flight(), count);
        let first = overload(owner);
        if first <= 1.0 {
            return Pick::Use(owner);
        }
        Pick::Use(instead(key, self.shares.len(), owner, first, |index| {
            cx.accepts(index).then(|| overload(index))
        }))
    }
}

/// A host's slots where `count` requests are in flight, this one with them.
fn slots(share: f64, count: u32, percent: u32) -> u32 {
    let total = (u64::from(count) * u64::from(percent)).div_ceil(100);
    ((total as f64 * share).ceil() as u32).max(1)
}

/// Envoy's `BoundedLoadHashingLoadBalancer::chooseHost` from where the owner has too much: the first
/// other host with an overload of at most 1, or else the least overloaded.
#[cold]
fn instead(
    key: u64,
    hosts: usize,
    owner: usize,
    overload_of_owner: f64,
    overload: impl Fn(usize) -> Option<f64>,
) -> usize {
    let (mut least, mut host) = (overload_of_owner, owner);
    let found = find_shuffled(key, hosts, |index| {
        if index == owner {
            return false;
        }
        match overload(index) {
            Some(overload) if overload <= 1.0 => true,
            Some(overload) => {
                if overload < least {
                    (least, host) = (overload, index);
                }
                false
            }
            None => false,
        }
    });
    found.unwrap_or(host)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
