//! Ring hash: each node has many points on a ring, a key goes to the next.

use super::{
    Build, HashPicker,
    bids::Bids,
    built::Built,
    hash_policy, host,
    murmur::murmur2,
    points::{Point, Points},
    reused_picker,
};
use crate::{
    error::BuildError,
    policy::{Rng, Tier, hash_bytes},
};

/// Ring hash (Karger and others: "Consistent hashing and random trees", 1997), in three profiles.
///
/// The default profile gives a node a fixed number of points for its weight, whatever the others
/// have. So a key moves only if it must: to a node that came or grew, or away from one that went or
/// shrank. The profiles of Envoy and gRPC keep the size of the whole ring, and so change the points
/// of all nodes with their number: they are there to send a key where those systems send it.
///
/// The same key goes to the same endpoint in every process, whatever the order of endpoints (in
/// Envoy's profile the order matters where the points do not divide evenly). Nodes that cannot be
/// used are walked past, to the next distinct one. A lookup takes the same time for any number of
/// nodes.
///
/// A node's points come of its identity, or of the metadata `hash_key`, so that a replacement can
/// take over the keys of what it replaces; keep those distinct.
///
/// ```
/// use evenkeel::{Endpoint, policy::{RingHash, hash_bytes}, pool::TestBed};
///
/// let endpoints = || (1..=9).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let mut bed = TestBed::new(RingHash::by_header("x-user"), endpoints()).unwrap();
/// let key = Some(hash_bytes(b"anna"));
/// let owner = bed.pick(key).unwrap().endpoint();
/// // One of the others goes: nothing changes for this key.
/// bed.update(endpoints().filter(|one| *one == owner || one.addr() != &([10, 0, 0, 3], 80).into()));
/// assert_eq!(bed.pick(key).unwrap().endpoint(), owner);
/// ```
#[derive(Clone, Debug)]
pub struct RingHash {
    profile: Profile,
    built: Built<HashPicker<Points>>,
}

/// The hash of the points in [`RingHash::envoy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RingFunction {
    /// xxHash64. The default.
    #[default]
    XxHash64,
    /// MurmurHash64A, as older versions of Envoy had it.
    Murmur2,
}

#[derive(Clone, Debug)]
enum Profile {
    /// `points` for a node of weight `reference`.
    Steady {
        points: u32,
        reference: u32,
    },
    Envoy {
        sizes: Sizes,
        function: RingFunction,
        by_host_name: bool,
    },
    Grpc {
        sizes: Sizes,
    },
}

/// Bounds on the number of points of a whole ring.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    least: u64,
    most: u64,
}

/// Points for each unit of weight: a node's share is then within 6 % of what is due to it, as one
/// standard deviation.
const POINTS: u32 = 256;
/// The most points of a ring in the default profile, 16 bytes each: from there on all nodes get
/// half, a quarter and so on.
pub(super) const MOST_POINTS: u64 = 1 << 21;
/// The largest ring that Envoy and gRPC allow.
const LARGEST: u64 = 8 * 1024 * 1024;

// === impl RingHash ===

impl RingHash {
    /// 256 points for each unit of weight; at most some two million in all (that is 8,192 nodes of
    /// weight 1), above which all nodes get half, and so on.
    pub fn new() -> Self {
        Self::of(Profile::Steady { points: POINTS, reference: 1 })
    }

    /// Envoy's `ring_hash` at its defaults: xxHash64 of `ip:port_0` and so on, on a ring of at least
    /// 1,024 and at most 8 Mi points. A host's own key is the metadata `envoy.lb.hash_key`, for
    /// Envoy's `hash_key` under `envoy.lb`.
    pub fn envoy() -> Self {
        let sizes = Sizes { least: 1_024, most: LARGEST };
        let function = RingFunction::default();
        Self::of(Profile::Envoy { sizes, function, by_host_name: false })
    }

    /// gRPC's `ring_hash_experimental` at its defaults (gRFC A42, A76): as Envoy's, with endpoints
    /// in the order of their keys, and at most 4,096 points. An endpoint's own key is the metadata
    /// `hash_key`. For `requestHashHeader` there is
    /// [`HashKey::request_hash_header`](crate::policy::HashKey::request_hash_header).
    pub fn grpc() -> Self {
        Self::of(Profile::Grpc { sizes: Sizes { least: 1_024, most: 4_096 } })
    }

    /// How many points a node of weight 1 has in the default profile, or of the
    /// [reference weight](Self::reference_weight): at least 1. Four times as many halve the
    /// deviation of the shares.
    #[must_use]
    pub fn points(mut self, count: u32) -> Self {
        if let Profile::Steady { points, .. } = &mut self.profile {
            *points = count.max(1);
        }
        self
    }

    /// The weight whose node has the full number of points in the default profile: 1 unless set. For
    /// weights around 100 set it to 100. Never let it depend on the set, or all keys move with it.
    #[must_use]
    pub fn reference_weight(mut self, weight: u32) -> Self {
        if let Profile::Steady { reference, .. } = &mut self.profile {
            *reference = weight.max(1);
        }
        self
    }

