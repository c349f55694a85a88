use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::Waker,
};

use futures::{FutureExt, StreamExt};

use super::*;
use crate::{
    discovery::{Discover, Failover, Here, Merge, StaticList},
    endpoint::Locality,
};

const SECOND: Duration = Duration::from_secs(1);

/// A source that says what a test wants.
#[derive(Clone)]
pub(in crate::discovery) struct Feed {
    name: &'static str,
    on_empty: OnEmpty,
    here: Here,
    state: Arc<Mutex<FeedState>>,
}

#[derive(Default)]
struct FeedState {
    updates: VecDeque<Update>,
    ended: bool,
    polls_after_end: usize,
    waker: Option<Waker>,
    refresh: Option<RefreshRequests>,
}

struct FeedStream(Arc<Mutex<FeedState>>);

/// What is watched.
pub(in crate::discovery) struct Watched {
    updates: Updates,
    pub(in crate::discovery) refresh: RefreshHandle,
}

impl Feed {
    pub(in crate::discovery) fn new(name: &'static str) -> Self {
        Self { name, on_empty: OnEmpty::Clear, here: Here::default(), state: Arc::default() }
    }

    pub(in crate::discovery) fn source(&self) -> Self {
        self.clone()
    }

    pub(in crate::discovery) fn on_empty(mut self, on_empty: OnEmpty) -> Self {
        self.on_empty = on_empty;
        self
    }

    pub(in crate::discovery) fn say(&self, update: Update) {
        self.change(|state| state.updates.push_back(update));
    }

    fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut FeedState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn was_asked(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.refresh.as_mut().unwrap().requested().now_or_never().is_some()
    }
}

impl Discover for Feed {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        self.state.lock().unwrap().refresh = Some(refresh);
        FeedStream(self.state)
    }

    fn on_empty(&self) -> OnEmpty {
        self.on_empty
    }

    fn target(&self) -> Arc<str> {
        self.name.into()
    }

    fn here(&self) -> Here {
        self.here.clone()
    }
}

impl Stream for FeedStream {
    type Item = Update;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        let mut state = self.0.lock().unwrap();
        state.waker = Some(cx.waker().clone());
        match state.updates.pop_front() {
            Some(update) => Poll::Ready(Some(update)),
            None if state.ended => {
                state.polls_after_end += 1;
                Poll::Ready(None)
            }
            None => Poll::Pending,
        }
    }
}

impl Watched {
    pub(in crate::discovery) async fn next(&mut self) -> Update {
        self.updates.next().await.unwrap()
    }

    fn nothing_now(&mut self) -> bool {
        self.updates.next().now_or_never().is_none()
    }
}

pub(in crate::discovery) fn endpoints<const N: usize>(lasts: [u8; N]) -> Endpoints {
    lasts.into_iter().map(|last| Endpoint::new(([10, 0, 0, last], 80))).collect()
}

/// An update in short: its kind, the last bytes of its addresses, its error or reason.
pub(in crate::discovery) fn short(update: &Update) -> String {
    let list = |set: &Endpoints| {
        let last = |one: &Endpoint| one.to_string().replace("10.0.0.", "").replace(":80", "");
        set.iter().map(last).collect::<Vec<_>>().join(" ")
    };
    match update {
        Update::Set(set) => format!("set {}", list(set)),
        Update::Partial(set, error) => format!("partial {} | {error}", list(set)),
        Update::Empty(reason) => format!("empty | {reason}"),
        Update::Failed(error) => format!("failed | {error}"),
    }
}

pub(in crate::discovery) fn watch(source: impl Discover) -> Watched {
    let (refresh, requests) = refresh::channel();
    Watched { updates: Box::pin(source.watch(requests)), refresh }
}

fn both() -> (Feed, Feed, Watched) {
    let (a, b) = (Feed::new("a"), Feed::new("b"));
    let watched = watch(Merge::new().with(a.source()).with(b.source()));
    (a, b, watched)
}

