use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::{
    net::NoRecords,
    proto::{
        op::OpCode,
        rr::{RData, Record, rdata::A},
    },
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// What an answer takes to come.
const NEAR: Duration = Duration::from_millis(10);

/// A nameserver in paused time.
#[derive(Clone)]
struct Fake {
    says: Says,
    after: Duration,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Says {
    Address,
    /// But not for names below `dead.`, of which nothing is heard.
    AddressOfLiving,
    NoName,
    NoRecords,
    Error(NetError),
    /// But an address, save for the one question of this number (from 1).
    Hiccup(usize, NetError),
}

fn fake(says: Says, after: Duration) -> Fake {
    Fake { says, after, asked: Arc::default() }
}

/// One that never answers: after its time-out that is said of it.
fn dead() -> Fake {
    fake(Says::Error(NetError::Timeout), 5 * SECOND)
}

fn refuses() -> Fake {
    fake(Says::Error(code(ResponseCode::Refused)), NEAR)
}

fn fails() -> Fake {
    fake(Says::Error(code(ResponseCode::ServFail)), NEAR)
}

fn code(code: ResponseCode) -> NetError {
    NetError::Dns(hickory_resolver::net::DnsError::ResponseCode(code))
}

impl Exchange for Fake {
    async fn ask(&self, name: Name, kind: RecordType) -> Result<Message, NetError> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(self.after).await;
        match &self.says {
            Says::AddressOfLiving if name.to_ascii().ends_with(".dead.") => {
                tokio::time::sleep(5 * SECOND).await;
                Err(NetError::Timeout)
            }
            Says::Hiccup(at, error) if *at == number => {
                if matches!(error, NetError::Timeout) {
                    tokio::time::sleep(5 * SECOND).await;
                }
                Err(error.clone())
            }
            Says::Address | Says::AddressOfLiving | Says::Hiccup(..) => {
                let mut message = Message::response(0, OpCode::Query);
                message.add_answer(Record::from_rdata(name, 5, RData::A(A::new(10, 0, 0, 1))));
                Ok(message)
            }
            Says::NoName => {
                Err(NoRecords::new(Query::query(name, kind), ResponseCode::NXDomain).into())
            }
            Says::NoRecords => {
                Err(NoRecords::new(Query::query(name, kind), ResponseCode::NoError).into())
            }
            Says::Error(error) => Err(error.clone()),
        }
    }
}

fn servers(fakes: &[Fake]) -> Arc<Servers<Fake>> {
    let address = |port: usize| SocketAddr::from(([10, 0, 0, 53], port.try_into().unwrap()));
    let server = |(i, fake): (usize, &Fake)| Server { address: address(i), exchange: fake.clone() };
    Arc::new(Servers::over(fakes.iter().enumerate().map(server).collect(), 2, Clock::default()))
}

/// What they say of a name, and how long that takes.
async fn told(servers: &Arc<Servers<Fake>>, name: &str) -> (String, Duration) {
    told_of(servers, name, false).await
}

/// The same of one that had an address the last time.
async fn told_of_known(servers: &Arc<Servers<Fake>>, name: &str) -> (String, Duration) {
    told_of(servers, name, true).await
}

async fn told_of(servers: &Arc<Servers<Fake>>, name: &str, known: bool) -> (String, Duration) {
    let clock = Clock::default();
    let begin = clock.now();
    let name = name.parse().unwrap();
    // What was asked at another time is no answer.
    let told = servers.ask(&name, RecordType::A, known, Some(begin)).await.unwrap().answer;
    let told = match told {
        Ok(Reading::Records(_)) => "address".to_owned(),
        Ok(Reading::Nothing(absent)) => format!("{absent:?}"),
        Err(faults) => faults.to_string(),
    };
    (told, clock.now().saturating_duration_since(begin))
}

/// R13: dead nameservers before the one that answers cost less than a second, once: then the one that
/// answers is asked first, until it is the turn of the configured order again.
#[tokio::test(start_paused = true)]
async fn r13_a_dead_first_nameserver_costs_less_than_a_second() {
    for dead_ones in 1..=2 {
        for (says, expected) in [(Says::Address, "address"), (Says::NoName, "NoName")] {
            let mut all = vec![dead(); dead_ones];
            all.push(fake(says, NEAR));
            let servers = servers(&all);
            let (what, took) = told(&servers, "a.").await;
            assert_eq!(what, expected);
            assert!(took < SECOND, "{dead_ones} {expected}: {took:?}");
            // As a search list would go on.
            let (what, took) = told(&servers, "b.").await;
            assert_eq!((&*what, took.as_millis() <= 11), (expected, true), "{took:?}");
            tokio::time::sleep(PREFERENCE).await;
            let (_, took) = told(&servers, "c.").await;
            assert!((STAGGER..SECOND).contains(&took), "{took:?}");
        }
    }
}

/// R13: one that answers with an error hands on at once.
#[tokio::test(start_paused = true)]
async fn r13_a_broken_nameserver_hands_on_at_once() {
    let (what, took) = told(&servers(&[refuses(), fake(Says::Address, NEAR)]), "a.").await;
    assert_eq!(what, "address");
    assert!(took < STAGGER, "{took:?}");
}

/// R22: a hundred targets of which nothing is heard do not keep the others from being asked for, nor
/// does a socket stay open for each of any number of them.
#[tokio::test(start_paused = true)]
async fn r22_what_hangs_makes_room_for_the_others() {
    let server = fake(Says::AddressOfLiving, NEAR);
    let asked = Arc::clone(&server.asked);
    let servers = servers(&[server]);
    let mut dead = JoinSet::new();
    for target in 0..300 {
        let of_dead = Arc::clone(&servers);
        dead.spawn(async move { told(&of_dead, &format!("{target}.dead.")).await });
        if target == 99 {
            tokio::time::sleep(NEAR).await;
            assert_eq!(asked.load(Ordering::SeqCst), AT_ONCE);
            let (what, took) = told(&servers, "a.").await;
            assert_eq!(what, "address");
            assert!(took < SECOND, "{took:?}");
            let (_, took) = told(&servers, "b.").await;
            assert!(took < 2 * NEAR, "they have made room: {took:?}");
        }
    }
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(asked.load(Ordering::SeqCst), AT_ONCE + SLOW_AT_ONCE + 2);
    for (told, _) in dead.join_all().await {
        assert_eq!(told, "no answer from 10.0.0.53:0");
    }
}

/// R5, R22: a look at the list of the targets itself does not wait behind those that hang.
#[tokio::test(start_paused = true)]
async fn r22_the_list_is_not_kept_waiting_by_targets_that_hang() {
    let servers = servers(&[fake(Says::AddressOfLiving, NEAR)]);
    let mut dead = JoinSet::new();
    for target in 0..300 {
        let servers = Arc::clone(&servers);
        dead.spawn(async move { told(&servers, &format!("{target}.dead.")).await });
    }
    tokio::time::sleep(SECOND).await;
    let begin = Clock::default().now();
    servers.ask(&"users.".parse().unwrap(), RecordType::SRV, true, None).await.unwrap();
    let took = Clock::default().now().saturating_duration_since(begin);
    assert!(took < SECOND, "{took:?}");
}

/// What a later one does not know is believed only after the earlier had their time.
#[tokio::test(start_paused = true)]
async fn r13_the_earlier_may_know_more() {
    let slow = fake(Says::Address, STAGGER + PATIENCE);
    let servers = servers(&[slow, fake(Says::NoName, NEAR)]);
    assert_eq!(told(&servers, "a.").await.0, "address");
}

/// R5: that a later one knows of nothing is no answer after an earlier one answered that it failed: that
/// one may know more, as where each of them serves names of its own. A search goes on all the same.
#[tokio::test(start_paused = true)]
async fn r5_nothing_is_not_believed_after_a_failure() {
    for (failing, error) in [(fails(), "SERVFAIL"), (refuses(), "REFUSED")] {
        let servers = servers(&[failing, fake(Says::NoName, NEAR)]);
        let (what, took) = told(&servers, "a.").await;
        assert_eq!(what, format!("{error} from 10.0.0.53:0; NXDOMAIN from 10.0.0.53:1"));
        assert!(took < STAGGER, "{took:?}");
        let name = "b.".parse().unwrap();
        let answer = servers.ask(&name, RecordType::A, false, None).await.unwrap().answer;
        assert!(answer.is_err_and(|faults| faults.leads_on()));
    }
    // It has the name, and that family of it may be none; but not if there was one.
    let servers = servers(&[fails(), fake(Says::NoRecords, NEAR)]);
    assert_eq!(told(&servers, "a.").await.0, "NoRecords");
    let (what, _) = told_of_known(&servers, "b.").await;
    assert_eq!(what, "SERVFAIL from 10.0.0.53:0; NODATA from 10.0.0.53:1");
}

/// R5: one bad moment of the first server does not hand a name over to a second one that does not know
/// it, whether the first fails or is silent, and whatever else the second is asked first for.
#[tokio::test(start_paused = true)]
async fn r5_a_hiccup_of_the_first_nameserver_is_over_with_it() {
    for (error, expected) in [
        (code(ResponseCode::ServFail), "SERVFAIL from 10.0.0.53:0; NXDOMAIN from 10.0.0.53:1"),
        (NetError::Timeout, "NoName"),
    ] {
        let servers = servers(&[fake(Says::Hiccup(2, error), NEAR), fake(Says::NoName, NEAR)]);
        assert_eq!(told(&servers, "a.").await.0, "address");
        assert_eq!(told_of_known(&servers, "a.").await.0, expected);
        for _ in 0..30 {
            assert_eq!(told_of_known(&servers, "a.").await.0, "address");
            tokio::time::sleep(SECOND).await;
        }
    }
    // The first did not answer for another name, so that the second is asked first.
    let hiccup = fake(Says::Hiccup(1, NetError::Timeout), NEAR);
    let servers = servers(&[hiccup, fake(Says::NoName, NEAR)]);
    assert_eq!(told(&servers, "other.").await.0, "NoName");
    assert_eq!(told(&servers, "unknown.").await.0, "NoName");
    assert_eq!(told_of_known(&servers, "a.").await.0, "address");
}

/// R5, R6: who has something is not told what satisfies who never had anything, though both share the
/// servers: neither while the other asks, nor a moment later.
#[tokio::test(start_paused = true)]
async fn r5_who_had_something_takes_no_answer_from_who_did_not() {
    let doubted = "SERVFAIL from 10.0.0.53:0; NODATA from 10.0.0.53:1";
    let all = [fails(), fake(Says::NoRecords, NEAR)];
    let servers = servers(&all);
    let (new, known) = tokio::join!(told(&servers, "a."), told_of_known(&servers, "a."));
    assert_eq!((&*new.0, &*known.0), ("NoRecords", doubted));
    for (known, expected) in [(true, "Err"), (false, "Ok")] {
        let told = servers.ask(&"a.".parse().unwrap(), RecordType::A, known, None).await.unwrap();
        assert!(format!("{:?}", told.answer).starts_with(expected), "{:?}", told.answer);
    }
    // What was taken over was asked for once.
    assert!(all.iter().all(|one| one.asked.load(Ordering::SeqCst) == 2));
}

/// R9: an error says what each server did, and those that were silent are asked as often as attempts
/// are configured.
#[tokio::test(start_paused = true)]
async fn r9_errors_name_the_nameservers() {
    let all = [dead(), refuses(), dead()];
    let (what, _) = told(&servers(&all), "a.").await;
    assert_eq!(what, "no answer from 10.0.0.53:0, 10.0.0.53:2; REFUSED from 10.0.0.53:1");
    let all = [dead(), dead()];
    let (what, took) = told(&servers(&all), "a.").await;
    assert_eq!(what, "no answer from 10.0.0.53:0, 10.0.0.53:1");
    assert!(all.iter().all(|one| one.asked.load(Ordering::SeqCst) == 2));
    assert!(took < 11 * SECOND, "two attempts of 5 s: {took:?}");
    assert_eq!(told(&servers(&[]), "a.").await.0, "no nameserver is configured");
}
