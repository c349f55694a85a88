//! Maglev: a table in which every node has its share of places.

use xxhash_rust::xxh64::xxh64;

use super::{Build, HashPicker, Table, bids::Bids, hash_policy, host, reused_picker};
use crate::{
    error::BuildError,
    policy::{Tier, built::Built},
};

/// Maglev hashing (Eisenbud and others: "Maglev: A fast and reliable software network load
/// balancer", 2016) as Envoy has it: the same table, and so the same host for the same key.
///
/// Shares are within one place of 65,537 of what is due, far closer than on a ring, and a lookup is
/// one read. The price is that some keys move which need not: up to some 3 % when one of many nodes
/// goes. Where that matters more than even shares, take [`RingHash`](super::RingHash) or
/// [`Rendezvous`](super::Rendezvous).
///
/// The same key goes to the same endpoint in every process, whatever the order of endpoints. A host
/// is known by its address, or by the metadata `envoy.lb.hash_key`.
///
/// ```
/// use evenkeel::{Endpoint, policy::{Maglev, hash_bytes}, pool::TestBed};
///
/// let endpoints = (1..=9).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let bed = TestBed::new(Maglev::by_header("x-user"), endpoints).unwrap();
/// let key = Some(hash_bytes(b"anna"));
/// assert_eq!(bed.pick(key).unwrap().endpoint(), bed.pick(key).unwrap().endpoint());
/// ```
#[derive(Clone, Debug)]
pub struct Maglev {
    size: u64,
    by_host_name: bool,
    /// Other places that are looked at before all nodes bid.
    attempts: u64,
    built: Built<HashPicker<MaglevTable>>,
}

/// Which node has each place.
#[derive(Debug)]
pub struct MaglevTable {
    places: Places,
    size: u64,
    attempts: u64,
    rest: Bids,
}

/// By index; in two bytes each where that suffices, so that the table stays in a near cache.
#[derive(Debug)]
enum Places {
    Short(Box<[u16]>),
    Long(Box<[u32]>),
}

/// A node while the table is filled.
struct Filling {
    node: usize,
    weight: f64,
    target: f64,
    at: usize,
    skip: usize,
}

/// Envoy's default size.
const SIZE: u64 = 65_537;
/// The largest size that Envoy allows.
const LARGEST: u64 = 5_000_011;
/// Hosts that Envoy's retries look at, at most, where so many are configured.
const ATTEMPTS: u64 = 16;

// === impl Maglev ===

impl Maglev {
    /// Envoy's table of 65,537 places. Where a key's node cannot be used the others bid for it, so
    /// that they share its keys evenly (see [`Rendezvous`](super::Rendezvous)).
    pub fn new() -> Self {
        Self { size: SIZE, by_host_name: false, attempts: 0, built: Built::default() }
    }

    /// Envoy's `maglev` at its defaults: the same table, and where a host was tried the other places
    /// that Envoy's retries look at (16 of them; then the others bid). Owners are Envoy's while all hosts
    /// are healthy: Envoy builds a table without those that are not, here the others bid for their keys,
    /// so that no other key moves.
    pub fn envoy() -> Self {
        Self { attempts: ATTEMPTS, ..Self::new() }
    }

    /// How many places there are: a prime number up to 5,000,011, or it is an error when the
    /// balancer is built. A hundred for each node keep shares within 1 %.
    #[must_use]
    pub fn table_size(mut self, places: u64) -> Self {
        self.size = places;
        self
    }

    /// A host is known by its server name: Envoy's `use_hostname_for_hashing`.
    #[must_use]
    pub fn by_host_name(mut self) -> Self {
        self.by_host_name = true;
        self
    }
}

impl Default for Maglev {
    fn default() -> Self {
        Self::new()
    }
}

impl Build for Maglev {
    type Table = MaglevTable;

    fn check_table(&self) -> Result<(), BuildError> {
        let reason = if self.size > LARGEST {
            "it is above 5,000,011"
        } else if !is_prime(self.size) {
            "it is no prime number"
        } else {
            return Ok(());
        };
        Err(BuildError::Setting { setting: "size of the table", reason })
    }

    fn entries(&self, _endpoints: usize) -> usize {
        self.size as usize
    }

    fn table(&self, tier: &Tier<'_>) -> MaglevTable {
        let names = host::names(tier, |endpoint| host::envoy(endpoint, self.by_host_name));
        let sorted = host::sorted(names);
        MaglevTable::new(&sorted, tier.weights(), self.size, self.attempts, Bids::of(tier))
    }
}

hash_policy!(Maglev);
reused_picker!(Maglev);

// === impl MaglevTable ===

impl MaglevTable {
    /// Listing 1 of the paper with weights as in Envoy's `maglev_lb.cc`: in each round a node claims
    /// its next free place, the lighter ones in fewer rounds.
    fn new(
        sorted: &[(String, usize)],
        weights: &[u32],
        size: u64,
        attempts: u64,
        rest: Bids,
    ) -> Self {
        let sum = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() as f64;
        let share = |weight: u32| f64::from(weight) / sum;
        let heaviest = share(weights.iter().copied().max().unwrap_or(1));
        let mut filling: Vec<_> = sorted
            .iter()
            .map(|(name, node)| Filling {
                node: *node,
                weight: share(weights[*node]),
                target: 0.0,
                at: (xxh64(name.as_bytes(), 0) % size) as usize,
                // A table of two places or fewer has nothing to skip.
                skip: (xxh64(name.as_bytes(), 1) % (size - 1).max(1)) as usize + 1,
            })
            .collect();
        let places = if weights.len() < usize::from(u16::MAX) {
            Places::Short(fill(&mut filling, heaviest, size, u16::MAX, |node| node as u16))
        } else {
            Places::Long(fill(&mut filling, heaviest, size, u32::MAX, |node| node as u32))
        };
        Self { places, size, attempts, rest }
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        let at = (hash % self.size) as usize;
        match &self.places {
            Places::Short(places) => places[at].into(),
            Places::Long(places) => places[at] as usize,
        }
    }

    /// As Envoy's retries look for another host: attempt `n` at the place of the hash with the bits
    /// of `-n` flipped.
    #[cold]
    fn walk(&self, key: u64, owner: usize, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        for attempt in 1..=self.attempts {
            let other = self.place(key ^ attempt.wrapping_neg());
            if other != owner && accept(other) {
                return Some(other);
            }
        }
        self.rest.find(key, accept)
    }
}

impl Table for MaglevTable {
    #[inline]
    fn owner(&self, key: u64) -> usize {
        self.place(key)
    }

    #[inline]
    fn find(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let owner = self.place(key);
        if accept(owner) { Some(owner) } else { self.walk(key, owner, accept) }
    }
}

/// Fills the places; `free` stands for what nobody has yet.
fn fill<T: Copy + PartialEq>(
    filling: &mut [Filling],
    heaviest: f64,
    size: u64,
    free: T,
    index: impl Fn(usize) -> T,
) -> Box<[T]> {
    let mut places = vec![free; size as usize].into_boxed_slice();
    let mut left = if filling.is_empty() { 0 } else { size };
    let size = places.len();
    let next = |at: usize, skip: usize| {
        let next = at + skip;
        if next >= size { next - size } else { next }
    };
    let mut round = 0.0;
    while left > 0 {
        round += 1.0;
        for node in filling.iter_mut() {
            if round * node.weight < node.target {
                continue;
            }
            node.target += heaviest;
            let mut at = node.at;
            while places[at] != free {
                at = next(at, node.skip);
            }
            places[at] = index(node.node);
            node.at = next(at, node.skip);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    places
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|f| number % f != 0)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
