//! Which of very many endpoints one client uses.
//!
//! A thousand clients of a thousand servers would keep a million connections. With a subset each
//! client knows all endpoints, and has connections, nodes and services for a few.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

use xxhash_rust::xxh64::xxh64;

use super::{diff::can_be_dialled, tiers::TierPlan};
use crate::{discovery::Endpoints, endpoint::Endpoint};

/// The part of the endpoints that a balancer uses; all of them by default.
///
/// What is outside is neither dialled nor given a service, and shows in
/// [`status`](crate::pool::Status) as [`OutsideSubset`](crate::pool::EndpointState::OutsideSubset). What
/// leaves the subset drains like an endpoint that is removed. The subset is taken first, of all
/// priorities and zones together; endpoints of weight 0 count in none, unless all of their priority have it.
///
/// | | [`random`](Self::random) | [`aperture`](Self::aperture) |
/// |---|---|---|
/// | needs to know | nothing | the number of this client, and how many there are |
/// | clients of a server | even in the mean: with 1,000 clients of 20 each and 1,000 servers 20, 4.4 more or less | even, exactly |
/// | an endpoint comes or goes | one member changes, at most | three change, at most, while the number of units (`12 total / endpoints`, rounded up) stays |
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
    Random {
        size: usize,
    },
    Aperture {
        instance: u32,
        total: u32,
        at_least: u32,
    },
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

// === impl Subset ===

impl Subset {
    /// All endpoints.
    pub const fn all() -> Self {
        Self(Kind::All)
    }

    /// So many endpoints at random (gRFC A68), at least 1; 20 are enough to balance well.
    ///
    /// Those whose addresses come first by xxHash64 with a seed of this balancer's own, which it
    /// keeps for life. So when one endpoint comes or goes, one member of the subset changes or none.
    pub const fn random(size: usize) -> Self {
        Self(Kind::Random { size })
    }

    /// The part of `instance`, of `total` clients numbered from 0: a deterministic aperture, as in
    /// Finagle.
    ///
    /// The endpoints lie on a ring, in an order that all clients agree on, each as wide as its
    /// weight. Every client looks at a piece of it of the same width, at least 12 endpoints, which
    /// begins `instance / total` of the way round. At its ends are parts of endpoints; those are
    /// picked in proportion. So the pieces of all clients cover the ring evenly, and every endpoint
    /// gets the same, by its weight, from all of them together, to the last request.
    ///
    /// In Kubernetes the ordinal of a StatefulSet is such a number. When clients come or go the
    /// pieces of all of them move; so change the two numbers rarely, and at all clients.
    ///
    /// A policy that replaces the weights, such as
    /// [`WeightedRoundRobin`](crate::policy::WeightedRoundRobin) with reports, does not know of parts of
    /// endpoints.
    pub const fn aperture(instance: u32, total: u32) -> Self {
        Self(Kind::Aperture { instance, total, at_least: APERTURE_AT_LEAST })
    }

    /// The least number of endpoints in an [`aperture`](Self::aperture), 12 by default; of a random
    /// subset its size.
    #[must_use]
    pub const fn at_least(self, endpoints: u32) -> Self {
        Self(match self.0 {
            Kind::All => Kind::All,
            Kind::Random { .. } => Kind::Random { size: endpoints as usize },
            Kind::Aperture { instance, total, .. } => {
                Kind::Aperture { instance, total, at_least: endpoints }
            }
        })
    }

    pub(crate) fn is_all(&self) -> bool {
        self.0 == Kind::All
    }

