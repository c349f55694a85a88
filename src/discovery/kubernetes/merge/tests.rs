use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;

use super::{super::slice::Port, *};
use crate::endpoint::Locality;

/// One entry: the last part of its address, whether it is IPv6, its class, and its pod.
type Given = (u8, bool, u8, Option<u8>);

fn slice(entries: &[Given]) -> Arc<Slice> {
    slice_with(&["http"], entries)
}

/// A slice with ports of these names, from 80 on.
fn slice_with(ports: &[&str], entries: &[Given]) -> Arc<Slice> {
    let pod = |number: u8| {
        let name: Arc<str> = format!("pod-{number}").into();
        Pod { uid: Arc::clone(&name), name }
    };
    let entry = |&(last, six, class, of): &Given| Entry {
        address: if six {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
        } else {
            IpAddr::from([10, 0, 0, last])
        },
        class: [Class::Out, Class::LastResort, Class::Ready][usize::from(class % 3)],
        pod: of.map(pod),
        locality: Locality::default(),
    };
    let port = |(name, number): (&&str, u16)| Port {
        name: (*name).into(),
        number: Some(number),
        protocol: Protocol::Unspecified,
    };
    Arc::new(Slice {
        service: "cart".into(),
        ports: Some(ports.iter().zip(80..).map(port).collect()),
        endpoints: entries.iter().map(entry).collect(),
        of_names: false,
    })
}

fn addresses(merge: &Merge) -> BTreeSet<Vec<String>> {
    match merge.nothing("cart") {
        None => merge
            .set()
            .iter()
            .map(|endpoint| endpoint.addresses().map(ToString::to_string).collect())
            .collect(),
        Some(Update::Empty(_)) => BTreeSet::new(),
        Some(other) => panic!("{other:?}"),
    }
}

/// What makes the slices of `merge` these.
fn changes(merge: &Merge, slices: &Slices) -> Vec<Change> {
    let gone = merge.slices.keys().filter(|name| !slices.contains_key(*name));
    let gone = gone.map(|name| (Arc::clone(name), None));
    let differs = |(name, slice): &(&Arc<str>, &Arc<Slice>)| {
        !merge.slices.get(*name).is_some_and(|known| Arc::ptr_eq(known, slice))
    };
    let new = slices.iter().filter(differs);
    gone.chain(new.map(|(name, slice)| (Arc::clone(name), Some(Arc::clone(slice))))).collect()
}

fn apply(merge: &mut Merge, slices: &Slices) -> bool {
    let changes = changes(merge, slices);
    merge.apply(changes)
}

fn entries() -> impl Strategy<Value = Vec<Given>> {
    prop::collection::vec((0..12_u8, any::<bool>(), 0..3_u8, prop::option::of(0..6_u8)), 0..8)
}

proptest! {
    /// R10: whatever changes came before, the result is that of reading all slices at once; and it is
    /// said to have changed exactly when it did.
    #[test]
    fn r10_changes_one_by_one_give_what_a_fresh_reading_gives(
        steps in prop::collection::vec((0..4_usize, prop::option::of(entries())), 1..40),
    ) {
        let mut merge = Merge::new(ServicePort::from("http"));
        let mut slices = Slices::new();
        let mut before = BTreeSet::new();
        for (at, change) in steps {
            let name: Arc<str> = format!("cart-{at}").into();
            match change {
                Some(entries) => drop(slices.insert(name, slice(&entries))),
                None => drop(slices.remove(&name)),
            }
            let changed = apply(&mut merge, &slices);
            let mut fresh = Merge::new(ServicePort::from("http"));
            apply(&mut fresh, &slices);
            let now = addresses(&merge);
            prop_assert_eq!(&now, &addresses(&fresh));
            prop_assert!(changed || now == before, "a change was not said");
            let again = slices.iter().map(|(name, slice)| (Arc::clone(name), Some(Arc::clone(slice))));
            prop_assert!(!merge.apply(again.collect()), "nothing changed");
            before = now;
        }
        apply(&mut merge, &Slices::new());
        prop_assert!(merge.places.is_empty() && merge.servers.is_empty() && merge.listed.is_empty());
        prop_assert_eq!(merge.ready, 0);
    }

    /// Whatever ports come and go, nothing is left of slices that are gone.
    #[test]
    fn ports_that_come_and_go_leave_nothing_behind(
        steps in prop::collection::vec((0..3_usize, prop::option::of((entries(), 0..4_usize))), 1..40),
    ) {
        let ports: [&[&str]; 4] = [&["http"], &["http", "metrics"], &["metrics", "http"], &["metrics"]];
        let mut merge = Merge::new(ServicePort::Only);
        let mut slices = Slices::new();
        for (at, change) in steps {
            let name: Arc<str> = format!("cart-{at}").into();
            match change {
                Some((entries, of)) => drop(slices.insert(name, slice_with(ports[of], &entries))),
                None => drop(slices.remove(&name)),
            }
            apply(&mut merge, &slices);
        }
        apply(&mut merge, &Slices::new());
        prop_assert!(merge.places.is_empty() && merge.servers.is_empty() && merge.listed.is_empty());
        prop_assert_eq!((merge.ready, merge.unclear), (0, 0));
    }

    /// R10: without pods, the set is the plain union: what some slice says is ready, else what some
    /// slice says still serves.
    #[test]
    fn r10_without_pods_it_is_the_plain_union(
        given in prop::collection::vec(prop::collection::vec((0..12_u8, Just(false), 0..3_u8, Just(None)), 0..8), 0..5),
    ) {
        let slices: Slices =
            given.iter().enumerate().map(|(at, entries)| (format!("s{at}").into(), slice(entries))).collect();
        let mut merge = Merge::new(ServicePort::from("http"));
        apply(&mut merge, &slices);
        let of_class = |wanted: u8| -> BTreeSet<Vec<String>> {
            let all = given.iter().flatten().filter(|(_, _, class, _)| *class == wanted);
            all.map(|(last, ..)| vec![format!("10.0.0.{last}:80")]).collect()
        };
        let ready = of_class(2);
        let expected = if ready.is_empty() { of_class(1) } else { ready };
        prop_assert_eq!(addresses(&merge), expected);
    }
}

