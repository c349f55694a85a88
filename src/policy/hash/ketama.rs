//! Ketama: the rings of nginx and of memcached's clients.

use super::{
    Build, HashPicker, Table,
    bids::Bids,
    hash_policy, host,
    points::{Point, Points, halvings},
    reused_picker,
    ring::push_decimal,
};
use crate::policy::{KeyHash, Tier, built::Built};

/// The ketama rings (Jones: "libketama", 2007) that nginx and libmemcached build, so that a key goes
/// to the server that they send it to.
///
/// Keys are read by the hash of the profile, CRC-32 or MD5; a closure of one's own returns
/// [`KeyHash::Crc32`]`.hash(..)` or [`KeyHash::Md5`]`.hash(..)`. A server is known by its first
/// address; where the other system's configuration says something else, such as a host name, that
/// text goes into the metadata `hash_key`.
///
/// ```
/// use evenkeel::{Endpoint, policy::{KeyHash, Ketama}, pool::TestBed};
///
/// let endpoints = [7777, 7778].map(|port| Endpoint::new(([127, 0, 0, 1], port)));
/// let bed = TestBed::new(Ketama::nginx(), endpoints).unwrap();
/// let key = KeyHash::Crc32.hash(b"/some/path");
/// assert_eq!(bed.pick(Some(key)).unwrap().endpoint().to_string(), "127.0.0.1:7778");
/// ```
#[derive(Clone, Debug)]
pub struct Ketama {
    profile: Profile,
    built: Built<HashPicker<KetamaTable>>,
}

#[derive(Clone, Copy, Debug)]
enum Profile {
    Nginx,
    Libmemcached,
}

/// A ring of 32 bits in the leading ones of 64.
#[derive(Debug)]
pub struct KetamaTable(Points);

/// For a unit of weight in nginx, for a server of mean weight in libmemcached.
const POINTS: u64 = 160;
/// The most points of nginx's ring, 16 bytes each.
const MOST_POINTS: u64 = 8 * 1024 * 1024;
/// Of one MD5 digest.
const POINTS_A_DIGEST: usize = 4;
/// memcached's port, which does not appear in the text of a point.
const MEMCACHED_PORT: &str = "11211";

// === impl Ketama ===

impl Ketama {
    /// nginx's `hash key consistent`: 160 points for each unit of weight, CRC-32. Points are fixed
    /// by a server's own weight, so no key moves that need not. Above 8 Mi points (weights of
    /// 52,428 in all), where nginx goes on, all servers get half, and so on; a warning says so.
    pub fn nginx() -> Self {
        Self { profile: Profile::Nginx, built: Built::default() }
    }

    /// libmemcached with `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`, and what is compatible with that:
    /// 160 points for a server of mean weight, MD5. A server's points depend on the weights of all,
    /// so a change of weights moves keys that need not move.
    pub fn libmemcached() -> Self {
        Self { profile: Profile::Libmemcached, built: Built::default() }
    }
}

impl Default for Ketama {
    /// The profile of nginx.
    fn default() -> Self {
        Self::nginx()
    }
}

impl Build for Ketama {
    type Table = KetamaTable;

    fn table_key_hash(&self) -> KeyHash {
        match self.profile {
            Profile::Nginx => KeyHash::Crc32,
            Profile::Libmemcached => KeyHash::Md5,
        }
    }

    fn entries(&self, endpoints: usize) -> usize {
        match self.profile {
            // By weights, which may be large.
            Profile::Nginx => MOST_POINTS as usize,
            Profile::Libmemcached => endpoints.saturating_mul(POINTS as usize),
        }
    }

    fn table(&self, tier: &Tier<'_>) -> KetamaTable {
        let names = host::names(tier, host::configured);
        let rest = Bids::of(tier);
        KetamaTable(match self.profile {
            Profile::Nginx => Points::distinct(nginx(&names, tier.weights()), rest),
            Profile::Libmemcached => Points::new(libmemcached(&names, tier.weights()), rest),
        })
    }
}

hash_policy!(Ketama);
reused_picker!(Ketama);

// === impl KetamaTable ===

impl Table for KetamaTable {
    #[inline]
    fn owner(&self, key: u64) -> usize {
        self.0.owner(key << 32)
    }

    #[inline]
    fn find(&self, key: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.0.find(key << 32, accept)
    }
}

fn point(hash: u32, node: usize) -> Point {
    Point { hash: u64::from(hash) << 32, node: node as u32 }
}

/// `ngx_http_upstream_hash_module.c`: each point is the CRC of host, zero byte, port and the point
/// before, which is 0 for the first.
fn nginx(names: &[String], weights: &[u32]) -> Vec<Point> {
    let count = |weight: u32, shift: u32| ((POINTS * u64::from(weight)) >> shift).max(1);
    let total = |shift| weights.iter().map(|&weight| count(weight, shift)).sum::<u64>();
    let shift = halvings(names.len(), MOST_POINTS, total);
    let mut points = Vec::with_capacity(total(shift) as usize);
    for (node, (name, &weight)) in names.iter().zip(weights).enumerate() {
        let (host, port) = host_and_port(name);
        let mut base = crc32fast::Hasher::new();
        base.update(host.as_bytes());
        base.update(&[0]);
        base.update(port.as_bytes());
        let mut previous = 0_u32;
        for _ in 0..count(weight, shift) {
            let mut hasher = base.clone();
            hasher.update(&previous.to_le_bytes());
            previous = hasher.finalize();
            points.push(point(previous, node));
        }
    }
    points
}

/// The parts of a server's text as nginx takes them: an IPv6 address keeps its brackets.
fn host_and_port(name: &str) -> (&str, &str) {
    if let Some((scheme, path)) = name.split_at_checked(5) {
        if scheme.eq_ignore_ascii_case("unix:") {
            return (path, "");
        }
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}

/// `update_continuum` of libmemcached's `hosts.cc`, in its single precision.
fn libmemcached(names: &[String], weights: &[u32]) -> Vec<Point> {
    let sum = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() as f32;
    let mut points = Vec::with_capacity(POINTS as usize * names.len());
    let mut text = Vec::new();
    for (node, (name, &weight)) in names.iter().zip(weights).enumerate() {
        let share = weight as f32 / sum;
        let digests = share * POINTS as f32 / POINTS_A_DIGEST as f32 * names.len() as f32;
        let digests = (digests + 1e-10).floor() as u64;
        let (host, port) = host_and_port(name);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        for index in 0..digests {
            text.clear();
            text.extend_from_slice(host.as_bytes());
            if !port.is_empty() && port != MEMCACHED_PORT {
                text.push(b':');
                text.extend_from_slice(port.as_bytes());
            }
            text.push(b'-');
            push_decimal(&mut text, index);
            let md5::Digest(digest) = md5::compute(&text);
            points.extend(
                digest.chunks_exact(POINTS_A_DIGEST).map(|word| {
                    point(u32::from_le_bytes([word[0], word[1], word[2], word[3]]), node)
                }),
            );
        }
    }
    points
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
