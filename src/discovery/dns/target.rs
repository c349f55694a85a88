//! `dns://host:port` and `srv://_service._proto.domain`, with their options.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hickory_resolver::proto::rr::Name;

use super::{Dns, Families, Resolver};
use crate::{
    discovery::{part::Part, target::uri::Uri},
    error::{TargetError, TargetErrorReason},
};

/// What stands for the servers in a `dns://` target.
pub(super) enum HostPort {
    Address(SocketAddr),
    Name(Name, u16),
}

const HOST: &str = "host's name or IP address";
const DNS_PORT: u16 = 53;

/// The source of a `dns://` or `srv://` target; `shared` is asked unless the target says whom.
///
/// | option | |
/// |---|---|
/// | `resolver=system`, `getaddrinfo` | whom to ask |
/// | `nameserver=IP`, `IP:PORT`, several between commas | whom to ask |
/// | `family=4`, `6`, `any` | which addresses |
/// | `min_refresh=TIME`, `max_refresh=TIME` | bounds for the time between two looks |
/// | `ignore_weights=true` | of SRV records |
pub(in crate::discovery) fn from_uri(
    scheme: &str,
    uri: &mut Uri<'_>,
    shared: Resolver,
) -> Result<Dns, TargetError> {
    let is_srv = scheme == "srv";
    let mut dns = if is_srv {
        Dns::of_service(service_name(uri)?, uri.text())
    } else {
        Dns::of_host(host_port(uri)?, uri.text())
    };
    if let Some(family) = uri.take("family") {
        dns = dns.families(match family.text {
            "4" => Families::V4,
            "6" => Families::V6,
            "any" => Families::Both,
            _ => return Err(uri.wrong(family, expected("address family: `4`, `6` or `any`"))),
        });
    }
    let time = "time such as `500ms`, `5s` or `1m`";
    if let Some(value) = uri.take("min_refresh") {
        dns = dns.min_refresh(uri.duration(value, time)?);
    }
    if let Some(value) = uri.take("max_refresh") {
        dns = dns.max_refresh(uri.duration(value, time)?);
    }
    if is_srv {
        if let Some(value) = uri.take("ignore_weights") {
            dns = dns.ignore_weights(uri.boolean(value)?);
        }
    }
    Ok(dns.resolver(resolver(uri, is_srv)?.unwrap_or(shared)))
}

/// [`Dns::host`], as a target says it.
pub(super) fn host(text: &str) -> Result<Dns, TargetError> {
    let uri = parsed(text)?;
    Ok(Dns::of_host(host_port(&uri)?, text))
}

/// [`Dns::srv`], as a target says it.
pub(super) fn service(text: &str) -> Result<Dns, TargetError> {
    let uri = parsed(text)?;
    Ok(Dns::of_service(service_name(&uri)?, text))
}

fn parsed(text: &str) -> Result<Uri<'_>, TargetError> {
    Uri::parse(text).ok_or_else(|| TargetError {
        target: text.to_owned(),
        position: 0,
        part: text.to_owned(),
        reason: expected(HOST),
    })
}

fn expected(what: &'static str) -> TargetErrorReason {
    TargetErrorReason::Expected(what)
}

fn resolver(uri: &mut Uri<'_>, is_srv: bool) -> Result<Option<Resolver>, TargetError> {
    let named = uri.take("resolver");
    let servers = uri.take("nameserver");
    if let (Some(_), Some(servers)) = (named, servers) {
        let conflict = TargetErrorReason::Conflict("the option `resolver`");
        return Err(uri.wrong(servers, conflict));
    }
    if let Some(servers) = servers {
        let addresses: Result<Vec<_>, _> =
            servers.split(',').map(|server| nameserver(uri, server)).collect();
        return Ok(Some(Resolver::nameservers(addresses?)));
    }
    let Some(named) = named else { return Ok(None) };
    match named.text {
        "system" => Ok(Some(Resolver::system())),
        "getaddrinfo" if is_srv => {
            let conflict = TargetErrorReason::Conflict("`srv`: getaddrinfo knows no SRV records");
            Err(uri.wrong(named, conflict))
        }
        "getaddrinfo" => Ok(Some(Resolver::getaddrinfo())),
        _ => Err(uri.wrong(named, expected("resolver: `system` or `getaddrinfo`"))),
    }
}

fn nameserver(uri: &Uri<'_>, part: Part<'_>) -> Result<SocketAddr, TargetError> {
    let text = part.text;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match text.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) => bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT)),
    };
    let is_scoped = |address: &SocketAddr| match address {
        SocketAddr::V6(address) => address.scope_id() != 0,
        SocketAddr::V4(_) => false,
    };
    // A scope would be lost on the way to the socket.
    address
        .filter(|address| address.port() != 0 && !is_scoped(address))
        .ok_or_else(|| uri.wrong(part, expected("nameserver: `IP` or `IP:PORT`")))
}

