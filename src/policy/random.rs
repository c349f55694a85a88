//! A node at random.

use std::sync::Arc;

use super::{Pick, PickContext, Picker, Plain, Policy, Tier, weights::Weights};

/// Each request goes to a node at random, by weight.
///
/// Knows nothing of load; what it is good for is being cheap and without any memory.
///
/// ```
/// use evenkeel::{Endpoint, policy::Random, pool::TestBed};
/// let bed = TestBed::new(Random, [Endpoint::new(([10, 0, 0, 1], 80))]).unwrap();
/// assert!(bed.pick(None).is_some());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

#[derive(Debug)]
struct RandomPicker {
    weights: Option<Weights>,
}

/// Draws before the accepted nodes are looked for one by one.
const DRAWS: usize = 4;

impl Policy for Random {
    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(RandomPicker { weights: Weights::of(tier) })
    }
}

impl Picker for RandomPicker {
    fn plain(&self) -> Plain {
        if self.weights.is_none() { Plain::AtRandom } else { Plain::Other }
    }

    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        for _ in 0..DRAWS {
            let nodes = cx.len();
            let index = match &self.weights {
                None => cx.rng().below(nodes),
                Some(weights) => weights.draw(cx.rng()),
            };
            if cx.accepts(index) {
                return Pick::Use(index);
            }
        }
        let found = match &self.weights {
            None => cx.any_accepted(),
            Some(weights) => weights.draw_accepted(cx),
        };
        found.map_or(Pick::Fail, Pick::Use)
    }
}
