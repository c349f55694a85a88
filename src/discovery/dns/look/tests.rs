mod services;

use std::{future::Future, pin::Pin, sync::Mutex};

use futures::{FutureExt, Stream, StreamExt};

use super::*;
use crate::{
    discovery::{
        dns::{
            answer::{Answer, Family},
            search::Search,
        },
        refresh::{self, RefreshHandle},
        resume::{Pace, resume},
    },
    node::Rng,
};

const SECOND: Duration = Duration::from_secs(1);

/// DNS as a test would have it, in paused time.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    addresses: HashMap<(String, Family), Says<IpAddr>>,
    services: HashMap<String, Says<Service>>,
    search: Search,
    asked: Vec<(String, Family)>,
    /// Of these it was said that they had something the last time.
    known: Vec<String>,
}

/// An answer after a while.
type Says<T> = (Duration, Answer<T>);

impl Fake {
    fn a(&self, name: &str, says: Answer<IpAddr>) {
        self.says(name, Family::V4, Duration::ZERO, says);
    }

    fn aaaa(&self, name: &str, says: Answer<IpAddr>) {
        self.says(name, Family::V6, Duration::ZERO, says);
    }

    fn says(&self, name: &str, family: Family, after: Duration, says: Answer<IpAddr>) {
        self.0.lock().unwrap().addresses.insert((name.to_owned(), family), (after, says));
    }

    fn srv(&self, name: &str, says: Answer<Service>) {
        self.0.lock().unwrap().services.insert(name.to_owned(), (Duration::ZERO, says));
    }

    fn search(&self, ndots: usize, domains: &[&str]) {
        let domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        self.0.lock().unwrap().search = Search::new(domains, ndots);
    }

    fn asked(&self) -> Vec<(String, Family)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    fn known(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().known)
    }
}

impl Lookup for Fake {
    async fn prepare(&mut self) -> Result<(), DiscoverError> {
        Ok(())
    }

    fn candidates(&self, name: &Name) -> Vec<Name> {
        self.0.lock().unwrap().search.candidates(name)
    }

    fn whom(&self) -> String {
        "10.0.0.53:53".to_owned()
    }

    fn questions(&self, families: Families) -> Vec<Family> {
        match families {
            Families::Both => vec![Family::V4, Family::V6],
            Families::V4 => vec![Family::V4],
            Families::V6 => vec![Family::V6],
        }
    }

    fn addresses(
        &self,
        name: Name,
        family: Family,
        known: bool,
    ) -> impl Future<Output = Answer<IpAddr>> + Send + 'static {
        let key = (name.to_ascii(), family);
        let mut world = self.0.lock().unwrap();
        world.asked.push(key.clone());
        world.known.extend(known.then(|| format!("{name} {family}")));
        let says = world.addresses.get(&key).cloned();
        async move {
            let (after, says) = says.unwrap_or((Duration::ZERO, no_name()));
            tokio::time::sleep(after).await;
            says
        }
    }

    fn services(
        &self,
        name: Name,
        known: bool,
    ) -> impl Future<Output = Answer<Service>> + Send + 'static {
        let mut world = self.0.lock().unwrap();
        world.known.extend(known.then(|| format!("{name} SRV")));
        let says = world.services.get(&name.to_ascii()).cloned();
        async move {
            let (after, says) = says.unwrap_or((Duration::ZERO, no_name()));
            tokio::time::sleep(after).await;
            says
        }
    }
}

fn v4<T: From<[u8; 4]>>(last: u8) -> T {
    [10, 0, 0, last].into()
}

fn v6(last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
}

fn good<T>(records: impl IntoIterator<Item = T>) -> Answer<T> {
    let records = records.into_iter().collect();
    Ok(Found::Records(Records { records, ttl: 5 * SECOND }))
}

fn no_records<T>() -> Answer<T> {
    Ok(Found::Nothing(Absent::NoRecords))
}

fn no_name<T>() -> Answer<T> {
    Ok(Found::Nothing(Absent::NoName))
}

fn servfail<T>() -> Answer<T> {
    Err(Failure { error: DiscoverError::new("SERVFAIL"), answered: true })
}

