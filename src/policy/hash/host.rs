//! The text that stands for a node in a table.

use super::super::Tier;
use crate::{
    endpoint::{Address, Endpoint},
    node::Node,
};

/// The metadata key under which gRPC has an endpoint's own hash key (gRFC A76); the default
/// profiles heed it, too.
const HASH_KEY: &str = "hash_key";
/// The same in Envoy: the key `hash_key` of the filter `envoy.lb`.
const ENVOY_HASH_KEY: &str = "envoy.lb.hash_key";

/// The hash of what a default profile knows a node by: its own `hash_key`, or else its identity.
pub(super) fn seed(node: &Node) -> u64 {
    match given(&node.endpoint(), HASH_KEY) {
        Some(key) => super::super::hash_bytes(key.as_bytes()),
        None => node.hash(),
    }
}

/// As gRPC names an endpoint: its `hash_key`, or else its first address.
pub(super) fn grpc(endpoint: &Endpoint) -> String {
    given(endpoint, HASH_KEY).map_or_else(|| endpoint.addr().to_string(), str::to_owned)
}

/// As Envoy names a host: its `hash_key`, its host name if that is to be used, or else its address.
pub(super) fn envoy(endpoint: &Endpoint, by_host_name: bool) -> String {
    if let Some(key) = given(endpoint, ENVOY_HASH_KEY) {
        return key.to_owned();
    }
    let address = match endpoint.addr() {
        Address::Unix(path) => path.display().to_string(),
        address => address.to_string(),
    };
    match (endpoint.server_name(), endpoint.addr()) {
        (Some(name), _) if by_host_name => name.to_owned(),
        (None, Address::Name { host, .. }) if by_host_name => host.to_string(),
        _ => address,
    }
}

/// As nginx and memcached clients name a server: the text of their configuration, which `hash_key`
/// gives where it is not the address.
pub(super) fn configured(endpoint: &Endpoint) -> String {
    grpc(endpoint)
}

/// Which node has each of `names`, in the order of the names.
pub(super) fn sorted(mut names: Vec<String>) -> Vec<(String, usize)> {
    let mut sorted: Vec<_> =
        names.iter_mut().map(std::mem::take).enumerate().map(|(at, name)| (name, at)).collect();
    sorted.sort();
    sorted
}

/// The name of each node of a tier.
pub(super) fn names(tier: &Tier<'_>, name: impl Fn(&Endpoint) -> String) -> Vec<String> {
    tier.nodes().iter().map(|node| name(&node.endpoint())).collect()
}

fn given<'a>(endpoint: &'a Endpoint, key: &str) -> Option<&'a str> {
    endpoint.metadata().get(key).map(|key| &**key).filter(|key| !key.is_empty())
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    /// Envoy's `bounded_load_hlb_test.cc`, `HashingLoadBalancerTest.HashKey`.
    #[test]
    fn envoy_names_hosts_as_it_does() {
        let plain = Endpoint::new(([127, 0, 0, 1], 90)).with_server_name("hostname");
        assert_eq!(envoy(&plain, false), "127.0.0.1:90");
        assert_eq!(envoy(&plain, true), "hostname");
        let keyed = plain.with_metadata("envoy.lb.hash_key", "hash_key");
        assert_eq!(envoy(&keyed, false), "hash_key");
        assert_eq!(envoy(&keyed, true), "hash_key");
        let empty = keyed.with_metadata("envoy.lb.hash_key", "");
        assert_eq!(envoy(&empty, false), "127.0.0.1:90");
        assert_eq!(envoy(&Endpoint::new(Address::unix("/run/a")), true), "/run/a");
    }

    /// gRFC A76: the attribute `hash_key`, or else the first address.
    #[test]
    fn grpc_names_endpoints_as_it_does() {
        let plain = Endpoint::new(([127, 0, 0, 1], 90)).with_server_name("hostname");
        assert_eq!(grpc(&plain), "127.0.0.1:90");
        assert_eq!(grpc(&plain.with_metadata("hash_key", "a")), "a");
    }
}
