//! From names with addresses to endpoints: ports, priorities and weights.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::proto::rr::Name;

use super::answer::{Family, Service};
use crate::endpoint::{Endpoint, Priority, Weight};

/// A name whose addresses serve.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
    priority: u16,
    /// Of all its addresses together; without one each of them counts as one.
    weight: Option<u16>,
}

/// Weights of sites with several addresses are told in parts of a whole that most numbers of
/// addresses divide, and that leaves room for the largest weight.
const MOST_PARTS: u32 = 5_040;

// === impl Site ===

impl Site {
    pub(super) fn host(name: Name, port: u16) -> Self {
        Self { name, port, addresses: Vec::new(), priority: 0, weight: None }
    }

    pub(super) fn service(service: Service, ignore_weight: bool) -> Self {
        let Service { target, port, priority, weight, addresses } = service;
        let weight = if ignore_weight { None } else { Some(weight) };
        Self { name: target, port, addresses, priority, weight }
    }

    /// RFC 2782: a target of "." means that the service is decidedly not available.
    pub(super) fn is_unavailable(&self) -> bool {
        self.name.is_root()
    }

    /// Whether it can be connected to, once it has addresses.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_unavailable() && self.port != 0
    }

    /// Whether its addresses of this family came along with its record. A set of records is sent whole
    /// or not at all (RFC 2181 5), but one of two may be left out.
    pub(super) fn came_along(&self, family: Family) -> bool {
        self.of(family).next().is_some()
    }

    /// Its addresses of this family.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied().filter(move |address| match family {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
            Family::All => true,
        })
    }
}

/// The endpoints of `sites`, in an order of their own, each once. Of one that is there twice the
/// more preferred counts.
pub(super) fn endpoints(sites: &[Site], server_name: Option<&Arc<str>>) -> Vec<Endpoint> {
    let mut sites: Vec<_> = sites.to_vec();
    for site in &mut sites {
        site.addresses.sort_unstable();
        site.addresses.dedup();
    }
    let parts = parts(&sites);
    let mut found: Vec<(u16, SocketAddr, Weight)> = Vec::new();
    for site in &sites {
        let share = share(site, parts);
        for &address in &site.addresses {
            found.push((site.priority, SocketAddr::new(address, site.port), share));
        }
    }
    found.sort_unstable();
    let mut seen = HashSet::new();
    found.retain(|(_, address, _)| seen.insert(*address));
    let endpoint = |(priority, address, weight)| {
        let endpoint = Endpoint::new(address).with_priority(Priority(u32::from(priority)));
        let endpoint = endpoint.with_weight(weight);
        match server_name {
            Some(name) => endpoint.with_server_name(Arc::clone(name)),
            None => endpoint,
        }
    };
    found.into_iter().map(endpoint).collect()
}

/// What one address of `site` weighs: a weight is that of the target, however many addresses it has.
fn share(site: &Site, parts: u32) -> Weight {
    let Some(weight) = site.weight else { return Weight::default() };
    let addresses = u32::try_from(site.addresses.len()).unwrap_or(u32::MAX).max(1);
    // RFC 2782 draws from 0 to the sum of all weights, so weight 0 comes up once in (sum + 1): as
    // often as a weight of 1 would.
    Weight((u32::from(weight).max(1) * parts / addresses).max(1))
}

/// The least number that all numbers of addresses divide, up to a limit.
fn parts(sites: &[Site]) -> u32 {
    let mut all = 1_u32;
    for site in sites.iter().filter(|site| !site.addresses.is_empty()) {
        let addresses = u32::try_from(site.addresses.len()).unwrap_or(u32::MAX);
        let multiple = u64::from(all / divisor(all, addresses)) * u64::from(addresses);
        match u32::try_from(multiple) {
            Ok(multiple) if multiple <= MOST_PARTS => all = multiple,
            _ => return MOST_PARTS,
        }
    }
    all
}

/// The greatest common divisor.
fn divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str, priority: u16, weight: u16, addresses: &[u8]) -> Site {
        let service = Service {
            target: name.parse().unwrap(),
            port: 80,
            priority,
            weight,
            addresses: addresses.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect(),
        };
        Site::service(service, false)
    }

    fn weights(sites: &[Site]) -> Vec<(String, u32, u32)> {
        endpoints(sites, None)
            .iter()
            .map(|one| (one.to_string(), one.priority().0, one.weight().0))
            .collect()
    }

    fn listed(rows: &[(u8, u32, u32)]) -> Vec<(String, u32, u32)> {
        rows.iter().map(|(last, p, w)| (format!("10.0.0.{last}:80"), *p, *w)).collect()
    }

    /// R22: weights are those of the records; 0 is small, and never nothing (RFC 2782).
    #[test]
    fn r22_weights_are_honoured_and_zero_is_small() {
        let sites = [site("a.", 0, 10, &[1]), site("b.", 0, 60, &[2]), site("c.", 0, 0, &[3])];
        assert_eq!(weights(&sites), listed(&[(1, 0, 10), (2, 0, 60), (3, 0, 1)]));
        let sites = [site("a.", 0, 0, &[1]), site("b.", 0, 0, &[2])];
        assert_eq!(weights(&sites), listed(&[(1, 0, 1), (2, 0, 1)]));
    }

    /// R22: a target of three addresses gets its weight once, not three times.
    #[test]
    fn r22_a_weight_is_shared_by_the_addresses_of_its_target() {
        let sites = [site("a.", 0, 1, &[1, 2, 3]), site("b.", 0, 2, &[4, 5])];
        assert_eq!(
            weights(&sites),
            listed(&[(1, 0, 2), (2, 0, 2), (3, 0, 2), (4, 0, 6), (5, 0, 6)])
        );
        // Beyond what divides evenly it is right to a part in some thousands, and never 0.
        let many: Vec<u8> = (1..=97).collect();
        let sites = [site("a.", 0, 65_535, &many), site("b.", 0, 0, &[98])];
        let weights = weights(&sites);
        let sum: u64 = weights[..97].iter().map(|(_, _, weight)| u64::from(*weight)).sum();
        let exact = 65_535.0 * f64::from(weights[97].2);
        assert!((sum as f64 / exact - 1.0).abs() < 1e-3, "{sum} {exact}");
    }

    /// Sorted whatever the order of the records; of duplicates the more preferred one stands.
    #[test]
    fn r22_endpoints_are_sorted_and_each_once() {
        let sites =
            [site("c.", 2, 1, &[9, 1]), site("a.", 1, 5, &[7, 3, 7]), site("b.", 2, 7, &[3])];
        let expected = listed(&[(3, 1, 5), (7, 1, 5), (1, 2, 1), (9, 2, 1)]);
        assert_eq!(weights(&sites), expected);
        let mut turned = sites.to_vec();
        turned.reverse();
        assert_eq!(weights(&turned), expected);
    }

    #[test]
    fn a_host_has_no_weights() {
        let mut host = Site::host("a.".parse().unwrap(), 80);
        host.addresses = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1])];
        assert_eq!(weights(&[host]), listed(&[(1, 0, 1), (2, 0, 1)]));
    }
}
