//! Rings of points, each of a node: a key is its whose point comes next.

use super::{Table, bids::Bids};

/// A ring, and who is next where all that a walk over it meets cannot be used.
#[derive(Debug)]
pub(super) struct Points {
    ring: Ring,
    rest: Bids,
}

/// Points in order, with an index by their leading bits: positions are hashes, so they are spread
/// evenly, and a lookup needs no search.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[Point]>,
    /// `starts[b]` is the first point whose leading bits are at least `b`; one more at the end.
    starts: Box<[u32]>,
    shift: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) hash: u64,
    pub(super) node: u32,
}

/// The points that a walk looks at before all nodes bid: as many as the largest ring of gRPC has.
pub(super) const WALK: usize = 4_096;
/// Points of one index entry that are looked at in turn.
const IN_TURN: usize = 12;
/// The binary logarithm of the points for an entry of the index: they lie side by side, while each
/// entry takes room in a cache.
const POINTS_AN_ENTRY: u32 = 2;

// === impl Points ===

impl Points {
    /// The ring of `points`; of those at one place the first given is the first met.
    pub(super) fn new(points: Vec<Point>, rest: Bids) -> Self {
        Self { ring: Ring::new(points), rest }
    }

    /// The ring of `points` that are in order.
    pub(super) fn in_order(points: Vec<Point>, rest: Bids) -> Self {
        Self { ring: Ring::in_order(points), rest }
    }

    /// Of points at one place only the first, as nginx has it.
    pub(super) fn distinct(points: Vec<Point>, rest: Bids) -> Self {
        let ring = Ring::new(points);
        if ring.points.windows(2).all(|pair| pair[0].hash != pair[1].hash) {
            return Self { ring, rest };
        }
        let mut points = ring.points.into_vec();
        points.dedup_by_key(|point| point.hash);
        Self::in_order(points, rest)
    }

    #[cfg(all(test, not(evenkeel_loom)))]
    pub(super) fn as_slice(&self) -> &[Point] {
        self.ring.as_slice()
    }

    /// The first node that `accept`s where everybody is asked, by bids.
    pub(super) fn bid(&self, key: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.rest.find(key, accept)
    }

    #[cold]
    fn walk(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut last = None;
        for point in self.ring.from(key).take(WALK) {
            // The arcs of one node often lie side by side.
            if last.replace(point.node) != Some(point.node) && accept(point.node as usize) {
                return Some(point.node as usize);
            }
        }
        self.bid(key, accept)
    }
}

impl Table for Points {
    #[inline]
    fn owner(&self, key: u64) -> usize {
        self.ring.owner(key)
    }

    #[inline]
    fn find(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.ring.as_slice().is_empty() {
            return self.bid(key, accept);
        }
        let owner = self.owner(key);
        if accept(owner) { Some(owner) } else { self.walk(key, accept) }
    }
}

// === impl Ring ===

impl Ring {
    /// Of `points` at one place the first given is the first met.
    pub(super) fn new(points: Vec<Point>) -> Self {
        let shift = shift(points.len());
        let (points, starts) = sort(points, shift);
        Self { points: points.into(), starts: starts.into(), shift }
    }

    /// The same of points that are in order, which takes a fraction of the time.
    pub(super) fn in_order(points: Vec<Point>) -> Self {
        debug_assert!(points.is_sorted_by_key(|point| point.hash));
        let shift = shift(points.len());
        let starts = starts(&points, shift);
        Self { points: points.into(), starts: starts.into(), shift }
    }

    /// Where the first point at or after `key` stands; the first of all after the last.
    #[inline]
    fn position(&self, key: u64) -> usize {
        let entry = (key >> self.shift) as usize;
        let (start, end) = (self.starts[entry] as usize, self.starts[entry + 1] as usize);
        let within = &self.points[start..end];
        let before = if within.len() <= IN_TURN {
            // Without a branch that depends on the key, which the processor could not foresee.
            within.iter().filter(|point| point.hash < key).count()
        } else {
            within.partition_point(|point| point.hash < key)
        };
        let position = start + before;
        if position == self.points.len() { 0 } else { position }
    }

    /// Whose the first point at or after `key` is; 0 on a ring without points.
    #[inline]
    pub(super) fn owner(&self, key: u64) -> usize {
        self.points.get(self.position(key)).map_or(0, |point| point.node as usize)
    }

    /// All points, from the first at or after `key` on.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = &Point> {
        let (before, after) = self.points.split_at(self.position(key));
        after.iter().chain(before)
    }

    /// All points by their place.
    pub(super) fn as_slice(&self) -> &[Point] {
        &self.points
    }
}

/// How often the points of all `nodes` are halved, so that there are `most` at most; `total` says how
/// many there are after so many halvings.
pub(super) fn halvings(nodes: usize, most: u64, total: impl Fn(u32) -> u64) -> u32 {
    let most = most.max(nodes as u64);
    let shift = (0..u64::BITS).find(|&shift| total(shift) <= most).unwrap_or(u64::BITS - 1);
    if shift > 0 {
        tracing::warn!(
            nodes,
            wanted = total(0),
            points = total(shift),
            "a ring is too large: its nodes have fewer points, and keys move without need",
        );
    }
    shift
}

/// By how much a hash is shifted to find its entry of the index, among so many points.
fn shift(points: usize) -> u32 {
    (points >> POINTS_AN_ENTRY).max(2).saturating_sub(1).leading_zeros() + u64::BITS - usize::BITS
}

/// Where each group of the same leading bits begins; one more for the end.
fn starts(points: &[Point], shift: u32) -> Vec<u32> {
    let groups = 1_usize << (u64::BITS - shift);
    let mut starts = vec![0_u32; groups + 1];
    for point in points {
        starts[(point.hash >> shift) as usize + 1] += 1;
    }
    for at in 0..groups {
        starts[at + 1] += starts[at];
    }
    starts
}

/// In order, and where each group of the same leading bits begins. Hashes are spread evenly, so that
/// distributing them by those bits leaves next to nothing to sort.
fn sort(points: Vec<Point>, shift: u32) -> (Vec<Point>, Vec<u32>) {
    let group = |point: &Point| (point.hash >> shift) as usize;
    let starts = starts(&points, shift);
    let groups = starts.len() - 1;
    let mut next: Vec<u32> = starts[..groups].to_vec();
    let mut sorted = vec![Point { hash: 0, node: 0 }; points.len()];
    for point in points {
        let at = &mut next[group(&point)];
        sorted[*at as usize] = point;
        *at += 1;
    }
    for at in 0..groups {
        let within = &mut sorted[starts[at] as usize..starts[at + 1] as usize];
        // Stable: of points at one place the first given stays the first.
        within.sort_by_key(|point| point.hash);
    }
    (sorted, starts)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::*;

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// A ring is made smaller as seldom as can be, and never in silence.
    #[test]
    fn a_ring_that_is_too_large_is_halved_with_a_warning() {
        let warnings = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Warnings(Arc::clone(&warnings)), || {
            let warned = || warnings.swap(0, Ordering::Relaxed);
            for (most, shift) in [(4_096, 0), (4_000, 0), (3_999, 1), (1_999, 2), (1, 5)] {
                // So many points of each of a hundred nodes, and never none.
                let total = |shift: u32| 100 * (40_u64 >> shift).max(1);
                assert_eq!(halvings(100, most, total), shift, "{most}");
                assert_eq!(warned(), usize::from(shift > 0), "{most}");
            }
        });
    }
}
