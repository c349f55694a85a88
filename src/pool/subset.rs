//! Which of very many endpoints one client uses.
//!
//! A thousand clients of a thousand servers would keep a million connections. With a subset each
//! client knows all endpoints, and has connections, nodes and services for a few.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write,
};

use xxhash_rust::xxh64::xxh64;

use super::{diff::can_be_dialled, tiers::TierPlan};
use crate::{discovery::Endpoints, endpoint::Endpoint, policy::greatest_common_divisor};

/// The part of the endpoints that a balancer uses; all of them by default.
///
/// What is outside is neither dialled nor given a service, and shows in
/// [`status`](crate::pool::Status) as [`OutsideSubset`](crate::pool::EndpointState::OutsideSubset). What
/// leaves the subset drains like an endpoint that is removed.
///
/// Each [priority](crate::Priority) has a subset of its own, as if there were no other: so no client
/// is left without the endpoints that go first, however few they are, nor with few to stand in for
/// them. With `random(20)`, of 10 primaries and 990 backups a client has 10 and 20. The zones of a
/// priority are taken together. Endpoints of weight 0 count in none, unless all of their priority
/// have it.
///
/// | | [`random`](Self::random) | [`aperture`](Self::aperture) |
/// |---|---|---|
/// | needs to know | nothing | the number of this client, and how many there are |
/// | clients of a server | even in the mean: with 1,000 clients of 20 each and 1,000 servers 20, 4.4 more or less | even, exactly |
/// | an endpoint comes or goes | one member changes, at most | three change, at most, while the number of units (`12 total / endpoints`, rounded up) stays |
/// | an endpoint's priority changes | in either priority as if it went or came | the same |
///
/// ```
/// use evenkeel::{Balance, Endpoint, pool::Subset};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80,10.0.0.3:80")?
///     .subset(Subset::random(2))
///     .make(|endpoint: &Endpoint| endpoint.to_string())?;
/// # let _ = balance;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Subset(Kind);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Kind {
    #[default]
    All,
    Part(Part),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Random { size: usize },
    Aperture { instance: u32, total: u32, at_least: u32 },
}

/// Finagle's least aperture. Of 12 endpoints half can be down, and two of those that are drawn at
/// random are hardly ever both.
const APERTURE_AT_LEAST: u32 = 12;

/// What a subset makes of a set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Of a real part each once; at the end those that cannot be dialled, which are nobody's.
    pub(crate) inside: Vec<Endpoint>,
    /// What counts for the weights of `inside`, for those that can be dialled; nothing, where that is
    /// discovery's own. One of 0 comes along, since it takes no place, and is left out.
    shares: Vec<u32>,
    pub(crate) outside: Vec<Endpoint>,
}

/// The endpoints of one priority.
struct Group<'a> {
    endpoints: &'a [Endpoint],
    /// Which of them.
    indices: Vec<usize>,
    /// What counts for their weights: 1, where all are 0.
    weights: Vec<u32>,
}

// === impl Subset ===

impl Subset {
    /// All endpoints.
    pub const fn all() -> Self {
        Self(Kind::All)
    }

    /// So many endpoints of each priority at random (gRFC A68), at least 1; 20 are enough to balance
    /// well.
    ///
    /// Those whose addresses come first by xxHash64 with a seed of this balancer's own, which it
    /// keeps for life. So when one endpoint comes or goes, one member of the subset changes or none.
    pub const fn random(size: usize) -> Self {
        Self(Kind::Part(Part::Random { size }))
    }

