//! The rings of Envoy and gRPC, by the values in their own test suites.

use super::*;
use crate::{
    endpoint::Endpoint,
    policy::{
        IntoPolicy, KeyHash,
        hash::{
            Table,
            test_tier::{loopback, order, owner, six, six_named, table},
        },
    },
};

/// Envoy's `ring_hash_lb_test.cc`, the ring in the comment of `Basic`: port and position.
const BASIC: [(u16, u64); 12] = [
    (94, 833_437_586_790_550_860),
    (92, 928_266_305_478_181_108),
    (90, 1_033_482_794_131_418_490),
    (95, 3_551_244_743_356_806_947),
    (93, 3_851_675_632_748_031_481),
    (91, 5_583_722_120_771_150_861),
    (91, 6_311_230_543_546_372_928),
    (93, 7_700_377_290_971_790_572),
    (95, 13_144_177_310_400_110_813),
    (92, 13_444_792_449_719_432_967),
    (94, 15_516_499_411_664_133_160),
    (90, 16_117_243_373_044_804_889),
];

/// The same of `BasicWithHostname` and `BasicWithMetadataHashKey`.
const BY_NAME: [(u16, u64); 12] = [
    (95, 1_975_508_444_536_362_413),
    (95, 2_376_063_919_839_173_711),
    (93, 2_386_806_903_309_390_596),
    (94, 6_749_904_478_991_551_885),
    (93, 6_803_900_775_736_438_537),
    (92, 7_225_015_537_174_310_577),
    (90, 8_787_465_352_164_086_522),
    (92, 11_282_020_843_382_717_940),
    (91, 13_723_418_369_486_627_818),
    (90, 13_776_502_110_861_797_421),
    (91, 14_338_313_586_354_474_791),
    (94, 15_364_271_037_087_512_980),
];

/// The same of `BasicWithMurmur2`.
const MURMUR: [(u16, u64); 12] = [
    (85, 1_358_027_074_129_602_068),
    (83, 4_361_834_613_929_391_114),
    (84, 7_224_494_972_555_149_682),
    (81, 7_701_421_856_454_313_576),
    (82, 8_649_315_368_077_433_379),
    (84, 8_739_448_859_063_030_639),
    (81, 9_887_544_217_113_020_895),
    (82, 10_150_910_876_324_007_731),
    (83, 15_168_472_011_420_622_455),
    (80, 15_427_156_902_705_414_897),
    (85, 16_375_050_414_328_759_093),
    (80, 17_613_279_263_364_193_813),
];

fn envoy(least: u64) -> RingHash {
    RingHash::envoy().sizes(least, LARGEST)
}

fn ring(points: &Arcs, first_port: u16) -> Vec<(u16, u64)> {
    let points = points.as_slice().iter();
    points.map(|point| (first_port + point.node as u16, point.hash)).collect()
}

fn counts(points: &Arcs, hosts: usize, keys: u64) -> Vec<u32> {
    let mut counts = vec![0; hosts];
    for index in 0..keys {
        counts[owner(points, index * (u64::MAX / keys))] += 1;
    }
    counts
}

fn points_of(points: &Arcs, node: u32) -> usize {
    points.as_slice().iter().filter(|point| point.node == node).count()
}

#[test]
fn envoy_basic() {
    let points = table(envoy(12), &six());
    assert_eq!(ring(&points, 90), BASIC);
    let chosen = [0, u64::MAX, 3_551_244_743_356_806_947, 3_551_244_743_356_806_948];
    assert_eq!(chosen.map(|key| owner(&points, key)), [4, 4, 5, 3]);
    assert_eq!(owner(&points, 16_117_243_373_044_804_880), 0);
}

#[test]
fn envoy_basic_with_murmur2() {
    let hosts = loopback(&[80, 81, 82, 83, 84, 85].map(|port| (port, 1)));
    let points = table(envoy(12).function(RingFunction::Murmur2), &hosts);
    assert_eq!(ring(&points, 80), MURMUR);
    let chosen = [0, u64::MAX, 1_358_027_074_129_602_068, 1_358_027_074_129_602_069];
    assert_eq!(chosen.map(|key| owner(&points, key)), [5, 5, 5, 3]);
}

