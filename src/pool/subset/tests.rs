use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    endpoint::{Priority, Weight},
    policy::RoundRobin,
    pool::TestBed,
};

fn endpoint(number: u32) -> Endpoint {
    Endpoint::new(([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 80))
}

fn set(numbers: impl IntoIterator<Item = u32>) -> Endpoints {
    numbers.into_iter().map(endpoint).collect()
}

fn names(endpoints: &[Endpoint]) -> BTreeSet<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

fn members(subset: Subset, endpoints: Endpoints, seed: u64) -> BTreeSet<String> {
    names(&subset.select(endpoints, seed).inside)
}

/// gRFC A68: all, where there are no more than the size; else those whose addresses hash first.
#[test]
fn a68_the_first_by_hash() {
    assert_eq!(members(Subset::random(5), set(0..5), 7).len(), 5);
    assert_eq!(members(Subset::random(5), set([]), 7).len(), 0);
    for seed in [0, 7, u64::MAX] {
        let mut all: Vec<_> = (0..50).map(|number| endpoint(number).to_string()).collect();
        all.sort_by_key(|name| xxh64(name.as_bytes(), seed));
        let expected = all[..20].iter().cloned().collect();
        assert_eq!(members(Subset::random(20), set(0..50), seed), expected);
        assert_eq!(members(Subset::random(20), set((0..50).rev()), seed), expected, "any order");
    }
}

/// A68: every server is chosen by about as many clients.
#[test]
fn a68_clients_spread() {
    let mut counts = [0_u32; 100];
    for client in 0..1_000 {
        for member in Subset::random(20).select(set(0..100), crate::node::mix(client)).inside {
            let number = (0..100).find(|&number| endpoint(number) == member);
            counts[number.expect("one of the set") as usize] += 1;
        }
    }
    // Each is binomial: 200 of 1,000, with a standard deviation of 12.6; the most extreme of 100 lies
    // within five of them but for one seed in 10,000.
    assert!(counts.iter().all(|count| (137..=263).contains(count)), "{counts:?}");
}

/// 1,000 clients of 1,000 servers: 12,000 connections, twelve to every server; or 20,000.
#[test]
fn a_thousand_clients_and_servers_are_no_million_connections() {
    let mut connections = std::collections::HashMap::new();
    for instance in 0..1_000 {
        let selection = Subset::aperture(instance, 1_000).select(set(0..1_000), 0);
        assert_eq!((selection.inside.len(), selection.outside.len()), (12, 988));
        assert_eq!(selection.shares, [1; 12], "whole ones, and no large numbers for them");
        for member in selection.inside {
            *connections.entry(member.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(connections.len(), 1_000);
    assert!(connections.values().all(|&clients| clients == 12));
    assert_eq!(members(Subset::random(20), set(0..1_000), 1).len(), 20);
}

/// Weight 0 counts in no subset and comes along as left out; where a whole priority has it, it is
/// as good as any.
#[test]
fn t16_zero_weights_take_no_place() {
    let weighted = |number: u32, weight, priority| {
        endpoint(number).with_weight(Weight(weight)).with_priority(Priority(priority))
    };
    let one = (0..30).map(|number| weighted(number, u32::from(number >= 10), 0));
    let other = (30..60).map(|number| weighted(number, 0, 1));
    let endpoints: Endpoints = one.chain(other).collect();
    for subset in [Subset::random(20), Subset::aperture(2, 5)] {
        let selection = subset.select(endpoints.clone(), 3);
        let zero = |endpoint: &&Endpoint| {
            endpoint.weight() == Weight(0) && endpoint.priority() == Priority(0)
        };
        assert_eq!(selection.inside.iter().filter(zero).count(), 10, "they come along");
        assert_eq!(selection.outside.iter().filter(zero).count(), 0);
        assert!(of_priority(&selection.inside, 1).count() >= 12);
    }
}

fn of_priority(endpoints: &[Endpoint], priority: u32) -> impl Iterator<Item = &Endpoint> {
    endpoints.iter().filter(move |endpoint| endpoint.priority() == Priority(priority))
}

/// `count` endpoints of each priority, with numbers of their own.
fn by_priority(counts: &[u32]) -> Endpoints {
    let of = |(priority, &count): (u32, &u32)| {
        let number = move |number| endpoint(1_000 * priority + number);
        (0..count).map(move |at| number(at).with_priority(Priority(priority)))
    };
    (0..).zip(counts).flat_map(of).collect()
}

/// R22: the lowest priority first: however many backups there are, every client has the primaries,
/// and as many backups as if there were no primaries.
#[test]
fn r22_backups_take_no_place_of_primaries() {
    let endpoints = by_priority(&[10, 990]);
    for client in 0..20 {
        let seed = crate::node::mix(client);
        let inside = Subset::random(20).select(endpoints.clone(), seed).inside;
        let counts = [0, 1].map(|priority| of_priority(&inside, priority).count());
        assert_eq!(counts, [10, 20]);
        let backups: Endpoints = of_priority(&inside, 1).cloned().collect();
        let alone =
            of_priority(&endpoints.iter().cloned().collect::<Vec<_>>(), 1).cloned().collect();
        assert_eq!(members(Subset::random(20), alone, seed), members(Subset::all(), backups, seed));

        let aperture = Subset::aperture(client as u32, 100);
        let inside = aperture.select(endpoints.clone(), seed).inside;
        assert_eq!(of_priority(&inside, 0).count(), 10);
        // Two units of 9.9 endpoints each.
        assert!((20..=21).contains(&of_priority(&inside, 1).count()));
    }
}

/// R22, R15: an endpoint that changes its priority changes the subset of either by one member.
#[test]
fn r22_a_change_of_priority_moves_one_member_of_each() {
    let before = by_priority(&[100, 100]);
    for moving in 0..100 {
        let after = before.iter().cloned().map(|one| match one == endpoint(moving) {
            true => one.with_priority(Priority(1)),
            false => one,
        });
        let subset = Subset::random(20);
        let inside = |endpoints| subset.select(endpoints, 5).inside;
        let (one, other) = (inside(before.clone()), inside(after.collect()));
        for priority in [0, 1] {
            let of = |inside: &[Endpoint]| {
                names(&of_priority(inside, priority).cloned().collect::<Vec<_>>())
            };
            let (came, went) = changes(&of(&one), &of(&other));
            assert!(came <= 1 && came == went, "{came} came, {went} went");
        }
    }
}

/// What has weight 0 does not stand in for the rest of its priority while that is listed.
#[test]
fn t16_zero_weights_do_not_stand_in_for_what_is_outside() {
    let drained = (3..6).map(|number| endpoint(number).with_weight(Weight(0)));
    let endpoints: Vec<_> = (0..3).map(endpoint).chain(drained).collect();
    for subset in [Subset::random(2), Subset::aperture(0, 3).at_least(2)] {
        let selection = subset.select(endpoints.clone().into(), 3);
        assert_eq!(selection.inside.len(), 5, "two, and those of weight 0");
        let share = |at| selection.share(at).map(|share| share > 0);
        let shares: Vec<_> = (0..5).map(|at| share(at).expect("each has one")).collect();
        assert_eq!(shares, [true, true, false, false, false]);

        let bed = TestBed::new(RoundRobin::new(), endpoints.clone()).unwrap();
        let bed = bed.seed(3).subset(subset);
        assert_eq!(bed.nodes().count(), 5);
        bed.links().filter(|link| link.endpoint().weight() > Weight(0)).for_each(|link| {
            link.failed("down");
        });
        assert!(bed.pick(None).is_none(), "weight 0 takes nothing");
    }
}

/// Of duplicates the first counts, and what cannot be dialled takes no place; the roster is told.
#[test]
fn duplicates_and_the_undialled_take_no_place() {
    let endpoints = (0..10).flat_map(|number| [endpoint(number), endpoint(number)]);
    let invalid = Endpoint::new(([10, 9, 9, 9], 0));
    let endpoints: Endpoints = [invalid.clone()].into_iter().chain(endpoints).collect();
    let selection = Subset::random(4).select(endpoints.clone(), 3);
    assert_eq!((selection.inside.len(), selection.outside.len()), (5, 6));
    assert_eq!(selection.inside[4], invalid);
    let everything = Subset::all().select(endpoints, 3).inside;
    assert_eq!(everything.len(), 21, "that is not for the subset to judge");
}

#[test]
fn nonsense_is_refused() {
    for subset in [
        Subset::random(0),
        Subset::aperture(3, 3),
        Subset::aperture(0, 0),
        Subset::aperture(0, 3).at_least(0),
    ] {
        assert!(subset.check().is_err(), "{subset:?}");
    }
    for subset in [Subset::all(), Subset::random(1), Subset::aperture(2, 3), Subset::default()] {
        assert!(subset.check().is_ok(), "{subset:?}");
    }
}

#[test]
fn shares_of_any_length_fit_a_weight() {
    let huge = (0..3).map(|number| endpoint(number).with_weight(Weight(u32::MAX - number)));
    let huge: Endpoints = huge.chain([endpoint(4)]).collect();
    let subset = Subset::aperture(1, u32::MAX).at_least(3);
    let selection = subset.select(huge, 0);
    assert!(selection.inside.len() >= 3, "{selection:?}");
    assert!((0..selection.inside.len()).all(|index| selection.share(index) > Some(0)));
}

/// The changes between two subsets: what came and what went.
fn changes(before: &BTreeSet<String>, after: &BTreeSet<String>) -> (usize, usize) {
    (after.difference(before).count(), before.difference(after).count())
}

proptest! {
    /// A68: when one comes or goes, one member changes at most; when it was none, none.
    #[test]
    fn a68_one_join_or_leave_changes_one_member(
        numbers in proptest::collection::btree_set(0_u32..500, 1..80),
        which in any::<prop::sample::Index>(),
        size in 1_usize..40,
        seed in any::<u64>(),
    ) {
        let moving = *which.get(&numbers.iter().copied().collect::<Vec<_>>());
        let with = members(Subset::random(size), set(numbers.iter().copied()), seed);
        let others = numbers.iter().copied().filter(|&number| number != moving);
        let without = members(Subset::random(size), set(others), seed);
        let was_member = with.contains(&endpoint(moving).to_string());
        let replaced = usize::from(was_member && numbers.len() > size);
        prop_assert_eq!(changes(&with, &without), (replaced, usize::from(was_member)));
    }

    /// What Finagle's deterministic aperture is for: all clients together give every server the same,
    /// by its weight, and every client has the same. R22: of each priority by itself.
    #[test]
    fn r22_apertures_cover_every_server_of_a_priority_alike(
        weights in proptest::collection::vec((1_u32..6, 0_u32..3), 1..60),
        total in 1_u32..25,
        at_least in 1_u32..20,
    ) {
        let numbered = weights.iter().zip(0..).map(|(&(weight, priority), number)| {
            endpoint(number).with_weight(Weight(weight)).with_priority(Priority(priority))
        });
        let endpoints: Vec<_> = numbered.collect();
        let select = |instance| {
            let subset = Subset::aperture(instance, total).at_least(at_least);
            subset.select(endpoints.clone().into(), 0)
        };
        let selections: Vec<_> = (0..total).map(select).collect();
        for priority in 0..3 {
            let servers = of_priority(&endpoints, priority).count();
            let units = units(at_least, servers as u128, u128::from(total)) as u64;
            let weight_of = |member: &Endpoint| u64::from(member.weight().0);
            let all: u64 = of_priority(&endpoints, priority).map(weight_of).sum();
            let mut given = std::collections::HashMap::new();
            for selection in &selections {
                prop_assert_eq!(selection.inside.len() + selection.outside.len(), weights.len());
                let shares = selection.shares.iter().copied().map(u64::from);
                let members = selection.inside.iter().zip(shares);
                let members = members.filter(|(member, _)| member.priority() == Priority(priority));
                // Of as many requests as a client's piece is long, each member gets a whole number.
                let own: u64 = members.clone().map(|(_, share)| share).sum();
                prop_assert!(own == 0 || units * all % own == 0, "{} of {}", own, units * all);
                for (member, share) in members {
                    let share = share * (units * all / own);
                    prop_assert!(share > 0 && share <= weight_of(member) * u64::from(total));
                    *given.entry(member.to_string()).or_insert(0) += share;
                }
            }
            for member in of_priority(&endpoints, priority) {
                let expected = weight_of(member) * units * u64::from(total);
                prop_assert_eq!(given[&member.to_string()], expected);
            }
        }
    }

    /// An aperture has as many endpoints as it should, or all that there are.
    #[test]
    fn an_aperture_is_wide_enough(
        servers in 1_u32..200,
        total in 1_u32..50,
        instance in any::<prop::sample::Index>(),
    ) {
        let subset = Subset::aperture(instance.index(total as usize) as u32, total);
        let inside = subset.select(set(0..servers), 0).inside.len();
        prop_assert!(inside >= 12.min(servers as usize), "{} of {}", inside, servers);
    }

    /// One that comes or goes moves the ends of an aperture by one endpoint each, at most, if the
    /// number of units stays.
    #[test]
    fn one_join_or_leave_moves_the_ends_of_an_aperture(
        numbers in proptest::collection::btree_set(0_u32..5_000, 2..200),
        which in any::<prop::sample::Index>(),
        total in 1_u32..100,
        instance in any::<prop::sample::Index>(),
    ) {
        let servers = numbers.len() as u128;
        let same = units(12, servers, u128::from(total)) == units(12, servers - 1, u128::from(total));
        prop_assume!(same);
        let moving = *which.get(&numbers.iter().copied().collect::<Vec<_>>());
        let subset = Subset::aperture(instance.index(total as usize) as u32, total);
        let with = members(subset, set(numbers.iter().copied()), 0);
        let others = numbers.iter().copied().filter(|&number| number != moving);
        let without = members(subset, set(others), 0);
        let (came, went) = changes(&with, &without);
        prop_assert!(came + went <= 3, "{came} came, {went} went");
    }
}
