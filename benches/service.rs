//! What a whole call costs beside tower's balancer, and beside the least that it could cost.
//!
//! All of them go over services that answer at once. The floor is the pick's floor with a clone of
//! the service that was picked, its call and one poll. tower's `Balance` cannot be shared, so two
//! threads go through a `Buffer`, as its documentation says, or through a mutex.
//! `cargo bench --bench service`; with `-- --test` a single tiny round.

mod support;

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    net::Ipv4Addr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use evenkeel::{
    AtResponse, Balance, Endpoint,
    discovery::StaticList,
    policy::{LeastLoad, LoadMetric, NoKey, P2c, RoundRobin},
};
use support::{Calls, Contender, Effort, Group, now, print_table, two_of};
use tokio::runtime::Runtime;
use tower::{
    Service, ServiceExt,
    balance::p2c,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, Load, PeakEwma, PendingRequests},
};

const SIZES: [usize; 5] = [3, 10, 100, 1_000, 10_000];

/// Answers at once.
#[derive(Clone, Debug)]
struct Trivial(u32);

type Ours = Balance<Trivial, NoKey, AtResponse>;

/// A floor's endpoint: a count, and as much as keeps neighbours off its cache line.
struct FloorNode {
    in_flight: AtomicU32,
    _room: [u64; 13],
}

struct FloorView {
    nodes: Box<[(Arc<FloorNode>, Trivial)]>,
}

impl Service<u32> for Trivial {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    #[inline]
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: u32) -> Self::Future {
        ready(Ok(self.0 ^ request))
    }
}

fn main() {
    let effort = Effort::from_args();
    for threads in [1, 2] {
        let groups: Vec<_> = SIZES.iter().map(|&nodes| run(effort, nodes, threads)).collect();
        let columns = SIZES.map(|nodes| format!("{nodes} nodes"));
        print_table("a whole call", &columns, &groups, threads);
    }
}

const FLOOR: &str = "floor";
const TIMED_FLOOR: &str = "floor with two clock reads";
const BY_PENDING: &str = "tower Balance, PendingRequests";
const BY_EWMA: &str = "tower Balance, PeakEwma";
const BUFFERED_PENDING: &str = "tower Buffer<Balance>, PendingRequests";
const BUFFERED_EWMA: &str = "tower Buffer<Balance>, PeakEwma";

fn run(effort: Effort, nodes: usize, threads: usize) -> Group {
    // One thread drives the `Buffer` beside its caller; two callers are tasks on two workers.
    let runtime = &match threads {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    }
    .expect("a runtime");
    let view = &FloorView::new(nodes);
    let in_flight = &ours(runtime, nodes, P2c::by(LoadMetric::InFlight));
    let peak_ewma = &ours(runtime, nodes, P2c::by(LoadMetric::PeakEwma));
    let cost = &ours(runtime, nodes, P2c::by(LoadMetric::Cost));
    let default = &ours(runtime, nodes, LeastLoad::default());
    let round_robin = &ours(runtime, nodes, RoundRobin::new());
    let mut contenders = vec![
        Contender::new(FLOOR, &[], || {
            Box::new(|calls| (0..calls).for_each(|at| floor_call(view, at)))
        }),
        Contender::new(TIMED_FLOOR, &[], || {
            Box::new(|calls| (0..calls).for_each(|at| timed_floor_call(view, at)))
        }),
        buffered(BUFFERED_PENDING, runtime, threads, by_pending(nodes)),
        buffered(BUFFERED_EWMA, runtime, threads, by_ewma(nodes)),
        alone(BY_PENDING, threads, move || by_pending(nodes)),
        alone(BY_EWMA, threads, move || by_ewma(nodes)),
    ];
    let against = |floor, buffered, alone| [floor, alone, buffered];
    contenders.extend([
        Contender::new("evenkeel, InFlight", &against(FLOOR, BUFFERED_PENDING, BY_PENDING), || {
            evenkeel(in_flight)
        }),
        Contender::new("evenkeel, PeakEwma", &against(TIMED_FLOOR, BUFFERED_EWMA, BY_EWMA), || {
            evenkeel(peak_ewma)
        }),
        Contender::new("evenkeel, Cost", &against(TIMED_FLOOR, BUFFERED_EWMA, BY_EWMA), || {
            evenkeel(cost)
        }),
        Contender::new("evenkeel, default", &against(TIMED_FLOOR, BUFFERED_EWMA, BY_EWMA), || {
            evenkeel(default)
        }),
        Contender::new("evenkeel, RoundRobin", &[FLOOR], || evenkeel(round_robin)),
    ]);
    effort.run(&contenders, threads)
}

