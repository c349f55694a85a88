//! Ring hash: each node has many points on a ring, a key goes to the next.

use super::{
    Build, HashPicker,
    bids::Bids,
    hash_policy, host,
    murmur::murmur2,
    points::{Point, halvings},
    reach::Arcs,
    reused_picker,
};
use crate::{
    error::BuildError,
    policy::{Rng, Tier, built::Built, hash_bytes},
};

/// Ring hash (Karger and others: "Consistent hashing and random trees", 1997), in three profiles.
///
/// The default profile gives every node as many points, and a point of a heavier node reaches farther:
/// a key's owner is the node with the least distance to its next point divided by its weight (the
/// linear method of Schindelhauer, Schomaker: "Weighted distributed hash tables", 2005). That is a
/// matter of each node alone, so a key moves only if it must: to a node that came or grew, or away from
/// one that went or shrank, however many nodes there are and whatever they weigh. Weights count by
/// their proportions: with all of them doubled no key moves. The profiles of Envoy and gRPC keep the
/// size of the whole ring, and so change the points of all nodes with their number: they are there to
/// send a key where those systems send it.
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
    built: Built<HashPicker<Arcs>>,
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
    /// `points` for each node.
    Steady {
        points: u32,
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

/// Points of a node: its share is then within 6 % of what is due to it, as one standard deviation.
const POINTS: u32 = 256;
/// The most that a node can be given: shares within 0.4 %, in a megabyte each.
const MOST_POINTS_A_NODE: u32 = 1 << 16;
/// The most points of a ring in the default profile, 16 bytes each, so that no mistake takes all
/// memory: from there on all nodes get half, a quarter and so on.
const MOST_POINTS: u64 = 1 << 26;
/// The largest ring that Envoy and gRPC allow.
const LARGEST: u64 = 8 * 1024 * 1024;

// === impl RingHash ===

impl RingHash {
    /// 256 points for each node, whatever its weight: its share is within 6 % of what is due to it (one
    /// standard deviation; 9 % where few others are far heavier). They take 4 kB, and up to 12 kB where weights differ. A ring of more than
    /// 67 million points (262,144 nodes) would be too large: then all nodes get half, and so on, which
    /// moves keys, and a warning says so.
    pub fn new() -> Self {
        Self::of(Profile::Steady { points: POINTS })
    }

    /// Envoy's `ring_hash` at its defaults: xxHash64 of `ip:port_0` and so on, on a ring of at least
    /// 1,024 and at most 8 Mi points. A host's own key is the metadata `envoy.lb.hash_key`, for
    /// Envoy's `hash_key` under `envoy.lb`. Owners are Envoy's while all hosts are healthy: Envoy builds
    /// a ring without those that are not, this one walks past them, so that no other key moves.
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

    /// How many points a node has in the default profile: at least 1; above 65,536 is an error when the
    /// balancer is built. Four times as many halve the deviation of the shares.
    #[must_use]
    pub fn points(mut self, count: u32) -> Self {
        if let Profile::Steady { points } = &mut self.profile {
            *points = count.max(1);
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
    type Table = Arcs;

    fn check_table(&self) -> Result<(), BuildError> {
        let sizes = match &self.profile {
            Profile::Steady { points } if *points > MOST_POINTS_A_NODE => {
                let reason = "they are above 65,536";
                return Err(BuildError::Setting { setting: "points of a node", reason });
            }
            Profile::Steady { .. } => return Ok(()),
            Profile::Envoy { sizes, .. } | Profile::Grpc { sizes } => sizes,
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

    fn entries(&self, endpoints: usize) -> usize {
        match &self.profile {
            // Where weights differ arcs take as much again.
            Profile::Steady { points } => endpoints.saturating_mul(2 * *points as usize),
            // One light node among heavy ones makes the ring as large as it may get.
            Profile::Envoy { sizes, .. } | Profile::Grpc { sizes } => sizes.most as usize,
        }
    }

    fn table(&self, tier: &Tier<'_>) -> Arcs {
        let rest = Bids::of(tier);
        let points = match self.profile {
            Profile::Steady { points } => {
                let points = points_a_node(points, tier.nodes().len());
                return Arcs::by_weight(steady(tier, points), tier.weights(), rest);
            }
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
        Arcs::plain(points, rest)
    }
}

hash_policy!(RingHash);
reused_picker!(RingHash);

/// `points`, or fewer where all nodes together would have too many.
fn points_a_node(points: u32, nodes: usize) -> u32 {
    let halved = |shift: u32| (points >> shift.min(u32::BITS - 1)).max(1);
    halved(halvings(nodes, MOST_POINTS, |shift| u64::from(halved(shift)) * nodes as u64))
}

/// So many points for each node, whatever others there are.
fn steady(tier: &Tier<'_>, points: u32) -> Vec<Point> {
    let mut seeds: Vec<(u64, usize)> =
        tier.nodes().iter().map(|node| host::seed(node)).zip(0..).collect();
    // The order of endpoints must not decide who is first where two points meet.
    seeds.sort_unstable();
    let mut ring = Vec::with_capacity(points as usize * seeds.len());
    for (seed, at) in seeds {
        let mut hashes = Rng::from_seed(seed);
        ring.extend((0..points).map(|_| Point { hash: hashes.next_u64(), node: at as u32 }));
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
