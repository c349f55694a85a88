//! A ring of points, each of a node: a key is its whose point comes next.

use super::{Table, bids::Bids};

/// Points in order, with an index by their leading bits: positions are hashes, so they are spread
/// evenly, and a lookup needs no search.
#[derive(Debug)]
pub struct Points {
    points: Box<[Point]>,
    /// `starts[b]` is the first point whose leading bits are at least `b`; one more at the end.
    starts: Box<[u32]>,
    shift: u32,
    rest: Bids,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) hash: u64,
    pub(super) node: u32,
}

/// The points that a walk looks at before all nodes bid: as many as the largest ring of gRPC has.
const WALK: usize = 4_096;
/// Points of one index entry that are looked at in turn.
const IN_TURN: usize = 12;
/// The binary logarithm of the points for an entry of the index: they lie side by side, while each
/// entry takes room in a cache.
const POINTS_AN_ENTRY: u32 = 2;

// === impl Points ===

impl Points {
    /// The ring of `points`; of those at one place the first given is the first met.
    pub(super) fn new(points: Vec<Point>, rest: Bids) -> Self {
        let bits = usize::BITS
            - (points.len() >> POINTS_AN_ENTRY).max(2).saturating_sub(1).leading_zeros();
        let shift = u64::BITS - bits;
        let (points, starts) = sort(points, shift);
        Self { points: points.into(), starts: starts.into(), shift, rest }
    }

    /// Of points at one place only the first, as nginx has it.
    pub(super) fn distinct(points: Vec<Point>, rest: Bids) -> Self {
        let ring = Self::new(points, rest);
        if ring.points.windows(2).all(|pair| pair[0].hash != pair[1].hash) {
            return ring;
        }
        let mut points = ring.points.into_vec();
        points.dedup_by_key(|point| point.hash);
        Self::new(points, ring.rest)
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

    #[cfg(all(test, not(evenkeel_loom)))]
    pub(super) fn as_slice(&self) -> &[Point] {
        &self.points
    }

    #[cold]
    fn walk(&self, key: u64, from: usize, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut last = self.points[from].node;
        let (before, after) = self.points.split_at(from);
        for point in after.iter().chain(before).take(WALK) {
            // The arcs of one node often lie side by side.
            if point.node == last {
                continue;
            }
            last = point.node;
            if accept(last as usize) {
                return Some(last as usize);
            }
        }
        self.rest.find(key, accept)
    }
}

impl Table for Points {
    #[inline]
    fn owner(&self, key: u64) -> usize {
        self.points.get(self.position(key)).map_or(0, |point| point.node as usize)
    }

    #[inline]
    fn find(&self, key: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.points.is_empty() {
            return self.rest.find(key, accept);
        }
        let at = self.position(key);
        let owner = self.points[at].node as usize;
        if accept(owner) { Some(owner) } else { self.walk(key, at, accept) }
    }
}

/// In order, and where each group of the same leading bits begins. Hashes are spread evenly, so that
/// distributing them by those bits leaves next to nothing to sort.
fn sort(points: Vec<Point>, shift: u32) -> (Vec<Point>, Vec<u32>) {
    let group = |point: &Point| (point.hash >> shift) as usize;
    let groups = 1_usize << (u64::BITS - shift);
    let mut starts = vec![0_u32; groups + 1];
    for point in &points {
        starts[group(point) + 1] += 1;
    }
    for at in 0..groups {
        starts[at + 1] += starts[at];
    }
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
