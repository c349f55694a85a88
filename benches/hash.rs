//! What consistent hashing costs: a lookup with its lease, and a build, beside the `hashring` crate
//! and the least that each costs by hand.
//!
//! A floor holds the snapshot by an `arc-swap` guard, looks the key up in its table, clones the `Arc`
//! of the node, counts the request in and out, and lets go. The floor of a build updates the same
//! pool, under a policy that builds nothing, and then makes its table. `cargo bench --bench hash`;
//! with `-- --test` a single tiny round.

mod support;

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use evenkeel::{
    Endpoint, Weight,
    node::{Head, Outcome},
    policy::{IntoPolicy, Ketama, Maglev, Pick, PickContext, Picker, Policy, RingHash, Rng, Tier},
    pool::TestBed,
};
use hashring::HashRing;
use support::{Calls, Contender, Effort, Group, print_table, random};
use xxhash_rust::xxh64::xxh64;

const SIZES: [usize; 3] = [10, 100, 1_000];
/// Points of a node, as in the default profile.
const POINTS: u64 = 256;
/// Places of a Maglev table, as in Envoy.
const PLACES: u64 = 65_537;

/// As large as keeps neighbours off its cache line.
struct FloorNode {
    in_flight: AtomicU32,
    _room: [u64; 13],
}

/// A request in flight, at its barest.
struct FloorLease(Arc<FloorNode>);

struct FloorView<T> {
    nodes: Box<[Arc<FloorNode>]>,
    table: T,
}

/// A ring with an index by leading bits.
struct IndexedRing {
    points: Vec<(u64, u32)>,
    starts: Vec<u32>,
    shift: u32,
}

/// A point of `hashring`: the number of a node, and of a point of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Replica(u32, u64);

/// Picks nobody, and takes nothing to build.
#[derive(Clone, Debug)]
struct Nobody;

fn main() {
    let effort = Effort::from_args();
    for threads in [1, 2] {
        let groups: Vec<_> = SIZES.iter().map(|&nodes| lookups(effort, nodes, threads)).collect();
        let columns = SIZES.map(|nodes| format!("{nodes} nodes"));
        print_table("lookup + lease", &columns, &groups, threads);
    }
    let groups: Vec<_> = SIZES.iter().map(|&nodes| builds(effort, nodes)).collect();
    print_table("update + build", &SIZES.map(|nodes| format!("{nodes} nodes")), &groups, 1);
}

// --- lookups ---

fn lookups(effort: Effort, nodes: usize, threads: usize) -> Group {
    let addresses = addresses(nodes);
    let places = FloorView::new(nodes, maglev_table(&addresses));
    let ring = FloorView::new(nodes, IndexedRing::new(ring_points(&addresses)));
    let crate_ring = FloorView::new(nodes, crate_ring(nodes as u32));
    let beds = [
        bed(Maglev::new(), nodes),
        bed(Maglev::new().bounded(1.25), nodes),
        bed(RingHash::new(), nodes),
        bed(RingHash::new().bounded(1.25), nodes),
        bed(RingHash::envoy(), nodes),
        bed(Ketama::nginx(), nodes),
    ];
    let [maglev, bounded_maglev, ring_hash, bounded_ring, envoy_ring, nginx] = &beds;
    let read = |table: &Vec<u16>, key: u64| usize::from(table[(key % PLACES) as usize]);
    let contenders = [
        Contender::new("array read by hash", &[], || floor(&places, read)),
        Contender::new("Maglev", &["array read by hash"], || evenkeel(maglev)),
        Contender::new("Maglev, bounded", &["Maglev"], || evenkeel(bounded_maglev)),
        Contender::new("indexed ring", &[], || floor(&ring, IndexedRing::owner)),
        Contender::new("RingHash", &["indexed ring", "hashring"], || evenkeel(ring_hash)),
        Contender::new("RingHash, bounded", &["RingHash"], || evenkeel(bounded_ring)),
        Contender::new("RingHash::envoy", &["indexed ring", "hashring"], || evenkeel(envoy_ring)),
        Contender::new("Ketama::nginx", &["indexed ring", "hashring"], || evenkeel(nginx)),
        Contender::new("hashring", &[], || {
            floor(&crate_ring, |ring, key| ring.get(&key).map_or(0, |replica| replica.0 as usize))
        }),
    ];
    effort.run(&contenders, threads)
}

fn evenkeel(bed: &TestBed) -> Calls<'_> {
    Box::new(|calls| {
        for _ in 0..calls {
            let mut lease = bed.pick(Some(random())).expect("all nodes are up");
            black_box(&lease);
            lease.respond(Head::Decided(Outcome::Success.into()));
        }
    })
}

fn floor<'a, T>(
    view: &'a ArcSwap<FloorView<T>>,
    owner: impl Fn(&T, u64) -> usize + 'a,
) -> Calls<'a> {
    Box::new(move |calls| {
        for _ in 0..calls {
            let view = view.load();
            let node = &view.nodes[owner(&view.table, random())];
            node.in_flight.fetch_add(1, Ordering::Relaxed);
            black_box(FloorLease(Arc::clone(node)));
        }
    })
}

