//! Least request as gRPC does it.

use std::sync::Arc;

use super::{LeastRequest, Pick, PickContext, Picker, Policy, Tier, envoy::least_of};

/// [`LeastRequest`] by gRPC's rules (gRFC A48): made by [`LeastRequest::grpc`].
///
/// The node with the fewest requests in flight of a few drawn at random, with replacement: the same
/// may be drawn twice, and of equals the one drawn first is used. Weights do not count, and neither
/// do failures.
///
/// ```
/// use evenkeel::policy::LeastRequest;
/// let _of_two = LeastRequest::grpc();
/// let _of_five = LeastRequest::grpc().choices(5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcLeastRequest {
    choices: usize,
}

/// A48's bounds of `choiceCount`.
const LEAST_CHOICES: usize = 2;
const MOST_CHOICES: usize = 10;

impl LeastRequest {
    /// Least request by gRPC's rules: two choices, whatever the weights.
    pub const fn grpc() -> GrpcLeastRequest {
        GrpcLeastRequest { choices: LEAST_CHOICES }
    }
}

// === impl GrpcLeastRequest ===

impl GrpcLeastRequest {
    /// How many nodes are drawn, from 2 to 10: more count as 10, as in gRPC. Fewer count as 2, where
    /// gRPC refuses the configuration.
    #[must_use]
    pub fn choices(mut self, choices: usize) -> Self {
        self.choices = choices.clamp(LEAST_CHOICES, MOST_CHOICES);
        self
    }
}

impl Policy for GrpcLeastRequest {
    fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(*self)
    }
}

impl Picker for GrpcLeastRequest {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        least_of(self.choices, cx)
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
#[allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]
mod tests {
    use super::*;
    use crate::{Endpoint, Weight, node::Lease, pool::TestBed};

    /// How many of 20,000 requests go to the first of two nodes, which has one in flight.
    fn to_the_busier(choices: usize) -> usize {
        let endpoint = |last| Endpoint::new(([10, 0, 0, last], 80));
        let heavy = endpoint(1).with_weight(Weight(1_000));
        let policy = LeastRequest::grpc().choices(choices);
        let bed = TestBed::new(policy, [heavy, endpoint(2)]).unwrap().seed(5);
        let busy = Arc::clone(bed.nodes().next().unwrap());
        let _held = Lease::acquire(&busy, None, None).unwrap();
        let picks = (0..20_000).map(|_| bed.pick(None).unwrap());
        picks.filter(|lease| lease.node().id() == busy.id()).count()
    }

    /// A48: `choiceCount` draws, each of any node, so that the busier of two is used if it is drawn
    /// each time: with a chance of 2^-k. More than ten count as ten. Bounds are five standard
    /// deviations.
    #[test]
    fn a48_draws_repeat_and_are_ten_at_most() {
        for (choices, expected, spread) in [
            (0, 5_000, 306),
            (2, 5_000, 306),
            (3, 2_500, 234),
            (5, 625, 123),
            (10, 20, 20),
            (100, 20, 20),
        ] {
            let busier = to_the_busier(choices);
            assert!(busier > 0 && busier.abs_diff(expected) < spread, "{choices}: {busier}");
        }
    }
}
