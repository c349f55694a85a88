//! One suite over every policy: shares, distribution, exclusion, churn, and the odd sets.
//!
//! A new policy is one line at the end of this file. Chance comes from fixed seeds and time stands
//! still unless a test moves it, so each of these passes always or never. Bounds on chance are
//! chosen so that a correct policy would miss one with a probability below one in ten thousand for
//! a seed picked blindly.

#![allow(clippy::unwrap_used, reason = "a check fails by it")]

mod numbered;

#[path = "support/hand_time.rs"]
mod hand_time;

#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/churn.rs"]
mod churn;
#[path = "conformance/exclusion.rs"]
mod exclusion;
#[path = "conformance/sets.rs"]
mod sets;
#[path = "conformance/share.rs"]
mod share;

use case::{Case, Nature, Points};
use evenkeel::policy::{
    BoundedLoad, Ketama, LeastLoad, LeastRequest, LoadMetric, Maglev, P2c, PickFirst, Random,
    Rendezvous, RingHash, RoundRobin, WeightedRoundRobin,
};

macro_rules! checks {
    ($($module:ident: $($check:ident),*;)*) => {
        $($(
            #[test]
            fn $check() {
                $module::$check(&case());
            }
        )*)*
    };
}

/// For each policy a module with one test for each check.
macro_rules! conformance {
    ($($name:ident: $policy:expr, $nature:expr;)*) => {
        $(mod $name {
            use super::*;

            fn case() -> Case {
                Case::new(|| $policy, $nature)
            }

            checks! {
                share: equal_weights_get_equal_shares, a_failed_tier_does_not_bias_the_next, unequal_weights_get_their_shares,
                    weights_far_apart_get_their_shares,
                    r16_fresh_balancers_do_not_herd, r16_rebuilds_do_not_bias,
                    r16_rebuilds_with_weights_do_not_bias, r16_one_of_ten_failed_leaves_the_rest_even,
                    r16_one_of_ten_removed_leaves_the_rest_even,
                    t13_loads_decide_between_distinct_nodes, a_seed_repeats_its_picks;
                exclusion: r19_tried_nodes_are_not_picked_again, failed_nodes_are_not_picked,
                    full_nodes_are_not_picked, connected_nodes_come_first,
                    the_rest_keeps_its_weights, of_two_accepted_the_less_loaded;
                churn: r15_counts_stay_exact_under_churn, counts_stay_exact_among_threads,
                    a_cap_holds_among_threads;
                sets: no_node, one_node, t16_zero_weights, t16_ten_thousand_nodes,
                    t16_more_than_1024_at_once;
            }
        })*
    };
}

conformance! {
    round_robin: RoundRobin::new(), Nature::InTurn;
    weighted_round_robin: WeightedRoundRobin::new(), Nature::InTurn;
    round_robin_envoy: RoundRobin::envoy(), Nature::AtRandom;
    pick_first: PickFirst::new().shuffle(), Nature::Sticky;
    random: Random, Nature::AtRandom;
    rendezvous: Rendezvous, Nature::ByKey;
    ring_hash: RingHash::new(), Nature::ByRing(Points::ForANode(256));
    ring_hash_envoy: RingHash::envoy(), Nature::ByRing(Points::InAll(1_024));
    ring_hash_grpc: RingHash::grpc(), Nature::ByRing(Points::InAll(1_024));
    maglev: Maglev::new().table_size(16_381), Nature::ByKey;
    maglev_envoy: Maglev::envoy(), Nature::ByKey;
    ketama_nginx: Ketama::nginx(), Nature::ByRing(Points::ForAUnitOfWeight(160));
    ketama_libmemcached: Ketama::libmemcached(), Nature::ByRing(Points::ForANode(160));
    rendezvous_bounded: Rendezvous.bounded(1.25), Nature::ByKey;
    ring_hash_bounded: RingHash::new().bounded(1.25), Nature::ByRing(Points::ForANode(256));
    maglev_bounded: Maglev::new().table_size(16_381).bounded(1.0), Nature::ByKey;
    ring_hash_bounded_envoy: BoundedLoad::envoy(RingHash::envoy(), 150), Nature::ByRing(Points::InAll(1_024));
    maglev_bounded_envoy: BoundedLoad::envoy(Maglev::new().table_size(16_381), 120), Nature::ByKey;
    p2c_cost: P2c::default(), Nature::ByLoad;
    p2c_peak_ewma: P2c::peak_ewma(), Nature::ByLoad;
    p2c_in_flight: P2c::by(LoadMetric::InFlight), Nature::ByLoad;
    least_request: LeastRequest::new(), Nature::ByLoad;
    least_request_grpc: LeastRequest::grpc(), Nature::Unweighted;
    least_request_envoy: LeastRequest::envoy(), Nature::AtRandom;
    least_request_of_five: LeastRequest::new().choices(5), Nature::ByLoadOfMany;
    least_load_cost_of_three: LeastLoad::by(LoadMetric::Cost).choices(3), Nature::ByLoadOfMany;
    least_load_default: LeastLoad::default(), Nature::ByLoadOfMany;
    least_load_in_flight_of_all: LeastLoad::by(LoadMetric::InFlight).scan(), Nature::ByLoadOfMany;
    least_load_peak_of_all: LeastLoad::by(LoadMetric::PeakEwma).scan(), Nature::ByLoadOfMany;
    least_load_peak_of_nine: LeastLoad::by(LoadMetric::PeakEwma).choices(9), Nature::ByLoadOfMany;
}
