//! Whom it asks: dead and broken nameservers, resolv.conf, getaddrinfo, and nobody else.

use std::{net::SocketAddr, path::PathBuf};

use evenkeel::discovery::{Dns, Resolver, Update};
use hickory_server::proto::{op::ResponseCode, rr::RecordType};
use tokio::net::UdpSocket;

use crate::{
    NAME, SECOND, Watched, guard,
    server::{Asked, DnsServer, Reply},
    short,
    skip::skipped,
    v4,
};

fn asking(nameservers: impl IntoIterator<Item = SocketAddr>) -> Dns {
    let resolver = Resolver::nameservers(nameservers);
    Dns::host(NAME, 80).unwrap().resolver(resolver).min_refresh(SECOND / 10).max_refresh(SECOND / 5)
}

/// R13: a first nameserver that is silent is passed over, and after that it is not asked any more. That
/// it costs less than a second is proven in paused time, beside the code.
#[tokio::test]
async fn r13_a_dead_first_nameserver_is_passed_over() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    let mut watched = Watched::new(asking([dead.local_addr().unwrap(), server.address]));
    assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    let mut datagram = [0; 512];
    let mut asked = 0;
    while dead.try_recv(&mut datagram).is_ok() {
        asked += 1;
    }
    assert!(asked >= 2, "it was asked first: {asked}");
    server.asked();
    for _ in 0..3 {
        watched.next().await;
    }
    assert!(server.asked().len() >= 6);
    assert!(dead.try_recv(&mut datagram).is_err(), "it is not asked while another answers");

    // That there is no such name is believed of the second as well.
    server.forget(NAME);
    watched.until("empty").await;
    let mut watched = Watched::new(asking([dead.local_addr().unwrap(), server.address]));
    assert!(short(&watched.next().await).starts_with("empty"));
}

/// R13: one that answers that it cannot tell hands on to the next, and one where nobody listens.
#[tokio::test]
async fn r13_a_broken_first_nameserver_is_passed_over() {
    let (broken, server) = (DnsServer::start().await.unwrap(), DnsServer::start().await.unwrap());
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    server.addresses(NAME, 30, [v4(1)]);
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        for kind in [RecordType::A, RecordType::AAAA] {
            broken.reply(NAME, kind, Reply::code(code));
        }
        let mut watched = Watched::new(asking([nobody, broken.address, server.address]));
        assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    }
    // If all of them fail, what one of them says is the error.
    let update = short(&Watched::new(asking([broken.address, nobody])).next().await);
    let expected = format!("failed | `users.shop.test.` A: NOTIMP from {}; ", broken.address);
    assert!(update.starts_with(&expected), "{update}");
    assert!(update.ends_with(&format!("from {nobody}")), "{update}");
}

/// R13: where nobody is configured nobody is asked: no public resolver stands in.
#[tokio::test]
async fn r13_without_a_nameserver_it_fails_and_asks_nobody() {
    let update = Watched::new(asking([])).next().await;
    assert_eq!(short(&update), "failed | `users.shop.test.` A: no nameserver is configured");
    // Nor where the only one is gone.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    let update = Watched::new(asking([nobody])).next().await;
    assert!(matches!(update, Update::Failed(_)), "{}", short(&update));
}

/// R13: the search list of resolv.conf is walked as glibc does, and a changed file is seen. Needs
/// port 53 of a loopback address, since resolv.conf names no ports.
#[tokio::test]
async fn r13_resolv_conf_is_followed_and_read_again() {
    let (first, second) = ("127.53.7.1:53", "127.53.7.2:53");
    let one = DnsServer::start_at(first.parse().unwrap()).await;
    let two = DnsServer::start_at(second.parse().unwrap()).await;
    let (Ok(one), Ok(two)) = (one, two) else {
        return skipped(&format!("port 53 of {first} and {second} cannot be bound here"));
    };
    let file = File::new("resolv.conf");
    file.write("nameserver 127.53.7.1\nsearch a.test b.test\noptions ndots:2\n");
    one.addresses("users.b.test.", 30, [v4(1)]);
    let dns = |name| {
        let dns = Dns::host(name, 80).unwrap().resolver(Resolver::resolv_conf(&file.0));
        dns.min_refresh(SECOND / 10).max_refresh(SECOND / 5)
    };
    let mut watched = Watched::new(dns("users"));
    assert_eq!(short(&watched.next().await), "set 10.0.0.1:80");
    let names = |server: &DnsServer| {
        let mut names: Vec<_> = server.asked().into_iter().map(|Asked { name, .. }| name).collect();
        names.dedup();
        names
    };
    assert_eq!(names(&one)[..2], ["users.a.test.", "users.b.test."]);

    // The same length, at once: a time in whole seconds would not show it.
    two.addresses("users.b.test.", 30, [v4(2)]);
    file.write("nameserver 127.53.7.2\nsearch a.test b.test\noptions ndots:2\n");
    watched.until("set 10.0.0.2:80").await;
    drop(watched);

    names(&two);
    two.addresses("users.b.", 30, [v4(3)]);
    assert_eq!(short(&Watched::new(dns("users.b.")).next().await), "set 10.0.0.3:80");
    assert_eq!(names(&two)[0], "users.b.");
}

/// R13: getaddrinfo as a choice. `localhost` is in every hosts file.
#[tokio::test]
async fn r13_getaddrinfo_is_a_choice() {
    let dns = Dns::host("localhost", 80).unwrap().resolver(Resolver::getaddrinfo());
    let update = short(&Watched::new(dns).next().await);
    assert!(update.contains("127.0.0.1:80") || update.contains("[::1]:80"), "{update}");
    let dns = Dns::srv("_http._tcp.users").unwrap().resolver(Resolver::getaddrinfo());
    assert_eq!(
        short(&Watched::new(dns).next().await),
        "failed | getaddrinfo cannot look up SRV records"
    );
}

/// Many sources share one resolver, and what it learnt of its nameservers.
#[tokio::test]
async fn sources_share_a_resolver() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = DnsServer::start().await.unwrap();
    server.addresses(NAME, 30, [v4(1)]);
    server.addresses("carts.test.", 30, [v4(2)]);
    let resolver = Resolver::nameservers([dead.local_addr().unwrap(), server.address]);
    let users = Dns::host(NAME, 80).unwrap().resolver(resolver.clone());
    assert_eq!(short(&Watched::new(users).next().await), "set 10.0.0.1:80");
    let mut datagram = [0; 512];
    while dead.try_recv(&mut datagram).is_ok() {}
    let carts = Dns::host("carts.test.", 80).unwrap().resolver(resolver);
    assert_eq!(short(&guard(Watched::new(carts).next()).await), "set 10.0.0.2:80");
    assert!(dead.try_recv(&mut datagram).is_err(), "the other source knows that it is dead");
}

/// A file of its own.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("evenkeel-dns-{}-{name}", std::process::id())))
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
