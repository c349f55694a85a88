//! What becomes of each kind of answer.

use std::time::Duration;

use evenkeel::{
    AtResponse, Balance, Endpoint,
    discovery::{Dns, Families, OnEmpty, Resolver, Update},
    policy::NoKey,
};
use futures::{FutureExt, StreamExt};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use tower::util::BoxCloneSyncService;

use crate::{
    NAME, SECOND, Watched, guard, host, over,
    server::{DnsServer, Reply, address_record, alias_record, service_record},
    short, v4, v6,
};

type Service = BoxCloneSyncService<(), (), std::convert::Infallible>;

fn client(_: &Endpoint) -> Service {
    BoxCloneSyncService::new(tower::service_fn(|()| async { Ok(()) }))
}

fn listed(balance: &Balance<Service, NoKey, AtResponse>) -> Vec<String> {
    let status = balance.status();
    status.endpoints.iter().map(|one| one.endpoint.to_string()).collect()
}

/// A good set, then `reply` for both families until the balancer has heard of it twice: the set
/// stands, its age and the error show; then a good set again, which replaces it.
async fn failing_keeps_the_set(reply: Reply, error: &str) {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 1, [v4(1), v4(2)]);
    let source = host(&server);
    let balance = Balance::builder(source).complete_at_response().make(client).unwrap();
    guard(balance.ready()).await.unwrap();
    for kind in [RecordType::A, RecordType::AAAA] {
        server.reply(NAME, kind, reply.clone());
    }
    let heard = async |error: Option<&str>| {
        guard(async {
            loop {
                let status = balance.status();
                let said = status.discovery.error.as_ref().map(ToString::to_string);
                let as_expected = match error {
                    Some(error) => said.is_some_and(|said| said.contains(error)),
                    None => said.is_none(),
                };
                if as_expected {
                    return status.discovery;
                }
                tokio::time::sleep(SECOND / 100).await;
            }
        })
        .await
    };
    let first = heard(Some(error)).await;
    assert!(first.empty.is_none());
    server.asked();
    // Another look has come to an end, and found the same.
    guard(async {
        while server.asked().is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    let second = heard(Some(error)).await;
    assert!(second.answered.unwrap() > first.answered.unwrap(), "its age shows");
    assert_eq!(listed(&balance), ["10.0.0.1:80", "10.0.0.2:80"]);
    server.addresses(NAME, 1, [v4(3)]);
    heard(None).await;
    guard(async {
        while listed(&balance) != ["10.0.0.3:80"] {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
}

macro_rules! rcodes {
    ($($test:ident: $code:ident, $text:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            failing_keeps_the_set(Reply::code(ResponseCode::$code), $text).await;
        }
    )*};
}

rcodes! {
    r5_servfail_keeps_the_set: ServFail, "SERVFAIL";
    r5_refused_keeps_the_set: Refused, "REFUSED";
    r5_formerr_keeps_the_set: FormErr, "FORMERR";
    r5_notimp_keeps_the_set: NotImp, "NOTIMP";
    r5_notauth_keeps_the_set: NotAuth, "NOTAUTH";
    r5_notzone_keeps_the_set: NotZone, "NOTZONE";
    r5_yxdomain_keeps_the_set: YXDomain, "YXDOMAIN";
    r5_yxrrset_keeps_the_set: YXRRSet, "YXRRSET";
    r5_nxrrset_keeps_the_set: NXRRSet, "NXRRSET";
}

/// R5, T10: NXDOMAIN and NODATA do what `OnEmpty` says, and say so.
#[tokio::test]
async fn r5_nxdomain_and_nodata_follow_on_empty() {
    for (exists, reason) in [(false, "does not exist (NXDOMAIN)"), (true, "(NODATA)")] {
        for on_empty in [None, Some(OnEmpty::Keep), Some(OnEmpty::Clear)] {
            let server = DnsServer::start().await.unwrap();
            server.addresses(NAME, 1, [v4(1)]);
            let mut builder = Balance::builder(host(&server));
            if let Some(on_empty) = on_empty {
                builder = builder.on_empty(on_empty);
            }
            let balance = builder.complete_at_response().make(client).unwrap();
            guard(balance.ready()).await.unwrap();
            if exists {
                server.addresses(NAME, 1, []);
            } else {
                server.forget(NAME);
            }
            let empty = guard(async {
                loop {
                    if let Some(empty) = balance.status().discovery.empty {
                        return empty.to_string();
                    }
                    tokio::time::sleep(SECOND / 100).await;
                }
            })
            .await;
            assert!(empty.contains(reason), "{empty}");
            if on_empty == Some(OnEmpty::Clear) {
                guard(async {
                    while !listed(&balance).is_empty() {
                        tokio::time::sleep(SECOND / 100).await;
                    }
                })
                .await;
            } else {
                // The default keeps it for 30 s.
                assert_eq!(listed(&balance), ["10.0.0.1:80"]);
            }
        }
    }
}

/// R13: what does not fit into a datagram comes over TCP, whether the server says so of itself or
/// has so many records.
#[tokio::test]
async fn r13_truncation_goes_to_tcp() {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, (1..=200).map(v4));
    let Update::Set(set) = Watched::new(host(&server)).next().await else { panic!("no set") };
    assert_eq!(set.len(), 200);
    assert!(server.asked().iter().any(|asked| asked.tcp && asked.kind == RecordType::A));

    let answers = vec![address_record(NAME, 30, v4(1))];
    server.reply(NAME, RecordType::A, Reply { cut: true, ..Reply::records(answers) });
    assert_eq!(short(&Watched::new(host(&server)).next().await), "set 10.0.0.1:80");
}

/// R13: A good, AAAA refused or silent: the A set, and what is wrong, and with whom. That it has not
/// answered "yet" shows that nobody waited for its time-out.
#[tokio::test]
async fn r13_one_family_that_fails_leaves_the_other() {
    for (reply, error) in
        [(Reply::code(ResponseCode::Refused), "REFUSED"), (Reply::silence(), "no answer yet")]
    {
        let server = DnsServer::start().await.unwrap();
        server.addresses(NAME, 30, [v4(1)]);
        server.reply(NAME, RecordType::AAAA, reply);
        let update = Watched::new(host(&server)).next().await;
        let (name, from) = ("`users.shop.test.` AAAA", server.address);
        assert_eq!(short(&update), format!("partial 10.0.0.1:80 | {name}: {error} from {from}"));
    }
    // What is not asked for does not fail.
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1), v6(1)]);
    let source = host(&server).families(Families::V6);
    assert_eq!(short(&Watched::new(source).next().await), "set [2001:db8::1]:80");
    assert!(server.asked().iter().all(|asked| asked.kind == RecordType::AAAA));
}

