//! The union of several sources, with a share for each.

use std::{fmt, sync::Arc};

use futures_core::Stream;

use super::{
    Discover, Endpoints, Here, RefreshRequests, Update,
    any_source::{AnySource, erase},
    compose::compose,
};
use crate::{
    endpoint::{Endpoint, Weight},
    node::Clock,
};

/// The endpoints of several sources together.
///
/// Without shares the endpoints are those of the sources, with their own weights. As soon as one
/// source is given a share, the shares divide the requests between the sources, however many
/// endpoints each has, and the endpoints' weights divide those of their source; a source without a
/// share of its own has a share of 1. A share of 0 takes a source out of use while others have any.
/// An endpoint that several sources list counts for the first of them.
///
/// Failures and emptiness of a source are as with [`Failover`](super::Failover): a source that fails
/// leaves its last set, and the whole is partial; the share of a source without endpoints goes to the
/// others.
///
/// ```
/// use evenkeel::{Balance, discovery::{Merge, Target}};
///
/// // A twentieth of the requests go to the new cluster.
/// let source = Merge::new()
///     .with_share("static://10.0.0.1:80,10.0.0.2:80".parse::<Target>()?, 19)
///     .with_share("static://10.9.0.1:80".parse::<Target>()?, 1);
/// let builder = Balance::builder(source);
/// # let _ = builder;
/// # Ok::<(), evenkeel::BuildError>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "a source does nothing until a balancer is built over it"]
pub struct Merge {
    sources: Vec<Arc<dyn AnySource>>,
    shares: Vec<Option<u32>>,
    clock: Clock,
}

/// What all weights are parts of, where there are shares: fine enough for 10,000 endpoints, and low
/// enough for a sum of them in 32 bits.
const WHOLE: u64 = 1 << 26;

// === impl Merge ===

impl Merge {
    /// No source yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source.
    pub fn with(self, source: impl Discover + Clone + Sync) -> Self {
        self.add(erase(source), None)
    }

    /// Adds a source with a share of the requests, relative to the shares of the others.
    pub fn with_share(self, source: impl Discover + Clone + Sync, share: u32) -> Self {
        self.add(erase(source), Some(share))
    }

    fn add(mut self, source: Arc<dyn AnySource>, share: Option<u32>) -> Self {
        self.sources.push(source);
        self.shares.push(share);
        self
    }

    /// Where time is read; tokio's clock by default.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl Discover for Merge {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        let shares = self.shares;
        let combine = move |sets: &[(usize, &Endpoints)]| union(sets, &shares);
        compose(&self.sources, Box::new(combine), self.clock, refresh)
    }

    /// That of the first source.
    fn here(&self) -> Here {
        self.sources.first().map(|source| source.place()).unwrap_or_default()
    }

    fn target(&self) -> Arc<str> {
        let names: Vec<_> = self.sources.iter().map(|source| source.name()).collect();
        format!("merge({})", names.join(", ")).into()
    }
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Merge").field(&self.target()).field(&self.shares).finish()
    }
}

