//! Whose turn it is.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::node::Rng;

/// Where a row of turns is. Each request moves it, so on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Position(AtomicU64);

impl Position {
    /// The next turn is `turn`.
    pub(super) const fn at(turn: u64) -> Self {
        Self(AtomicU64::new(turn))
    }

    /// Somewhere, and 2^63 turns from the wrap at the least, so that no order jumps.
    pub(super) fn anywhere(rng: &mut Rng) -> Self {
        Self::at(rng.next_u64() >> 1)
    }

    /// The number of a turn, given to nobody else.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of the next turn.
    #[cfg(test)]
    pub(super) fn turn(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A turn among so many, of which there is at least one.
    #[inline]
    pub(super) fn next_of(&self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}
