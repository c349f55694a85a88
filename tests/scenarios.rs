//! Policies in a closed loop, in time that the test moves: what fails fast, what is slow, what
//! hangs, what is new.
//!
//! Everything is seeded, so each of these passes always or never, over several seeds. Bounds are those of
//! the requirements; where these name none, the test says where its bound comes from. What a policy does
//! "in N runs" was looked at once, with 40 seeds.

mod numbered;

#[path = "support/hand_time.rs"]
mod hand_time;

#[path = "scenarios/failing.rs"]
mod failing;
#[path = "scenarios/fresh.rs"]
mod fresh;
#[path = "scenarios/slow.rs"]
mod slow;
#[path = "scenarios/world.rs"]
mod world;

use evenkeel::policy::{LeastLoad, LoadMetric};

const SEEDS: std::ops::Range<u64> = 0..2;

/// The policies that look at load. `P2c` and `LeastRequest` are names for these.
fn by_load() -> [LeastLoad; 5] {
    [
        LeastLoad::by(LoadMetric::Cost),
        LeastLoad::by(LoadMetric::PeakEwma),
        LeastLoad::by(LoadMetric::InFlight),
        LeastLoad::by(LoadMetric::InFlight).choices(5),
        LeastLoad::by(LoadMetric::Cost).choices(5),
    ]
}

/// Those of them that measure latency.
fn by_latency() -> [LeastLoad; 3] {
    [
        LeastLoad::by(LoadMetric::Cost),
        LeastLoad::by(LoadMetric::PeakEwma),
        LeastLoad::by(LoadMetric::Cost).choices(5),
    ]
}
