//! The way of a request allocates nothing of its own (rule 13 of the design).

#![allow(clippy::unwrap_used, reason = "helpers of tests may")]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use evenkeel::{
    AtResponse, Balance, Endpoint, Weight,
    discovery::StaticList,
    node::{Head, Outcome},
    policy::{
        BoundedLoad, IntoPolicy, Ketama, LeastLoad, LeastRequest, LoadMetric, Maglev, P2c,
        PickFirst, Random, Rendezvous, RequestKey, RingHash, RoundRobin, WeightedRoundRobin,
        hash_bytes,
    },
    pool::{Settings, TestBed},
};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

/// Neither its clone nor its call allocates.
#[derive(Clone, Debug)]
struct Trivial;

impl Service<u64> for Trivial {
    type Response = u64;
    type Error = Infallible;
    type Future = SecondPoll<u64>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        SecondPoll { value: Some(request + 1), polled: false }
    }
}

/// Ready when it is polled again, as an answer that comes over a wire is.
struct SecondPoll<T> {
    value: Option<T>,
    polled: bool,
}

impl<T: Unpin> Future for SecondPoll<T> {
    type Output = Result<T, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !std::mem::replace(&mut self.polled, true) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.value.take().unwrap()))
    }
}

/// The same over HTTP.
#[derive(Clone, Debug)]
struct Web;

impl Service<Request<()>> for Web {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Full::from("text"))))
    }
}

fn endpoints() -> impl Iterator<Item = Endpoint> {
    (1..=20).map(|last| Endpoint::new(([10, 0, 0, last], 80)))
}

async fn balance<P: IntoPolicy>(
    policy: P,
    limits: Settings<P::Key>,
) -> Balance<Trivial, P::Key, AtResponse> {
    let balance = Balance::builder(StaticList::new(endpoints()).unwrap())
        .policy(policy)
        .settings(limits)
        .complete_at_response()
        .make(|_: &Endpoint| Trivial)
        .unwrap();
    balance.ready().await.unwrap();
    balance
}

fn call<K: RequestKey<u64>>(balance: &mut Balance<Trivial, K, AtResponse>, request: u64) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(balance.poll_ready(&mut cx).is_ready());
    let mut future = pin!(balance.call(request));
    assert!(future.as_mut().poll(&mut cx).is_pending());
    let Poll::Ready(Ok(answer)) = future.poll(&mut cx) else { panic!("it answers then") };
    assert_eq!(answer, request + 1);
}

/// Allocations of what runs once before, so that a thread has all it keeps for itself.
fn allocations(mut run: impl FnMut()) -> u64 {
    run();
    measure(run).count_total
}

/// Without limits, and with those that a call heeds on its way.
async fn assert_call_allocates_nothing<P: IntoPolicy + Clone>(policy: P)
where
    P::Key: RequestKey<u64>,
{
    let limits = Settings::new().max_in_flight(3).attempt_timeout(Duration::from_secs(1_000));
    for limits in [Settings::new(), limits] {
        let mut balance = balance(policy.clone(), limits).await;
        let calls = || (0..1_000).for_each(|request| call(&mut balance, request));
        assert_eq!(allocations(calls), 0);
    }
}

#[tokio::test]
async fn a_call_allocates_nothing() {
    assert_call_allocates_nothing(RoundRobin::new()).await;
    assert_call_allocates_nothing(P2c::by(LoadMetric::InFlight)).await;
    assert_call_allocates_nothing(P2c::by(LoadMetric::PeakEwma)).await;
    assert_call_allocates_nothing(P2c::by(LoadMetric::Cost)).await;
    assert_call_allocates_nothing(LeastLoad::default()).await;
    assert_call_allocates_nothing(Random).await;
    let by_request = |request: &u64| Some(hash_bytes(&request.to_le_bytes()));
    assert_call_allocates_nothing(Rendezvous::by(by_request)).await;
}