#[test]
fn envoy_basic_with_host_name_and_with_hash_key() {
    let named = six_named(|endpoint, name| endpoint.with_server_name(name));
    let keyed = six_named(|endpoint, key| endpoint.with_metadata("envoy.lb.hash_key", key));
    for hosts in [named, keyed] {
        let points = table(envoy(12).by_host_name(), &hosts);
        assert_eq!(ring(&points, 90), BY_NAME);
        let chosen = [0, u64::MAX, 7_225_015_537_174_310_577, 6_803_900_775_736_438_537];
        assert_eq!(chosen.map(|key| owner(&points, key)), [5, 5, 2, 3]);
    }
}

/// `BasicWithRetryHostPredicate`: a second attempt is for the next host on the ring. R19: each of
/// them once, in the order of the ring.
#[test]
fn r19_envoy_retries_walk_the_ring() {
    let points = table(envoy(12), &six());
    assert_eq!(points.find(0, |index| index != 4), Some(2));
    assert_eq!(order(&points, 0), [4, 2, 0, 5, 3, 1]);
}

#[test]
fn envoy_uneven_hosts() {
    let points = table(envoy(3), &loopback(&[(80, 1), (81, 1)]));
    let expected = [
        (80, 5_454_692_015_285_649_509),
        (81, 7_859_399_908_942_313_493),
        (80, 13_838_424_394_637_650_569),
        (81, 16_064_866_803_292_627_174),
    ];
    assert_eq!(ring(&points, 80), expected);
    let points = table(envoy(3), &loopback(&[(81, 1), (82, 1)]));
    let expected = [
        (81, 7_859_399_908_942_313_493),
        (82, 8_241_336_090_459_785_962),
        (82, 12_882_406_409_176_325_258),
        (81, 16_064_866_803_292_627_174),
    ];
    assert_eq!(ring(&points, 81), expected);
}

/// `HostWeightedTinyRing`.
#[test]
fn envoy_weighted_tiny_ring() {
    let hosts = loopback(&[(90, 1), (91, 2), (92, 3)]);
    let points = table(RingHash::envoy().sizes(6, 6), &hosts);
    let expected = [
        (92, 928_266_305_478_181_108),
        (92, 4_443_673_547_860_492_590),
        (91, 5_583_722_120_771_150_861),
        (91, 6_311_230_543_546_372_928),
        (92, 13_444_792_449_719_432_967),
        (90, 16_117_243_373_044_804_889),
    ];
    assert_eq!(ring(&points, 90), expected);
}

/// `HostWeightedLargeRing`: the exact histogram that the test expects.
#[test]
fn envoy_weighted_large_ring() {
    let points = table(envoy(6_144), &loopback(&[(90, 1), (91, 2), (92, 3)]));
    assert_eq!([0, 1, 2].map(|node| points_of(&points, node)), [1_024, 2_048, 3_072]);
    assert_eq!(counts(&points, 3, 6_000), [987, 1_932, 3_081]);
}

/// `HostAndLocalityWeightedTinyRing` and its large ring, with the products of the weights of
/// localities and hosts as weights of hosts.
#[test]
fn envoy_weights_in_the_proportion_of_localities() {
    let hosts = loopback(&[(90, 1), (91, 2), (92, 2), (93, 4)]);
    let points = table(RingHash::envoy().sizes(9, 9), &hosts);
    let expected = [
        (92, 928_266_305_478_181_108),
        (93, 3_851_675_632_748_031_481),
        (91, 5_583_722_120_771_150_861),
        (91, 6_311_230_543_546_372_928),
        (93, 7_700_377_290_971_790_572),
        (93, 12_559_126_875_973_811_811),
        (92, 13_444_792_449_719_432_967),
        (93, 13_784_988_426_630_141_778),
        (90, 16_117_243_373_044_804_889),
    ];
    assert_eq!(ring(&points, 90), expected);
    let points = table(envoy(9_216), &hosts);
    assert_eq!(counts(&points, 4, 9_000), [924, 2_009, 2_053, 4_014]);
}

