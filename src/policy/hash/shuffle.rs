//! The order in which Envoy looks for another host where the one of a key has too much to do.

use std::cell::RefCell;

/// The 32-bit Mersenne Twister (Matsumoto, Nishimura, 1998), as `std::mt19937`: Envoy's source of
/// chance for this order. Words are made as they are asked for, since mostly a few suffice.
struct Twister {
    state: [u32; WORDS],
    next: usize,
}

const WORDS: usize = 624;
const MIDDLE: usize = 397;

thread_local! {
    /// Kept for the next order, so that a pick allocates nothing once a thread has had its largest.
    static INDICES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The first of `count` indices that `take` wants, in the order that Envoy shuffles by the hash `key`
/// (its `thread_aware_lb_impl.cc`).
pub(super) fn find_shuffled(
    key: u64,
    count: usize,
    mut take: impl FnMut(usize) -> bool,
) -> Option<usize> {
    INDICES.with_borrow_mut(|indices| {
        indices.clear();
        indices.extend(0..count as u32);
        let mut twister = Twister::new(key as u32);
        (0..count).find_map(|at| {
            let other = at + twister.below((count - at) as u32) as usize;
            indices.swap(at, other);
            let index = indices[at] as usize;
            take(index).then_some(index)
        })
    })
}

// === impl Twister ===

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for at in 1..WORDS {
            let before = state[at - 1] ^ (state[at - 1] >> 30);
            state[at] = before.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        Self { state, next: 0 }
    }

    fn next_u32(&mut self) -> u32 {
        let at = self.next;
        let after = (at + 1) % WORDS;
        let mixed = self.state[at] & 0x8000_0000 | self.state[after] & 0x7fff_ffff;
        let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
        self.state[at] = self.state[(at + MIDDLE) % WORDS] ^ (mixed >> 1) ^ odd;
        self.next = after;
        let mut word = self.state[at];
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: u32) -> u32 {
        let width = ((1_u64 << 32) / u64::from(bound)) as u32;
        // All of 32 bits are below the bound 1, whose width does not fit.
        if bound == 1 {
            self.next_u32();
            return 0;
        }
        loop {
            let number = self.next_u32() / width;
            if number < bound {
                return number;
            }
        }
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// The C++ standard, [rand.predef]: the 10,000th word of a default `mt19937`.
    #[test]
    fn is_the_twister_of_the_standard() {
        let mut twister = Twister::new(5_489);
        let last = (0..10_000).map(|_| twister.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    /// The orders that Envoy's `bounded_load_hlb_test.cc` states in its comments.
    #[test]
    fn orders_are_those_of_envoy() {
        let order = |key| {
            let mut order = Vec::new();
            find_shuffled(key, 5, |index| {
                order.push(index);
                false
            });
            order
        };
        assert_eq!(order(2), [2, 1, 0, 4, 3]);
        assert_eq!(order(6), [4, 0, 2, 3, 1]);
        assert_eq!(order(7), [0, 1, 4, 3, 2]);
    }

    #[test]
    fn the_seed_is_the_lower_half_of_the_hash() {
        let first = |key| find_shuffled(key, 1_000, |_| true);
        assert_eq!(first(7), first(7 | 5 << 32));
        assert_ne!(first(7), first(8));
    }
}