    /// Why it cannot be, if so.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self.0 {
            Kind::Random { size: 0 } | Kind::Aperture { at_least: 0, .. } => {
                Err("a subset of no endpoint serves nothing")
            }
            Kind::Aperture { instance, total, .. } if instance >= total => {
                Err("the instance is numbered from 0, and below the total")
            }
            _ => Ok(()),
        }
    }

    /// The part of `endpoints` for the balancer with `seed`.
    pub(crate) fn select(&self, endpoints: Endpoints, seed: u64) -> Selection {
        if self.0 == Kind::All {
            let inside = endpoints.into_iter().collect();
            return Selection { inside, ..Selection::default() };
        }
        let (valid, invalid) = distinct(endpoints);
        let weights = effective_weights(&valid);
        let mut selection = match self.0 {
            Kind::All => Selection { inside: valid, ..Selection::default() },
            Kind::Random { size } => {
                let outside = beyond_the_first(size, &valid, &weights, seed);
                partition(valid, &weights, &outside)
            }
            Kind::Aperture { instance, total, at_least } => {
                let shares = aperture(&valid, &weights, instance, total, at_least);
                let nothing = |index: &usize| weights[*index] > 0 && shares[*index] == 0;
                let outside = (0..valid.len()).filter(nothing).collect();
                partition(valid, &shares, &outside)
            }
        };
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

/// The weights, and 1 where all of a priority are 0.
fn effective_weights(endpoints: &[Endpoint]) -> Vec<u32> {
    let mut weighted = HashMap::new();
    for endpoint in endpoints {
        *weighted.entry(endpoint.priority()).or_insert(false) |= endpoint.weight().0 > 0;
    }
    let weight = |endpoint: &Endpoint| match weighted[&endpoint.priority()] {
        true => endpoint.weight().0,
        false => 1,
    };
    endpoints.iter().map(weight).collect()
}

/// The indices of `endpoints` in the order of the hashes of their first addresses, with `seed`; those
/// for which `counts` says so.
fn order(endpoints: &[Endpoint], counts: impl Fn(usize) -> bool, seed: u64) -> Vec<usize> {
    let mut text = String::new();
    let mut hash = |endpoint: &Endpoint| {
        text.clear();
        // Writing to a string does not fail.
        let _ = write!(text, "{}", endpoint.addr());
        xxh64(text.as_bytes(), seed)
    };
    let hashed = endpoints.iter().enumerate().filter(|(index, _)| counts(*index));
    let mut order: Vec<_> = hashed.map(|(index, endpoint)| (hash(endpoint), index)).collect();
    order.sort_unstable_by(|(one_hash, one), (other_hash, other)| {
        // Of equals, such as one address under several names, the order must not be the list's.
        one_hash.cmp(other_hash).then_with(|| {
            let key = |index: usize| (endpoints[index].addr(), endpoints[index].server_name());
            key(*one).cmp(&key(*other))
        })
    });
    order.into_iter().map(|(_, index)| index).collect()
}

/// Those that count and are not among the first `size`.
fn beyond_the_first(
    size: usize,
    endpoints: &[Endpoint],
    weights: &[u32],
    seed: u64,
) -> HashSet<usize> {
    let order = order(endpoints, |index| weights[index] > 0, seed);
    order.into_iter().skip(size).collect()
}

fn partition(endpoints: Vec<Endpoint>, shares: &[u32], outside: &HashSet<usize>) -> Selection {
    let mut selection = Selection::default();
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        if outside.contains(&index) {
            selection.outside.push(endpoint);
        } else {
            selection.inside.push(endpoint);
            selection.shares.push(shares[index]);
        }
    }
    selection
}

/// How many of the clients' units an aperture has, so that it has room for `at_least` endpoints.
fn units(at_least: u32, servers: u128, total: u128) -> u128 {
    (u128::from(at_least) * total).div_ceil(servers.max(1)).clamp(1, total)
}

/// How much of each endpoint is in the aperture of `instance`.
fn aperture(
    endpoints: &[Endpoint],
    weights: &[u32],
    instance: u32,
    total: u32,
    at_least: u32,
) -> Vec<u32> {
    let servers = weights.iter().filter(|&&weight| weight > 0).count() as u128;
    let (instance, total) = (u128::from(instance), u128::from(total));
    // Lengths are whole numbers, so that what clients see of a server adds up exactly: an endpoint is
    // as long as its weight times the clients, and a client's unit as long as all weights.
    let unit: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let ring = unit * total;
    let units = units(at_least, servers, total);
    let begin = instance * unit;
    let end = begin + units * unit;

    let mut shares = vec![0_u128; endpoints.len()];
    let mut from = 0;
    for index in order(endpoints, |_| true, 0) {
        let to = from + u128::from(weights[index]) * total;
        let common = |begin: u128, end: u128| to.min(end).saturating_sub(from.max(begin));
        // What reaches beyond the end of the ring goes on at its beginning.
        shares[index] = common(begin, end.min(ring)) + common(0, end.saturating_sub(ring));
        from = to;
    }
    // As weights they need only be right among themselves.
    let most = shares.iter().copied().max().unwrap_or(0);
    let excess = (u128::BITS - most.leading_zeros()).saturating_sub(u32::BITS);
    let scale = |share: u128| if share == 0 { 0 } else { (share >> excess).max(1) as u32 };
    shares.into_iter().map(scale).collect()
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