fn refused<T>() -> Answer<T> {
    Err(Failure { error: DiscoverError::new("REFUSED"), answered: false })
}

fn service(target: &str, priority: u16, weight: u16) -> Service {
    let target = target.parse().unwrap();
    Service { target, port: 80, priority, weight, addresses: Vec::new() }
}

/// The updates of a source over `fake`, and the way to ask it for another look.
struct Source {
    updates: Pin<Box<dyn Stream<Item = Update> + Send>>,
    refresh: RefreshHandle,
}

impl Source {
    fn host(fake: &Fake, name: &str) -> Self {
        let question = Question::Host { name: name.parse().unwrap(), port: 80 };
        Self::new(fake, question, Families::Both)
    }

    fn services(fake: &Fake, name: &str) -> Self {
        let name = name.parse().unwrap();
        Self::new(fake, Question::Services { name, ignore_weights: false }, Families::Both)
    }

    fn new(fake: &Fake, question: Question, families: Families) -> Self {
        let clock = Clock::default();
        let name = Some("users.shop".into());
        let looker = Looker::new(fake.clone(), question, families, name, clock.clone());
        let pace = Pace { floor: SECOND, ceiling: 30 * SECOND, clock, rng: Rng::from_seed(1) };
        let (refresh, requests) = refresh::channel();
        Self { updates: Box::pin(resume(looker, pace, requests)), refresh }
    }

    async fn next(&mut self) -> Update {
        self.updates.next().await.unwrap()
    }

    /// The next look, at the floor.
    async fn again(&mut self) -> Update {
        self.refresh.request();
        self.next().await
    }
}

/// An update in short: its kind, its endpoints, its error or reason.
fn short(update: &Update) -> String {
    let list = |set: &Endpoints| {
        let ips = set.iter().map(|one| one.addr().socket().unwrap().ip().to_string());
        ips.collect::<Vec<_>>().join(" ")
    };
    match update {
        Update::Set(set) => format!("set {}", list(set)),
        Update::Partial(set, error) => format!("partial {} | {error}", list(set)),
        Update::Empty(reason) => format!("empty | {reason}"),
        Update::Failed(error) => format!("failed | {error}"),
    }
}

/// Both families at once, merged, sorted, each address once, under the name that was asked for.
#[tokio::test(start_paused = true)]
async fn r13_both_families_are_asked_at_once_and_merged() {
    let fake = Fake::default();
    fake.says("users.", Family::V4, 2 * SECOND / 3, good([v4(2), v4(1), v4(2)]));
    fake.says("users.", Family::V6, 2 * SECOND / 3, good([v6(1)]));
    let mut source = Source::host(&fake, "users");
    let begin = Clock::default().now();
    let update = source.next().await;
    assert_eq!(short(&update), "set 10.0.0.1 10.0.0.2 2001:db8::1");
    let took = Clock::default().now().saturating_duration_since(begin);
    assert!(took < SECOND, "one after the other: {took:?}");
    let Update::Set(set) = update else { unreachable!() };
    assert!(set.iter().all(|one| one.server_name() == Some("users.shop")
        && one.addr().port() == Some(80)
        && one.priority() == crate::Priority(0)
        && one.weight() == crate::Weight(1)));
}

/// R13: A good and AAAA refused is the A set, said to be partial; with no AAAA there is it is whole.
#[tokio::test(start_paused = true)]
async fn r13_one_family_that_fails_is_partial() {
    for (aaaa, expected) in [
        (refused(), "partial 10.0.0.1 | REFUSED"),
        (servfail(), "partial 10.0.0.1 | SERVFAIL"),
        (no_records(), "set 10.0.0.1"),
        (no_name(), "set 10.0.0.1"),
    ] {
        let fake = Fake::default();
        fake.a("users.", good([v4(1)]));
        fake.aaaa("users.", aaaa.clone());
        assert_eq!(short(&Source::host(&fake, "users").next().await), expected);
        // And the other way round.
        fake.a("users.", aaaa);
        fake.aaaa("users.", good([v6(1)]));
        let expected = expected.replace("10.0.0.1", "2001:db8::1");
        assert_eq!(short(&Source::host(&fake, "users").next().await), expected);
    }
}

