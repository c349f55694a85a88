//! Which nodes are dialled, and when again.

use std::sync::Arc;

use super::Driver;
use crate::{
    discovery::Endpoints,
    error::SharedError,
    node::{Node, after},
    policy::{Preconnect, Scope},
    pool::{dials::Rested, make::MakeEndpoint, upkeep::Upkeep},
};

impl<M, K> Driver<M, K>
where
    M: MakeEndpoint,
    K: Clone + Send + Sync + 'static,
{
    pub(super) fn attend(&mut self, node: &Arc<Node>) {
        node.attended();
        self.dials.attend(node);
        if node.link.is_failed() {
            self.refresh.request();
        }
        if node.is_retired() {
            self.roster.release(node);
            self.drained = true;
        }
    }

    pub(super) async fn on_time(&mut self) {
        let now = self.fleet.now();
        if self.clear_at.is_some_and(|at| at <= now) {
            self.clear_at = None;
            self.apply(Endpoints::default()).await;
        }
        if self.roster.next_overdue().is_some_and(|at| at <= now) {
            self.roster.cut_overdue(now);
            self.drained = true;
        }
        if self.rebuild_at.is_some_and(|at| at <= now) {
            self.outdated = true;
        }
        for node in self.dials.silent(&self.fleet) {
            node.fail_link(SharedError::new("the client did not say how its dial went"));
        }
        let drained = after(now, self.limits.drain_timeout);
        let mut fit = Vec::new();
        for rested in self.dials.rested(&self.fleet) {
            match rested {
                Rested::Fit(node) => fit.push(node),
                Rested::Unfit(node) => {
                    if self.roster.remake(&node, &self.make, drained) {
                        self.outdated = true;
                        self.remade.push(node);
                    }
                }
            }
        }
        self.dial_again(fit);
    }

    /// Ends the backoff of nodes whose service requests see, and has those dialled that are to be without
    /// being wanted.
    pub(super) fn dial_again(&mut self, nodes: Vec<Arc<Node>>) {
        if nodes.is_empty() {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        let always = self.scope() == Scope::Listed;
        // A policy that keeps one node connected says itself which.
        let skips = self.preconnect() == Preconnect::Many;
        let tiers = snapshot.tiers.iter();
        let tiers = tiers.map(|tier| (&*tier.nodes, skips && tier.gate.is_shut()));
        let mut upkeep = Upkeep::of(tiers, self.keep_connected());
        for node in nodes {
            node.end_backoff();
            if node.link.is_idle() && (always || upkeep.takes(&node)) {
                self.dials.want(node);
            }
        }
    }

    /// How many nodes are kept connected, whichever they are.
    pub(super) fn keep_connected(&self) -> usize {
        match self.preconnect() {
            Preconnect::Many => self.limits.keep_connected,
            Preconnect::Next => 0,
        }
    }

    /// Under a policy that wants one node connected: dials that, if it is idle.
    pub(super) fn connect_next(&mut self) {
        if self.preconnect() != Preconnect::Next || self.limits.keep_connected == 0 {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        if let Some(node) = snapshot.next(&self.fleet).filter(|node| node.link.is_idle()) {
            self.dials.want(Arc::clone(node));
        }
    }
}