/// R6, R13: a family that is silent for good does not keep the other from being looked at. That its question
/// is still open meanwhile is proven in paused time, beside the code.
#[tokio::test]
async fn r6_a_silent_family_does_not_stop_the_looks() {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    server.reply(NAME, RecordType::AAAA, Reply::silence());
    let mut watched = Watched::new(host(&server));
    let expected = |last| format!("partial 10.0.0.{last}:80 | `{NAME}` AAAA: no answer");
    assert!(short(&watched.next().await).starts_with(&expected(1)));
    for last in [2, 3] {
        let address = address_record(NAME, 30, v4(last));
        server.reply(NAME, RecordType::A, Reply::records([address]));
        loop {
            let update = short(&watched.next().await);
            if update.starts_with(&expected(last)) {
                break;
            }
            assert!(update.starts_with(&expected(last - 1)), "{update}");
        }
    }
}

/// R6: aliases are followed, in one answer or in several, and the least TTL on the way counts: the
/// alias has 1 s where the address has 30, so the second look comes before the guard.
#[tokio::test]
async fn r6_the_ttl_of_an_alias_counts() {
    for together in [true, false] {
        let server = DnsServer::start().await.unwrap();
        let alias = alias_record(NAME, 1, "b.test.");
        let address = address_record("b.test.", 30, v4(1));
        server.addresses("b.test.", 30, [v4(1)]);
        for kind in [RecordType::A, RecordType::AAAA] {
            let mut answers = vec![alias.clone()];
            if together && kind == RecordType::A {
                answers.push(address.clone());
            }
            server.reply(NAME, kind, Reply::records(answers));
        }
        let dns = Dns::host(NAME, 80).unwrap().resolver(Resolver::nameservers([server.address]));
        let mut watched = Watched::new(dns);
        assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
        assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    }
}

/// R22: SRV records behind an alias, with both in one answer, as a recursor sends them, and with the
/// alias alone, as an authority does that does not serve the target. The TTL of the alias counts (R6):
/// it is 1 s where all else has 30, so the second look comes before the guard.
#[tokio::test]
async fn r22_srv_records_behind_an_alias() {
    let (name, target) = ("_http._tcp.users.shop.test.", "_http._tcp.blue.shop.test.");
    for together in [true, false] {
        let server = DnsServer::start().await.unwrap();
        server.addresses("a.test.", 30, [v4(1)]);
        let records = [(0, 1, 81, "a.test."), (0, 1, 82, "a.test.")];
        server.services(target, 30, &records);
        let mut answers = vec![alias_record(name, 1, target)];
        if together {
            answers.extend(records.iter().map(|record| service_record(target, 30, record)));
        }
        server.reply(name, RecordType::SRV, Reply::records(answers));
        let dns = Dns::srv(name).unwrap().resolver(Resolver::nameservers([server.address]));
        let mut watched = Watched::new(dns);
        for _ in 0..2 {
            let update = watched.next().await;
            assert_eq!(short(&update), "set 10.0.0.1:81 10.0.0.1:82", "{together}");
            let Update::Set(set) = update else { unreachable!() };
            assert!(set.iter().all(|one| one.server_name() == Some("users.shop.test")));
        }
        let is_asked = server.asked().iter().any(|asked| asked.name == target);
        assert_eq!(is_asked, !together);
    }
}

