//! What counts as in flight, from the pick to the end of the body, and what is left afterwards.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Balance, Builder, Endpoint, Error,
    discovery::{Discover, Update},
    node::Link,
    policy::RoundRobin,
    pool::{EndpointState, MakeEndpoint},
};
use futures::{FutureExt, Stream, future};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use proptest::prelude::*;
use support::{
    Ask, Managed, Plain, World, endpoint, endpoints, feed, guard, in_flight, just, name, names,
    now, of, quiet, set,
};
use tokio::sync::mpsc;
use tower::{Service, ServiceExt, service_fn, util::MapResponse};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>;
type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

fn over<D: Discover>(source: D) -> Builder<D> {
    Balance::builder(source).policy(RoundRobin::new()).seed(7)
}

/// A body that is fed by hand.
fn fed_body() -> (Frames, AnyBody) {
    let (frames, mut fed) = mpsc::unbounded_channel();
    let stream: Pin<Box<dyn Stream<Item = _> + Send>> =
        Box::pin(futures::stream::poll_fn(move |cx| fed.poll_recv(cx)));
    (frames, StreamBody::new(stream).boxed_unsync())
}

/// A client that reports nothing and answers with a body.
struct WithBody(Plain);

type ToBody = fn(String) -> Response<AnyBody>;

impl MakeEndpoint for WithBody {
    type Service = MapResponse<support::Served, ToBody>;

    fn make(&self, endpoint: &Endpoint, link: Link) -> Self::Service {
        MapResponse::new(self.0.make(endpoint, link), |name| {
            Response::new(Full::from(name).map_err(|never| match never {}).boxed_unsync())
        })
    }
}

/// A balancer over one endpoint that answers with `response`, and its answer.
async fn answered(
    response: Response<AnyBody>,
) -> (impl Fn() -> (u32, bool), Response<evenkeel::BalancedBody<AnyBody>>) {
    let response = Arc::new(Mutex::new(Some(response)));
    let make = move |_: &Endpoint| {
        let response = Arc::clone(&response);
        service_fn(move |_: Request<()>| {
            future::ready(Ok::<_, io::Error>(response.lock().unwrap().take().unwrap()))
        })
    };
    let balance = over(just(set([1]))).make(make).unwrap();
    balance.ready().await.unwrap();
    let response = balance.clone().oneshot(Request::new(())).await.unwrap();
    let look = move || {
        let one = of(&balance.status(), 1);
        (one.in_flight, one.success == 1.0)
    };
    (look, response)
}

fn grpc(body: AnyBody) -> Response<AnyBody> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    Frame::trailers(trailers)
}

/// T5: a body that says it is over, as one without content does, is often never polled.
#[tokio::test(start_paused = true)]
async fn t5_a_body_that_is_over_ends_its_request_at_once() {
    let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let (look, response) = answered(Response::new(empty)).await;
    assert_eq!(look(), (0, true));
    assert_eq!(response.extensions().get::<Endpoint>(), Some(&endpoint(1)));
    assert_eq!(response.body().endpoint(), endpoint(1));
    drop(response);
    assert_eq!(look(), (0, true));

    let full = Full::from("text").map_err(|never| match never {}).boxed_unsync();
    let (look, response) = answered(Response::new(full)).await;
    assert_eq!(look(), (1, true));
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(look(), (0, true), "over with its last frame, before it is asked for another");
    assert!(body.frame().await.is_none());
    assert_eq!(look(), (0, true));
}

/// T5: the end, trailers, an error and a drop mid-way each end the request once.
#[tokio::test(start_paused = true)]
async fn t5_each_way_that_a_body_ends_is_counted_once() {
    // The end.
    let (frames, body) = fed_body();
    let (look, response) = answered(Response::new(body)).await;
    let mut body = response.into_body();
    frames.send(Ok(Frame::data(Bytes::from_static(b"a")))).unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(look(), (1, true));
    drop(frames);
    assert!(body.frame().await.is_none());
    assert_eq!(look(), (0, true));
    drop(body);
    assert_eq!(look(), (0, true));

    // Trailers, with which a body is over though nobody asks for its end.
    let (frames, body) = fed_body();
    let (look, response) = answered(Response::new(body)).await;
    let mut body = response.into_body();
    frames.send(Ok(Frame::trailers(HeaderMap::new()))).unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(look(), (0, true));

    // An error is a failure, whatever the head said.
    let (frames, body) = fed_body();
    let (look, response) = answered(Response::new(body)).await;
    let mut body = response.into_body();
    frames.send(Err(io::ErrorKind::ConnectionReset.into())).unwrap();
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.is_ambiguous() && error.endpoint().is_some(), "{error}");
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.is::<io::Error>());
    assert_eq!(look(), (0, false));

    // A drop mid-way blames nobody.
    let (_frames, body) = fed_body();
    let (look, response) = answered(Response::new(body)).await;
    assert_eq!(look(), (1, true));
    drop(response);
    assert_eq!(look(), (0, true));
}