/// At first the silent are waited for, for a second; then the others go ahead without them.
#[tokio::test(start_paused = true)]
async fn t10_who_has_not_spoken_is_waited_for_a_second_and_then_named() {
    let (a, b, mut watched) = both();
    a.say(Update::Set(endpoints([1])));
    assert!(watched.nothing_now());
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 1 2");

    let (a, b, mut watched) = both();
    a.say(Update::Set(endpoints([1])));
    let begin = Clock::default().now();
    assert_eq!(short(&watched.next().await), "partial 1 | `b` has not answered yet");
    assert_eq!(Clock::default().now().saturating_duration_since(begin).as_secs(), 1);
    b.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "set 1");

    // All silent: there is nothing to say, and nothing is said until there is.
    let (a, _b, mut watched) = both();
    tokio::select! {
        _ = watched.next() => panic!("nobody has said anything"),
        () = tokio::time::sleep(60 * SECOND) => {}
    }
    a.say(Update::Failed(DiscoverError::new("down")));
    assert_eq!(short(&watched.next().await), "failed | `a`: down (and 1 more)");
}

/// T10: no empty set comes of an error; it is empty when all parts know that they are.
#[tokio::test(start_paused = true)]
async fn t10_an_error_is_never_an_empty_set() {
    let (a, b, mut watched) = both();
    a.say(Update::Empty(Reason::says("no such name")));
    b.say(Update::Failed(DiscoverError::new("SERVFAIL")));
    assert_eq!(short(&watched.next().await), "failed | `b`: SERVFAIL");
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 2");
    b.say(Update::Partial(Endpoints::default(), DiscoverError::new("half")));
    assert_eq!(short(&watched.next().await), "partial 2 | `b`: half");
    b.say(Update::Set(Endpoints::default()));
    assert_eq!(
        short(&watched.next().await),
        "empty | `a`: no such name; `b`: no endpoint is listed"
    );
    a.say(Update::Partial(endpoints([1]), DiscoverError::new("half")));
    assert_eq!(short(&watched.next().await), "partial 1 | `a`: half");
}

/// Each part is kept or cleared as its source would have it.
#[tokio::test(start_paused = true)]
async fn r5_each_part_has_its_own_choice_of_what_emptiness_does() {
    let (a, b) = (Feed::new("a"), Feed::new("b"));
    let source = Merge::new()
        .with(a.source().on_empty(OnEmpty::KeepFor(30 * SECOND)))
        .with(b.source().on_empty(OnEmpty::Keep));
    let mut watched = watch(source);
    a.say(Update::Set(endpoints([1])));
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 1 2");
    b.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "set 1 2");
    a.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "set 1 2");
    tokio::time::sleep(20 * SECOND).await;
    // Listed again in time.
    a.say(Update::Set(endpoints([3])));
    assert_eq!(short(&watched.next().await), "set 3 2");
    a.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "set 3 2");
    assert_eq!(short(&watched.next().await), "set 2");
}

/// T10: what is known to be gone goes, whoever else errs; and what errs is told as well.
#[tokio::test(start_paused = true)]
async fn t10_a_set_that_is_gone_is_cleared_while_another_source_errs() {
    let down = || Update::Failed(DiscoverError::new("down"));
    let (a, b, mut watched) = both();
    a.say(Update::Set(endpoints([1])));
    b.say(down());
    assert_eq!(short(&watched.next().await), "partial 1 | `b`: down");
    a.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "empty | `a`: no endpoint is listed; `b`: down");
    assert_eq!(short(&watched.next().await), "failed | `b`: down");
    b.say(down());
    assert_eq!(short(&watched.next().await), "failed | `b`: down");

    // Both at once, so that why it is empty is no longer known.
    let gone_and_down = |feed: &Feed| {
        feed.say(Update::Empty(Reason::NothingListed));
        feed.say(down());
    };
    a.say(Update::Set(endpoints([1])));
    assert_eq!(short(&watched.next().await), "partial 1 | `b`: down");
    gone_and_down(&a);
    assert_eq!(short(&watched.next().await), "empty | `a`: down; `b`: down");
    assert_eq!(short(&watched.next().await), "failed | `a`: down (and 1 more)");

    a.say(Update::Set(endpoints([1])));
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 1 2");
    b.say(down());
    assert_eq!(short(&watched.next().await), "partial 1 2 | `b`: down");
    gone_and_down(&a);
    assert_eq!(short(&watched.next().await), "partial 2 | `a`: down (and 1 more)");
    a.say(down());
    assert_eq!(short(&watched.next().await), "failed | `a`: down (and 1 more)");
}

