//! What sources that share a resolver ask for together. Over real sockets: what is counted are
//! questions, and a test waits for answers and not for a time.

use evenkeel::{
    Balance,
    discovery::{Dns, Resolver, Targets, Update},
};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};

use crate::{
    NAME, SECOND, SENT, Watched, counted, guard,
    server::{DnsServer, Reply, address_record},
    short, v4,
};

/// Whether these were asked for, each as one question.
fn assert_once(server: &DnsServer, names: &[(&str, &str)]) {
    let counted = counted(server);
    let mut expected: Vec<_> =
        names.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    expected.sort();
    assert_eq!(counted.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(counted.values().all(|&times| times <= SENT), "{counted:?}");
}

fn shared(server: &DnsServer) -> Resolver {
    Resolver::nameservers([server.address])
}

/// R6: a hundred balancers on one name, and one on SRV records that lead to it, ask for it once, as
/// long as they share a resolver.
#[tokio::test]
async fn r6_a_hundred_balancers_on_one_name_are_one_set_of_questions() {
    let server = DnsServer::start().await.unwrap();
    let slow = Reply { delay: SECOND / 2, ..Reply::records([address_record(NAME, 30, v4(1))]) };
    server.reply(NAME, RecordType::A, slow);
    server.reply(NAME, RecordType::AAAA, Reply::records([]));
    let service = "_http._tcp.users.shop.test.";
    server.services(service, 30, &[(0, 1, 80, NAME)]);
    let resolver = shared(&server);
    let dns = Dns::host(NAME, 80).unwrap().resolver(resolver.clone());
    let mut sources: Vec<_> = (0..100).map(|_| Watched::new(dns.clone())).collect();
    sources.push(Watched::new(Dns::srv(service).unwrap().resolver(resolver)));
    for update in join_all(sources.iter_mut().map(Watched::next)).await {
        assert_eq!(short(&update), "set 10.0.0.1:80");
    }
    assert_once(&server, &[(service, "SRV"), (NAME, "A"), (NAME, "AAAA")]);
    // Whoever comes now takes over what is known; that it may come too late for that is no fault.
    let late = Watched::new(dns).next().await;
    assert_eq!(short(&late), "set 10.0.0.1:80");
}

/// R6: however many sources of one resolver look as often as they may, there is one set of questions
/// a floor interval. The floors are of 1 s and the TTL is 0, so each looks once a second: together
/// they would ask 20 times as often. Of `n` seconds and a bit there are `n + 1` beginnings.
#[tokio::test]
async fn r6_sources_that_share_a_resolver_keep_to_one_floor() {
    for reply in
        [Reply::records([address_record(NAME, 0, v4(1))]), Reply::code(ResponseCode::Refused)]
    {
        let server = DnsServer::start().await.unwrap();
        server.reply(NAME, RecordType::A, reply.clone());
        server.reply(NAME, RecordType::AAAA, reply);
        let dns = Dns::host(NAME, 80).unwrap().resolver(shared(&server));
        let clock = evenkeel::node::Clock::default();
        let begin = clock.now();
        let mut looks: FuturesUnordered<_> = (0..20)
            .map(|_| {
                let mut source = Watched::new(dns.clone());
                async move {
                    for _ in 0..4 {
                        source.next().await;
                    }
                }
            })
            .collect();
        while looks.next().await.is_some() {}
        let seconds = clock.now().saturating_duration_since(begin).as_secs_f64();
        let asked = server.asked().iter().filter(|asked| asked.kind == RecordType::A).count();
        // A source may look again a floor after its look began, though its question, which another
        // takes over, was asked for a little later: so an interval is a floor less that little.
        let most = (seconds / 0.95) as usize + 1;
        assert!(asked >= 3 && asked <= most, "{asked} in {seconds} s");
    }
}

/// T6: the source that began to ask goes; the other still gets the answer, of that question.
#[tokio::test]
async fn t6_a_source_that_goes_takes_no_answer_from_another() {
    let server = DnsServer::start().await.unwrap();
    for kind in [RecordType::A, RecordType::AAAA] {
        let mut reply = Reply { delay: SECOND, ..Reply::records([]) };
        if kind == RecordType::A {
            reply.answers.push(address_record(NAME, 30, v4(1)));
        }
        server.reply(NAME, kind, reply);
    }
    let dns = Dns::host(NAME, 80).unwrap().resolver(shared(&server));
    let (mut first, mut second) = (Watched::new(dns.clone()), Watched::new(dns));
    let first = tokio::spawn(async move { first.next().await });
    let second = tokio::spawn(async move { second.next().await });
    guard(async {
        while !server.is_asked(2) {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    first.abort();
    assert_eq!(short(&second.await.unwrap()), "set 10.0.0.1:80");
    assert_once(&server, &[(NAME, "A"), (NAME, "AAAA")]);
}

/// A source that is asked to look early, since an endpoint fails, is not put off with what it has.
#[tokio::test]
async fn r6_an_early_look_sees_what_is_new() {
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    let dns = Dns::host(NAME, 80).unwrap().resolver(shared(&server));
    let mut sources: Vec<_> = (0..3).map(|_| Watched::new(dns.clone())).collect();
    for source in &mut sources {
        assert_eq!(short(&source.next().await), "set 10.0.0.1:80");
    }
    server.addresses(NAME, 30, [v4(2)]);
    for source in &mut sources {
        source.refresh.request();
    }
    for source in &mut sources {
        source.until("set 10.0.0.2:80").await;
    }
}

/// Targets that are parsed with the same `Targets` share its resolver, and two that are not do not:
/// nothing is shared by a whole process.
#[tokio::test]
async fn targets_share_by_value_and_nothing_else_does() {
    let server = DnsServer::start().await.unwrap();
    let slow = Reply { delay: SECOND / 2, ..Reply::records([address_record(NAME, 30, v4(1))]) };
    server.reply(NAME, RecordType::A, slow.clone());
    let text = format!("dns://{NAME}:80?family=4");
    let targets = Targets::new().resolver(shared(&server));
    let both = [targets.parse(&text).unwrap(), targets.clone().parse(&text).unwrap()];
    let mut sources = both.map(Watched::new);
    for update in join_all(sources.iter_mut().map(Watched::next)).await {
        assert!(matches!(update, Update::Set(_)));
    }
    assert_once(&server, &[(NAME, "A")]);

    server.addresses(NAME, 30, [v4(1)]);
    let text = format!("{text}&nameserver={}", server.address);
    let balance = || Balance::to(&text).unwrap().http().unwrap();
    let (one, two) = (balance(), balance());
    let known = async |balance: &Balance<evenkeel::client::HttpService>| {
        guard(async {
            while balance.status().endpoints.is_empty() {
                tokio::time::sleep(SECOND / 100).await;
            }
        })
        .await;
    };
    tokio::join!(known(&one), known(&two));
    assert!(counted(&server)[&(NAME.to_owned(), "A".to_owned())] >= 2);
}
