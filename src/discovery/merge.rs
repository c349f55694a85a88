//! The union of several sources, with a share for each.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use futures_core::Stream;

use super::{
    Discover, Endpoints, Here, RefreshRequests, Update,
    any_source::{AnySource, erase},
    compose::compose,
};
use crate::{
    endpoint::{Endpoint, Priority, Weight},
    node::Clock,
};

/// The endpoints of several sources together.
///
/// Without shares the endpoints are those of the sources, with their own weights and priorities. As soon
/// as one source is given a share, the shares divide the requests between the sources, however many
/// endpoints each has, and the endpoints' weights divide those of their source; a source without a
/// share of its own has a share of 1. A share of 0 takes a source out of use while others with a share
/// have any endpoint. An endpoint that several sources list counts for the first of them.
///
/// Where there are shares, a source's priorities, as SRV records have them, count inside of it alone:
/// the best of each source together are the best of the whole ([`Priority`] 0), divided by the shares of
/// the sources; the second-best of each source together are the second (priority 1), divided by the
/// shares of those that have a second, and so on. As ever, a worse one is used while nothing in any better
/// one can be: so while the best of one source are down, the best of the *others* take its share, and not
/// its own second-best. To have those first, compose the other way round: a
/// [`Failover`](super::Failover) of merges.
///
/// Failures and emptiness of a source, and the place of this process, are as with
/// [`Failover`](super::Failover): a source that fails leaves its last set, and the whole is partial;
/// the share of a source without endpoints goes to the others.
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
    here: Here,
    clock: Clock,
}

/// What a source adds to the union: its endpoints by their priority, without those that an earlier one
/// has.
struct Portion<'a> {
    share: u64,
    by_priority: BTreeMap<Priority, Vec<&'a Endpoint>>,
}

/// What all weights of one priority are parts of, where there are shares: fine enough for 10,000 endpoints, and low
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
        compose(&self.sources, Box::new(combine), self.here, self.clock, refresh)
    }

    /// What any of the sources finds out; of several, the first counts.
    fn here(&self) -> Here {
        self.here.clone()
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
    let mut seen = HashSet::new();
    let mut portions: Vec<_> = sets
        .iter()
        .map(|(at, set)| {
            let share = u64::from(shares.get(*at).copied().flatten().unwrap_or(1));
            let mut by_priority = BTreeMap::<_, Vec<_>>::new();
            for endpoint in set.iter().filter(|endpoint| seen.insert(endpoint.identity())) {
                by_priority.entry(endpoint.priority()).or_default().push(endpoint);
            }
            Portion { share, by_priority }
        })
        .filter(|portion| !portion.by_priority.is_empty())
        .collect();
    let none = portions.iter().all(|portion| portion.share == 0);
    if none {
        // As with the weights in a tier: if all are 0, all are equal.
        portions.iter_mut().for_each(|portion| portion.share = 1);
    }
    let most_ranks = portions.iter().map(|portion| portion.by_priority.len()).max().unwrap_or(0);
    let in_rank = |rank| portions.iter().filter(move |portion| rank < portion.by_priority.len());
    let wholes: Vec<u64> =
        (0..most_ranks).map(|rank| in_rank(rank).map(|portion| portion.share).sum()).collect();
    portions.iter().flat_map(|portion| portion.weighed(&wholes)).collect()
}

// === impl Portion ===

