//! The rings of nginx and libmemcached, by values that those systems gave.

mod published;

use self::published::CASES;
use super::*;
use crate::{
    endpoint::{Address, Endpoint, Weight},
    policy::hash::test_tier::{loopback, order, owner, table},
};

fn crc(key: &str) -> u64 {
    KeyHash::Crc32.hash(key.as_bytes())
}

/// What nginx itself answered, as pingora-ketama's tests record it (`matches_nginx_sample`).
#[test]
fn nginx_sample() {
    let ring = table(Ketama::nginx(), &loopback(&[(7777, 1), (7778, 1)]));
    let recorded = [
        ("/some/path", 1),
        ("/some/longer/path", 0),
        ("/sad/zaidoon", 1),
        ("/g", 0),
        ("/pingora/team/is/cool/and/this/is/a/long/uri", 1),
        ("/i/am/not/confident/in/this/code", 0),
    ];
    for (path, host) in recorded {
        assert_eq!(owner(&ring, crc(path)), host, "{path}");
    }
}

/// What nginx 1.22.1 did with `hash $arg_k consistent` over these servers, weights and sockets of
/// all kinds: the server of `key-1` and so on, from its log of `$upstream_addr`.
const LOG: &str = "23042213234532253222322552233224422435322352414033431222341433212113241215141411\
    24112424324410102154202533223022343202402141524242122302213445225430220312230232\
    1421255013203222253232122231215240323331";

#[test]
fn nginx_access_log() {
    let servers = [
        ("127.0.0.1:7001", 1),
        ("127.0.0.1:7002", 2),
        ("127.0.0.2:7001", 5),
        ("[::1]:7003", 3),
        ("unix:/tmp/ng/a.sock", 2),
        ("[::1]:7004", 1),
    ];
    let servers = servers.map(|(server, weight)| {
        let address = match server.strip_prefix("unix:") {
            Some(path) => Address::unix(path),
            None => server.parse::<std::net::SocketAddr>().unwrap().into(),
        };
        Endpoint::new(address).with_weight(Weight(weight))
    });
    let ring = table(Ketama::nginx(), &servers);
    let owners = (1..=200).map(|key| owner(&ring, crc(&format!("key-{key}"))));
    assert_eq!(digits(owners), LOG);
}

fn digits(owners: impl Iterator<Item = usize>) -> String {
    owners.map(|owner| owner.to_string()).collect()
}

/// R19: pingora-ketama's `node_iter`, whose points in turn are those of 7778, 7779, 7777; and
/// `consistency_after_adding_host`.
#[test]
fn r19_nginx_walks_the_ring() {
    let ring = table(Ketama::nginx(), &loopback(&[(7777, 1), (7778, 1), (7779, 1)]));
    assert_eq!(order(&ring, crc("doghash")), [1, 2, 0]);
    for last in [10, 11] {
        let hosts: Vec<_> =
            (1..=last).map(|last| Endpoint::new(([127, 0, 0, last], 6443))).collect();
        let ring = table(Ketama::nginx(), &hosts);
        assert_eq!(["a", "b"].map(|key| owner(&ring, crc(key))), [9, 4]);
    }
}

/// What nginx takes for host and port of a server's text (`ngx_http_upstream_hash_module.c`).
#[test]
fn nginx_parts_of_a_server() {
    for (server, parts) in [
        ("10.0.0.1:80", ("10.0.0.1", "80")),
        ("[::1]:80", ("[::1]", "80")),
        ("db.internal", ("db.internal", "")),
        ("db.internal:8080", ("db.internal", "8080")),
        ("unix:/run/a:1", ("/run/a:1", "")),
        ("UNIX:/run/a", ("/run/a", "")),
        ("[::1]", ("[::1]", "")),
    ] {
        assert_eq!(host_and_port(server), parts, "{server}");
    }
}

fn pool() -> Vec<Endpoint> {
    let weights = [600, 300, 200, 350, 1_000, 800, 950, 100];
    let server =
        |(last, weight)| Endpoint::new(([10, 0, 1, last], 11_211)).with_weight(Weight(weight));
    (1..).zip(weights).map(server).collect()
}

/// All 99, with the pool of `memcached_ketama_compat`, the test that they are for.
#[test]
fn libmemcached_cases() {
    let ring = table(Ketama::libmemcached(), &pool());
    for (key, hash, last) in CASES {
        assert_eq!(KeyHash::Md5.hash(key.as_bytes()), hash, "{key}");
        assert_eq!(owner(&ring, hash), usize::from(last) - 1, "{key}");
    }
}

/// What libmemcached 1.1.4 answers (`memcached_generate_hash`) for `key-0` and so on, over
/// `10.0.0.1:11211 1,10.0.0.2:11212 2,cache.internal:11300 5,10.0.0.4:11211 3`.
const ANSWERS: &str = "23133223132001123222322111123323220133231332230222222003222312322232233322222213\
    21222021111031132333";

#[test]
fn libmemcached_answers() {
    let servers = [
        (Address::from(([10, 0, 0, 1], 11_211)), 1),
        (Address::from(([10, 0, 0, 2], 11_212)), 2),
        (Address::name("cache.internal", 11_300), 5),
        (Address::from(([10, 0, 0, 4], 11_211)), 3),
    ];
    let servers =
        servers.map(|(address, weight)| Endpoint::new(address).with_weight(Weight(weight)));
    let ring = table(Ketama::libmemcached(), &servers);
    let key = |number| KeyHash::Md5.hash(format!("key-{number}").as_bytes());
    assert_eq!(digits((0..100).map(|number| owner(&ring, key(number)))), ANSWERS);
}

/// The same file's wrap: `VDEAAAAA` hashes to fffcd1b5, after the last point, and so belongs to the
/// first.
#[test]
fn libmemcached_wraps_around() {
    let ring = table(Ketama::libmemcached(), &pool());
    let key = KeyHash::Md5.hash(b"VDEAAAAA");
    assert_eq!(key, 0xfffc_d1b5);
    let points = ring.0.as_slice();
    assert!(points.last().is_some_and(|point| point.hash < key << 32));
    assert_eq!(owner(&ring, key), points[0].node as usize);
}

/// A port other than memcached's is part of a point's text, and IPv6 has no brackets there.
#[test]
fn libmemcached_texts() {
    let ring = table(Ketama::libmemcached(), &[Endpoint::new(([10, 0, 0, 1], 11_212))]);
    let first = KeyHash::Md5.hash(b"10.0.0.1:11212-0") << 32;
    assert!(ring.0.as_slice().iter().any(|point| point.hash == first));
    let v6: std::net::SocketAddr = "[::1]:11211".parse().unwrap();
    let ring = table(Ketama::libmemcached(), &[Endpoint::from(v6)]);
    let first = KeyHash::Md5.hash(b"::1-0") << 32;
    assert!(ring.0.as_slice().iter().any(|point| point.hash == first));
}

/// Of points at one place only one is left.
#[test]
fn nginx_points_are_distinct() {
    let hosts: Vec<_> = (1..=200).map(|port| (port, 100)).collect();
    let ring = table(Ketama::nginx(), &loopback(&hosts));
    let points = ring.0.as_slice();
    assert!(points.windows(2).all(|pair| pair[0].hash < pair[1].hash));
    assert!(points.len() < 200 * 100 * 160, "3.2 million of 32 bits meet some 1,200 times");
}
