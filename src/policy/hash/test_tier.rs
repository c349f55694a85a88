//! Tiers for the tests of tables.

use std::sync::Arc;

use super::{Build, Table};
use crate::{
    endpoint::{Endpoint, Weight},
    node::{Clock, Node},
    policy::Tier,
};

/// Endpoints at 127.0.0.1 with these ports and weights.
pub(super) fn loopback(hosts: &[(u16, u32)]) -> Vec<Endpoint> {
    let endpoint =
        |&(port, weight)| Endpoint::new(([127, 0, 0, 1], port)).with_weight(Weight(weight));
    hosts.iter().map(endpoint).collect()
}

/// Hosts with the ports 90 to 95.
pub(super) fn six() -> Vec<Endpoint> {
    loopback(&[90, 91, 92, 93, 94, 95].map(|port| (port, 1)))
}

/// The six under other ports, with the former as their `what`.
pub(super) fn six_named(what: impl Fn(Endpoint, String) -> Endpoint) -> Vec<Endpoint> {
    let named = |port: u16| what(Endpoint::new(([127, 0, 0, 1], port + 1_000)), port.to_string());
    [90, 91, 92, 93, 94, 95].map(named).into()
}

pub(super) fn table<P: Build>(policy: P, endpoints: &[Endpoint]) -> P::Table {
    let nodes: Vec<Arc<Node>> = endpoints.iter().map(Node::standalone).collect();
    let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight().0).collect();
    policy.table(&Tier::new(&nodes, &weights, 0, 1, Clock::default().now()))
}

pub(super) fn owner(table: &impl Table, key: u64) -> usize {
    table.find(key, |_| true).expect("every node is accepted")
}

/// The nodes in the order in which a request that tries one after the other meets them.
pub(super) fn order(table: &impl Table, key: u64) -> Vec<usize> {
    let mut tried = Vec::new();
    while let Some(next) = table.find(key, |index| !tried.contains(&index)) {
        tried.push(next);
    }
    tried
}
