//! R3: fast failures attract nothing, and what healed gets its share again.

use std::time::Duration;

use evenkeel::{
    node::{Outcome, Verdict},
    policy::{LeastLoad, LoadMetric},
};

use crate::{
    SEEDS, by_load,
    world::{Reply, World, ms, secs},
};

const IN_FLIGHT: usize = 20;

/// One of three fails in 1 ms, two succeed in 50 ms: after 2 s it gets at most 5 %.
#[test]
fn r3_what_fails_fast_attracts_nothing() {
    for policy in by_load() {
        for seed in SEEDS {
            let mut world = World::new(policy, 3, seed);
            world.run(secs(12), IN_FLIGHT, failing);
            let share = world.share_since(0, secs(2));
            assert!(share <= 0.05, "{policy:?}, seed {seed}: {share:.3}");
            assert!(share > 0.0, "{policy:?}: it has to be tried, to be found healed");
        }
    }
}

fn failing(node: usize, _: Duration) -> Reply {
    if node == 0 { Reply::failure(1) } else { Reply::success(50) }
}

/// The share of a healed node is within 20 % of its due, 30 s after.
fn assert_heals(
    policy: LeastLoad,
    seed: u64,
    least: f64,
    before: impl FnMut(usize, Duration) -> Reply,
) {
    let mut world = World::new(policy, 3, seed);
    world.run(secs(12), IN_FLIGHT, before);
    world.run(secs(62), IN_FLIGHT, |_, _| Reply::success(50));
    let share = world.share_since(0, secs(42)) * 3.0;
    assert!((least..=1.2).contains(&share), "{policy:?}, seed {seed}: {share:.3} of its due");
}

#[test]
fn r3_what_healed_has_its_share_within_30_s() {
    for policy in by_load() {
        for seed in SEEDS {
            assert_heals(policy, seed, 0.8, failing);
        }
    }
}

/// One of many failed, long ago: a request finds it again as soon as any other, and not only where two
/// draws in a row do. Of 4,000 requests it has 10 on average, and is missed once in 20,000 times; else it
/// would have one in 10 such runs.
#[test]
fn r3_one_of_many_that_failed_once_is_found_again() {
    for policy in by_load() {
        for seed in SEEDS {
            let mut world = World::new(policy, 400, seed);
            world.run(secs(10), IN_FLIGHT, failing);
            assert!(world.sent_since(0, secs(0)).0 > 0, "{policy:?}: it never failed");
            world.drain();
            world.set(secs(600));
            world.run(secs(610), IN_FLIGHT, |_, _| Reply::success(50));
            let (found, all) = world.sent_since(0, secs(600));
            assert!(found > 0, "{policy:?}, seed {seed}: not once in {all}");
        }
    }
}

/// The same after slow failures, slow answers, and requests that were given up. Not asked by R3:
/// peak EWMA keeps slow answers in mind for longer, as its origin does (10 s against 5 s), and is at 0.85
/// of its due by then, with a deviation of 0.05 over 120 runs: of which the bound is five away.
#[test]
fn r3_what_was_slow_has_its_share_within_30_s() {
    let was: [fn() -> Reply; 3] =
        [|| Reply::failure(2_000), || Reply::success(2_000), || Reply::Abandoned(secs(1))];
    for policy in by_load() {
        let peak = policy == LeastLoad::by(LoadMetric::PeakEwma);
        let least = if peak { 0.6 } else { 0.8 };
        for reply in was {
            for seed in SEEDS {
                let before = |node, _| if node == 0 { reply() } else { Reply::success(50) };
                assert_heals(policy, seed, least, before);
            }
        }
    }
}

/// A node that asks to be spared gets nothing until the time is over, and then its share again. A
/// refusal (429) raises the load like a failure.
#[test]
fn r3_a_retry_after_is_honoured() {
    for policy in by_load() {
        for outcome in [Outcome::Failure, Outcome::Overloaded] {
            for (asked, honoured) in [(secs(8), secs(8)), (secs(3_600), secs(60))] {
                let mut world = World::new(policy, 3, 1);
                world.run(secs(1), IN_FLIGHT, |_, _| Reply::success(50));
                let mut verdict = Verdict::from(outcome);
                verdict.spare_for = Some(asked);
                let mut asked_at = None;
                world.run(secs(2), IN_FLIGHT, |node, now| match (node, asked_at) {
                    (0, None) => {
                        asked_at = Some(now + ms(1));
                        Reply::After(ms(1), verdict)
                    }
                    _ => Reply::success(50),
                });
                let asked_at = asked_at.unwrap();
                world.run(asked_at + honoured - ms(1), IN_FLIGHT, |_, _| Reply::success(50));
                let sent = world.sent_since(0, asked_at + ms(1)).0;
                assert_eq!(sent, 0, "{policy:?}");
                let over = asked_at + honoured + secs(30);
                world.run(over + secs(10), IN_FLIGHT, |_, _| Reply::success(50));
                let share = world.share_since(0, over) * 3.0;
                assert!((0.8..=1.2).contains(&share), "{policy:?}: {share:.3} of its due");
            }
        }
    }
}