/// `SmallFractionalScale` and `LargeFractionalScale`.
#[test]
fn envoy_fractional_scales() {
    let points =
        table(RingHash::envoy().sizes(2, 2), &loopback(&[90, 91, 92, 93].map(|port| (port, 1))));
    assert_eq!(points.as_slice().len(), 2);
    let counts_of_four = counts(&points, 4, 1_024);
    assert_eq!(counts_of_four.iter().filter(|&&count| count == 0).count(), 2);
    let points = table(RingHash::envoy().sizes(1_023, 1_023), &loopback(&[(90, 1), (91, 1)]));
    assert_eq!([0, 1].map(|node| points_of(&points, node)), [512, 511]);
    assert_eq!(counts(&points, 2, 1_023), [526, 497]);
}

/// gRFC A42 takes Envoy's ring over, so Envoy's values hold where the points divide evenly.
#[test]
fn grpc_has_the_ring_of_envoy() {
    let points = table(RingHash::grpc().sizes(12, 4_096), &six());
    assert_eq!(ring(&points, 90), BASIC);
    let keyed = six_named(|endpoint, key| endpoint.with_metadata("hash_key", key));
    let points = table(RingHash::grpc().sizes(12, 4_096), &keyed);
    assert_eq!(ring(&points, 90), BY_NAME);
}

/// grpc-go's `balancer/ringhash/ring_test.go`, `TestRingNew`: bounds and shares; and the order that
/// its `ring.go` puts endpoints in. (The ring in a comment there is of an older form of the text,
/// `a0` for today's `a_0`, so it is not held against this one.)
#[test]
fn grpc_sizes_are_bounded_and_shares_follow_weights() {
    let hosts = |order: [(&str, u32); 3]| -> Vec<Endpoint> {
        let host = |(key, weight)| {
            let endpoint = Endpoint::new(([127, 0, 0, 1], 1)).with_metadata("hash_key", key);
            endpoint.with_weight(crate::Weight(weight))
        };
        order.map(host).into()
    };
    let plain = hosts([("a", 3), ("b", 3), ("c", 4)]);
    for least in [3, 4, 6, 8] {
        for most in [20, 8] {
            let points = table(RingHash::grpc().sizes(least, most), &plain);
            let size = points.as_slice().len();
            assert!((least as usize..=most as usize).contains(&size), "{size}");
            for (node, share) in [(0, 0.3), (1, 0.3), (2, 0.4)] {
                let found = points_of(&points, node) as f64 / size as f64;
                // `equalApproximately` of the test.
                assert!((found - share).abs() / ((found + share) / 2.0) < 0.25, "{found}");
            }
        }
    }
    let points = table(RingHash::grpc().sizes(10, 20), &plain);
    let mut expected: Vec<_> = [("a", 0, 3), ("b", 1, 3), ("c", 2, 4)]
        .iter()
        .flat_map(|&(key, node, count)| {
            (0..count).map(move |index| (hash_bytes(format!("{key}_{index}").as_bytes()), node))
        })
        .collect();
    expected.sort_unstable();
    let found: Vec<_> = points.as_slice().iter().map(|point| (point.hash, point.node)).collect();
    assert_eq!(found, expected);
    // In any order of endpoints the same, even where the points do not divide evenly.
    let other = hosts([("c", 4), ("a", 3), ("b", 3)]);
    let renamed = |points: &Arcs, names: [u32; 3]| -> Vec<(u64, u32)> {
        points.as_slice().iter().map(|point| (point.hash, names[point.node as usize])).collect()
    };
    for (least, most) in [(7, 7), (8, 8), (11, 11), (1_024, 4_096)] {
        let (one, two) = (
            table(RingHash::grpc().sizes(least, most), &plain),
            table(RingHash::grpc().sizes(least, most), &other),
        );
        assert_eq!(renamed(&one, [0, 1, 2]), renamed(&two, [2, 0, 1]));
    }
}

