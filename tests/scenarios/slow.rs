//! R7 and T7: what is slow, and what hangs.

use std::time::Duration;

use evenkeel::node::{LatencyModel, Node};

use crate::{
    SEEDS, by_latency, by_load,
    world::{Reply, World, ms, secs},
};

/// 10 ms and 100 ms, 20 in flight: at least 80 % to the fast one.
#[test]
fn r7_the_fast_one_gets_the_most() {
    for policy in by_load() {
        for seed in SEEDS {
            let mut world = World::new(policy, 2, seed);
            let serve = |node, _| Reply::success(if node == 0 { 10 } else { 100 });
            world.run(secs(10), 20, serve);
            let share = world.share_since(0, secs(1));
            assert!(share >= 0.8, "{policy:?}, seed {seed}: {share:.3}");
        }
    }
}

fn one_hangs_from(start: Duration) -> impl Fn(usize, Duration) -> Reply {
    move |node, now| if node == 0 && now >= start { Reply::Never } else { Reply::success(10) }
}

/// A node that hangs gets next to nothing long before any of its requests is given up: by the age of
/// what it has not answered, and by the places that are taken there.
#[test]
fn t7_what_hangs_shows_before_it_answers() {
    for policy in by_latency() {
        for seed in SEEDS {
            let mut world = World::new(policy, 10, seed);
            world.run(secs(5), 20, one_hangs_from(secs(5)));
            // 2,000 requests a second: 100 a node in these 500 ms, if it did not show.
            world.run(ms(5_500), 20, one_hangs_from(secs(5)));
            // What it holds it keeps. So it is picked while it holds fewer than another, of 2 on average, and no
            // more once that is older than any answer, after some 10 ms: 1 to 4 times in 120 runs. Eight would be
            // four times what a live one holds.
            let (hung, _) = world.sent_since(0, secs(5));
            assert!(hung <= 8, "{policy:?}, seed {seed}: {hung} sent into the hole");
            world.run(secs(15), 20, one_hangs_from(secs(5)));
            let (later, _) = world.sent_since(0, ms(5_500));
            assert_eq!(later, 0, "{policy:?}, seed {seed}");
        }
    }
}

/// The same where the callers give up after a second: what they gave up on keeps its estimate up.
#[test]
fn t7_what_is_given_up_does_not_look_fast() {
    for policy in by_load() {
        for seed in SEEDS {
            let mut world = World::new(policy, 10, seed);
            world.run(secs(5), 20, |_, _| Reply::success(10));
            let serve =
                |node, _| if node == 0 { Reply::Abandoned(secs(1)) } else { Reply::success(10) };
            world.run(secs(15), 20, serve);
            // Its due is 0.1. By requests in flight it is picked again for each that is given up, so it has as many
            // a second as it holds: 1 or 2 of 2,000, in all of 200 runs. Ten times that would still be next to none.
            let share = world.share_since(0, secs(6));
            assert!(share <= 0.01, "{policy:?}, seed {seed}: {share:.4}");
        }
    }
}

/// A node without requests for ten minutes is no faster for it: neither alone nor with all.
#[test]
fn t7_an_idle_node_attracts_no_flood() {
    for policy in by_latency() {
        for seed in SEEDS {
            let mut world = World::new(policy, 10, seed);
            world.run(secs(5), 20, |_, _| Reply::success(10));
            world.shunned = vec![world.bed.nodes().next().unwrap().id()];
            // Traffic at a few moments, so that ten minutes cost few events.
            for minute in 1..=10 {
                world.drain();
                world.set(secs(60 * minute));
                world.run(secs(60 * minute) + ms(500), 20, |_, _| Reply::success(10));
            }
            world.drain();
            world.shunned.clear();
            world.peaks.clear();
            let back = world.now;
            world.run(back + secs(2), 20, |_, _| Reply::success(10));
            // 400 requests are its due, with a deviation of 19 (5 %) if they came by chance alone, and loads even
            // them out: 0.94 to 1.04 in 120 runs. The bound is eight such deviations.
            let share = world.share_since(0, back) * 10.0;
            assert!((0.6..=1.4).contains(&share), "{policy:?}, seed {seed}: {share:.2} of its due");
            // Three times the mean of 2 in flight; 3 to 5 in those runs.
            assert!(world.peaks[&0] <= 6, "{policy:?}, seed {seed}: {:?}", world.peaks);
        }
    }
}

/// A node that was slow and is no longer has its share again, also where there is so little traffic
/// that no queue elsewhere ever drives a request there: what it remembers is old by then, and what it
/// is compared with is what the pool answers now. Its due is one in `nodes`; the bound of half of it
/// leaves room for what the first new samples still make of it.
#[test]
fn t7_an_old_bad_memory_does_not_starve() {
    for policy in by_latency() {
        for nodes in [2, 3, 10] {
            for seed in SEEDS {
                let mut world = World::new(policy, nodes, seed);
                let serve = |node, now| match node {
                    0 if now < secs(5) => Reply::success(300),
                    _ => Reply::success(10),
                };
                // Peak EWMA remembers for twice as long.
                world.run(secs(60), 1, serve);
                world.run(secs(120), 1, serve);
                let share = world.share_since(0, secs(60)) * nodes as f64;
                assert!(share >= 0.5, "{policy:?}, {nodes} nodes, seed {seed}: {share:.3}");
            }
        }
    }
}

/// Reading a load changes nothing, whenever it is read.
#[test]
fn t7_reading_a_load_changes_nothing() {
    for policy in by_latency() {
        let mut watched = World::new(policy, 5, 3);
        let mut left_alone = World::new(policy, 5, 3);
        for second in 1..=20 {
            let serve = |node: usize, _: Duration| match node {
                0 => Reply::failure(1),
                1 => Reply::Abandoned(ms(300)),
                _ => Reply::success(10 * node as u64),
            };
            watched.run(secs(second), 10, serve);
            left_alone.run(secs(second), 10, serve);
            for node in watched.bed.nodes() {
                look_at(node, &watched);
            }
        }
        assert_eq!(watched.log, left_alone.log);
    }
}

fn look_at(node: &Node, world: &World) {
    for model in [LatencyModel::Average, LatencyModel::Peak] {
        for ahead in [0, 1, 3_600] {
            let then = world.instant() + secs(ahead);
            let first = (node.latency_nanos(model, then), node.success(then));
            assert_eq!(first, (node.latency_nanos(model, then), node.success(then)));
        }
    }
}
