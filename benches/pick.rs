//! What a pick and its lease cost, beside the least that any such pick costs.
//!
//! Each floor does by hand, over plain counters, what its policy cannot do without: hold the
//! snapshot by an `arc-swap` guard, choose, clone the `Arc` of the node, count the request in and
//! out, and let go. `cargo bench --bench pick`; with `-- --test` a single tiny round.

mod support;

use std::{
    hint::black_box,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use evenkeel::{
    Endpoint, Weight,
    node::{LoadReport, Node, Outcome},
    policy::{
        IntoPolicy, LeastLoad, LeastRequest, LoadMetric, P2c, PickFirst, Random, Rendezvous,
        RoundRobin, WeightedRoundRobin,
    },
    pool::TestBed,
};
use support::{Calls, Contender, Effort, now, print_table, random, two_of};

const SIZES: [usize; 6] = [3, 10, 40, 100, 1_000, 10_000];

/// What a floor keeps of an endpoint; as large as keeps neighbours off its cache line.
struct FloorNode {
    in_flight: AtomicU32,
    /// Nanoseconds, as the bits of an `f32`: for the scan, which compares costs.
    latency: AtomicU32,
    _room: [u64; 13],
}

struct FloorView {
    nodes: Box<[Arc<FloorNode>]>,
    hashes: Box<[u64]>,
    position: AtomicU64,
}

/// A request in flight, at its barest.
struct FloorLease(Arc<FloorNode>);

fn main() {
    let effort = Effort::from_args();
    print_memory();
    for threads in [1, 2] {
        let groups: Vec<_> = SIZES.iter().map(|&nodes| run(effort, nodes, threads)).collect();
        let columns = SIZES.map(|nodes| format!("{nodes} nodes"));
        print_table("pick + lease", &columns, &groups, threads);
    }
}

/// Reads the estimate and the count of every node, and keeps the least product.
const SCAN_FLOOR: &str = "scan floor with two clock reads";

fn run(effort: Effort, nodes: usize, threads: usize) -> support::Group {
    let views = [(); 6].map(|()| FloorView::new(nodes));
    let [p2c_view, timed_view, scan_view, turns_view, random_view, keyed_view] = &views;
    let beds = [
        bed(P2c::by(LoadMetric::InFlight), nodes),
        bed(LeastRequest::new(), nodes),
        bed(P2c::by(LoadMetric::PeakEwma), nodes),
        bed(P2c::by(LoadMetric::Cost), nodes),
        bed(LeastLoad::by(LoadMetric::Cost).scan(), nodes),
        bed(LeastLoad::default(), nodes),
        bed(RoundRobin::new(), nodes),
        bed(Random, nodes),
        bed(Rendezvous, nodes),
        weighted(bed(RoundRobin::new(), nodes)),
        weighted(bed(RoundRobin::envoy(), nodes)),
        reported(bed(WeightedRoundRobin::new().blackout_period(Duration::ZERO), nodes)),
        bed(PickFirst::new(), nodes),
    ];
    let [two, least_request, two_by_ewma, two_by_cost, scan, default, turns, any, keyed, ..] =
        &beds;
    let [.., by_weight, by_deadline, by_report, pick_first] = &beds;
    let contenders = [
        Contender::new("P2C floor", &[], || floor(p2c_view, FloorView::less_loaded)),
        Contender::new("P2C by InFlight", &["P2C floor"], || evenkeel(two)),
        Contender::new("LeastRequest", &["P2C floor"], || evenkeel(least_request)),
        Contender::new("P2C floor with two clock reads", &[], || {
            timed_floor(timed_view, FloorView::less_loaded)
        }),
        Contender::new("P2C by PeakEwma", &["P2C floor with two clock reads"], || {
            evenkeel(two_by_ewma)
        }),
        Contender::new("P2C by Cost", &["P2C floor with two clock reads"], || {
            evenkeel(two_by_cost)
        }),
        Contender::new(SCAN_FLOOR, &[], || timed_floor(scan_view, FloorView::least_cost)),
        Contender::new("LeastLoad by Cost, scan", &[SCAN_FLOOR], || evenkeel(scan)),
        Contender::new("LeastLoad by default", &[SCAN_FLOOR, "P2C by Cost"], || evenkeel(default)),
        Contender::new("round robin floor", &[], || floor(turns_view, FloorView::next)),
        Contender::new("RoundRobin", &["round robin floor", "P2C floor"], || evenkeel(turns)),
        Contender::new("RoundRobin by weight", &["round robin floor"], || evenkeel(by_weight)),
        Contender::new("RoundRobin::envoy() by weight", &["round robin floor"], || {
            evenkeel(by_deadline)
        }),
        Contender::new("WeightedRoundRobin by reports", &["round robin floor"], || {
            evenkeel(by_report)
        }),
        Contender::new("PickFirst", &["round robin floor"], || evenkeel(pick_first)),
        Contender::new("random floor", &[], || floor(random_view, FloorView::any)),
        Contender::new("Random", &["random floor", "P2C floor"], || evenkeel(any)),
        Contender::new("rendezvous floor", &[], || floor(keyed_view, FloorView::highest)),
        Contender::new("Rendezvous", &["rendezvous floor"], || evenkeel_by_key(keyed)),
    ];
    effort.run(&contenders, threads)
}

/// The same with weights from 1 to 7.
fn weighted(mut bed: TestBed) -> TestBed {
    let endpoints: Vec<_> = bed.nodes().map(|node| node.endpoint()).collect();
    let weights = (1..=7).cycle().map(Weight);
    bed.update(endpoints.into_iter().zip(weights).map(|(one, weight)| one.with_weight(weight)));
    bed
}

/// The same with weights from 1 to 7 that the endpoints report.
fn reported(mut bed: TestBed) -> TestBed {
    for turn in 0..bed.nodes().count() {
        let lease = bed.pick(None).expect("all nodes are up");
        let mut report = LoadReport::default();
        (report.rps, report.cpu_utilization) = ((1 + turn % 7) as f64, 1.0);
        lease.report(&report);
    }
    bed.rebuild();
    bed
}

/// A pick, and its lease through a call that is answered.
fn evenkeel(bed: &TestBed) -> Calls<'_> {
    Box::new(|calls| (0..calls).for_each(|_| call(bed, None)))
}