/// R13: A good and AAAA silent gives the A set within a second; what comes late still counts.
#[tokio::test(start_paused = true)]
async fn r13_a_silent_family_holds_the_other_up_for_half_a_second() {
    let fake = Fake::default();
    fake.a("users.", good([v4(1)]));
    fake.says("users.", Family::V6, 2 * SECOND, refused());
    let mut source = Source::host(&fake, "users");
    let begin = Clock::default().now();
    let update = source.next().await;
    let took = Clock::default().now().saturating_duration_since(begin);
    let no_answer = "`users.` AAAA: no answer yet from 10.0.0.53:53";
    assert_eq!(short(&update), format!("partial 10.0.0.1 | {no_answer}"));
    assert!(took < SECOND, "{took:?}");
    assert_eq!(short(&source.next().await), "partial 10.0.0.1 | REFUSED");
    assert_eq!(fake.asked().len(), 2, "it was one look");

    // What is late comes into the set; and then it does not leave it when it is late again.
    fake.says("users.", Family::V6, 2 * SECOND, good([v6(1)]));
    assert_eq!(short(&source.next().await), "set 10.0.0.1 2001:db8::1");
    fake.says("users.", Family::V6, 4 * SECOND, good([v6(2)]));
    fake.a("users.", good([v4(1), v4(2)]));
    assert_eq!(
        short(&source.again().await),
        format!("partial 10.0.0.1 10.0.0.2 2001:db8::1 | {no_answer}")
    );
    assert_eq!(short(&source.next().await), "set 10.0.0.1 10.0.0.2 2001:db8::2");
}

/// R6, R13: a family that hangs keeps nobody from looking: the other is looked at by its TTL, and at
/// once when a pool asks, while the question that hangs is not asked again until it is given up.
#[tokio::test(start_paused = true)]
async fn r6_a_family_that_hangs_does_not_stop_the_looks() {
    let fake = Fake::default();
    fake.a("users.", good([v4(1)]));
    fake.says("users.", Family::V6, 3_600 * SECOND, good([v6(1)]));
    let mut source = Source::host(&fake, "users");
    let begin = Clock::default().now();
    let since = |then| Clock::default().now().saturating_duration_since(then).as_secs_f64();
    let yet = "`users.` AAAA: no answer yet from 10.0.0.53:53";
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.1 | {yet}"));
    fake.a("users.", good([v4(2)]));
    let last = Clock::default().now();
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.2 | {yet}"));
    assert!((4.5..=5.51).contains(&since(last)), "its TTL is 5 s: {}", since(last));
    fake.a("users.", good([v4(3)]));
    let last = Clock::default().now();
    assert_eq!(short(&source.again().await), format!("partial 10.0.0.3 | {yet}"));
    assert!(since(last) <= 1.01, "not before the floor, and no later: {}", since(last));
    let asked = |family| fake.asked().iter().filter(|(_, asked)| *asked == family).count();
    assert_eq!(asked(Family::V6), 1);
    loop {
        let update = short(&source.next().await);
        if !update.contains(yet) {
            assert_eq!(update, "partial 10.0.0.3 | `users.` AAAA: no answer from 10.0.0.53:53");
            break;
        }
    }
    assert!((30.0..31.0).contains(&since(begin)), "{}", since(begin));
    assert_eq!(asked(Family::V6), 0);
    source.next().await;
    assert_eq!(asked(Family::V6), 1);
}

