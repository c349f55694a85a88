//! What a new set changes: by identity for connections, by value for the rest.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Instant,
};

use super::{
    apply::{Applying, Settling},
    make::MakeEndpoint,
    turns::Turn,
};
use crate::{
    discovery::Endpoints,
    endpoint::{Endpoint, Identity},
    node::{Dial, Fleet, Link, Node, TriedPlaces},
};

/// The nodes that discovery lists, and those that it listed and that requests still hold.
#[derive(Debug)]
pub(crate) struct Roster<S> {
    pub(super) listed: Vec<Member<S>>,
    pub(super) index: HashMap<Identity, usize>,
    /// No longer listed, but still in the snapshot that requests see.
    pub(super) leaving: HashMap<Identity, Member<S>>,
    pub(super) draining: HashMap<Identity, Draining<S>>,
    /// Clients of services that were made anew. Those that run nothing any more are gone, or soon.
    replaced: Vec<Replaced>,
    next_id: u64,
    pub(super) fleet: Arc<Fleet>,
}

/// A node with what talks to it.
#[derive(Debug)]
pub(crate) struct Member<S> {
    pub(crate) node: Arc<Node>,
    pub(crate) service: S,
    /// What counts for its weight, where a subset has a part of it only.
    pub(crate) share: Option<u32>,
    pub(super) endpoint: Endpoint,
}

#[derive(Debug)]
pub(super) struct Draining<S> {
    pub(super) member: Member<S>,
    pub(super) until: Instant,
}

/// What had a service before it was made anew; requests may run on there until then.
#[derive(Debug)]
struct Replaced {
    client: Weak<dyn Dial>,
    until: Instant,
}

/// What a set changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Diff {
    pub(crate) added: usize,
    pub(crate) removed: usize,
    pub(crate) changed: usize,
    /// Endpoints that cannot be dialled, and so are left out.
    pub(crate) invalid: Vec<Endpoint>,
}

// === impl Roster ===

