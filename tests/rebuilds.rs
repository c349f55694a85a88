//! When pickers are built anew although no endpoint has changed, and on which thread.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use evenkeel::{
    Balance,
    policy::{
        BoundedLoad, Ketama, Maglev, Pick, PickContext, Picker, Policy, Rendezvous, RingHash,
        RoundRobin, Scope, Tier,
    },
    pool::Settings,
};
use support::{Ask, Plain, World, just, now, quiet, set};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);

/// Counts its builds, and uses the first node.
#[derive(Clone)]
struct Counted {
    every: Option<Duration>,
    builds: Arc<AtomicUsize>,
}

impl Policy for Counted {
    fn rebuild_every(&self) -> Option<Duration> {
        self.every
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        assert_eq!(tier.now(), now(), "built at once, with the time of then");
        self.builds.fetch_add(1, Ordering::SeqCst);
        Arc::new(self.clone())
    }
}

impl Picker for Counted {
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        if cx.accepts(0) { Pick::Use(0) } else { Pick::Fail }
    }
}

/// With no request in sight a policy is built every second that it asks for, not more often than
/// every 10 ms, and otherwise once; and no longer when another takes its place.
#[tokio::test(start_paused = true)]
async fn a_policy_is_built_as_often_as_it_asks() {
    for (every, in_ten_seconds) in [(None, 1), (Some(SECOND), 11), (Some(Duration::ZERO), 1_001)] {
        let world = World::new();
        let counted = Counted { every, builds: Arc::default() };
        let balance = Balance::builder(just(set(1..=3)))
            .policy(counted.clone())
            .complete_at_response()
            .make(Plain(Arc::clone(&world)))
            .unwrap();
        quiet().await;
        assert_eq!(counted.builds.load(Ordering::SeqCst), 1);
        tokio::time::sleep(10 * SECOND).await;
        let builds = counted.builds.load(Ordering::SeqCst);
        // A timer of tokio's is up to a millisecond late.
        assert!((in_ten_seconds * 9 / 10..=in_ten_seconds).contains(&builds), "{builds} builds");
        assert_eq!(world.made(), 3, "endpoints keep their services");
        balance.clone().oneshot(Ask::default()).await.unwrap();

        balance.update(Settings::new().policy(RoundRobin::new())).unwrap();
        quiet().await;
        let builds = counted.builds.load(Ordering::SeqCst);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(counted.builds.load(Ordering::SeqCst), builds);
    }
}

/// Says that there is so much to do in a build.
#[derive(Clone)]
struct Work(usize);

impl Policy for Work {
    fn build_work(&self, _endpoints: usize) -> usize {
        self.0
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        RoundRobin::new().build(tier)
    }
}

/// Remembers the threads that `policy` was built on.
#[derive(Clone)]
struct Watched<P> {
    policy: P,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

impl<P: Policy> Policy for Watched<P> {
    fn scope(&self) -> Scope {
        self.policy.scope()
    }

    fn build_work(&self, endpoints: usize) -> usize {
        self.policy.build_work(endpoints)
    }

    fn build(&mut self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        self.threads.lock().unwrap().push(thread::current().id());
        self.policy.build(tier)
    }
}

/// Whether the one build over `endpoints` was on this thread, which is the runtime's only worker.
async fn is_built_on_the_worker(policy: impl Policy + Clone, endpoints: u16) -> bool {
    let watched = Watched { policy, threads: Arc::default() };
    let threads = Arc::clone(&watched.threads);
    let balance = Balance::builder(just(set(1..=endpoints)))
        .policy(watched)
        .complete_at_response()
        .make(Plain(World::new()))
        .unwrap();
    balance.clone().oneshot(Ask::default()).await.unwrap();
    let threads = threads.lock().unwrap();
    assert_eq!(threads.len(), 1, "one build");
    threads[0] == thread::current().id()
}

/// R8: what takes long to build is built off the runtime's workers, however few endpoints there are.
#[tokio::test(start_paused = true)]
async fn r8_a_build_of_much_work_is_off_the_workers() {
    assert!(is_built_on_the_worker(RoundRobin::new(), 3).await);
    assert!(!is_built_on_the_worker(RoundRobin::new(), 512).await);
    assert!(is_built_on_the_worker(Work(16_383), 3).await);
    assert!(!is_built_on_the_worker(Work(16_384), 3).await);
    assert!(!is_built_on_the_worker(Work(usize::MAX), 3).await);

    assert!(is_built_on_the_worker(Rendezvous, 10).await);
    assert!(is_built_on_the_worker(RingHash::new(), 10).await);
    assert!(!is_built_on_the_worker(RingHash::new().points(4_096), 10).await);
    assert!(!is_built_on_the_worker(RingHash::new(), 64).await);
    assert!(is_built_on_the_worker(RingHash::grpc(), 10).await);
    assert!(!is_built_on_the_worker(RingHash::envoy(), 10).await, "up to 8 Mi points, by weights");
    assert!(is_built_on_the_worker(Maglev::new().table_size(16_381), 10).await);
    assert!(!is_built_on_the_worker(Maglev::new(), 10).await);
    assert!(!is_built_on_the_worker(Maglev::new().table_size(5_000_011), 10).await);
    assert!(is_built_on_the_worker(Ketama::libmemcached(), 10).await);
    assert!(!is_built_on_the_worker(Ketama::nginx(), 10).await, "up to 8 Mi points, by weights");
    assert!(is_built_on_the_worker(RingHash::new().bounded(1.25), 10).await);
    assert!(!is_built_on_the_worker(Maglev::new().bounded(1.25), 10).await);
    assert!(!is_built_on_the_worker(BoundedLoad::envoy(Maglev::envoy(), 150), 10).await);
}
