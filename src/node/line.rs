//! Where a node lies in memory: what each of its requests writes, on one cache line.
//!
//! A request writes the count of references to its node, the count of requests and the estimates.
//! On one line, threads contend for it once as the node is picked and once as it answers; on two,
//! for each of them. The count of references is where `Arc` puts it, before the node, and that
//! begins where the allocator likes, which is any multiple of 16 bytes: every second one is good. So
//! it is asked again where that is a bad one. Only speed depends on it.

use std::sync::Arc;

use super::{Node, stats::Stats};

const LINE: usize = 64;
/// The counts of an `Arc` stand before what it holds.
const COUNTS: usize = 2 * size_of::<usize>();
/// Places that were given back after an earlier set come first, and glibc keeps seven of them at hand.
const MOST_TRIES: usize = 10;
/// Of more nodes threads seldom meet at the same one, and tries would be what an update takes its time for.
const MOST_NODES: usize = 64;

/// The bad places that were tried for the nodes of a set. Held until all have theirs: what is given back is
/// the next to be given out.
#[derive(Debug)]
pub(crate) struct TriedPlaces<T = Arc<Node>> {
    bad: Vec<T>,
    most_tries: usize,
}

impl TriedPlaces {
    /// For a set of so many.
    pub(crate) fn for_nodes(count: usize) -> Self {
        Self { bad: Vec::new(), most_tries: if count <= MOST_NODES { MOST_TRIES } else { 1 } }
    }

    /// A node at a good place, if one is found.
    pub(super) fn place(&mut self, make: impl Fn() -> Node) -> Arc<Node> {
        self.find(|| Arc::new(make()), |node| is_good(Arc::as_ptr(node).addr() - COUNTS))
    }
}

impl<T> TriedPlaces<T> {
    fn find(&mut self, make: impl Fn() -> T, is_good: impl Fn(&T) -> bool) -> T {
        for _ in 1..self.most_tries {
            let made = make();
            if is_good(&made) {
                return made;
            }
            self.bad.push(made);
        }
        make()
    }
}

/// Whether what is written of a node is on one line, counts and all, where those begin here.
fn is_good(begin: usize) -> bool {
    begin % LINE + COUNTS + Stats::WRITTEN <= LINE
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::{cell::Cell, mem::offset_of};

    use super::*;

    #[test]
    fn the_first_good_place_is_taken_and_after_some_tries_any() {
        let tries = Cell::new(0);
        let next = || {
            tries.set(tries.get() + 1);
            tries.get()
        };
        let mut tried = TriedPlaces { bad: Vec::new(), most_tries: 10 };
        assert_eq!(tried.find(next, |&made| made == 3), 3);
        assert_eq!(tried.bad, [1, 2], "held, not given back");
        assert_eq!(tried.find(next, |_| false), 3 + 10);
        let mut tried = TriedPlaces { bad: Vec::new(), most_tries: 1 };
        assert_eq!(tried.find(next, |_| false), 3 + 10 + 1);
    }

    #[test]
    fn a_place_is_looked_for_where_nodes_are_few() {
        assert_eq!(TriedPlaces::for_nodes(64).most_tries, 10);
        assert_eq!(TriedPlaces::for_nodes(65).most_tries, 1);
    }

    /// Wherever a node lies, no line is both written by each request and only read by it; and at a good
    /// place, what it only reads is on one line as well.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn what_is_written_and_what_is_only_read_are_on_different_lines() {
        let written = COUNTS + offset_of!(Node, stats) + Stats::WRITTEN;
        let read = COUNTS + offset_of!(Node, stats) + Stats::READ;
        let end_of_read = COUNTS + offset_of!(Node, link) + size_of::<u64>();
        let good = [0, 16, 32, 48].map(|begin| {
            let line = |byte: usize| (begin + byte) / LINE;
            assert!(line(written - 1) < line(read), "from {begin}");
            line(written - 1) == 0 && line(read) == line(end_of_read - 1)
        });
        assert_eq!(good, [true, true, false, false]);
        assert_eq!([0, 16, 32, 48].map(|begin| is_good(5 * LINE + begin)), good);
    }
}