fn host_port(uri: &Uri<'_>) -> Result<HostPort, TargetError> {
    let body = body(uri)?;
    let bare_v6 = body.text.parse::<Ipv6Addr>().is_ok();
    let (host, port) = match body.rsplit_once(':') {
        // The last colon of `[::1]` is no separator.
        Some((_, port)) if port.text.contains(']') => (body, None),
        Some((host, port)) if !bare_v6 => (host, Some(port)),
        _ => (body, None),
    };
    if bare_v6 || host.text.parse::<Ipv6Addr>().is_ok() {
        return Err(uri.wrong(body, expected("`[ipv6]:port`: the brackets are missing")));
    }
    if host.text.is_empty() {
        return Err(uri.wrong(body, expected(HOST)));
    }
    let Some(port) = port.filter(|port| !port.text.is_empty()) else {
        return Err(uri.wrong(body, TargetErrorReason::NoPort));
    };
    let number = uri.port(port)?;
    let bracketed = host.text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if bracketed.is_some() {
        // Which takes the scope as well.
        let address = body.text.parse().map_err(|_| uri.wrong(host, expected("IPv6 address")))?;
        return Ok(HostPort::Address(address));
    }
    if let Ok(ip) = host.text.parse::<IpAddr>() {
        return Ok(HostPort::Address(SocketAddr::new(ip, number)));
    }
    Ok(HostPort::Name(name(uri, host, HOST)?, number))
}

fn service_name(uri: &Uri<'_>) -> Result<Name, TargetError> {
    let body = body(uri)?;
    if let Some((_, port)) = body.rsplit_once(':') {
        return Err(uri.wrong(port, expected("part of an SRV name: its records say the port")));
    }
    name(uri, body, "name of SRV records, such as `_http._tcp.example.com`")
}

/// What stands after the `://`, where it has no path.
fn body<'a>(uri: &Uri<'a>) -> Result<Part<'a>, TargetError> {
    let body = uri.body();
    match body.text.find('/') {
        Some(at) => {
            let path = Part { text: &body.text[at..], position: body.position + at };
            Err(uri.wrong(path, TargetErrorReason::Path))
        }
        None => Ok(body),
    }
}