/// R6: no cache in between: what the server says now is what is listed, though the TTL of before is
/// a year.
#[tokio::test]
async fn r6_a_look_asks_the_server_whatever_the_ttl_was() {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 31_536_000, [v4(1)]);
    let mut watched = Watched::new(host(&server));
    assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    server.addresses(NAME, u32::MAX, [v4(2)]);
    watched.until("set 10.0.0.2:80").await;
    server.forget(NAME);
    watched.until("empty").await;
    server.addresses(NAME, 0, [v4(3)]);
    watched.until("set 10.0.0.3:80").await;
}

/// R22: SRV over the wire: port, priority and weight of the records, addresses that come along or
/// are looked up, one bad target skipped, "." is unavailable.
#[tokio::test]
async fn r22_srv_over_the_wire() {
    let server = DnsServer::start().await.unwrap();
    let name = "_http._tcp.users.shop.test.";
    server.addresses("a.test.", 30, [v4(1), v6(1)]);
    server.services(
        name,
        30,
        &[(10, 60, 81, "a.test."), (10, 0, 82, "b.test."), (20, 5, 83, "gone.test.")],
    );
    let source = || over(Dns::srv(name).unwrap(), &server);
    // The server sends no addresses along: b has none, until it has.
    let mut watched = Watched::new(source());
    let update = watched.next().await;
    assert_eq!(
        short(&update),
        "partial 10.0.0.1:81 [2001:db8::1]:81 | `b.test.` does not exist (NXDOMAIN) (and 1 more)"
    );
    server.addresses("b.test.", 30, [v4(2)]);
    server.addresses("gone.test.", 30, [v4(3)]);
    let update = watched.until("set").await;
    let Update::Set(set) = update else { unreachable!() };
    let told: Vec<_> = set
        .iter()
        .map(|one| {
            let (priority, weight) = (one.priority().0, one.weight().0);
            format!("{one} {priority} {weight} {}", one.server_name().unwrap())
        })
        .collect();
    // 60 for the two addresses of a, which b's one address has two parts of to the 0 of RFC 2782.
    assert_eq!(
        told,
        [
            "10.0.0.1:81 10 60 users.shop.test",
            "10.0.0.2:82 10 2 users.shop.test",
            "[2001:db8::1]:81 10 60 users.shop.test",
            "10.0.0.3:83 20 10 users.shop.test",
        ]
    );

    // What comes along is not asked for.
    let mut reply = Reply::records([]);
    server.services(name, 30, &[(0, 0, 80, "along.test.")]);
    let srv = hickory_server::proto::rr::rdata::SRV::new(0, 0, 80, "along.test.".parse().unwrap());
    reply.answers.push(hickory_server::proto::rr::Record::from_rdata(
        name.parse().unwrap(),
        30,
        hickory_server::proto::rr::RData::SRV(srv),
    ));
    reply.additionals.push(address_record("along.test.", 30, v4(7)));
    server.addresses("along.test.", 30, [v4(66), v6(7)]);
    server.reply(name, RecordType::SRV, reply.clone());
    server.asked();
    let both = "set 10.0.0.7:80 [2001:db8::7]:80";
    assert_eq!(short(&Watched::new(source()).next().await), both);
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.kind != RecordType::A), "{asked:?}");
    reply.additionals.push(address_record("along.test.", 30, v6(7)));
    server.reply(name, RecordType::SRV, reply);
    assert_eq!(short(&Watched::new(source()).next().await), both);
    assert!(server.asked().iter().all(|asked| asked.kind == RecordType::SRV));

    server.services(name, 30, &[(0, 0, 0, ".")]);
    let update = Watched::new(source()).next().await;
    assert_eq!(short(&update), "empty | the domain does not offer the service (SRV target `.`)");
}

/// An IP address needs nobody to be asked.
#[tokio::test]
async fn an_address_is_not_looked_up() {
    let server = DnsServer::start().await.unwrap();
    for (name, expected) in [("10.0.0.1", "set 10.0.0.1:80"), ("::1", "set [::1]:80")] {
        let source = over(Dns::host(name, 80).unwrap(), &server);
        assert_eq!(short(&Watched::new(source).next().await), expected);
    }
    assert_eq!(server.asked(), []);
}

/// However long a program wants to wait between two looks, it is reckoned with.
#[tokio::test]
async fn a_wait_without_end_is_no_mistake() {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    for name in [NAME, "nobody.shop.test."] {
        let source = over(Dns::host(name, 80).unwrap(), &server);
        let mut watched = Watched::new(source.min_refresh(Duration::MAX));
        watched.next().await;
        assert!(watched.updates.next().now_or_never().is_none());
    }
}