/// R3: gRPC tells its outcome in its trailers; a stream without them failed.
#[tokio::test(start_paused = true)]
async fn r3_grpc_is_judged_by_its_trailers() {
    for (status, fine) in [("0", true), ("5", true), ("14", false)] {
        let (frames, body) = fed_body();
        let (look, response) = answered(grpc(body)).await;
        let mut body = response.into_body();
        frames.send(Ok(trailers(status))).unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(look(), (0, fine), "{status}");
    }
    let (frames, body) = fed_body();
    let (look, response) = answered(grpc(body)).await;
    drop(frames);
    assert!(response.into_body().frame().await.is_none());
    assert_eq!(look(), (0, false), "ended without a status");
}

/// R25: the endpoint in the extensions can be left out; the body tells it all the same.
#[tokio::test(start_paused = true)]
async fn r25_the_extension_can_be_left_out() {
    let make = |_: &Endpoint| {
        service_fn(|_: Request<()>| {
            future::ready(Ok::<_, io::Error>(Response::new(Full::<Bytes>::from("text"))))
        })
    };
    let balance = over(just(set([1]))).tell_endpoint(false).make(make).unwrap();
    let response = balance.oneshot(Request::new(())).await.unwrap();
    assert!(response.extensions().get::<Endpoint>().is_none());
    assert_eq!(response.body().endpoint(), endpoint(1));
}

/// T6: a call that is dropped before its first poll, while it waits, or while it is answered, counts
/// down and is neutral for the success.
#[tokio::test(start_paused = true)]
async fn t6_a_dropped_call_counts_down_whenever_it_is_dropped() {
    let world = World::new();
    let (feed, source) = feed();
    let mut balance = over(source).complete_at_response().make(Plain(Arc::clone(&world))).unwrap();
    let mut waiting = Box::pin(balance.call(Ask::default()));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(balance.status().waiting, 1);
    drop(waiting);
    assert_eq!(balance.status().waiting, 0);
    feed.say(set(1..=2));
    quiet().await;
    for i in 0..100 {
        // Others answer, so that abandoned requests in a row would count as a failure.
        balance.call(Ask::default()).await.unwrap();
        let unpolled = balance.call(Ask::default());
        assert_eq!(in_flight(&balance.status()), 1);
        drop(unpolled);
        if i < 4 {
            let (_gate, ask) = Ask::held();
            let mut sent = Box::pin(balance.call(ask));
            assert!((&mut sent).now_or_never().is_none());
            assert_eq!(in_flight(&balance.status()), 1);
        }
        assert_eq!(in_flight(&balance.status()), 0);
    }
    let status = balance.status();
    assert!(status.endpoints.iter().all(|one| one.success == 1.0), "{status}");
}

/// Rule 8: an attempt that takes too long is a failure of its endpoint, and its error says so.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_a_failure() {
    let world = World::new();
    let balance = over(just(set([1])))
        .attempt_timeout(300 * MS)
        .complete_at_response()
        .make(Plain(world))
        .unwrap();
    let (_gate, ask) = Ask::held();
    let start = now();
    let error: Error = balance.clone().oneshot(ask).await.unwrap_err();
    assert_eq!(now() - start, 300 * MS);
    assert!(error.is_timeout() && error.is_ambiguous() && !error.is_no_endpoint());
    assert_eq!(error.to_string(), "no response within 300ms at endpoint 10.0.0.1:80");
    let one = of(&balance.status(), 1);
    assert_eq!(one.in_flight, 0);
    assert!(one.success < 1.0);
    balance.clone().oneshot(Ask::default()).await.unwrap();
}

