//! One after the other.

use std::sync::Arc;

use super::{
    Pick, PickContext, Picker, Plain, Policy, Tier, position::Position, schedule::Schedule,
};

/// Each node in its turn, by weight.
///
/// The position starts at random and survives every change of the set, so that neither a thousand
/// fresh clients nor frequent updates favour the first nodes.
///
/// Where weights differ the turns follow a cycle in which each node has exactly as many as its weight,
/// once all are reduced by what they have in common. Up to 16,384 turns (and up to eight for each node,
/// or 65,536) no node is ever a whole turn ahead of its share, or behind (proportionate fairness; Baruah
/// and others, 1996). Longer cycles, of whatever weights, are computed turn by turn: as exact, and
/// nearly as even. Either way a pick is one `fetch_add` and a few steps, however skewed the weights.
///
/// ```
/// use evenkeel::{Endpoint, policy::RoundRobin, pool::TestBed};
///
/// let endpoints = [Endpoint::new(([10, 0, 0, 1], 80)), Endpoint::new(([10, 0, 0, 2], 80))];
/// let bed = TestBed::new(RoundRobin::new(), endpoints).unwrap();
/// let turns: Vec<_> = (0..4).map(|_| bed.pick(None).unwrap().endpoint()).collect();
/// assert_eq!(turns[0], turns[2]);
/// assert_eq!(turns[1], turns[3]);
/// assert_ne!(turns[0], turns[1]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    positions: Positions,
}

/// Where the turns are, one position a tier: what one tier skips must not be what the next one
/// counts by.
#[derive(Debug, Default)]
pub(super) struct Positions(Vec<Arc<Position>>);

/// The turns of a tier.
#[derive(Debug)]
pub(super) struct Turns {
    position: Arc<Position>,
    schedule: Option<Arc<Schedule>>,
}

// === impl RoundRobin ===

impl RoundRobin {
    /// Round robin from a random start.
    pub const fn new() -> Self {
        Self { positions: Positions::new() }
    }
}

impl Policy for RoundRobin {
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(self.positions.turns(tier, Schedule::of(tier.weights())))
    }
}

// === impl Positions ===

impl Positions {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Turns by `schedule`, or equal ones, that go on where those of the same tier are.
    pub(super) fn turns(&mut self, tier: &Tier<'_>, schedule: Option<Schedule>) -> Turns {
        let mut rng = tier.rng();
        let start = || Arc::new(Position::anywhere(&mut rng));
        if self.0.len() <= tier.index() {
            self.0.resize_with(tier.index() + 1, start);
        }
        let position = Arc::clone(&self.0[tier.index()]);
        Turns { position, schedule: schedule.map(Arc::new) }
    }
}

impl Clone for Positions {
    /// A clone is for another balancer: it has a start of its own.
    fn clone(&self) -> Self {
        Self::new()
    }
}

// === impl Turns ===

impl Turns {
    #[inline]
    fn turn(&self, nodes: usize) -> usize {
        match &self.schedule {
            None => self.position.next_of(nodes),
            Some(schedule) => schedule.pick(&self.position),
        }
    }
}

impl Picker for Turns {
    fn plain(&self) -> Plain {
        let position = Arc::clone(&self.position);
        match &self.schedule {
            None => Plain::InTurn(position),
            Some(schedule) => Plain::InTurnByWeight(position, Arc::clone(schedule)),
        }
    }

    #[inline]
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let nodes = cx.len();
        if nodes == 0 {
            return Pick::Fail;
        }
        // A node that is not accepted gives its turn to the next of the schedule, for which that
        // turn is then over: so its share is spread over all, and not left to its neighbour.
        for _ in 0..nodes.min(64) {
            let index = self.turn(nodes);
            if cx.accepts(index) {
                return Pick::Use(index);
            }
        }
        let found = match &self.schedule {
            None => cx.any_accepted(),
            Some(schedule) => schedule.draw_accepted(cx),
        };
        found.map_or(Pick::Fail, Pick::Use)
    }
}