/// The request of an HTTP response is over with its body.
#[tokio::test]
async fn a_call_over_http_allocates_nothing_beside_what_tells_its_endpoint() {
    for (tells, most) in [(false, 0), (true, u64::MAX)] {
        let mut balance = Balance::builder(StaticList::new(endpoints()).unwrap())
            .tell_endpoint(tells)
            .make(|_: &Endpoint| Web)
            .unwrap();
        balance.ready().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let call = || {
            let call = pin!(balance.call(Request::new(())));
            let Poll::Ready(Ok(response)) = call.poll(&mut cx) else {
                panic!("it answers at once")
            };
            let mut body = pin!(response.into_body());
            assert!(matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
            assert!(matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(None)));
        };
        let count = allocations(call);
        assert!((u64::from(tells)..=most).contains(&count), "{count}");
    }
}

#[tokio::test]
async fn a_clone_of_a_balancer_allocates_nothing() {
    let balance = balance(P2c::default(), Settings::new()).await;
    assert_eq!(allocations(|| drop(balance.clone())), 0);
}

/// With equal weights, and with others.
fn assert_pick_allocates_nothing(policy: impl IntoPolicy) {
    let mut bed = TestBed::new(policy, endpoints()).unwrap();
    assert_picks_allocate_nothing(&bed);
    bed.update(endpoints().zip(1..).map(|(endpoint, weight)| endpoint.with_weight(Weight(weight))));
    assert_picks_allocate_nothing(&bed);
}

fn assert_picks_allocate_nothing(bed: &TestBed) {
    let picks = || {
        for key in 0..1_000 {
            let mut lease = bed.pick(Some(key)).unwrap();
            lease.respond(Head::Decided(Outcome::Success.into()));
        }
        // And so with requests that end otherwise.
        let (mut failed, abandoned) = (bed.pick(None).unwrap(), bed.pick(None).unwrap());
        failed.fail(Outcome::Failure.into());
        drop((failed, abandoned));
    };
    assert_eq!(allocations(picks), 0);
}

#[test]
fn a_pick_and_its_lease_allocate_nothing() {
    assert_pick_allocates_nothing(RoundRobin::new());
    assert_pick_allocates_nothing(RoundRobin::envoy());
    assert_pick_allocates_nothing(LeastRequest::envoy());
    assert_pick_allocates_nothing(WeightedRoundRobin::new());
    assert_pick_allocates_nothing(PickFirst::new());
    assert_pick_allocates_nothing(P2c::by(LoadMetric::InFlight));
    assert_pick_allocates_nothing(P2c::by(LoadMetric::PeakEwma));
    assert_pick_allocates_nothing(P2c::by(LoadMetric::Cost));
    assert_pick_allocates_nothing(LeastRequest::new().choices(5));
    assert_pick_allocates_nothing(LeastRequest::new().scan());
    assert_pick_allocates_nothing(LeastLoad::default());
    assert_pick_allocates_nothing(Random);
    assert_pick_allocates_nothing(Rendezvous);
    assert_pick_allocates_nothing(RingHash::new());
    assert_pick_allocates_nothing(RingHash::envoy());
    assert_pick_allocates_nothing(Maglev::envoy());
    assert_pick_allocates_nothing(Ketama::nginx());
    assert_pick_allocates_nothing(Ketama::libmemcached());
}

/// A hot key whose node has too much already, so that another is looked for.
#[test]
fn a_bounded_pick_allocates_nothing() {
    fn assert_nothing(policy: impl IntoPolicy) {
        let bed = TestBed::new(policy, endpoints()).unwrap();
        let held: Vec<_> = (0..40).map(|_| bed.pick(Some(7)).unwrap()).collect();
        assert!(held.iter().any(|lease| lease.endpoint() != held[0].endpoint()));
        assert_eq!(allocations(|| (0..1_000).for_each(|_| drop(bed.pick(Some(7)).unwrap()))), 0);
    }
    assert_nothing(RingHash::new().bounded(1.25));
    assert_nothing(Rendezvous.bounded(1.25));
    assert_nothing(BoundedLoad::envoy(Maglev::envoy(), 125));
}

#[test]
fn what_counts_allocations_sees_them() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