    /// The part of `instance`, of `total` clients numbered from 0: a deterministic aperture, as in
    /// Finagle.
    ///
    /// The endpoints of a priority lie on a ring, in an order that all clients agree on, each as wide as
    /// its weight. Every client looks at a piece of it of the same width, at least 12 endpoints, which
    /// begins `instance / total` of the way round. At its ends are parts of endpoints; those are
    /// picked in proportion. So the pieces of all clients cover the ring evenly, and every endpoint
    /// gets the same, by its weight, from all clients together that use its priority, to the last
    /// request.
    ///
    /// In Kubernetes the ordinal of a StatefulSet is such a number. When clients come or go the
    /// pieces of all of them move; so change the two numbers rarely, and at all clients.
    ///
    /// Parts of endpoints are told to the policy as weights, whole numbers up to `total` times the
    /// endpoint's own. A policy that replaces the weights, such as
    /// [`WeightedRoundRobin`](crate::policy::WeightedRoundRobin) with reports, does not know of them;
    /// and one whose table grows with them, such as [`RingHash`](crate::policy::RingHash), builds a
    /// large one: [`Rendezvous`](crate::policy::Rendezvous) and [`Maglev`](crate::policy::Maglev) do not.
    pub const fn aperture(instance: u32, total: u32) -> Self {
        Self(Kind::Part(Part::Aperture { instance, total, at_least: APERTURE_AT_LEAST }))
    }

    /// The least number of endpoints of a priority in an [`aperture`](Self::aperture), 12 by default; of a
    /// random subset its size.
    #[must_use]
    pub const fn at_least(self, endpoints: u32) -> Self {
        let Kind::Part(part) = self.0 else { return self };
        Self(Kind::Part(match part {
            Part::Random { .. } => Part::Random { size: endpoints as usize },
            Part::Aperture { instance, total, .. } => {
                Part::Aperture { instance, total, at_least: endpoints }
            }
        }))
    }

    pub(crate) fn is_all(&self) -> bool {
        self.0 == Kind::All
    }

    /// Why it cannot be, if so.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let Kind::Part(part) = self.0 else { return Ok(()) };
        match part {
            Part::Random { size: 0 } | Part::Aperture { at_least: 0, .. } => {
                Err("a subset of no endpoint serves nothing")
            }
            Part::Aperture { instance, total, .. } if instance >= total => {
                Err("the instance is numbered from 0, and below the total")
            }
            _ => Ok(()),
        }
    }

    /// The part of `endpoints` for the balancer with `seed`.
    pub(crate) fn select(&self, endpoints: Endpoints, seed: u64) -> Selection {
        let Kind::Part(part) = self.0 else {
            let inside = endpoints.into_iter().collect();
            return Selection { inside, ..Selection::default() };
        };
        let (valid, invalid) = distinct(endpoints);
        let mut shares = vec![0; valid.len()];
        let mut outside = vec![false; valid.len()];
        for group in by_priority(&valid) {
            let of_group = match part {
                Part::Random { size } => group.at_random(size, seed),
                Part::Aperture { instance, total, at_least } => {
                    group.aperture(instance, total, at_least)
                }
            };
            for (at, &index) in group.indices.iter().enumerate() {
                shares[index] = of_group[at];
                outside[index] = group.weights[at] > 0 && of_group[at] == 0;
            }
        }
        let mut selection = Selection::default();
        for ((endpoint, share), outside) in valid.into_iter().zip(shares).zip(outside) {
            if outside {
                selection.outside.push(endpoint);
            } else {
                selection.inside.push(endpoint);
                selection.shares.push(share);
            }
        }
        selection.inside.extend(invalid);
        selection
    }
}

/// Each endpoint once, and those that cannot be dialled.
fn distinct(endpoints: Endpoints) -> (Vec<Endpoint>, Vec<Endpoint>) {
    let mut seen = HashSet::new();
    endpoints
        .into_iter()
        .filter(|endpoint| seen.insert(endpoint.identity().clone()))
        .partition(can_be_dialled)
}

fn by_priority(endpoints: &[Endpoint]) -> impl Iterator<Item = Group<'_>> {
    let mut indices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        indices.entry(endpoint.priority()).or_default().push(index);
    }
    indices.into_values().map(|indices| Group::of(endpoints, indices))
}

/// How many of the clients' units an aperture has, so that it has room for `at_least` endpoints.
fn units(at_least: u32, servers: u128, total: u128) -> u128 {
    (u128::from(at_least) * total).div_ceil(servers.max(1)).clamp(1, total)
}

// === impl Group ===

impl<'a> Group<'a> {
    fn of(endpoints: &'a [Endpoint], indices: Vec<usize>) -> Self {
        let mut weights: Vec<_> = indices.iter().map(|&at| endpoints[at].weight().0).collect();
        if weights.iter().all(|&weight| weight == 0) {
            weights.fill(1);
        }
        Self { endpoints, indices, weights }
    }