fn name(uri: &Uri<'_>, part: Part<'_>, what: &'static str) -> Result<Name, TargetError> {
    let text = part.text;
    let labels = text.strip_suffix('.').unwrap_or(text);
    let is_name = text.contains(char::is_alphabetic)
        && labels.split('.').all(|label| {
            !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || "-_".contains(c))
        });
    if !is_name {
        return Err(uri.wrong(part, expected(what)));
    }
    let parsed = Name::from_str_relaxed(text);
    parsed.map_err(|error| uri.wrong(part, TargetErrorReason::Name(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discovery::{Discover, OnEmpty, Target, Targets},
        error::BuildError,
    };

    fn wrong(text: &str) -> (usize, String, TargetErrorReason) {
        match Target::parse(text) {
            Err(BuildError::InTarget(error)) => (error.position, error.part, error.reason),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn takes_what_is_right() {
        for text in [
            "dns://users.shop.svc.cluster.local:8080",
            "dns://users:1",
            "DNS://users.example.com.:65535?on_empty=keep&family=any",
            "dns://b\u{fc}cher.example:80?family=6",
            "dns://10.0.0.1:80",
            "dns://[::1]:80",
            "dns://[fe80::1%2]:80",
            "dns://a:80?nameserver=10.0.0.53&min_refresh=500ms&max_refresh=1m",
            "dns://a:80?nameserver=10.0.0.53:5353,[::1]:53,::1,[::1]&server_name=b",
            "dns://a:80?resolver=getaddrinfo",
            "srv://_http._tcp.users.shop.svc.cluster.local",
            "srv://users.example?ignore_weights=true&resolver=system",
            "srv://_grpc._tcp.a_b.example.?ignore_weights=false&family=4",
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), text);
        }
        let on_empty = Target::parse("dns://a:80").unwrap().on_empty();
        assert_eq!(on_empty, OnEmpty::KeepFor(std::time::Duration::from_secs(30)));
        let targets = Targets::new().resolver(Resolver::nameservers([]));
        targets.parse("dns://a:80").unwrap();
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        use TargetErrorReason::{Conflict, NoPort, Path, Port};
        let srv = "name of SRV records, such as `_http._tcp.example.com`";
        for (text, position, part, reason) in [
            ("dns://", 6, "", expected(HOST)),
            ("dns://:80", 6, ":80", expected(HOST)),
            ("dns://a", 6, "a", NoPort),
            ("dns://a:", 6, "a:", NoPort),
            (" dns://a:http", 9, "http", Port),
            ("dns://a:0", 8, "0", Port),
            ("dns://a:65536", 8, "65536", Port),
            ("dns://a:+80", 8, "+80", Port),
            ("dns:///a:80", 6, "/a:80", Path),
            ("dns://10.0.0.53/a:80", 15, "/a:80", Path),
            ("dns://a..b:80", 6, "a..b", expected(HOST)),
            ("dns://a b:80", 6, "a b", expected(HOST)),
            ("dns://10.0.0.300:80", 6, "10.0.0.300", expected(HOST)),
            ("dns://::1:80", 6, "::1:80", expected("`[ipv6]:port`: the brackets are missing")),
            ("dns://::1", 6, "::1", expected("`[ipv6]:port`: the brackets are missing")),
            ("dns://[::1]", 6, "[::1]", NoPort),
            ("dns://[a]:80", 6, "[a]", expected("IPv6 address")),
            ("dns://a:80?family=5", 18, "5", expected("address family: `4`, `6` or `any`")),
            (
                "dns://a:80?nameserver=10.0.0.1,b",
                31,
                "b",
                expected("nameserver: `IP` or `IP:PORT`"),
            ),
            (
                "dns://a:80?nameserver=10.0.0.1:0",
                22,
                "10.0.0.1:0",
                expected("nameserver: `IP` or `IP:PORT`"),
            ),
            (
                "dns://a:80?nameserver=[fe80::1%2]:53",
                22,
                "[fe80::1%2]:53",
                expected("nameserver: `IP` or `IP:PORT`"),
            ),
            (
                "dns://a:80?resolver=google",
                20,
                "google",
                expected("resolver: `system` or `getaddrinfo`"),
            ),
            (
                "dns://a:80?resolver=system&nameserver=10.0.0.1",
                38,
                "10.0.0.1",
                Conflict("the option `resolver`"),
            ),
            (
                "srv://a?resolver=getaddrinfo",
                17,
                "getaddrinfo",
                Conflict("`srv`: getaddrinfo knows no SRV records"),
            ),
            ("dns://a:80?min_refresh=1h", 23, "1h", expected("time such as `500ms`, `5s` or `1m`")),
            ("srv://", 6, "", expected(srv)),
            (
                "srv://_http._tcp.a:80",
                19,
                "80",
                expected("part of an SRV name: its records say the port"),
            ),
            ("srv://a?ignore_weights=yes", 23, "yes", expected("`true` or `false`")),
        ] {
            assert_eq!(wrong(text), (position, part.to_owned(), reason), "{text}");
        }
        let long = format!("dns://{}:80", "a".repeat(64));
        let (position, _, reason) = wrong(&long);
        assert!(matches!(reason, TargetErrorReason::Name(_)) && position == 6, "{reason}");
        let (position, part, reason) = wrong("dns://a:80?ignore_weights=true");
        assert_eq!((position, &*part), (11, "ignore_weights"));
        assert!(reason.to_string().contains("`family`, `min_refresh`"), "{reason}");
    }

    #[test]
    fn values_are_checked_as_text_is() {
        for (name, port, position) in [("", 80, 6), ("a", 0, 8), ("a/b", 80, 7), ("a?b", 80, 6)] {
            assert_eq!(Dns::host(name, port).unwrap_err().position, position, "{name}:{port}");
        }
        assert_eq!(&*Dns::host("::1", 80).unwrap().target(), "dns://[::1]:80");
        assert_eq!(&*Dns::host("a", 80).unwrap().target(), "dns://a:80");
        assert_eq!(&*Dns::srv("_a._tcp.b").unwrap().target(), "srv://_a._tcp.b");
        Dns::srv("_a._tcp.b?x").unwrap_err();
    }

    #[test]
    fn the_name_asked_for_is_the_servers_name() {
        for (text, name) in [
            ("dns://users.shop.:80", Some("users.shop")),
            ("dns://b\u{fc}cher.example:80", Some("xn--bcher-kva.example")),
            ("dns://10.0.0.1:80", None),
            ("srv://_http._tcp.users.shop", Some("users.shop")),
            ("srv://users.shop", Some("users.shop")),
            ("srv://_http._tcp", None),
        ] {
            let mut uri = Uri::parse(text).unwrap();
            let scheme = text.split(':').next().unwrap();
            let dns = from_uri(scheme, &mut uri, Resolver::default()).unwrap();
            assert_eq!(dns.server_name.as_deref(), name, "{text}");
        }
    }
}
