use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    endpoint::Weight,
    node::{Clock, Head, LatencyModel, Lease, Outcome, Seeds},
};

/// One thing that happens to a pool.
#[derive(Clone, Debug)]
enum Event {
    /// A new set: numbers of endpoints, duplicates included, with their weights. 9 has port 0.
    Set(Vec<(u8, u32)>),
    /// A request goes to one of the nodes that are listed.
    Pick(usize),
    /// One of the requests in flight ends.
    End(usize, u8),
    /// The driver looks at a node that is known to requests.
    Release(usize),
    /// What drains for too long is cut off.
    Cut,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => proptest::collection::vec((0_u8..10, 0_u32..3), 0..8).prop_map(Event::Set),
        4 => any::<usize>().prop_map(Event::Pick),
        4 => (any::<usize>(), 0_u8..5).prop_map(|(which, how)| Event::End(which, how)),
        1 => any::<usize>().prop_map(Event::Release),
        1 => Just(Event::Cut),
    ]
}

fn endpoint(number: u8, weight: u32) -> Endpoint {
    let port = if number == 9 { 0 } else { 80 };
    Endpoint::new(([10, 0, 0, number], port)).with_weight(Weight(weight))
}

fn roster() -> Roster<()> {
    let (fleet, _) = Fleet::new(Clock::default(), Seeds::fixed(1));
    Roster::new(fleet)
}

fn set(roster: &mut Roster<()>, endpoints: &[(u8, u32)]) -> Diff {
    let endpoints = endpoints.iter().map(|&(number, weight)| endpoint(number, weight));
    let diff = roster.apply(endpoints.collect(), &|_: &Endpoint| ());
    let until = roster.fleet.instant(1_000);
    roster.settle(until);
    diff
}

fn pick(node: &Arc<Node>) -> Lease {
    Lease::acquire(node, None, Some((0, LatencyModel::Average))).expect("there is no cap")
}