impl<T> FloorView<T> {
    fn new(nodes: usize, table: T) -> ArcSwap<Self> {
        let node = |_| Arc::new(FloorNode { in_flight: AtomicU32::new(0), _room: [0; 13] });
        ArcSwap::from_pointee(Self { nodes: (0..nodes).map(node).collect(), table })
    }
}

impl Drop for FloorLease {
    #[inline]
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

// --- builds ---

fn builds(effort: Effort, nodes: usize) -> Group {
    let addresses = &addresses(nodes);
    let hand_made = |make: fn(&[String])| {
        let mut updated = updated(Nobody, nodes);
        let run: Calls<'_> = Box::new(move |calls: u64| {
            for _ in 0..calls {
                updated(1);
                make(addresses);
            }
        });
        run
    };
    let contenders = [
        Contender::new("Maglev by hand", &[], || {
            hand_made(|addresses| drop(black_box(maglev_table(addresses))))
        }),
        Contender::new("Maglev", &["Maglev by hand"], || updated(Maglev::new(), nodes)),
        Contender::new("ring by hand", &[], || {
            hand_made(|addresses| drop(black_box(IndexedRing::new(ring_points(addresses)))))
        }),
        Contender::new("RingHash", &["ring by hand", "hashring"], || {
            updated(RingHash::new(), nodes)
        }),
        Contender::new("hashring", &[], || {
            hand_made(|addresses| drop(black_box(crate_ring(addresses.len() as u32))))
        }),
    ];
    effort.run(&contenders.map(Contender::in_one_piece), 1)
}

/// Updates a pool so often: each time one node has another weight, so that there is all to build.
fn updated<'a>(policy: impl IntoPolicy + 'a, nodes: usize) -> Calls<'a> {
    let mut bed = bed(policy, nodes);
    let set = |weight| {
        let mut set: Vec<_> = endpoints(nodes).collect();
        set[0] = set[0].clone().with_weight(Weight(weight));
        set
    };
    let sets = [set(1), set(2)];
    let mut turn = 0;
    Box::new(move |calls| {
        for _ in 0..calls {
            turn += 1;
            bed.update(sets[turn % 2].iter().cloned());
        }
    })
}

impl Policy for Nobody {
    fn build(&mut self, _tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(Self)
    }
}

impl Picker for Nobody {
    fn pick(&self, _cx: &mut PickContext<'_>) -> Pick {
        Pick::Fail
    }
}

// --- tables by hand ---

fn maglev_table(addresses: &[String]) -> Vec<u16> {
    let mut nodes: Vec<(u64, u64)> = addresses
        .iter()
        .map(|address| {
            let hash = |seed| xxh64(address.as_bytes(), seed);
            (hash(0) % PLACES, hash(1) % (PLACES - 1) + 1)
        })
        .collect();
    let mut table = vec![u16::MAX; PLACES as usize];
    let mut left = PLACES;
    loop {
        for (index, (at, skip)) in nodes.iter_mut().enumerate() {
            while table[*at as usize] != u16::MAX {
                *at = (*at + *skip) % PLACES;
            }
            table[*at as usize] = index as u16;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

fn ring_points(addresses: &[String]) -> Vec<(u64, u32)> {
    let points = |(index, address): (usize, &String)| {
        let mut rng = Rng::from_seed(xxh64(address.as_bytes(), 0));
        (0..POINTS).map(move |_| (rng.next_u64(), index as u32))
    };
    addresses.iter().enumerate().flat_map(points).collect()
}

impl IndexedRing {
    fn new(mut points: Vec<(u64, u32)>) -> Self {
        points.sort_unstable();
        let bits = usize::BITS - (points.len() - 1).leading_zeros();
        let shift = u64::BITS - bits;
        let mut starts = vec![0; (1 << bits) + 1];
        for (hash, _) in &points {
            starts[(hash >> shift) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Self { points, starts, shift }
    }

    #[inline]
    fn owner(&self, key: u64) -> usize {
        let mut at = self.starts[(key >> self.shift) as usize] as usize;
        while at < self.points.len() && self.points[at].0 < key {
            at += 1;
        }
        let at = if at == self.points.len() { 0 } else { at };
        self.points[at].1 as usize
    }
}

fn crate_ring(nodes: u32) -> HashRing<Replica> {
    let mut ring = HashRing::new();
    let replicas = |node| (0..POINTS).map(move |point| Replica(node, point));
    ring.batch_add((0..nodes).flat_map(replicas).collect());
    ring
}

// --- endpoints ---

fn address(index: usize) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + index as u32), 80).into()
}

fn addresses(nodes: usize) -> Vec<String> {
    (0..nodes).map(|index| address(index).to_string()).collect()
}

fn endpoints(nodes: usize) -> impl Iterator<Item = Endpoint> {
    (0..nodes).map(|index| Endpoint::new(address(index)))
}

fn bed(policy: impl IntoPolicy, nodes: usize) -> TestBed {
    TestBed::new(policy, endpoints(nodes)).expect("no key to be wrong")
}
