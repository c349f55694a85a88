//! Servers that do what no server should, datagram by datagram, and what becomes of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use evenkeel::{
    Balance,
    discovery::{Dns, Resolver, Update},
};
use hickory_server::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tokio::{net::UdpSocket, task::JoinSet};

use crate::{
    NAME, SECOND, SENT, Watched, counted, guard, host, over, over_nameserver,
    server::{DnsServer, Reply, address_record, alias_record},
    short, v4, v6,
};

/// A server over UDP alone, which sends what `answer` makes of each query.
struct Raw {
    address: SocketAddr,
    asked: Arc<Mutex<usize>>,
    _server: JoinSet<()>,
}

impl Raw {
    async fn start(answer: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::<Mutex<usize>>::default();
        let counted = Arc::clone(&asked);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                *counted.lock().unwrap() += 1;
                let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
                for datagram in answer(&query) {
                    let _ = socket.send_to(&datagram, from).await;
                }
            }
        });
        Self { address, asked, _server: server }
    }
}

/// A good answer to `query` with `last` in the address; to AAAA that there is none.
fn good(query: &Message, last: u8) -> Message {
    let mut answer = query.clone().into_response();
    answer.metadata.recursion_available = true;
    if query.queries[0].query_type() == RecordType::A {
        answer.add_answer(address_record(NAME, 30, v4(last)));
    }
    answer
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

fn source(server: &Raw) -> Watched {
    Watched::new(over_nameserver(Dns::host(NAME, 80).unwrap(), server.address))
}

/// R13: an answer with another id, or to another question, and a datagram that is none are passed
/// over; what comes after them counts.
#[tokio::test]
async fn r13_what_answers_another_question_is_passed_over() {
    let server = Raw::start(|query| {
        let mut forged = good(query, 66);
        forged.metadata.id = forged.metadata.id.wrapping_add(1);
        let mut other = good(query, 67);
        other.queries[0].set_name("other.test.".parse().unwrap());
        vec![bytes(&forged), bytes(&other), bytes(&good(query, 1))]
    })
    .await;
    assert_eq!(short(&source(&server).next().await), "set 10.0.0.1:80");
}

/// R5, R13: where nothing but such things come it is as if nobody answered, and the next nameserver
/// is asked after a quarter of a second.
#[tokio::test]
async fn r13_a_nameserver_that_answers_with_another_id_is_silent() {
    let forger = Raw::start(|query| {
        let mut forged = good(query, 66);
        forged.metadata.id = !forged.metadata.id;
        vec![bytes(&forged)]
    })
    .await;
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    let resolver = Resolver::nameservers([forger.address, server.address]);
    let mut watched = Watched::new(Dns::host(NAME, 80).unwrap().resolver(resolver));
    assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    assert!(*forger.asked.lock().unwrap() > 0);
}

/// R5: garbage, an empty datagram, and a server that answers nothing but a header are failures and
/// no empty set.
#[tokio::test]
async fn r5_garbage_is_no_answer() {
    let looks = [vec![], vec![0xff; 7], vec![0; 512]].map(async |datagram| {
        let server = Raw::start(move |query| {
            let mut datagram: Vec<u8> = datagram.clone();
            if datagram.len() >= 12 {
                datagram[..2].copy_from_slice(&query.metadata.id.to_be_bytes());
            }
            vec![datagram]
        })
        .await;
        let update = source(&server).next().await;
        assert!(matches!(update, Update::Failed(_)), "{}", short(&update));
    });
    futures::future::join_all(looks).await;
}

/// R5, R13: an answer that is cut short is never taken for the whole: where TCP does not work the
/// look has failed, though there were addresses in it, and the set of before stands.
#[tokio::test]
async fn r5_a_truncated_answer_without_tcp_is_a_failure() {
    let cut = Arc::new(Mutex::new(false));
    let is_cut = Arc::clone(&cut);
    let server = Raw::start(move |query| {
        let mut answer = good(query, 1);
        answer.metadata.truncation = *is_cut.lock().unwrap();
        vec![bytes(&answer)]
    })
    .await;
    let mut watched = source(&server);
    assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    *cut.lock().unwrap() = true;
    let update = watched.until("failed").await;
    let Update::Failed(error) = update else { unreachable!() };
    assert!(error.to_string().contains("`users.shop.test.` A"), "{error}");
}

/// R5: aliases that lead in a circle are asked for a few times and no more, and are a failure, which
/// leaves the last set for ever; one that leads to a name that does not exist is no such name.
#[tokio::test]
async fn r5_circles_of_aliases_come_to_an_end() {
    let circle =
        "failed | `users.shop.test.` A: aliases in a circle, or more than 16, from 127.0.0.1:";
    for (aliases, expected) in [
        (&[(NAME, NAME)][..], circle),
        (&[(NAME, "b.test."), ("b.test.", NAME)], circle),
        (&[(NAME, "b.test."), ("b.test.", "c.test."), ("c.test.", "b.test.")], circle),
        (&[(NAME, "nowhere.test.")], "empty"),
        (
            &[(NAME, "b.test."), ("b.test.", "c.test."), ("c.test.", "here.test.")],
            "set 10.0.0.1:80",
        ),
    ] {
        for together in [false, true] {
            let server = DnsServer::start().await.unwrap();
            server.addresses("here.test.", 30, [v4(1)]);
            for kind in [RecordType::A, RecordType::AAAA] {
                let records: Vec<_> =
                    aliases.iter().map(|(from, to)| alias_record(from, 30, to)).collect();
                for ((from, _), record) in aliases.iter().zip(&records) {
                    let answers = if together { records.clone() } else { vec![record.clone()] };
                    server.reply(from, kind, Reply::records(answers));
                }
            }
            let update = Watched::new(host(&server)).next().await;
            let short = short(&update);
            assert!(short.starts_with(expected), "{aliases:?} {together}: {short}");
            let asked = server.asked().len();
            assert!(asked <= 2 * 16, "{aliases:?} {together}: {asked}");
        }
    }
}

/// R22, R6: the TTL of addresses that come along with SRV records counts as well: it is 1 s where
/// that of the records is 30 s, so the second look comes before the guard.
#[tokio::test]
async fn r6_the_ttl_of_addresses_that_come_along_counts() {
    let server = DnsServer::start().await.unwrap();
    let name = "_http._tcp.users.shop.test.";
    let srv = SRV::new(0, 0, 80, "along.test.".parse().unwrap());
    let owner: Name = name.parse().unwrap();
    let mut reply = Reply::records([Record::from_rdata(owner, 30, RData::SRV(srv))]);
    reply.additionals = vec![
        address_record("Along.test.", 1, v4(7)),
        address_record("along.test.", 30, v6(7)),
        address_record("other.test.", 0, v4(66)),
    ];
    server.reply(name, RecordType::SRV, reply);
    let resolver = Resolver::nameservers([server.address]);
    let mut watched = Watched::new(Dns::srv(name).unwrap().resolver(resolver));
    assert_eq!(short(&watched.next().await), "set 10.0.0.7:80 [2001:db8::7]:80");
    assert_eq!(short(&watched.next().await), "set 10.0.0.7:80 [2001:db8::7]:80");
    assert!(server.asked().iter().all(|asked| asked.kind == RecordType::SRV));
}

/// R22: as many targets as a message holds: each is looked up once, a failing one in ten is left out and said, and
/// the rest are listed.
#[tokio::test]
async fn r22_as_many_targets_as_a_message_holds() {
    let server = DnsServer::start().await.unwrap();
    let name = "_http._tcp.users.shop.test.";
    const TARGETS: usize = 700;
    let targets: Vec<_> = (0..TARGETS).map(|i| format!("host-{i}.test.")).collect();
    let records: Vec<_> = targets.iter().map(|target| (0, 1, 80, target.as_str())).collect();
    server.services(name, 30, &records);
    for (target, i) in targets.iter().zip(0_u16..) {
        let [high, low] = i.to_be_bytes();
        if i % 10 == 0 {
            server.reply(target, RecordType::A, Reply::code(ResponseCode::ServFail));
        } else {
            server.addresses(target, 30, [[10, 1, high, low].into()]);
        }
    }
    let resolver = Resolver::nameservers([server.address]);
    let dns = Dns::srv(name).unwrap().resolver(resolver);
    let mut watched = Watched::new(dns);
    let error = guard(async {
        loop {
            match watched.next().await {
                Update::Partial(set, error) if set.len() == TARGETS * 9 / 10 => {
                    let text = error.to_string();
                    // Else some have not answered yet.
                    if text.contains("SERVFAIL") && text.contains("(and 69 more)") {
                        break text;
                    }
                }
                _ => {}
            }
        }
    })
    .await;
    assert!(error.contains("host-"), "{error}");
    let mut counted = counted(&server);
    counted.retain(|(_, kind), _| kind == "A");
    assert_eq!(counted.len(), TARGETS);
    assert!(counted.values().all(|&times| times <= SENT), "once each: {counted:?}");
}

/// R8: of a source that is dropped in the middle of a look, over nameservers that are silent, slow
/// or sound, no task is left.
#[tokio::test]
async fn r8_a_source_that_is_dropped_leaves_no_task() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = DnsServer::start().await.unwrap();
    for kind in [RecordType::A, RecordType::AAAA] {
        let reply = Reply { cut: kind == RecordType::A, ..Reply::records([]) };
        server.reply(NAME, kind, Reply { delay: SECOND / 4, ..reply });
    }
    let before = alive();
    for nameservers in [vec![silent.local_addr().unwrap(), server.address], vec![server.address]] {
        for millis in [0, 50, 300, 700] {
            let resolver = Resolver::nameservers(nameservers.clone());
            let dns = Dns::host(NAME, 80).unwrap().resolver(resolver);
            let mut sources = vec![Watched::new(dns.clone()), Watched::new(dns.clone())];
            let balance = Balance::builder(dns).http().unwrap();
            let wait = std::time::Duration::from_millis(millis);
            let looks = futures::future::join_all(sources.iter_mut().map(Watched::next));
            let _ = tokio::time::timeout(wait, looks).await;
            drop((sources, balance));
        }
    }
    // The server keeps its own connections for a while: what is left may be theirs, one a look that
    // went over TCP, and no more.
    guard(async {
        while alive() > before + 16 {
            tokio::time::sleep(SECOND / 20).await;
        }
    })
    .await;
}

/// One resolver on two runtimes, of which the first ends with its connections.
#[test]
fn a_resolver_outlives_the_runtime_that_it_was_used_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second, servers) = (runtime(), runtime(), runtime());
    let server = servers.block_on(DnsServer::start()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // Over TCP, whose connections are kept.
    server.addresses(NAME, 30, (1..=200).map(v4));
    let dns = over(Dns::host(NAME, 80).unwrap(), &server);
    let serving = std::thread::spawn(move || servers.block_on(stopped));
    for runtime in [first, second] {
        let update = runtime.block_on(Watched::new(dns.clone()).next());
        let Update::Set(set) = update else { panic!("{}", short(&update)) };
        assert_eq!(set.len(), 200);
    }
    drop((stop, server));
    let _ = serving.join().unwrap();
}