fn evenkeel_by_key(bed: &TestBed) -> Calls<'_> {
    Box::new(|calls| (0..calls).for_each(|_| call(bed, Some(random()))))
}

#[inline]
fn call(bed: &TestBed, key: Option<u64>) {
    let lease = bed.pick(key).expect("all nodes are up");
    black_box(&lease);
    lease.conclude(Outcome::Success.into());
}

/// The same by hand, for the node that `choose` says.
fn floor<'a>(view: &'a ArcSwap<FloorView>, choose: impl Fn(&FloorView) -> usize + 'a) -> Calls<'a> {
    Box::new(move |calls| {
        for _ in 0..calls {
            black_box(FloorLease::take(view, &choose));
        }
    })
}

fn timed_floor<'a>(
    view: &'a ArcSwap<FloorView>,
    choose: impl Fn(&FloorView) -> usize + 'a,
) -> Calls<'a> {
    Box::new(move |calls| {
        for _ in 0..calls {
            now();
            let lease = black_box(FloorLease::take(view, &choose));
            now();
            drop(lease);
        }
    })
}

impl FloorView {
    fn new(nodes: usize) -> ArcSwap<Self> {
        let node = |at: usize| {
            let latency = AtomicU32::new((50.0 + (at * 7 % 11) as f32).to_bits());
            Arc::new(FloorNode { in_flight: AtomicU32::new(0), latency, _room: [0; 13] })
        };
        ArcSwap::from_pointee(Self {
            nodes: (0..nodes).map(node).collect(),
            hashes: (0..nodes).map(|_| random()).collect(),
            position: AtomicU64::new(random() >> 1),
        })
    }

    #[inline]
    fn less_loaded(&self) -> usize {
        let (one, other) = two_of(self.nodes.len());
        let load = |index: usize| self.nodes[index].in_flight.load(Ordering::Relaxed);
        if load(other) < load(one) { other } else { one }
    }

    #[inline]
    fn least_cost(&self) -> usize {
        let (mut best, mut least) = (0, f32::INFINITY);
        for (index, node) in self.nodes.iter().enumerate() {
            let latency = f32::from_bits(node.latency.load(Ordering::Relaxed));
            let cost = latency * (node.in_flight.load(Ordering::Relaxed) as f32 + 1.0);
            if cost < least {
                (best, least) = (index, cost);
            }
        }
        best
    }

    /// A bare `fetch_add`.
    #[inline]
    fn next(&self) -> usize {
        (self.position.fetch_add(1, Ordering::Relaxed) % self.nodes.len() as u64) as usize
    }

    #[inline]
    fn any(&self) -> usize {
        ((u128::from(random()) * self.nodes.len() as u128) >> 64) as usize
    }

    /// The highest bidder for a random key.
    #[inline]
    fn highest(&self) -> usize {
        let key = random();
        let (mut best, mut highest) = (0, 0);
        for (index, &hash) in self.hashes.iter().enumerate() {
            let bid = mix(key ^ hash);
            if bid > highest {
                (best, highest) = (index, bid);
            }
        }
        best
    }
}

impl FloorLease {
    #[inline]
    fn take(view: &ArcSwap<FloorView>, choose: impl Fn(&FloorView) -> usize) -> Self {
        let view = view.load();
        let node = &view.nodes[choose(&view)];
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(node))
    }
}

impl Drop for FloorLease {
    #[inline]
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// As the crate mixes bits (SplitMix64).
#[inline]
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn bed(policy: impl IntoPolicy, nodes: usize) -> TestBed {
    TestBed::new(policy, endpoints(nodes)).expect("no key to be wrong")
}

fn endpoints(nodes: usize) -> impl Iterator<Item = Endpoint> {
    (0..nodes as u32).map(|at| Endpoint::new((Ipv4Addr::from(0x0a00_0000 + at), 80)))
}

#[allow(clippy::print_stdout, reason = "figures are what a bench is for")]
fn print_memory() {
    const NODES: usize = 10_000;
    println!("a node: {} B, and {} B for its Arc", size_of::<Node>(), 2 * size_of::<usize>());
    let mut bed = None;
    let all = allocation_counter::measure(|| bed = Some(self::bed(P2c::default(), NODES)));
    let bytes = all.bytes_current as f64 / NODES as f64;
    println!("a bed of {NODES} endpoints: {bytes:.0} B each, with its description and all entries");
    drop(bed);
}
