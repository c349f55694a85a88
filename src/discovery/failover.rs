//! A list of sources, each of which is used only while those before it have nothing usable.

use std::{fmt, sync::Arc};

use futures_core::Stream;

use super::{
    Discover, Endpoints, Here, RefreshRequests, Update,
    any_source::{AnySource, erase},
    compose::compose,
};
use crate::{
    endpoint::{Endpoint, Priority},
    node::Clock,
};

/// Sources in the order in which they are to be used: each is a priority of its own.
///
/// All are watched, and their endpoints known, so that it takes no look-up to fail over; but a
/// request goes to a later source only while no endpoint of the earlier ones is usable (the pool's
/// strict [`Priority`]). The priorities that a source gives its endpoints, as SRV records do, hold
/// inside of it, up to 65,535.
///
/// * A source that fails leaves its last set, and the whole is partial. If all fail, so does the whole.
/// * A source that is empty loses its endpoints when its own [`OnEmpty`](super::OnEmpty) says so, and
///   the whole is empty if all are, or if those were the last while the others fail.
/// * What any of them finds out of the place of this process counts; of several, the first.
/// * At first those who answer wait a second for those who do not, lest the backup is called
///   because the primary takes a moment longer.
///
/// ```
/// use evenkeel::{Balance, discovery::{Failover, StaticList, Target}};
///
/// let source = Failover::new()
///     .then("static://10.0.0.1:80,10.0.0.2:80".parse::<Target>()?)
///     .then(StaticList::parse("10.9.0.1:80")?);
/// let builder = Balance::builder(source);
/// # let _ = builder;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a source does nothing until a balancer is built over it"]
pub struct Failover {
    sources: Vec<Arc<dyn AnySource>>,
    here: Here,
    clock: Clock,
}

/// A source's own priorities take the lower half.
const PRIORITIES: u32 = 1 << 16;

// === impl Failover ===

impl Failover {
    /// No source yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the source to be used when those before it have nothing usable. Of more than 65,535 the
    /// rest share a priority.
    pub fn then(mut self, source: impl Discover + Clone + Sync) -> Self {
        self.sources.push(erase(source));
        self
    }

    /// Where time is read; tokio's clock by default.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl Discover for Failover {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        compose(&self.sources, Box::new(in_order), self.here, self.clock, refresh)
    }

    /// What any of the sources finds out; of several, the first counts.
    fn here(&self) -> Here {
        self.here.clone()
    }

    fn target(&self) -> Arc<str> {
        let names: Vec<_> = self.sources.iter().map(|source| source.name()).collect();
        format!("failover({})", names.join(", ")).into()
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failover").field(&self.target()).finish()
    }
}

fn in_order(sets: &[(usize, &Endpoints)]) -> Vec<Endpoint> {
    let prioritised = |(at, set): &(usize, &Endpoints)| -> Vec<Endpoint> {
        let rank = u32::try_from(*at).unwrap_or(u32::MAX).min(PRIORITIES - 1);
        let place = |endpoint: &Endpoint| {
            let own = endpoint.priority().0.min(PRIORITIES - 1);
            endpoint.clone().with_priority(Priority(rank * PRIORITIES + own))
        };
        set.iter().map(place).collect()
    };
    sets.iter().flat_map(prioritised).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::compose::tests::{Feed, endpoints, short, watch},
        *,
    };
    use crate::{
        discovery::{OnEmpty, Reason},
        error::DiscoverError,
    };

    #[tokio::test(start_paused = true)]
    async fn r22_each_source_is_a_priority_and_its_own_hold_inside() {
        let (primary, backup) = (Feed::new("a"), Feed::new("b"));
        let source = Failover::new().then(primary.source()).then(backup.source());
        assert_eq!(&*source.target(), "failover(a, b)");
        let mut watched = watch(source);
        let second = endpoints([2]).into_iter().next().unwrap();
        primary.say(Update::Set(
            [endpoints([1]).into_iter().next().unwrap(), second.with_priority(Priority(7))].into(),
        ));
        backup.say(Update::Set(endpoints([3, 1])));
        let Update::Set(set) = watched.next().await else { panic!("no set") };
        let told: Vec<_> = set.iter().map(|one| (one.to_string(), one.priority().0)).collect();
        let name = |last: u8| format!("10.0.0.{last}:80");
        // The pool takes the first of those that are there twice.
        let expected = [(name(1), 0), (name(2), 7), (name(3), 65_536), (name(1), 65_536)];
        assert_eq!(told, expected);
    }

    /// T10: a primary that errs keeps its place; only its own known emptiness gives way.
    #[tokio::test(start_paused = true)]
    async fn t10_a_primary_that_errs_keeps_its_place() {
        let (primary, backup) = (Feed::new("a"), Feed::new("b"));
        let keeping =
            primary.source().on_empty(OnEmpty::KeepFor(std::time::Duration::from_secs(30)));
        let mut watched = watch(Failover::new().then(keeping).then(backup.source()));
        primary.say(Update::Set(endpoints([1])));
        backup.say(Update::Set(endpoints([2])));
        assert_eq!(short(&watched.next().await), "set 1 2");
        primary.say(Update::Failed(DiscoverError::new("SERVFAIL")));
        assert_eq!(short(&watched.next().await), "partial 1 2 | `a`: SERVFAIL");
        primary.say(Update::Empty(Reason::says("NXDOMAIN")));
        assert_eq!(short(&watched.next().await), "set 1 2");
        let begin = Clock::default().now();
        assert_eq!(short(&watched.next().await), "set 2");
        let now = Clock::default().now();
        assert_eq!(now.saturating_duration_since(begin).as_secs(), 30);
    }
}
