//! What a lease knows of its request, in one word.

use crate::node::{LatencyModel, oldest::Generation, stats::Waits};

/// From the lowest bit: the stage (2 bits), the latency model (2), where it waits (5), whether the
/// request is counted in the fleet's crowd (1), and a time in nanoseconds (54): up to the head when
/// the request began, from then on how long that took. The beginning wraps after half a year; it is
/// only compared with times less than half of that away.
#[derive(Clone, Copy)]
pub(super) struct State(u64);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No response head yet.
    Waiting = 0,
    /// The head came; how it ended shows at the end of the stream.
    Streaming = 1,
    /// All is said that there is to say.
    Told = 2,
    /// And the request is no longer in flight.
    Released = 3,
}

// === impl State ===

impl State {
    const TIME_SHIFT: u32 = 10;
    const COUNTED: u64 = 1 << 9;
    /// Nothing else is asked of it then. As a constant the whole word is written: to write its lowest
    /// byte alone makes the drop that follows, and reads all of it, wait until that has reached the cache.
    pub(super) const RELEASED: Self = Self(Stage::Released as u64);
    const BELOW_TIME: u64 = (1 << Self::TIME_SHIFT) - 1;

    #[inline]
    pub(super) fn new(model: LatencyModel, waits: Waits, since: u64) -> Self {
        let waits = match waits {
            Waits::Alone => 0,
            Waits::Among(generation) => 1 + u64::from(generation.0),
        };
        Self(since << Self::TIME_SHIFT | waits << 4 | (model as u64) << 2 | Stage::Waiting as u64)
    }

    #[inline]
    pub(super) fn untimed() -> Self {
        Self::new(LatencyModel::None, Waits::Alone, 0)
    }

    #[inline]
    pub(super) fn stage(self) -> Stage {
        match self.0 & 0b11 {
            0 => Stage::Waiting,
            1 => Stage::Streaming,
            2 => Stage::Told,
            _ => Stage::Released,
        }
    }

    #[inline]
    pub(super) fn is_waiting_untimed(self) -> bool {
        self.stage() == Stage::Waiting && self.model() == LatencyModel::None
    }

    #[inline]
    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.0 = self.0 & !0b11 | stage as u64;
    }

    #[inline]
    pub(super) fn model(self) -> LatencyModel {
        match self.0 >> 2 & 0b11 {
            0 => LatencyModel::None,
            1 => LatencyModel::Average,
            _ => LatencyModel::Peak,
        }
    }

    #[inline]
    pub(super) fn waits(self) -> Waits {
        match self.0 >> 4 & 0b1_1111 {
            0 => Waits::Alone,
            among => Waits::Among(Generation((among - 1) as u8)),
        }
    }

    #[inline]
    pub(super) fn set_counted(&mut self) {
        self.0 |= Self::COUNTED;
    }

    #[inline]
    pub(super) fn is_counted(self) -> bool {
        self.0 & Self::COUNTED != 0
    }

    #[inline]
    pub(super) fn time(self) -> u64 {
        self.0 >> Self::TIME_SHIFT
    }

    pub(super) fn set_time(&mut self, nanos: u64) {
        let most = u64::MAX >> Self::TIME_SHIFT;
        self.0 = self.0 & Self::BELOW_TIME | nanos.min(most) << Self::TIME_SHIFT;
    }

    /// How long after its time `now` is; nothing if the clock went back.
    #[inline]
    pub(super) fn nanos_until(self, now: u64) -> u64 {
        let passed = (now << Self::TIME_SHIFT).wrapping_sub(self.0 & !Self::BELOW_TIME) as i64;
        passed.max(0) as u64 >> Self::TIME_SHIFT
    }
}
