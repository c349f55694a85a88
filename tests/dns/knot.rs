//! The same sources against Knot, whose records change while it runs. Where Knot is not installed
//! (`apt-get install knot knot-dnsutils`) one line says that this was skipped.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use evenkeel::discovery::Dns;

use crate::{Watched, over_nameserver, short, skip::skipped};

/// A server of its own, in a directory of its own.
struct Knot {
    address: SocketAddr,
    directory: PathBuf,
    process: Child,
}

const ZONE: &str = "$ORIGIN shop.test.
$TTL 30
@ SOA ns admin 1 3600 600 86400 5
@ NS ns
ns A 127.0.0.1
users 1 A 10.0.0.1
users 1 A 10.0.0.2
users 1 AAAA 2001:db8::1
alias 30 CNAME users
_http._tcp.alias 30 CNAME _http._tcp
_http._tcp.circle 30 CNAME _http._tcp.circle
_http._tcp 1 SRV 10 3 8080 users
_http._tcp 1 SRV 20 1 8081 alone
alone 1 A 10.0.0.9
";

fn installed() -> bool {
    ["knotd", "knsupdate"].iter().all(|program| {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })
}

impl Knot {
    fn start() -> Option<Self> {
        if !installed() {
            skipped("knotd and knsupdate are not installed");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("evenkeel-knot-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        // Free a moment ago; Knot wants the number.
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = |name: &str| directory.join(name).display().to_string();
        std::fs::write(directory.join("shop.test.zone"), ZONE).unwrap();
        let configuration = format!(
            "server:\n    rundir: \"{run}\"\n    listen: 127.0.0.1@{port}\n\
             database:\n    storage: \"{run}\"\n\
             log:\n  - target: stderr\n    any: warning\n\
             acl:\n  - id: local\n    address: 127.0.0.1\n    action: update\n\
             zone:\n  - domain: shop.test\n    storage: \"{run}\"\n    file: \"{zone}\"\n    acl: local\n",
            run = directory.display(),
            port = address.port(),
            zone = path("shop.test.zone"),
        );
        std::fs::write(directory.join("knot.conf"), configuration).unwrap();
        let process = Self::run(&directory);
        Some(Self { address, directory, process })
    }

    fn run(directory: &Path) -> Child {
        Command::new("knotd")
            .arg("-c")
            .arg(directory.join("knot.conf"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Changes the zone while it runs, as a deployment would.
    fn update(&self, commands: &str) {
        let mut update = Command::new("knsupdate").stdin(Stdio::piped()).spawn().unwrap();
        let (ip, port) = (self.address.ip(), self.address.port());
        let script = format!("server {ip} {port}\nzone shop.test.\n{commands}\nsend\nquit\n");
        update.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(update.wait().unwrap().success(), "{commands}");
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// R4, R5, R13, R22 against a real server: addresses and SRV records that change while it runs, an
/// outage that changes nothing, a name that goes and comes back.
#[tokio::test]
async fn r5_knot_whose_records_change_and_that_is_killed() {
    let Some(mut knot) = Knot::start() else { return };
    let source = |dns: Dns| over_nameserver(dns, knot.address);
    let mut users = Watched::new(source(Dns::host("users.shop.test.", 80).unwrap()));
    let mut alias = Watched::new(source(Dns::host("alias.shop.test.", 80).unwrap()));
    let mut service = Watched::new(source(Dns::srv("_http._tcp.shop.test.").unwrap()));
    users.until("set 10.0.0.1:80 10.0.0.2:80 [2001:db8::1]:80").await;
    alias.until("set 10.0.0.1:80 10.0.0.2:80 [2001:db8::1]:80").await;
    let first = service.until("set").await;
    let expected = "set 10.0.0.1:8080 10.0.0.2:8080 [2001:db8::1]:8080 10.0.0.9:8081";
    assert_eq!(short(&first), expected);
    // Knot follows its own aliases, as a recursor does.
    let dns = source(Dns::srv("_http._tcp.alias.shop.test.").unwrap());
    assert_eq!(short(&Watched::new(dns).next().await), expected);
    let dns = source(Dns::srv("_http._tcp.circle.shop.test.").unwrap());
    assert!(short(&Watched::new(dns).next().await).starts_with("failed | "));

    knot.update(
        "update delete users.shop.test. A 10.0.0.1\nupdate add users.shop.test. 1 A 10.0.0.3",
    );
    users.until("set 10.0.0.2:80 10.0.0.3:80 [2001:db8::1]:80").await;
    alias.until("set 10.0.0.2:80 10.0.0.3:80 [2001:db8::1]:80").await;
    service.until("set 10.0.0.2:8080 10.0.0.3:8080").await;
    knot.update(
        "update delete _http._tcp.shop.test. SRV\nupdate add _http._tcp.shop.test. 1 SRV 0 0 0 .",
    );
    service.until("empty | the domain does not offer the service").await;
    knot.update("update delete users.shop.test.");
    users.until("empty | `users.shop.test.` does not exist (NXDOMAIN)").await;
    knot.update("update add users.shop.test. 1 A 10.0.0.4");
    users.until("set 10.0.0.4:80").await;

    knot.kill();
    users.until("failed").await;
    knot.process = Knot::run(&knot.directory);
    users.until("set").await;
}