impl<S> Roster<S> {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            listed: Vec::new(),
            index: HashMap::new(),
            leaving: HashMap::new(),
            draining: HashMap::new(),
            replaced: Vec::new(),
            next_id: 0,
            fleet,
        }
    }

    pub(crate) fn listed(&self) -> &[Member<S>] {
        &self.listed
    }

    /// The set becomes `endpoints`, in one go; a driver takes it in [portions](Applying). Nodes of
    /// endpoints that stay are kept, whatever of their value changed; one that comes back while it
    /// drains is the same node again. Of duplicates the first counts. Once requests no longer see
    /// those that leave, [`settle`](Self::settle) them.
    pub(crate) fn apply<M>(&mut self, endpoints: Endpoints, make: &M) -> Diff
    where
        M: MakeEndpoint<Service = S>,
    {
        let mut applying = Applying::begin(Arc::new(endpoints), self);
        loop {
            if let Some(diff) = applying.go_on(self, make, &mut Turn::endless()) {
                return diff;
            }
        }
    }

    /// Sets the shares of the listed, in their order; true if one changed.
    pub(crate) fn take_shares(&mut self, share: impl Fn(usize) -> Option<u32>) -> bool {
        let mut changed = false;
        for (index, member) in self.listed.iter_mut().enumerate() {
            let share = share(index);
            changed |= member.share != share;
            member.share = share;
        }
        changed
    }

    /// The node of an endpoint that was listed before and is not gone yet, listed once more.
    pub(super) fn revive(&mut self, endpoint: &Endpoint) -> Option<Member<S>> {
        let identity = endpoint.identity();
        let leaving = self.leaving.remove(identity);
        let mut member = leaving.or_else(|| Some(self.draining.remove(identity)?.member))?;
        member.node.revive();
        // While it was away nobody ended its backoff.
        member.node.attend();
        member.take_value(endpoint);
        tracing::debug!(%endpoint, "endpoint added again before it was gone");
        Some(member)
    }

    /// Retires all nodes that left; see [`Settling`].
    pub(crate) fn settle(&mut self, until: Instant) {
        let mut settling = Settling::begin(self, until);
        while !settling.go_on(self, &mut Turn::endless()) {}
    }

    pub(super) fn create<M>(
        &mut self,
        endpoint: Endpoint,
        make: &M,
        tried: &mut TriedPlaces,
    ) -> Member<S>
    where
        M: MakeEndpoint<Service = S>,
    {
        let node = Node::placed(self.next_id, &endpoint, Arc::clone(&self.fleet), tried);
        self.next_id += 1;
        let service = make.make(&endpoint, Link::new(Arc::clone(&node)));
        tracing::debug!(%endpoint, "endpoint added");
        Member { node, service, share: None, endpoint }
    }

    /// Makes the service of `node` anew, and gives what runs on the one before time `until` then; false if
    /// it is not listed.
    pub(crate) fn remake<M>(&mut self, node: &Arc<Node>, make: &M, until: Instant) -> bool
    where
        M: MakeEndpoint<Service = S>,
    {
        let Some(member) = self.listed.iter_mut().find(|member| Arc::ptr_eq(&member.node, node))
        else {
            return false;
        };
        self.replaced.retain(|replaced| replaced.client.strong_count() > 0);
        self.replaced.extend(node.link.renew().map(|client| Replaced { client, until }));
        member.service = make.make(&member.endpoint, Link::new(Arc::clone(node)));
        true
    }

    /// Lets go of `node` if it drains and no request holds it any longer.
    pub(crate) fn release(&mut self, node: &Node) {
        let endpoint = node.endpoint();
        let identity = endpoint.identity();
        // An earlier node of the same endpoint may have been cut off, and its request have gone on.
        let drains = self.draining.get(identity).is_some_and(|of| of.member.node.id() == node.id());
        if drains && node.is_retired() && node.in_flight() == 0 {
            tracing::debug!(endpoint = %node, "endpoint drained");
            // While the service is still there, which may own what is closed.
            node.close();
            self.draining.remove(identity);
        }
    }

    /// Cuts off what drains for too long.
    pub(crate) fn cut_overdue(&mut self, now: Instant) {
        self.draining.retain(|_, draining| {
            let overdue = draining.until <= now;
            if overdue {
                let node = &draining.member.node;
                tracing::info!(endpoint = %node, in_flight = node.in_flight(), "drain timed out");
                node.cut();
            }
            !overdue
        });
        self.replaced.retain(|replaced| {
            let overdue = replaced.until <= now;
            if let Some(client) = replaced.client.upgrade().filter(|_| overdue) {
                client.cut();
            }
            !overdue
        });
    }

    pub(crate) fn next_overdue(&self) -> Option<Instant> {
        let draining = self.draining.values().map(|draining| draining.until);
        draining.chain(self.replaced.iter().map(|replaced| replaced.until)).min()
    }

    /// All that there are.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        let members = self.listed.iter().chain(self.leaving.values());
        members.map(|member| &member.node).chain(self.draining())
    }

    pub(crate) fn draining(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.draining.values().map(|draining| &draining.member.node)
    }
}

/// Whether there is something at which the endpoint can be reached.
pub(crate) fn can_be_dialled(endpoint: &Endpoint) -> bool {
    endpoint.addresses().all(|address| address.port() != Some(0))
}

// === impl Member ===

impl<S> Member<S> {
    /// Takes the endpoint's value; true if it changed.
    pub(super) fn take_value(&mut self, endpoint: &Endpoint) -> bool {
        if self.endpoint == *endpoint {
            return false;
        }
        self.node.replace_endpoint(endpoint);
        self.endpoint = endpoint.clone();
        true
    }
}

// === impl Diff ===

impl Diff {
    pub(crate) fn is_empty(&self) -> bool {
        self.added + self.removed + self.changed == 0
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