/// The time for which an empty source is kept runs on while it fails.
#[tokio::test(start_paused = true)]
async fn r5_what_was_kept_for_a_while_goes_in_time_though_all_err() {
    let (a, b) = (Feed::new("a"), Feed::new("b"));
    let keeping = a.source().on_empty(OnEmpty::KeepFor(30 * SECOND));
    let mut watched = watch(Merge::new().with(keeping).with(b.source()));
    a.say(Update::Set(endpoints([1])));
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 1 2");
    a.say(Update::Empty(Reason::NothingListed));
    assert_eq!(short(&watched.next().await), "set 1 2");
    a.say(Update::Failed(DiscoverError::new("down")));
    b.say(Update::Failed(DiscoverError::new("down")));
    assert_eq!(short(&watched.next().await), "failed | `a`: down (and 1 more)");
    assert_eq!(short(&watched.next().await), "partial 2 | `a`: down (and 1 more)");
}

/// Where this process runs is known as soon as any of the sources finds it out; of several, the first
/// counts.
#[tokio::test(start_paused = true)]
async fn each_source_may_find_out_where_this_process_runs() {
    let zone = |name: &str| Locality { zone: Some(name.into()), ..Locality::default() };
    let node = |name: &str| Locality { node: Some(name.into()), ..Locality::default() };
    let (a, b) = (Feed::new("a"), Feed::new("b"));
    let merge = Merge::new().with(a.source()).with(b.source());
    let failover = Failover::new().then(StaticList::parse("10.0.0.9:80").unwrap()).then(merge);
    let here = failover.here();
    let mut watched = watch(failover);
    a.say(Update::Set(endpoints([1])));
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 9 1 2");
    assert_eq!(*here.get(), Locality::default());
    for (feed, found, known) in [
        (&b, zone("far"), zone("far")),
        (&a, node("n1"), Locality { node: Some("n1".into()), ..zone("far") }),
        (&a, zone("near"), zone("near")),
    ] {
        feed.here.set(found);
        feed.say(Update::Set(endpoints([if feed.name == "a" { 1 } else { 2 }])));
        assert_eq!(short(&watched.next().await), "set 9 1 2");
        assert_eq!(*here.get(), known);
    }
}

/// T15: a source that ends is not asked again, its set stands, and nothing spins.
#[tokio::test(start_paused = true)]
async fn t15_a_source_that_ends_leaves_its_set() {
    let (a, b, mut watched) = both();
    a.say(Update::Set(endpoints([1])));
    a.end();
    b.say(Update::Set(endpoints([2])));
    assert_eq!(short(&watched.next().await), "set 1 2");
    b.say(Update::Set(endpoints([3])));
    assert_eq!(short(&watched.next().await), "set 1 3");
    b.end();
    tokio::select! {
        _ = watched.next() => panic!("nobody is left"),
        () = tokio::time::sleep(60 * SECOND) => {}
    }
    assert!([&a, &b].iter().all(|feed| feed.state.lock().unwrap().polls_after_end == 1));
}

/// R6: a pool's wish to look again reaches every source.
#[tokio::test(start_paused = true)]
async fn r6_a_refresh_request_reaches_every_source() {
    let (a, b, mut watched) = both();
    a.say(Update::Set(endpoints([1])));
    b.say(Update::Set(endpoints([2])));
    watched.next().await;
    watched.refresh.request();
    assert!(watched.nothing_now());
    assert!(a.was_asked() && b.was_asked());
    assert!(!a.was_asked());
}

#[tokio::test(start_paused = true)]
async fn a_composition_of_nothing_is_empty_and_one_of_lists_is_one_update() {
    let mut watched = watch(Merge::new());
    assert_eq!(short(&watched.next().await), "empty | there are no sources");
    let list = |text: &str| StaticList::parse(text).unwrap();
    let nested = Merge::new().with(list("10.0.0.2:80")).with(list("10.0.0.3:80"));
    let mut watched = watch(Merge::new().with(list("10.0.0.1:80")).with(nested));
    assert_eq!(short(&watched.next().await), "set 1 2 3");
    assert!(watched.nothing_now());
}