/// What an attempt does on its way out: at its end, or where it is dropped.
struct AtDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A place is free once what had it is gone, and not before: nobody finds a cap of one taken twice.
#[tokio::test(start_paused = true)]
async fn a_place_is_free_once_its_attempt_is_gone() {
    let handle: Arc<OnceLock<evenkeel::Handle<_>>> = Arc::default();
    let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
    let make = {
        let (handle, seen) = (Arc::clone(&handle), Arc::clone(&seen));
        move |_: &Endpoint| {
            let (handle, seen) = (Arc::clone(&handle), Arc::clone(&seen));
            service_fn(move |()| {
                let (handle, seen) = (Arc::clone(&handle), Arc::clone(&seen));
                let look = AtDrop(move || {
                    seen.lock().unwrap().push(in_flight(&handle.get().unwrap().status()));
                });
                async move {
                    future::pending::<()>().await;
                    drop(look);
                    Ok::<_, io::Error>(())
                }
            })
        }
    };
    let balance = over(just(set([1])))
        .max_in_flight(1)
        .attempt_timeout(300 * MS)
        .complete_at_response()
        .make(make)
        .unwrap();
    balance.ready().await.unwrap();
    assert!(handle.set(balance.handle()).is_ok());
    let mut dropped = Box::pin(balance.clone().oneshot(()));
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [1], "dropped");
    let mut late = Box::pin(balance.clone().oneshot(()));
    assert!((&mut late).await.unwrap_err().is_timeout());
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [1], "too late");
    assert_eq!(in_flight(&balance.status()), 0);
}

/// R8: with the last handle gone and the last response over, no task is left within a second.
#[tokio::test(start_paused = true)]
async fn r8_nothing_runs_once_all_is_dropped() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let world = World::new();
    let (feed, source) = feed();
    let before = metrics.num_alive_tasks();
    let balance = over(source).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
    feed.say(set(1..=20));
    balance.ready().await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(metrics.num_alive_tasks(), before + 1, "one task a balancer");
    let (gate, ask) = Ask::held();
    let mut call = Box::pin(balance.clone().oneshot(ask));
    assert!((&mut call).now_or_never().is_none());
    let handle = balance.handle();
    drop(balance);
    quiet().await;
    assert_eq!(world.live(), 20, "a handle keeps it");
    drop(handle);
    quiet().await;
    assert_eq!(world.live(), 20, "a call keeps it");
    gate.send(()).unwrap();
    call.await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!((metrics.num_alive_tasks(), world.live()), (before, 0));
}

/// R8: the same where a response's body is the last thing that is left.
#[tokio::test(start_paused = true)]
async fn r8_nothing_runs_once_the_last_body_is_dropped() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let world = World::new();
    let (feed, source) = feed();
    let before = metrics.num_alive_tasks();
    let balance = over(source).make(WithBody(Plain(Arc::clone(&world)))).unwrap();
    feed.say(set(1..=20));
    balance.ready().await.unwrap();
    let (gate, ask) = Ask::held();
    gate.send(()).unwrap();
    let body = balance.clone().oneshot(ask).await.unwrap().into_body();
    drop(balance);
    tokio::time::sleep(SECOND).await;
    assert_eq!(metrics.num_alive_tasks(), before + 1, "what drains is waited for");
    drop(body);
    tokio::time::sleep(SECOND).await;
    assert_eq!((metrics.num_alive_tasks(), world.live()), (before, 0));
}

/// R14: a removed endpoint takes nothing new; what it has runs on, until its time is over; then its
/// client is told to cut what is left.
#[tokio::test(start_paused = true)]
async fn r14_a_removed_endpoint_drains_until_its_time_is_over() {
    for ends_in_time in [true, false] {
        let world = World::new();
        let (feed, source) = feed();
        let balance =
            over(source).complete_at_response().make(Managed(Arc::clone(&world))).unwrap();
        feed.say(set([1]));
        balance.ready().await.unwrap();
        let (gate, ask) = Ask::held();
        let call = tokio::spawn(balance.clone().oneshot(ask));
        quiet().await;
        feed.say(set([2]));
        tokio::time::sleep(SECOND).await;
        for _ in 0..10 {
            assert_eq!(balance.clone().oneshot(Ask::default()).await.unwrap(), name(2));
        }
        let one = of(&balance.status(), 1);
        assert_eq!((one.state, one.in_flight), (EndpointState::Draining, 1));
        tokio::time::sleep(28 * SECOND).await;
        assert!(world.closed().is_empty());
        assert_eq!(world.live(), 2);
        if ends_in_time {
            gate.send(()).unwrap();
            assert_eq!(call.await.unwrap().unwrap(), name(1));
            quiet().await;
        } else {
            tokio::time::sleep(2 * SECOND).await;
            assert!(!call.is_finished());
            call.abort();
            quiet().await;
        }
        assert_eq!(world.closed(), [name(1)]);
        assert_eq!((names(&balance.status()), world.live()), (vec![name(2)], 1));
    }
}