/// `TestRingNewWeightSumOverflow` and `...ToNonZero` of the same file.
#[test]
fn grpc_sums_of_weights_do_not_run_over() {
    let big = 1 << 31;
    for (weights, shares) in
        [(vec![big, big], vec![0.5, 0.5]), (vec![big, big, big / 2], vec![0.4, 0.4, 0.2])]
    {
        let hosts: Vec<_> = (1..).zip(weights).collect();
        let points = table(RingHash::grpc(), &loopback(&hosts));
        let size = points.as_slice().len();
        assert!((1_024..=4_096).contains(&size));
        for (node, share) in shares.into_iter().enumerate() {
            let found = points_of(&points, node as u32) as f64 / size as f64;
            assert!((found / share - 1.0_f64).abs() < 0.01, "{found} for {share}");
        }
    }
}

/// grpc-go's `TestPickerRequestHashKey`: where the hashes of its header values lie, in thirds.
#[test]
fn grpc_request_hashes_lie_where_its_test_says() {
    let third = u64::MAX / 3;
    assert!(hash_bytes(b"") > 2 * third);
    assert!(hash_bytes(b"some-value") <= third);
    assert!((third..=2 * third).contains(&hash_bytes(b"value1,value2")));
}

/// `BadRingSizeBounds`, and gRFC A42's limit of 8 Mi.
#[test]
fn sizes_that_make_no_sense_are_errors() {
    let error = |policy: RingHash| policy.into_policy().err().map(|error| error.to_string());
    for (least, most, reason) in [
        (20, 10, "the least is above the most"),
        (1, LARGEST + 1, "the most is above 8 Mi"),
        (0, 10, "the least is 0"),
    ] {
        for ring in [RingHash::envoy(), RingHash::grpc()] {
            let error = error(ring.sizes(least, most)).expect("is wrong");
            assert!(error.contains(reason) && error.contains("sizes of the ring"), "{error}");
        }
    }
    assert_eq!(error(RingHash::grpc().sizes(1, 4_096)), None);
    assert_eq!(error(RingHash::new().points(MOST_POINTS_A_NODE)), None);
    let above = error(RingHash::new().points(MOST_POINTS_A_NODE + 1)).expect("is wrong");
    assert!(above.contains("points of a node") && above.contains("65,536"), "{above}");
    assert_eq!(RingHash::new().table_key_hash(), KeyHash::XxHash64);
}

/// A node's points are its own, whatever the others are, and as many whatever it weighs.
#[test]
fn the_default_profile_keeps_every_point() {
    let alone = table(RingHash::new(), &loopback(&[(1, 3)]));
    let hashes: Vec<_> = alone.as_slice().iter().map(|point| point.hash).collect();
    assert_eq!(hashes.len(), 256);
    let among: Vec<_> = (1..=50).map(|port| (port, 100)).collect();
    let points = table(RingHash::new(), &loopback(&among));
    let own: Vec<_> =
        points.as_slice().iter().filter(|point| point.node == 0).map(|point| point.hash).collect();
    assert_eq!(own, hashes);
    let fewer = table(RingHash::new().points(100), &loopback(&[(1, 5)]));
    assert_eq!(fewer.as_slice().len(), 100);
    assert!(fewer.as_slice().iter().all(|point| hashes.contains(&point.hash)));
}

/// Weights of any size make no larger rings, and only a number of nodes that nobody has makes them
/// fewer points: the documented 262,144, by halves.
#[test]
fn rings_are_as_large_as_their_nodes_are_many() {
    let points = table(RingHash::new(), &loopback(&[(1, u32::MAX), (2, 1), (3, 65_535)]));
    assert!(points.as_slice().len() < 2 * 3 * 256);
    for (nodes, expected) in [
        (0, 256),
        (1, 256),
        (10_000, 256),
        (262_144, 256),
        (262_145, 128),
        (524_289, 64),
        (u32::MAX as usize, 1),
    ] {
        assert_eq!(points_a_node(256, nodes), expected, "{nodes}");
    }
    assert_eq!(points_a_node(MOST_POINTS_A_NODE, 1_024), MOST_POINTS_A_NODE);
    assert_eq!(points_a_node(MOST_POINTS_A_NODE, 1_025), MOST_POINTS_A_NODE / 2);
}