/// From the beginning nobody can tell which of several ports is meant, though some slice has but one; from
/// when all have one, that one is.
#[test]
fn a_port_that_was_never_the_only_one_is_not_guessed() {
    let (one, two) = (["http"], ["http", "metrics"]);
    let mut slices = Slices::new();
    slices.insert("a".into(), slice_with(&one, &[(1, false, 2, None)]));
    slices.insert("b".into(), slice_with(&two, &[(2, false, 2, None)]));
    let mut merge = Merge::new(ServicePort::Only);
    apply(&mut merge, &slices);
    assert!(matches!(merge.nothing("cart"), Some(Update::Failed(_))));
    slices.insert("b".into(), slice_with(&one, &[(2, false, 2, None)]));
    apply(&mut merge, &slices);
    assert!(merge.doubt("cart").is_none());
    slices.insert("a".into(), slice_with(&two, &[(3, false, 2, None)]));
    apply(&mut merge, &slices);
    assert!(merge.doubt("cart").is_some());
    let expected = ["10.0.0.2:80", "10.0.0.3:80"].map(|address| vec![address.to_owned()]);
    assert_eq!(addresses(&merge), BTreeSet::from(expected));
    // Who has no endpoint is in no doubt of their port.
    slices.insert("a".into(), slice_with(&two, &[]));
    apply(&mut merge, &slices);
    assert!(merge.doubt("cart").is_none());
}

/// Which port was the only one is known beyond the watch that told it; the endpoints are not.
#[test]
fn the_only_port_outlives_its_watch() {
    let mut slices = Slices::new();
    slices.insert("a".into(), slice(&[(1, false, 2, None)]));
    let mut merge = Merge::new(ServicePort::Only);
    apply(&mut merge, &slices);
    merge.begin_anew();
    assert!(matches!(merge.nothing("cart"), Some(Update::Empty(_))));
    slices.insert("a".into(), slice_with(&["http", "metrics"], &[(2, false, 2, None)]));
    assert!(apply(&mut merge, &slices));
    assert!(merge.doubt("cart").is_some());
    assert_eq!(addresses(&merge), BTreeSet::from([vec!["10.0.0.2:80".to_owned()]]));
}

/// A slice that changes costs what is in it, and the endpoints of others are not even compared: they
/// stay the same allocation.
#[test]
fn unchanged_endpoints_are_kept_as_they_are() {
    let mut slices = Slices::new();
    slices.insert("a".into(), slice(&[(1, false, 2, None), (2, false, 2, None)]));
    slices.insert("b".into(), slice(&[(3, false, 2, None)]));
    let mut merge = Merge::new(ServicePort::Only);
    assert!(apply(&mut merge, &slices));
    let before = merge.set();
    slices.insert("b".into(), slice(&[(3, false, 2, None), (4, false, 2, None)]));
    assert!(apply(&mut merge, &slices));
    let after = merge.set();
    assert_eq!(after.len(), 4);
    for endpoint in &before {
        let same = after.iter().find(|other| other.identity() == endpoint.identity()).unwrap();
        assert!(Arc::ptr_eq(same.parts(), endpoint.parts()), "{endpoint}");
    }
}