fn ours(
    runtime: &Runtime,
    nodes: usize,
    policy: impl evenkeel::policy::IntoPolicy<Key = NoKey>,
) -> Ours {
    let endpoints =
        (0..nodes as u32).map(|at| Endpoint::new((Ipv4Addr::from(0x0a00_0000 + at), 80)));
    let list = StaticList::new(endpoints).expect("no endpoint is listed twice");
    runtime.block_on(async {
        let balance = Balance::builder(list)
            .policy(policy)
            .complete_at_response()
            .make(|_: &Endpoint| Trivial(7))
            .expect("settings are in range");
        balance.ready().await.expect("it is not closed");
        balance
    })
}

fn evenkeel(balance: &Ours) -> Calls<'_> {
    let mut balance = balance.clone();
    Box::new(move |calls| (0..calls).for_each(|at| call(&mut balance, at)))
}

/// One call from readiness to the answer, all of it at once.
#[inline]
fn call<S: Service<u32, Response = u32>>(service: &mut S, at: u64) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))), "all services are ready");
    let future = pin!(service.call(at as u32));
    let Poll::Ready(Ok(answer)) = future.poll(&mut cx) else { panic!("it answers at once") };
    black_box(answer);
}

fn by_pending(
    nodes: usize,
) -> impl Service<u32, Response = u32, Error = tower::BoxError, Future: Send> + Send {
    tower_balance(
        (0..nodes).map(|_| PendingRequests::new(Trivial(7), CompleteOnResponse::default())),
    )
}

fn by_ewma(
    nodes: usize,
) -> impl Service<u32, Response = u32, Error = tower::BoxError, Future: Send> + Send {
    let (rtt, decay) = (Duration::from_millis(30), 10e9);
    tower_balance(
        (0..nodes)
            .map(move |_| PeakEwma::new(Trivial(7), rtt, decay, CompleteOnResponse::default())),
    )
}

fn tower_balance<S>(
    services: impl Iterator<Item = S>,
) -> impl Service<u32, Response = u32, Error = tower::BoxError, Future: Send> + Send
where
    S: Service<u32, Response = u32, Error = Infallible, Future: Send>
        + Load<Metric: std::fmt::Debug>
        + Send,
{
    let services: Vec<S> = services.collect();
    p2c::Balance::new(ServiceList::new::<u32>(services))
}

/// tower's balancer without a buffer: one thread owns it, two share it by a mutex.
fn alone<'a, S>(
    name: &'static str,
    threads: usize,
    make: impl Fn() -> S + Sync + 'a,
) -> Contender<'a>
where
    S: Service<u32, Response = u32> + Send + 'a,
{
    let shared = Arc::new(Mutex::new(make()));
    Contender::new(name, &[], move || {
        if threads == 1 {
            let mut service = make();
            return Box::new(move |calls| (0..calls).for_each(|at| call(&mut service, at)));
        }
        let shared = Arc::clone(&shared);
        Box::new(move |calls| {
            (0..calls).for_each(|at| call(&mut *shared.lock().expect("nobody panicked"), at));
        })
    })
}

/// tower's balancer behind the buffer that it needs to be shared.
fn buffered<'a, S>(
    name: &'static str,
    runtime: &'a Runtime,
    threads: usize,
    service: S,
) -> Contender<'a>
where
    S: Service<u32, Response = u32, Error = tower::BoxError, Future: Send> + Send + 'static,
{
    let (buffer, worker) = Buffer::pair(service, 1024);
    runtime.spawn(worker);
    let contender = Contender::new(name, &[], move || {
        let buffer = buffer.clone();
        Box::new(move |calls| {
            let mut buffer = buffer.clone();
            let calls = async move {
                for at in 0..calls {
                    let ready = buffer.ready().await.expect("it is not closed");
                    black_box(ready.call(at as u32).await.expect("it answers"));
                }
            };
            if threads == 1 {
                runtime.block_on(calls);
            } else {
                runtime.block_on(runtime.spawn(calls)).expect("nothing panics");
            }
        })
    });
    contender.in_one_piece()
}

impl FloorView {
    fn new(nodes: usize) -> ArcSwap<Self> {
        let node = || Arc::new(FloorNode { in_flight: AtomicU32::new(0), _room: [0; 13] });
        ArcSwap::from_pointee(Self { nodes: (0..nodes).map(|_| (node(), Trivial(7))).collect() })
    }
}

#[inline]
fn floor_call(view: &ArcSwap<FloorView>, at: u64) {
    let (node, mut service) = {
        let view = view.load();
        let (one, other) = two_of(view.nodes.len());
        let load = |index: usize| view.nodes[index].0.in_flight.load(Ordering::Relaxed);
        let (node, service) = &view.nodes[if load(other) < load(one) { other } else { one }];
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        (Arc::clone(node), service.clone())
    };
    call(&mut service, at);
    node.in_flight.fetch_sub(1, Ordering::AcqRel);
}

#[inline]
fn timed_floor_call(view: &ArcSwap<FloorView>, at: u64) {
    now();
    floor_call(view, at);
    now();
}