    /// The least and the most points of the ring in the profiles of Envoy and gRPC: their
    /// `minimum_ring_size` and `maximum_ring_size`, up to 8 Mi. The least above the most is an error
    /// when the balancer is built.
    #[must_use]
    pub fn sizes(mut self, least: u64, most: u64) -> Self {
        match &mut self.profile {
            Profile::Envoy { sizes, .. } | Profile::Grpc { sizes } => {
                *sizes = Sizes { least, most };
            }
            Profile::Steady { .. } => {}
        }
        self
    }

    /// The hash of the points in Envoy's profile: its `hash_function`.
    #[must_use]
    pub fn function(mut self, of_points: RingFunction) -> Self {
        if let Profile::Envoy { function, .. } = &mut self.profile {
            *function = of_points;
        }
        self
    }

    /// In Envoy's profile a host is known by its server name: its `use_hostname_for_hashing`.
    #[must_use]
    pub fn by_host_name(mut self) -> Self {
        if let Profile::Envoy { by_host_name, .. } = &mut self.profile {
            *by_host_name = true;
        }
        self
    }

    fn of(profile: Profile) -> Self {
        Self { profile, built: Built::default() }
    }
}

impl Default for RingHash {
    fn default() -> Self {
        Self::new()
    }
}

impl Build for RingHash {
    type Table = Points;

    fn check_table(&self) -> Result<(), BuildError> {
        let (Profile::Envoy { sizes, .. } | Profile::Grpc { sizes }) = &self.profile else {
            return Ok(());
        };
        let reason = if sizes.least > sizes.most {
            "the least is above the most"
        } else if sizes.most > LARGEST {
            "the most is above 8 Mi"
        } else if sizes.least == 0 {
            "the least is 0"
        } else {
            return Ok(());
        };
        Err(BuildError::Setting { setting: "sizes of the ring", reason })
    }

    fn table(&self, tier: &Tier<'_>) -> Points {
        let points = match self.profile {
            Profile::Steady { points, reference } => steady(tier, points, reference),
            Profile::Envoy { sizes, function, by_host_name } => {
                let names = host::names(tier, |endpoint| host::envoy(endpoint, by_host_name));
                let hash = match function {
                    RingFunction::XxHash64 => hash_bytes,
                    RingFunction::Murmur2 => murmur2,
                };
                scaled(names.iter().map(String::as_str).zip(0..), tier.weights(), sizes, hash)
            }
            Profile::Grpc { sizes } => {
                let names = host::sorted(host::names(tier, host::grpc));
                let hosts = names.iter().map(|(name, at)| (name.as_str(), *at));
                scaled(hosts, tier.weights(), sizes, hash_bytes)
            }
        };
        Points::new(points, Bids::of(tier))
    }
}

hash_policy!(RingHash);
reused_picker!(RingHash);

/// A fixed number of points for each node, whatever others there are.
fn steady(tier: &Tier<'_>, points: u32, reference: u32) -> Vec<Point> {
    let whole = |weight: u32, shift: u32| {
        let points = u128::from(points) * u128::from(weight);
        (((points + u128::from(reference) / 2) / u128::from(reference)) >> shift).max(1) as u64
    };
    let total = |shift| tier.weights().iter().map(|&w| whole(w, shift)).sum::<u64>();
    let fits = |shift: &u32| total(*shift) <= MOST_POINTS.max(tier.nodes().len() as u64);
    let shift = (0..u64::BITS).find(fits).unwrap_or(u64::BITS);
    let mut seeds: Vec<(u64, usize)> =
        tier.nodes().iter().map(|node| host::seed(node)).zip(0..).collect();
    // The order of endpoints must not decide who is first where two points meet.
    seeds.sort_unstable();
    let mut ring = Vec::with_capacity(total(shift) as usize);
    for (seed, at) in seeds {
        let mut hashes = Rng::from_seed(seed);
        let count = whole(tier.weights()[at], shift);
        ring.extend((0..count).map(|_| Point { hash: hashes.next_u64(), node: at as u32 }));
    }
    ring
}

/// As many points as the least weighty host needs for a whole number of them, within bounds; the
/// others in proportion, rounded by a running sum (Envoy's `ring_hash_lb.cc`, gRFC A42).
fn scaled<'a>(
    hosts: impl Iterator<Item = (&'a str, usize)>,
    weights: &[u32],
    sizes: Sizes,
    hash: impl Fn(&[u8]) -> u64,
) -> Vec<Point> {
    let sum = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() as f64;
    let share = |weight: u32| f64::from(weight) / sum;
    let least = share(weights.iter().copied().min().unwrap_or(1));
    let scale = ((least * sizes.least as f64).ceil() / least).min(sizes.most as f64);
    let mut ring = Vec::with_capacity(scale.ceil() as usize);
    let (mut current, mut target) = (0.0, 0.0);
    let mut text = Vec::new();
    for (name, at) in hosts {
        target += scale * share(weights[at]);
        let mut index = 0_u64;
        while current < target {
            text.clear();
            text.extend_from_slice(name.as_bytes());
            text.push(b'_');
            push_decimal(&mut text, index);
            ring.push(Point { hash: hash(&text), node: at as u32 });
            index += 1;
            current += 1.0;
        }
    }
    ring
}

pub(super) fn push_decimal(text: &mut Vec<u8>, number: u64) {
    if number >= 10 {
        push_decimal(text, number / 10);
    }
    text.push(b'0' + (number % 10) as u8);
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
