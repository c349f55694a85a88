//! What an update costs the balancer's task, through the pool's diff and the build of a snapshot, and
//! what an endpoint costs in memory.
//!
//! The floor is what no comparison by identity can do without: a hash map of the new set, in which
//! each old endpoint is looked up. `cargo bench --bench churn`; with `-- --test` a single tiny round.
#![allow(clippy::print_stdout, reason = "it is there to be read")]

#[allow(dead_code, reason = "no bench uses all of it")]
mod support;

use std::{
    collections::HashMap,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
};

use evenkeel::{
    Endpoint, Weight,
    policy::{P2c, RoundRobin},
    pool::TestBed,
};
use support::{Calls, Contender, Effort, Group, print_table};

const SIZES: [u32; 3] = [10, 1_000, 10_000];

const FLOOR: &str = "floor: hash the new set, look the old one up";

fn main() {
    let effort = Effort::from_args();
    print_memory();
    let groups: Vec<_> = SIZES.iter().map(|&size| run(effort, size)).collect();
    let columns = SIZES.map(|size| format!("{size} listed"));
    print_table("an update of the whole set", &columns, &groups, 1);
    print_per_endpoint(&groups);
}

fn run(effort: Effort, size: u32) -> Group {
    let before = set(0..size, 1);
    let one_other = set(1..size + 1, 1);
    let mut one_weight = before.clone();
    one_weight[0] = one_weight[0].clone().with_weight(Weight(2));
    let all_weights = set(0..size, 2);
    let all_others = set(size..2 * size, 1);
    let contenders = [
        Contender::new(FLOOR, &[], || floor(&before, &one_other)),
        Contender::new("nothing changes, and it is built anew", &[FLOOR], || {
            evenkeel(bed(P2c::default(), &before), &before, &before)
        }),
        Contender::new("the weight of one", &[FLOOR], || {
            evenkeel(bed(P2c::default(), &before), &one_weight, &before)
        }),
        Contender::new("the weights of all, by round robin", &[FLOOR], || {
            evenkeel(bed(RoundRobin::new(), &before), &all_weights, &before)
        }),
        Contender::new("one goes and one comes", &[FLOOR], || {
            evenkeel(bed(P2c::default(), &before), &one_other, &before)
        }),
        Contender::new("all go and as many come", &[FLOOR], || {
            evenkeel(bed(P2c::default(), &before), &all_others, &before)
        }),
    ];
    effort.run(&contenders.map(Contender::in_one_piece), 1)
}

/// Endpoints of these numbers, each its own server.
fn set(numbers: std::ops::Range<u32>, weight: u32) -> Vec<Endpoint> {
    let endpoint = |number: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
        Endpoint::new((address, 80)).with_weight(Weight(weight))
    };
    numbers.map(endpoint).collect()
}

fn bed(policy: impl evenkeel::policy::IntoPolicy, endpoints: &[Endpoint]) -> TestBed {
    let bed = TestBed::new(policy, endpoints.iter().cloned()).expect("the policies need no key");
    bed.seed(7)
}

/// Updates a pool to one set and to the other, in turns.
fn evenkeel<'a>(mut bed: TestBed, first: &'a [Endpoint], second: &'a [Endpoint]) -> Calls<'a> {
    let mut turn = false;
    Box::new(move |calls| {
        for _ in 0..calls {
            turn = !turn;
            bed.update(if turn { first } else { second }.iter().cloned());
        }
    })
}

fn floor<'a>(first: &'a [Endpoint], second: &'a [Endpoint]) -> Calls<'a> {
    let mut turn = false;
    Box::new(move |calls| {
        for _ in 0..calls {
            turn = !turn;
            let (new, old) = if turn { (first, second) } else { (second, first) };
            let index: HashMap<_, _> = new.iter().map(address).zip(0_u32..).collect();
            black_box(old.iter().filter(|one| !index.contains_key(&address(one))).count());
        }
    })
}

fn address(endpoint: &Endpoint) -> SocketAddr {
    endpoint.addr().socket().expect("all have one")
}

fn print_memory() {
    println!("memory of a pool, with descriptions of the endpoints and all entries:");
    for size in SIZES {
        let mut bed = None;
        let all = allocation_counter::measure(|| {
            bed = Some(self::bed(P2c::default(), &set(0..size, 1)));
        });
        let each = all.bytes_current as f64 / f64::from(size);
        println!("  {size:>6} endpoints: {each:>6.0} B each");
        drop(bed);
    }
}

fn print_per_endpoint(groups: &[Group]) {
    println!("\nthe same, in ns for each endpoint listed");
    for (row, figure) in groups[0].figures.iter().enumerate() {
        print!("{:<44}", figure.name);
        for (group, size) in groups.iter().zip(SIZES) {
            print!("{:>14.1}", group.figures[row].nanos / f64::from(size));
        }
        println!();
    }
}
