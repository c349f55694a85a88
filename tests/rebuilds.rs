//! Pickers that are built anew because their policy asks for it, with no endpoint changed.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel::{
    Balance,
    policy::{Pick, PickContext, Picker, Policy, RoundRobin, Tier},
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