fn union(sets: &[(usize, &Endpoints)], shares: &[Option<u32>]) -> Vec<Endpoint> {
    if shares.iter().all(Option::is_none) {
        return sets.iter().flat_map(|(_, set)| set.iter().cloned()).collect();
    }
    let share = |at: usize| u64::from(shares.get(at).copied().flatten().unwrap_or(1));
    let present = sets.iter().filter(|(_, set)| !set.is_empty());
    let all: u64 = present.map(|(at, _)| share(*at)).sum();
    let mut endpoints = Vec::new();
    for (at, set) in sets {
        // As in a tier: if all weigh nothing, all are equal.
        let sum: u64 = set.iter().map(|endpoint| u64::from(endpoint.weight().0)).sum();
        let own = |endpoint: &Endpoint| if sum == 0 { 1 } else { u64::from(endpoint.weight().0) };
        let sum = if sum == 0 { set.len() as u64 } else { sum };
        for endpoint in *set {
            let part = u128::from(share(*at)) * u128::from(own(endpoint));
            let whole = u128::from(all.max(1)) * u128::from(sum.max(1));
            let weight = u32::try_from(u128::from(WHOLE) * part / whole).unwrap_or(u32::MAX);
            let weight = weight.max(u32::from(part > 0));
            endpoints.push(endpoint.clone().with_weight(Weight(weight)));
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::{
        super::compose::tests::{Feed, endpoints, short, watch},
        *,
    };
    use crate::error::DiscoverError;

    fn weighing(lasts: &[(u8, u32)]) -> Endpoints {
        let endpoint = |(last, weight): &(u8, u32)| {
            Endpoint::new(([10, 0, 0, *last], 80)).with_weight(Weight(*weight))
        };
        lasts.iter().map(endpoint).collect()
    }

    /// Each endpoint's part of all, in thousandths.
    fn parts(sets: &[&Endpoints], shares: &[Option<u32>]) -> Vec<u64> {
        let sets: Vec<_> = sets.iter().copied().enumerate().collect();
        let union = union(&sets, shares);
        let all: u64 = union.iter().map(|endpoint| u64::from(endpoint.weight().0)).sum();
        union
            .iter()
            .map(|endpoint| (u64::from(endpoint.weight().0) * 1_000 + all / 2) / all.max(1))
            .collect()
    }

    #[test]
    fn shares_divide_the_requests_however_many_endpoints_there_are() {
        let (three, one) = (weighing(&[(1, 1), (2, 1), (3, 2)]), weighing(&[(4, 9)]));
        let none = Endpoints::default();
        for (sets, shares, expected) in [
            ([&three, &one], [None, None], vec![77, 77, 154, 692]),
            ([&three, &one], [Some(9), Some(1)], vec![225, 225, 450, 100]),
            ([&three, &one], [None, Some(1)], vec![125, 125, 250, 500]),
            ([&three, &one], [Some(0), Some(1)], vec![0, 0, 0, 1_000]),
            ([&three, &none], [Some(1), Some(9)], vec![250, 250, 500]),
            ([&weighing(&[(1, 0), (2, 0)]), &one], [Some(1), Some(1)], vec![250, 250, 500]),
            ([&weighing(&[(1, 0), (2, 4)]), &one], [Some(1), Some(1)], vec![0, 500, 500]),
        ] {
            assert_eq!(parts(&sets, &shares), expected, "{shares:?}");
        }
        // Of ten thousand, each still weighs something, and the shares are right to a part in a
        // thousand; the largest weights do not overflow.
        let many: Endpoints = (0..10_000_u16)
            .map(|i| Endpoint::new(([10, 0, 0, 1], i + 1)).with_weight(Weight(u32::MAX)))
            .collect();
        let union = union(&[(0, &many), (1, &one)], &[Some(u32::MAX), Some(u32::MAX)]);
        let sum: u64 = union[..10_000].iter().map(|one| u64::from(one.weight().0)).sum();
        let other = u64::from(union[10_000].weight().0);
        assert!(sum.abs_diff(other) * 1_000 < other, "{sum} {other}");
    }

    #[tokio::test(start_paused = true)]
    async fn t10_a_source_that_errs_keeps_its_endpoints_and_the_whole_is_partial() {
        let (a, b) = (Feed::new("a"), Feed::new("b"));
        let mut watched = watch(Merge::new().with(a.source()).with(b.source()));
        a.say(Update::Set(endpoints([1])));
        b.say(Update::Set(endpoints([2])));
        assert_eq!(short(&watched.next().await), "set 1 2");
        b.say(Update::Failed(DiscoverError::new("down")));
        assert_eq!(short(&watched.next().await), "partial 1 2 | `b`: down");
        a.say(Update::Set(endpoints([3])));
        assert_eq!(short(&watched.next().await), "partial 3 2 | `b`: down");
        a.say(Update::Failed(DiscoverError::new("gone")));
        assert_eq!(short(&watched.next().await), "failed | `a`: gone (and 1 more)");
        b.say(Update::Set(endpoints([2])));
        assert_eq!(short(&watched.next().await), "partial 3 2 | `a`: gone");
    }
}