/// R5, T10: what one family cannot say is filled in from the last time; if none says anything new,
/// nothing is said.
#[tokio::test(start_paused = true)]
async fn r5_the_last_good_of_each_part_is_kept() {
    let fake = Fake::default();
    fake.a("users.", good([v4(1)]));
    fake.aaaa("users.", good([v6(1)]));
    let mut source = Source::host(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1 2001:db8::1");
    fake.a("users.", good([v4(2)]));
    fake.aaaa("users.", servfail());
    assert_eq!(short(&source.again().await), "partial 10.0.0.2 2001:db8::1 | SERVFAIL");
    // The family that failed is known no more to have none: it leaves.
    fake.aaaa("users.", no_records());
    assert_eq!(short(&source.again().await), "set 10.0.0.2");
    fake.aaaa("users.", servfail());
    assert_eq!(short(&source.again().await), "partial 10.0.0.2 | SERVFAIL");
    // A failure beside "no records" is a failure, and no empty set.
    fake.a("users.", refused());
    fake.aaaa("users.", no_records());
    assert_eq!(short(&source.again().await), "failed | REFUSED");
    fake.a("users.", no_name());
    fake.aaaa("users.", refused());
    assert_eq!(short(&source.next().await), "failed | REFUSED");
    fake.aaaa("users.", no_name());
    assert_eq!(short(&source.next().await), "empty | `users` does not exist (NXDOMAIN)");
    fake.a("users.", no_records());
    assert_eq!(short(&source.again().await), "empty | `users` has no such records (NODATA)");
}

/// R13: each name of the search list is asked for both families before the next one.
#[tokio::test(start_paused = true)]
async fn r13_the_search_list_is_walked_by_name_and_not_by_family() {
    let fake = Fake::default();
    fake.search(5, &["a", "b"]);
    fake.aaaa("users.a.", good([v6(1)]));
    fake.a("users.b.", good([v4(1)]));
    let mut source = Source::host(&fake, "users");
    // Were each family looked for by itself, A would come from another name.
    assert_eq!(short(&source.next().await), "set 2001:db8::1");
    let asked = fake.asked();
    assert!(asked.iter().all(|(name, _)| name == "users.a."), "{asked:?}");
    // A name that exists without addresses lets the search go on, as in glibc.
    fake.aaaa("users.a.", no_records());
    fake.a("users.a.", no_records());
    assert_eq!(short(&source.again().await), "set 10.0.0.1");
    fake.a("users.b.", no_name());
    assert_eq!(short(&source.again().await), "empty | `users` has no such records (NODATA)");
    // A trailing dot asks one name.
    fake.asked();
    fake.a("users.", good([v4(9)]));
    assert_eq!(short(&Source::host(&fake, "users.").next().await), "set 10.0.0.9");
    assert!(fake.asked().iter().all(|(name, _)| name == "users."));
}

/// R13, R5: a server's failure lets the search go on, a silence does not; and never does a name
/// take the place of one that works.
#[tokio::test(start_paused = true)]
async fn r5_a_failure_in_the_search_list_does_not_lead_to_another_name() {
    let fake = Fake::default();
    fake.search(5, &["a", "b"]);
    fake.a("users.a.", servfail());
    fake.aaaa("users.a.", servfail());
    fake.a("users.b.", good([v4(1)]));
    let mut source = Source::host(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1");
    // With nothing found the failure is the answer, and not that there is nothing.
    fake.a("users.b.", no_name());
    let mut other = Source::host(&fake, "users");
    assert_eq!(short(&other.next().await), "failed | SERVFAIL");
    for family in [Family::V4, Family::V6] {
        fake.says("users.a.", family, SECOND / 2, refused());
    }
    fake.a("users.b.", good([v4(1)]));
    let mut other = Source::host(&fake, "users");
    assert_eq!(short(&other.next().await), "failed | REFUSED");

    fake.a("users.a.", good([v4(7)]));
    fake.aaaa("users.a.", no_records());
    assert_eq!(short(&source.again().await), "set 10.0.0.7");
    fake.a("users.a.", servfail());
    assert_eq!(short(&source.again().await), "failed | SERVFAIL");
}

/// R9: where nobody answers, that is said after a second, and who does not; then it is a failure.
#[tokio::test(start_paused = true)]
async fn r9_a_silent_nameserver_is_named_after_a_second() {
    let fake = Fake::default();
    for family in [Family::V4, Family::V6] {
        fake.says("users.", family, 3_600 * SECOND, good([v4(2)]));
    }
    let mut source = Source::host(&fake, "users");
    let begin = Clock::default().now();
    let yet = "failed | `users`: no answer yet from 10.0.0.53:53";
    assert_eq!(short(&source.next().await), yet);
    assert_eq!(Clock::default().now().saturating_duration_since(begin).as_secs(), 1);
    let end = "failed | `users.` A: no answer from 10.0.0.53:53";
    assert_eq!(short(&source.next().await), end);
    assert_eq!(short(&source.next().await), end, "that none answered yet is said once");
}

/// R13: of a name whose one family does not exist while the other fails or hangs, the search goes on;
/// with nothing found the failure is the answer.
#[tokio::test(start_paused = true)]
async fn r13_one_bad_family_does_not_end_the_search() {
    let hangs = 3_600 * SECOND;
    for (after, aaaa) in [
        (Duration::ZERO, refused()),
        (Duration::ZERO, servfail()),
        (SECOND / 4, refused()),
        (hangs, refused()),
    ] {
        for (bad, other) in [(Family::V6, Family::V4), (Family::V4, Family::V6)] {
            let fake = Fake::default();
            fake.search(5, &["a"]);
            fake.says("users.a.", bad, after, aaaa.clone());
            fake.says("users.", other, Duration::ZERO, good([v4(1)]));
            let begin = Clock::default().now();
            let mut source = Source::host(&fake, "users");
            assert_eq!(short(&source.next().await), "set 10.0.0.1");
            let took = Clock::default().now().saturating_duration_since(begin);
            assert!(took < SECOND, "{took:?}");
            // What hangs is waited for once.
            let last = Clock::default().now();
            fake.says("users.", other, Duration::ZERO, good([v4(2)]));
            assert_eq!(short(&source.again().await), "set 10.0.0.2");
            let took = Clock::default().now().saturating_duration_since(last);
            assert!(took <= SECOND + SECOND / 3, "{took:?}");
        }
    }
    let fake = Fake::default();
    fake.search(5, &["a"]);
    fake.aaaa("users.a.", refused());
    assert_eq!(short(&Source::host(&fake, "users").next().await), "failed | REFUSED");
    // What was passed over on the way decides at the end.
    for (aaaa, expected) in [
        (no_name(), "empty | `users` does not exist (NXDOMAIN)"),
        (no_records(), "empty | `users` has no such records (NODATA)"),
        (refused(), "failed | REFUSED"),
        (good([v6(1)]), "set 2001:db8::1"),
    ] {
        fake.says("users.a.", Family::V6, 3 * SECOND / 4, aaaa);
        assert_eq!(short(&Source::host(&fake, "users").next().await), expected);
    }
    // A name that exists may have what is not known.
    fake.a("users.", good([v4(1)]));
    fake.a("users.a.", no_records());
    fake.aaaa("users.a.", refused());
    assert_eq!(short(&Source::host(&fake, "users").next().await), "failed | REFUSED");
}

/// R5, R13: a name that was in use is given up only when both families say so, however long it takes.
#[tokio::test(start_paused = true)]
async fn r5_the_name_in_use_is_not_given_up_by_halves() {
    let fake = Fake::default();
    fake.search(5, &["a"]);
    fake.a("users.a.", good([v4(1)]));
    fake.a("users.", good([v4(9)]));
    let mut source = Source::host(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1");
    fake.a("users.a.", no_name());
    fake.says("users.a.", Family::V6, 3 * SECOND, refused());
    assert_eq!(short(&source.again().await), "failed | REFUSED");
    fake.says("users.a.", Family::V6, 3 * SECOND, no_name());
    assert_eq!(short(&source.next().await), "set 10.0.0.9");
}

/// R6: the least TTL of all that was asked counts, and a refresh takes one set of questions.
#[tokio::test(start_paused = true)]
async fn r6_the_least_ttl_of_the_parts_counts() {
    let fake = Fake::default();
    let lasting = |seconds: u64, address| {
        let ttl = Duration::from_secs(seconds);
        Ok(Found::Records(Records { records: vec![address], ttl }))
    };
    fake.a("users.", lasting(20, v4(1)));
    fake.aaaa("users.", lasting(10, v6(1)));
    let mut source = Source::host(&fake, "users");
    source.next().await;
    for _ in 0..20 {
        assert!(source.updates.next().now_or_never().is_none());
        fake.asked();
        let begin = Clock::default().now();
        source.next().await;
        let wait = Clock::default().now().saturating_duration_since(begin).as_secs_f64();
        assert!((9.0..=11.01).contains(&wait), "{wait}");
        assert_eq!(fake.asked().len(), 2);
    }
}
