//! Envoy's tables, by the values in its own test suite (`maglev_lb_test.cc`).

use super::*;
use crate::policy::{
    IntoPolicy,
    hash::test_tier::{loopback, order, owner, six, six_named, table},
};

fn maglev(size: u64) -> Maglev {
    Maglev::envoy().table_size(size)
}

/// The table, found by the keys 0 and so on, three times round.
#[track_caller]
fn assert_assignments<const N: usize>(table: &MaglevTable, expected: [usize; N]) {
    for key in 0..3 * N as u64 {
        assert_eq!(owner(table, key), expected[key as usize % N], "of key {key}");
    }
}

#[test]
fn envoy_basic() {
    assert_assignments(&table(maglev(7), &six()), [2, 4, 0, 1, 5, 0, 3]);
}

#[test]
fn envoy_basic_with_host_name_and_with_hash_key() {
    let named = six_named(|endpoint, name| endpoint.with_server_name(name));
    let keyed = six_named(|endpoint, key| endpoint.with_metadata("envoy.lb.hash_key", key));
    for hosts in [named, keyed] {
        assert_assignments(&table(maglev(7).by_host_name(), &hosts), [2, 5, 0, 3, 4, 1, 0]);
    }
}

/// `BasicStability`: in any order of hosts the same.
#[test]
fn envoy_basic_stability() {
    let mut hosts = six();
    hosts.reverse();
    let table = table(maglev(7), &hosts);
    assert_assignments(&table, [2, 4, 0, 1, 5, 0, 3].map(|host| 5 - host));
}

#[test]
fn envoy_weighted() {
    let table = table(maglev(17), &loopback(&[(90, 1), (91, 2)]));
    assert_assignments(&table, [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]);
}

/// `LocalityWeightedSameLocalityWeights`, whose hosts end with equal weights.
#[test]
fn envoy_equal_weights() {
    let table = table(maglev(17), &loopback(&[(90, 1), (91, 1)]));
    assert_assignments(&table, [1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1]);
}

/// `LocalityWeightedDifferentLocalityWeights`, whose hosts end with the weights 8 and 2.
#[test]
fn envoy_uneven_weights() {
    let table = table(maglev(17), &loopback(&[(90, 8), (91, 2)]));
    assert_assignments(&table, [1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
}

/// `LocalityWeightedLopsided`: the heaviest host has what the others, with one place each, leave.
#[test]
fn envoy_lopsided_weights() {
    let hosts: Vec<_> =
        (0..1_024).map(|port| (port + 1, if port == 0 { 127 * 1_023 } else { 1 })).collect();
    let table = table(Maglev::envoy(), &loopback(&hosts));
    let mut counts = vec![0; hosts.len()];
    (0..SIZE).for_each(|key| counts[owner(&table, key)] += 1);
    assert_eq!(counts[0], SIZE - 1_023);
    assert!(counts[1..].iter().all(|&count| count == 1));
}

/// `SingleHost` and `WeightedSingleHost`.
#[test]
fn envoy_single_host() {
    for weight in [1, 7] {
        let table = table(maglev(17), &loopback(&[(90, weight)]));
        assert!((0..17).all(|key| owner(&table, key) == 0));
    }
}

/// `BasicWithRetryHostPredicate`: key 10 is host 1's; refused by that, host 0 is next; and where all
/// are refused, the attempt after that was host 5.
#[test]
fn r19_envoy_retries_look_elsewhere() {
    let table = table(maglev(7), &six());
    assert_eq!(order(&table, 10)[..3], [1, 0, 5]);
    let mut all = order(&table, 10);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
}

/// `NoPrimeNumber`, and the limit of Envoy's API.
#[test]
fn sizes_that_are_no_primes_are_errors() {
    let error = |size| maglev(size).into_policy().err().map(|error| error.to_string());
    for size in [0, 1, 8, 65_536] {
        assert!(error(size).expect("is no prime").contains("prime number"), "{size}");
    }
    assert!(error(5_000_077).expect("is too large").contains("5,000,011"));
    for size in [2, 7, 65_537, 5_000_011] {
        assert_eq!(error(size), None);
    }
}

/// Every node has its share to within one place, in tables of two and of four bytes a place.
#[test]
fn shares_are_exact_to_a_place() {
    for nodes in [2, 10, 1_000] {
        let hosts: Vec<_> = (1..=nodes).map(|port| (port, 1)).collect();
        let table = table(Maglev::envoy(), &loopback(&hosts));
        let mut counts = vec![0; hosts.len()];
        (0..SIZE).for_each(|key| counts[owner(&table, key)] += 1);
        let due = SIZE / u64::from(nodes);
        assert!(counts.iter().all(|&count| count == due || count == due + 1), "{counts:?}");
    }
}