fn end(mut lease: Lease, how: u8) {
    match how {
        0 => {}
        1 => lease.fail(Outcome::Failure.into()),
        2 => lease.respond(Head::AtEnd),
        3 => lease.cancel(),
        _ => lease.finish(Outcome::Success.into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// R15, T8: whatever comes, goes, comes back and is held by requests meanwhile, an endpoint that
    /// stays keeps its node, every node counts what is on it, and nothing is left when all are gone.
    #[test]
    fn r15_t8_nodes_and_counts_survive_any_sequence(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut roster = roster();
        let mut held: Vec<Lease> = Vec::new();
        let mut known: Vec<Arc<Node>> = Vec::new();
        for event in events {
            match event {
                Event::Set(endpoints) => apply_and_check(&mut roster, &endpoints),
                Event::Pick(which) if !roster.listed().is_empty() => {
                    let listed = roster.listed();
                    held.push(pick(&listed[which % listed.len()].node));
                }
                Event::End(which, how) if !held.is_empty() => {
                    let lease = held.swap_remove(which % held.len());
                    let node = Arc::clone(lease.node());
                    end(lease, how);
                    // As the driver does when the node asks for it.
                    roster.release(&node);
                }
                Event::Release(which) if !known.is_empty() => {
                    roster.release(&known[which % known.len()].clone());
                }
                Event::Cut => roster.cut_overdue(roster.fleet.instant(1_000)),
                _ => {}
            }
            known.extend(roster.listed().iter().map(|member| Arc::clone(&member.node)));
            known.sort_by_key(|node| node.id());
            known.dedup_by_key(|node| node.id());
            let mut on_node = BTreeMap::new();
            for lease in &held {
                *on_node.entry(lease.node().id()).or_insert(0) += 1;
            }
            for node in &known {
                prop_assert_eq!(node.in_flight(), on_node.get(&node.id()).copied().unwrap_or(0));
            }
            prop_assert!(
                roster.draining().all(|node| node.is_retired() && node.in_flight() > 0),
                "what drains is held by a request"
            );
            prop_assert!(roster.listed().iter().all(|member| !member.node.is_retired()));
        }
        apply_and_check(&mut roster, &[]);
        for lease in held {
            let node = Arc::clone(lease.node());
            end(lease, 4);
            roster.release(&node);
        }
        prop_assert!(known.iter().all(|node| node.in_flight() == 0));
        prop_assert_eq!(roster.draining().count(), 0);
    }
}

/// Applies a set and checks it against the plainest reading of it.
fn apply_and_check(roster: &mut Roster<()>, endpoints: &[(u8, u32)]) {
    let before: BTreeMap<u8, Arc<Node>> = nodes(roster);
    let draining: Vec<_> = roster.draining().cloned().collect();
    let mut wanted = BTreeMap::new();
    let mut order = Vec::new();
    for &(number, weight) in endpoints.iter().filter(|(number, _)| *number != 9) {
        wanted.entry(number).or_insert_with(|| {
            order.push(number);
            weight
        });
    }
    let weights: BTreeMap<_, _> =
        before.iter().map(|(&number, node)| (number, node.endpoint().weight().0)).collect();

    let diff = set(roster, endpoints);

    let after = nodes(roster);
    assert_eq!(roster.listed().iter().map(number_of).collect::<Vec<_>>(), order);
    for (number, node) in &after {
        assert_eq!(node.endpoint().weight().0, wanted[number], "the first of duplicates counts");
        let earlier =
            before.get(number).or_else(|| draining.iter().find(|n| number_of_node(n) == *number));
        if let Some(earlier) = earlier {
            assert!(Arc::ptr_eq(earlier, node), "{number} has another node now");
        }
    }
    assert_eq!(diff.added, after.keys().filter(|key| !before.contains_key(key)).count());
    assert_eq!(diff.removed, before.keys().filter(|key| !after.contains_key(key)).count());
    let changed = |key: &&u8| weights.get(*key).is_some_and(|weight| *weight != wanted[*key]);
    assert_eq!(diff.changed, after.keys().filter(changed).count());
    assert_eq!(diff.invalid.len(), endpoints.iter().filter(|(number, _)| *number == 9).count());
}

fn nodes(roster: &Roster<()>) -> BTreeMap<u8, Arc<Node>> {
    let listed = roster.listed().iter();
    listed.map(|member| (number_of(member), Arc::clone(&member.node))).collect()
}

fn number_of(member: &Member<()>) -> u8 {
    number_of_node(&member.node)
}

fn number_of_node(node: &Node) -> u8 {
    match node.endpoint().addr().socket().expect("all have one").ip() {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => unreachable!("all are IPv4"),
    }
}

/// A node that was cut off leaves late: the next node of the same endpoint drains on.
#[test]
fn t8_a_late_leave_takes_no_other_node_out_of_the_drain() {
    let mut roster = roster();
    set(&mut roster, &[(1, 1)]);
    let old = pick(&roster.listed()[0].node);
    set(&mut roster, &[]);
    roster.cut_overdue(roster.fleet.instant(1_000));
    assert_eq!(roster.draining().count(), 0);

    set(&mut roster, &[(1, 1)]);
    let new = pick(&roster.listed()[0].node);
    assert!(!Arc::ptr_eq(old.node(), new.node()));
    set(&mut roster, &[]);
    let old_node = Arc::clone(old.node());
    drop(old);
    roster.release(&old_node);
    assert_eq!(roster.draining().count(), 1, "the new node still has a request");

    let new_node = Arc::clone(new.node());
    drop(new);
    roster.release(&new_node);
    assert_eq!(roster.draining().count(), 0);
}

/// R18: a fresh node is taken for another until it answers itself, and not before is its latency said
/// to be known. The other may be one that is not known either: were it always one that is, the fresh
/// would be too often the one that a client prefers, which is always known.
#[test]
fn r18_a_fresh_node_is_taken_for_any_other() {
    let mut roster = roster();
    let (model, now) = (LatencyModel::Average, roster.fleet.instant(0));
    let latency = |roster: &Roster<()>, number| nodes(roster)[&number].latency_nanos(model, now);
    let is_known =
        |roster: &Roster<()>, number| nodes(roster)[&number].latency(model, now).is_some();
    set(&mut roster, &[(1, 1)]);
    assert!(!is_known(&roster, 1), "there was nobody to take it for");

    end(pick(&nodes(&roster)[&1]), 4);
    set(&mut roster, &[(3, 1), (1, 1)]);
    assert_eq!(latency(&roster, 3), latency(&roster, 1), "there is no other");
    assert!(!is_known(&roster, 3));

    end(pick(&nodes(&roster)[&3]), 4);
    assert!(is_known(&roster, 3));
    assert_ne!(latency(&roster, 3), latency(&roster, 1));

    // Of two others one has answered: half of 200, and six standard deviations of 7 at either side.
    let mut roster = self::roster();
    set(&mut roster, &[(1, 1), (2, 1)]);
    end(pick(&nodes(&roster)[&1]), 4);
    let all: Vec<_> = (1..=8).chain(10..202).map(|number| (number, 1)).collect();
    set(&mut roster, &all);
    let nodes = nodes(&roster);
    let fresh = nodes.iter().filter(|(number, _)| **number > 2);
    let guessed = fresh.filter(|(_, node)| node.stats.remembered_nanos().is_some()).count();
    assert!((58..=142).contains(&guessed), "{guessed}");
    assert!(nodes[&2].stats.remembered_nanos().is_none());
}