impl Portion<'_> {
    /// Its endpoints, each with its part of what all sources have of that rank: `wholes`.
    fn weighed<'a>(&'a self, wholes: &'a [u64]) -> impl Iterator<Item = Endpoint> + 'a {
        self.by_priority.values().zip(wholes).zip(0..).flat_map(
            move |((endpoints, whole), rank)| {
                // Out of use, it is not to be a last resort either, for having more priorities than others.
                let rank = if self.share == 0 { 0 } else { rank };
                let weights = endpoints.iter().map(|endpoint| u64::from(endpoint.weight().0));
                let sum: u64 = weights.sum();
                endpoints.iter().map(move |&endpoint| {
                    let (own, sum) = match sum {
                        0 => (1, endpoints.len() as u64),
                        sum => (u64::from(endpoint.weight().0), sum),
                    };
                    let part = u128::from(self.share) * u128::from(own);
                    let of = u128::from((*whole).max(1)) * u128::from(sum);
                    let weight = u32::try_from(u128::from(WHOLE) * part / of).unwrap_or(u32::MAX);
                    let weight = Weight(weight.max(u32::from(part > 0)));
                    endpoint.clone().with_priority(Priority(rank)).with_weight(weight)
                })
            },
        )
    }
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

    /// Endpoints with priorities and weights.
    fn ranked(places: &[(u8, u32, u32)]) -> Endpoints {
        let endpoint = |(last, priority, weight): &(u8, u32, u32)| {
            Endpoint::new(([10, 0, 0, *last], 80))
                .with_priority(Priority(*priority))
                .with_weight(Weight(*weight))
        };
        places.iter().map(endpoint).collect()
    }

    /// Each endpoint's last byte, its priority, and its part of that in thousandths.
    fn ranks(sets: &[&Endpoints], shares: &[Option<u32>]) -> Vec<(String, u32, u64)> {
        let sets: Vec<_> = sets.iter().copied().enumerate().collect();
        let union = union(&sets, shares);
        let all = |priority| -> u64 {
            let of = union.iter().filter(|endpoint| endpoint.priority() == priority);
            of.map(|endpoint| u64::from(endpoint.weight().0)).sum()
        };
        let place = |endpoint: &Endpoint| {
            let all = all(endpoint.priority()).max(1);
            let part = (u64::from(endpoint.weight().0) * 1_000 + all / 2) / all;
            let name = endpoint.to_string().replace("10.0.0.", "").replace(":80", "");
            (name, endpoint.priority().0, part)
        };
        union.iter().map(place).collect()
    }

    #[test]
    fn the_best_of_each_source_share_whatever_their_priorities() {
        let place = |(last, priority, part): (u8, u32, u64)| (last.to_string(), priority, part);
        let srv = ranked(&[(1, 0, 1), (2, 1, 3), (3, 1, 6)]);
        let far = ranked(&[(1, 20, 1), (2, 30, 3), (3, 30, 6)]);
        let one = ranked(&[(9, 0, 7)]);
        let two = ranked(&[(8, 5, 7), (9, 7, 7)]);
        for (sets, shares, expected) in [
            // Of the second-best there is one source alone.
            ([&srv, &one], [1, 1], vec![(1, 0, 500), (2, 1, 333), (3, 1, 667), (9, 0, 500)]),
            ([&far, &one], [1, 1], vec![(1, 0, 500), (2, 1, 333), (3, 1, 667), (9, 0, 500)]),
            ([&one, &far], [3, 1], vec![(9, 0, 750), (1, 0, 250), (2, 1, 333), (3, 1, 667)]),
            (
                [&far, &two],
                [1, 3],
                vec![(1, 0, 250), (2, 1, 83), (3, 1, 167), (8, 0, 750), (9, 1, 750)],
            ),
            // Out of use, and no last resort.
            ([&far, &one], [0, 1], vec![(1, 0, 0), (2, 0, 0), (3, 0, 0), (9, 0, 1_000)]),
            // Nobody has a share.
            ([&srv, &one], [0, 0], vec![(1, 0, 500), (2, 1, 333), (3, 1, 667), (9, 0, 500)]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(place).collect();
            assert_eq!(ranks(&sets, &shares.map(Some)), expected, "{shares:?}");
        }
        // Without shares they stay as they are.
        let as_given = ranks(&[&far, &one], &[None, None]);
        assert_eq!(as_given.iter().map(|one| one.1).collect::<Vec<_>>(), [20, 30, 30, 0]);
    }

    /// What both list counts for the first, and the second has its share all the same.
    #[test]
    fn an_endpoint_of_two_sources_takes_nothing_from_the_share_of_the_second() {
        let (first, second) = (ranked(&[(1, 0, 1)]), ranked(&[(1, 0, 9), (2, 0, 1)]));
        let found = ranks(&[&first, &second], &[Some(1), Some(1)]);
        assert_eq!(found, [("1".to_owned(), 0, 500), ("2".to_owned(), 0, 500)]);
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
