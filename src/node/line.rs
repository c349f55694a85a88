//! Where a node lies in memory: what each of its requests writes, on one cache line.
//!
//! A request writes the count of references to its node, the count of requests and the estimates.
//! On one line, threads contend for it once as the node is picked and once as it answers; on two,
//! for each of them. The count of references is where `Arc` puts it, before the node, and that
//! begins where the allocator likes, which is any multiple of 16 bytes. So it is asked again where
//! that is a bad one. Only speed depends on it.

use std::sync::Arc;

use super::{Fleet, Node, stats::Stats};

const LINE: usize = 64;
/// The counts of an `Arc` stand before what it holds.
const COUNTS: usize = 2 * size_of::<usize>();
/// Every second place is good, but those that were given back are the first to be given out again.
const MOST_TRIES: usize = 10;
/// Threads seldom meet at one of more nodes than these, and there to try is what takes time.
const MOST_NODES: usize = 64;

/// A node of `fleet`, at a good place if there is one.
pub(super) fn on_one_line(fleet: &Arc<Fleet>, make: impl Fn() -> Node) -> Arc<Node> {
    // Each of its nodes holds it, and little else does.
    let tries = if Arc::strong_count(fleet) <= MOST_NODES { MOST_TRIES } else { 1 };
    place(tries, || Arc::new(make()), lies_on_one_line)
}

fn place<T>(tries: usize, make: impl Fn() -> T, is_good: impl Fn(&T) -> bool) -> T {
    // Kept up to the end: what is given back at once is given out at once.
    let mut others = Vec::new();
    loop {
        let made = make();
        if is_good(&made) || others.len() + 1 == tries {
            return made;
        }
        others.push(made);
    }
}

fn lies_on_one_line(node: &Arc<Node>) -> bool {
    let begin = Arc::as_ptr(node).addr() - COUNTS;
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
        assert_eq!(place(10, next, |&made| made == 3), 3);
        assert_eq!(place(10, next, |_| false), 3 + 10);
        assert_eq!(place(1, next, |_| false), 3 + 10 + 1);
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
    }
}
