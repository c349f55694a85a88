//! The head of a request as its connection wants it, and back again.
//!
//! The name that the caller used stays, though we dial an address: the request's own `Host`, else
//! the authority of its URI, else the endpoint's server name, else its address. A request that
//! comes back goes to another endpoint as the caller gave it, so a copy is dressed.

use std::net::SocketAddr;

use http::{
    HeaderValue, Method, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::ext::Protocol;

use super::error::{ProtocolError, SchemeError};
use crate::{
    endpoint::{Address, Endpoint},
    health::is_grpc,
};

/// The name of an endpoint, for requests that bring none.
#[derive(Debug)]
pub(super) struct Name {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

/// Refuses what a connection of scheme `carries` does not carry: what shall be secret must not go in
/// the open, and what says that it is open is likely meant for another balancer.
pub(super) fn check_scheme(uri: &Uri, carries: &Scheme) -> Result<(), SchemeError> {
    match uri.scheme() {
        Some(scheme) if scheme != carries => Err(SchemeError::new(scheme, carries)),
        _ => Ok(()),
    }
}

/// Whether it is a call of gRPC, which only HTTP/2 carries; none of gRPC-Web's, nor one that was made for
/// HTTP/1.1.
fn needs_http2(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && is_grpc(&head.headers)
}

/// Refuses an upgrade that HTTP/2 does not have, and an extended CONNECT that the peer does not allow. An
/// upgrade to HTTP/2 itself is no more than an offer, which has been taken up.
pub(super) fn check_http2(
    head: &Parts,
    allows_extended_connect: impl FnOnce() -> bool,
) -> Result<(), ProtocolError> {
    if head.extensions.get::<Protocol>().is_some() && !allows_extended_connect() {
        return Err(ProtocolError::ExtendedConnectNotAllowed);
    }
    let Some(to) = head.headers.get(UPGRADE) else { return Ok(()) };
    let options = head.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = options.flat_map(|value| value.split(','));
    if to == "h2c" || !options.any(|option| option.trim().eq_ignore_ascii_case("upgrade")) {
        return Ok(());
    }
    Err(ProtocolError::UpgradeOverHttp2)
}

/// Refuses a call of gRPC, and what HTTP/1.1 would take for another thing: an extended CONNECT, for a tunnel.
pub(super) fn check_http1(head: &Parts) -> Result<(), ProtocolError> {
    if needs_http2(head) {
        return Err(ProtocolError::GrpcOverHttp1);
    }
    match head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_some() {
        true => Err(ProtocolError::ExtendedConnectOverHttp1),
        false => Ok(()),
    }
}

// === impl Name ===

impl Name {
    /// The name for connections to `endpoint` that carry `scheme`; `given` is for one without a name.
    pub(super) fn of(endpoint: &Endpoint, scheme: Scheme, given: Option<&str>) -> Self {
        let name = endpoint.server_name().or(given).map(str::to_owned);
        let default_port = if scheme == Scheme::HTTPS { 443 } else { 80 };
        let (authority, host) = [name, Some(authority_of(endpoint.addr(), default_port))]
            .into_iter()
            .flatten()
            .find_map(|text| Some((text.parse().ok()?, HeaderValue::from_str(&text).ok()?)))
            .unwrap_or_else(|| {
                (Authority::from_static("localhost"), HeaderValue::from_static("localhost"))
            });
        Self { scheme, authority, host }
    }

    /// The scheme of the connections that this name is for.
    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Origin-form and a `Host`; CONNECT keeps its authority, `OPTIONS *` its star.
    pub(super) fn dress_http1(&self, head: &mut Parts) {
        if !head.headers.contains_key(HOST) {
            let host = head.uri.authority().and_then(|authority| {
                // User information is no part of a `Host`.
                let text = authority.as_str();
                HeaderValue::from_str(text.rsplit_once('@').map_or(text, |(_, host)| host)).ok()
            });
            head.headers.insert(HOST, host.unwrap_or_else(|| self.host.clone()));
        }
        let mut parts = head.uri.clone().into_parts();
        if head.method == Method::CONNECT && parts.authority.is_some() {
            parts.path_and_query = None;
        } else {
            parts.authority = None;
            parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        }
        parts.scheme = None;
        replace(head, Uri::from_parts(parts).ok(), Version::HTTP_11);
    }

    /// `:scheme` and `:authority`, into which a `Host` moves.
    pub(super) fn dress_http2(&self, head: &mut Parts) {
        let mut parts = head.uri.clone().into_parts();
        let tunnel = head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_none();
        if tunnel && parts.authority.is_some() {
            // The authority is where the tunnel leads; RFC 9113 section 8.5 wants it alone.
            parts.scheme = None;
            parts.path_and_query = None;
        } else {
            let named = head.headers.get(HOST);
            if let Some(named) = named.and_then(|name| Authority::try_from(name.as_bytes()).ok()) {
                parts.authority = Some(named);
                head.headers.remove(HOST);
            }
            parts.authority = match parts.authority {
                Some(named) => without_userinfo(named),
                None => Some(self.authority.clone()),
            };
            parts.scheme = Some(self.scheme.clone());
            parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        }
        replace(head, Uri::from_parts(parts).ok(), Version::HTTP_2);
    }
}

fn replace(head: &mut Parts, uri: Option<Uri>, version: Version) {
    if let Some(uri) = uri {
        head.uri = uri;
    }
    head.version = version;
}

/// The authority as HTTP/2 may carry it: RFC 9113 section 8.3.1 forbids credentials there.
fn without_userinfo(authority: Authority) -> Option<Authority> {
    match authority.as_str().rsplit_once('@') {
        None => Some(authority),
        Some((_, host)) => Authority::try_from(host).ok(),
    }
}

fn authority_of(address: &Address, default_port: u16) -> String {
    match address {
        // Without the scope of an IPv6 address, which means something on this machine only.
        Address::Socket(SocketAddr::V6(address)) => {
            with_port(&format!("[{}]", address.ip()), address.port(), default_port)
        }
        Address::Socket(address) => {
            with_port(&address.ip().to_string(), address.port(), default_port)
        }
        Address::Name { host, port } => with_port(host, *port, default_port),
        Address::Unix(_) => "localhost".to_owned(),
    }
}

fn with_port(host: &str, port: u16, default_port: u16) -> String {
    if port == default_port { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use http::{Request, header::CONTENT_TYPE};

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new(([10, 0, 0, 1], 8080))
    }

    #[test]
    fn only_what_is_grpc_needs_http2() {
        for (kind, version, needs) in [
            ("application/grpc", Version::HTTP_2, true),
            ("application/grpc+proto", Version::HTTP_2, true),
            ("application/grpc; charset=utf-8", Version::HTTP_2, true),
            ("application/grpc-web+proto", Version::HTTP_2, false),
            // A proxy passes on what came by HTTP/2.
            ("application/json", Version::HTTP_2, false),
            ("application/grpc", Version::HTTP_11, false),
        ] {
            let request = Request::post("/").version(version).header(CONTENT_TYPE, kind).body(());
            assert_eq!(needs_http2(&request.unwrap().into_parts().0), needs, "{kind} {version:?}");
        }
        assert!(!needs_http2(&Request::new(()).into_parts().0));
    }

    #[test]
    fn r20_the_name_that_the_caller_used_stays() {
        let named = endpoint().with_server_name("users.shop");
        // endpoint, method, uri, host => HTTP/1.1 target, HTTP/1.1 host, HTTP/2 uri
        let table = [
            (&endpoint(), "GET", "/a?b", None, "/a?b", "10.0.0.1:8080", "http://10.0.0.1:8080/a?b"),
            (&named, "GET", "/a", None, "/a", "users.shop", "http://users.shop/a"),
            (&named, "GET", "http://x.y:1/a", None, "/a", "x.y:1", "http://x.y:1/a"),
            (&named, "GET", "http://x.y:1", None, "/", "x.y:1", "http://x.y:1/"),
            (&named, "GET", "http://u:p@x.y/", None, "/", "x.y", "http://x.y/"),
            (&named, "GET", "http://x.y/a", Some("h.i"), "/a", "h.i", "http://h.i/a"),
            (&named, "GET", "/a", Some("h.i:9"), "/a", "h.i:9", "http://h.i:9/a"),
            (&named, "OPTIONS", "*", None, "*", "users.shop", "http://users.shop*"),
            (
                &named,
                "CONNECT",
                "far.away:443",
                None,
                "far.away:443",
                "far.away:443",
                "far.away:443",
            ),
        ];
        for (endpoint, method, uri, host, target, host1, uri2) in table {
            let name = Name::of(endpoint, Scheme::HTTP, None);
            let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_10);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (given, ()) = request.body(()).unwrap().into_parts();

            let mut head = given.clone();
            name.dress_http1(&mut head);
            assert_eq!(head.uri.to_string(), target, "{method} {uri}");
            assert_eq!(head.headers[HOST], host1, "{method} {uri}");
            assert_eq!(head.version, Version::HTTP_11);

            let mut head = given;
            name.dress_http2(&mut head);
            assert_eq!(head.uri.to_string(), uri2, "{method} {uri}");
            assert!(!head.headers.contains_key(HOST), "{method} {uri}");
            assert_eq!(head.version, Version::HTTP_2);
        }
    }

    #[test]
    fn any_address_makes_a_name() {
        let scoped = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 81, 0, 3);
        for (address, name) in [
            (Address::from(([10, 0, 0, 1], 80)), "10.0.0.1"),
            (SocketAddr::V6(scoped).into(), "[fe80::1]:81"),
            (Address::name("db.internal", 81), "db.internal:81"),
            (Address::name("not a name", 81), "localhost"),
            (Address::unix("/run/a.sock"), "localhost"),
        ] {
            assert_eq!(Name::of(&Endpoint::new(address), Scheme::HTTP, None).authority, name);
        }
        let named = endpoint().with_server_name("not a name");
        assert_eq!(Name::of(&named, Scheme::HTTP, None).authority, "10.0.0.1:8080");
        let secure = Endpoint::new(([10, 0, 0, 1], 443));
        assert_eq!(Name::of(&secure, Scheme::HTTPS, None).authority, "10.0.0.1");
        assert_eq!(Name::of(&secure, Scheme::HTTP, None).authority, "10.0.0.1:443");
    }
}