    /// Where the members of weight stand, in the order of the hashes of their first addresses, with
    /// `seed`.
    fn order(&self, seed: u64) -> Vec<usize> {
        let mut text = String::new();
        let mut hash = |endpoint: &Endpoint| {
            text.clear();
            // Writing to a string does not fail.
            let _ = write!(text, "{}", endpoint.addr());
            xxh64(text.as_bytes(), seed)
        };
        let member = |at: usize| &self.endpoints[self.indices[at]];
        let weighty = (0..self.indices.len()).filter(|&at| self.weights[at] > 0);
        let mut order: Vec<_> = weighty.map(|at| (hash(member(at)), at)).collect();
        order.sort_unstable_by(|(one_hash, one), (other_hash, other)| {
            // Of equals, such as one address under several names, the order must not be the list's.
            one_hash.cmp(other_hash).then_with(|| {
                let key = |at: usize| (member(at).addr(), member(at).server_name());
                key(*one).cmp(&key(*other))
            })
        });
        order.into_iter().map(|(_, at)| at).collect()
    }

    /// The weights, without those of the members that are not among the first `size`.
    fn at_random(&self, size: usize, seed: u64) -> Vec<u32> {
        let mut weights = self.weights.clone();
        self.order(seed).into_iter().skip(size).for_each(|at| weights[at] = 0);
        weights
    }

    /// How much of each member is in the aperture of `instance`.
    fn aperture(&self, instance: u32, total: u32, at_least: u32) -> Vec<u32> {
        let order = self.order(0);
        let (instance, total) = (u128::from(instance), u128::from(total));
        // Lengths are whole numbers, so that what clients see of a server adds up exactly: an endpoint
        // is as long as its weight times the clients, and a client's unit as long as all weights.
        let unit: u128 = self.weights.iter().map(|&weight| u128::from(weight)).sum();
        let ring = unit * total;
        let units = units(at_least, order.len() as u128, total);
        let begin = instance * unit;
        let end = begin + units * unit;

        let mut shares = vec![0_u128; self.weights.len()];
        let mut from = 0;
        for at in order {
            let to = from + u128::from(self.weights[at]) * total;
            let common = |begin: u128, end: u128| to.min(end).saturating_sub(from.max(begin));
            // What reaches beyond the end of the ring goes on at its beginning.
            shares[at] = common(begin, end.min(ring)) + common(0, end.saturating_sub(ring));
            from = to;
        }
        // As weights they need only be right among themselves, and small ones serve policies better.
        let common = shares.iter().copied().fold(0, greatest_common_divisor).max(1);
        let most = shares.iter().copied().max().unwrap_or(0) / common;
        let excess = (u128::BITS - most.leading_zeros()).saturating_sub(u32::BITS);
        let scale = |share: u128| match share / common {
            0 => 0,
            share => (share >> excess).max(1) as u32,
        };
        shares.into_iter().map(scale).collect()
    }
}

// === impl Selection ===

impl Selection {
    /// The share of the endpoint at `index`, where that replaces its weight.
    pub(crate) fn share(&self, index: usize) -> Option<u32> {
        self.shares.get(index).copied()
    }
}

/// Puts the shares of a subset in the place of the weights. A node without a share is left out, also
/// where the subset has nothing else of its tier.
pub(crate) fn share_out(plans: &mut Vec<TierPlan>, shares: &[Option<u32>]) {
    if shares.iter().all(Option::is_none) {
        return;
    }
    for plan in plans.iter_mut() {
        let nodes = std::mem::take(&mut plan.nodes).into_iter();
        let positions = std::mem::take(&mut plan.positions);
        let weights = std::mem::take(&mut plan.weights);
        for ((node, position), weight) in nodes.zip(positions).zip(weights) {
            let weight = shares[position].unwrap_or(weight);
            if weight > 0 {
                plan.nodes.push(node);
                plan.positions.push(position);
                plan.weights.push(weight);
            }
        }
    }
    plans.retain(|plan| !plan.nodes.is_empty());
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
