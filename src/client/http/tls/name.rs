//! The name that a server is asked for, and that its certificate must bear.

use std::sync::Arc;

use rustls::pki_types::{InvalidDnsNameError, IpAddr, ServerName};

use crate::{
    endpoint::{Address, Endpoint},
    error::BoxError,
};

/// A name that no certificate can bear. The connection is not made.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is no name that a certificate can bear")]
pub struct ServerNameError {
    name: String,
    #[source]
    source: InvalidDnsNameError,
}

/// What to ask for at `endpoint`, if it has no name and `given` none either: its own address.
pub(super) fn of_endpoint(
    endpoint: &Endpoint,
    given: Option<&str>,
) -> Result<ServerName<'static>, BoxError> {
    if let Some(name) = endpoint.server_name().or(given) {
        return Ok(parse(name)?);
    }
    match endpoint.addr() {
        Address::Socket(address) => Ok(ServerName::IpAddress(IpAddr::from(address.ip()))),
        Address::Name { host, .. } => Ok(parse(host)?),
        Address::Unix(_) => Err("over a Unix socket TLS needs the server's name".into()),
    }
}

/// A name or an IP address; without its port, if it has one, and without the dot of the root.
pub(super) fn parse(name: &str) -> Result<ServerName<'static>, ServerNameError> {
    let host = host(name);
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|source| ServerNameError { name: name.to_owned(), source })
}

/// The name that servers of `target` go by, if the target has one.
pub(super) fn of_target(target: &str) -> Option<Arc<str>> {
    let (scheme, rest) = target.trim().split_once("://")?;
    let rest = rest.split(['?', '#']).next()?;
    let name = match scheme.to_ascii_lowercase().as_str() {
        "dns" => host(rest.trim_end_matches('/')).to_owned(),
        // The domain whose service it is (RFC 6125, 1.8): `_http._tcp.users.example.com`.
        "srv" => {
            let labels = rest.trim_end_matches('/').split('.');
            labels.skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join(".")
        }
        "k8s" => {
            let (namespace, service) = rest.trim_start_matches('/').split_once('/')?;
            format!("{}.{namespace}.svc", service.split([':', '/']).next()?)
        }
        _ => return None,
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    // What is no name is left to discovery to complain of.
    parse(name).ok().map(|_| Arc::from(name))
}

/// `host` of `host`, `host:port`, `[ipv6]:port`, `[ipv6]` and `ipv6`.
fn host(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(endpoint: &Endpoint, given: Option<&str>) -> String {
        match of_endpoint(endpoint, given) {
            Ok(name) => name.to_str().into_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// R20: whose word goes first.
    #[test]
    fn r20_the_endpoints_own_name_goes_first_and_its_address_last() {
        let bare = Endpoint::new(([10, 0, 0, 1], 443));
        let named = bare.clone().with_server_name("own.example");
        assert_eq!(asked(&named, Some("given.example")), "own.example");
        assert_eq!(asked(&bare, Some("given.example:8443")), "given.example");
        assert_eq!(asked(&bare, None), "10.0.0.1");
        assert_eq!(asked(&Endpoint::new(Address::name("db.example.", 443)), None), "db.example");
        let sixth = Endpoint::new((std::net::Ipv6Addr::LOCALHOST, 443));
        assert_eq!(asked(&sixth, None), "::1");
        assert_eq!(asked(&sixth, Some("[::2]:443")), "::2");
        let unix = Endpoint::new(Address::unix("/run/a.sock"));
        assert_eq!(asked(&unix, None), "over a Unix socket TLS needs the server's name");
        assert_eq!(asked(&unix, Some("a.example")), "a.example");
        let bad = "`no name` is no name that a certificate can bear";
        assert_eq!(asked(&bare.with_server_name("no name"), None), bad);
    }

    #[test]
    fn targets_have_names_where_they_are_names() {
        for (target, name) in [
            ("dns://users.example.com:443", Some("users.example.com")),
            ("dns://users.example.com.:443?family=ipv4", Some("users.example.com")),
            ("DNS://users", Some("users")),
            ("srv://_http._tcp.users.example.com", Some("users.example.com")),
            ("srv://users.example.com.", Some("users.example.com")),
            ("k8s://shop/cart:grpc", Some("cart.shop.svc")),
            ("k8s://shop/cart", Some("cart.shop.svc")),
            ("static://10.0.0.1:443", None),
            ("dns://:443", None),
            ("custom", None),
        ] {
            assert_eq!(of_target(target).as_deref(), name, "{target}");
        }
    }
}