/// R15, T8: whatever order endpoints come and go in under 100 open streams, with requests that begin, end
/// and are dropped between, with their responses, the counts are exact and zero at the end, and no service
/// outlives its use.
fn counts_are_exact(steps: Vec<(u8, u16)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new();
        let (feed, source) = feed();
        let balance = over(source).make(WithBody(Plain(Arc::clone(&world)))).unwrap();
        feed.say(set([0]));
        balance.ready().await.unwrap();
        let (mut held, mut bodies) = (Vec::new(), Vec::new());
        feed.say(set(0..5));
        quiet().await;
        for _ in 0..100 {
            let (gate, ask) = Ask::held();
            gate.send(()).unwrap();
            bodies.push(balance.clone().oneshot(ask).await.unwrap().into_body());
        }
        assert_eq!(in_flight(&balance.status()), 100);
        for (kind, pick) in steps {
            let at = usize::from(pick);
            match kind {
                // Which of four endpoints are listed, beside one that always is.
                0 => feed.say(set((0..5).filter(|i| *i == 0 || pick >> i & 1 == 1))),
                1 => quiet().await,
                2 | 3 => {
                    let (gate, ask) = Ask::held();
                    let mut call = Box::pin(balance.clone().oneshot(ask));
                    assert!((&mut call).now_or_never().is_none());
                    held.push((gate, call));
                }
                4 | 5 if held.is_empty() => {}
                4 => drop(held.swap_remove(at % held.len())),
                5 => {
                    let (gate, call) = held.swap_remove(at % held.len());
                    gate.send(()).unwrap();
                    bodies.push(call.await.unwrap().into_body());
                }
                _ if bodies.is_empty() => {}
                6 => drop(bodies.swap_remove(at % bodies.len())),
                _ => {
                    let whole = bodies.swap_remove(at % bodies.len()).collect().await;
                    assert!(!whole.unwrap().to_bytes().is_empty());
                }
            }
            if kind == 1 {
                assert_eq!(in_flight(&balance.status()) as usize, held.len() + bodies.len());
            }
        }
        feed.say(set([0]));
        quiet().await;
        assert_eq!(in_flight(&balance.status()) as usize, held.len() + bodies.len());
        drop((held, bodies));
        quiet().await;
        let status = balance.status();
        assert_eq!((in_flight(&status), names(&status)), (0, vec![name(0)]));
        assert_eq!(world.live(), 1);
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn r15_counts_are_exact_however_endpoints_come_and_go(
        steps in proptest::collection::vec((0..8_u8, any::<u16>()), 0..200),
    ) {
        counts_are_exact(steps);
    }
}

/// R15: the same on several threads at once, in real time: exact at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r15_counts_are_exact_at_the_end_of_churn() {
    let world = World::new();
    let (feed, source) = feed();
    let balance = over(source).make(WithBody(Plain(Arc::clone(&world)))).unwrap();
    feed.say(set([0]));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for i in 0..2_000 {
                    let (gate, ask) = Ask::held();
                    let mut call = Box::pin(balance.clone().oneshot(ask));
                    let _ = (&mut call).now_or_never();
                    tokio::task::yield_now().await;
                    if i % 3 == 0 {
                        continue;
                    }
                    let _ = gate.send(());
                    let body = call.await.unwrap().into_body();
                    tokio::task::yield_now().await;
                    if i % 3 == 1 {
                        body.collect().await.unwrap();
                    }
                }
            })
        })
        .collect();
    let churn = tokio::spawn({
        let (feed, stop) = (feed.clone(), Arc::clone(&stop));
        async move {
            let mut round = 0_u16;
            while !stop.load(Ordering::SeqCst) {
                round = round.wrapping_add(1);
                feed.say(Update::Set(endpoints((0..5).filter(|i| *i == 0 || round >> i & 1 == 1))));
                tokio::task::yield_now().await;
            }
        }
    });
    for caller in guard(future::join_all(callers)).await {
        caller.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    churn.await.unwrap();
    feed.say(set([0]));
    guard(async {
        while names(&balance.status()) != [name(0)] || world.live() != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(in_flight(&balance.status()), 0);
}
