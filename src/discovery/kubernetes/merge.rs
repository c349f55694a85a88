//! The slices of one Service, merged to its endpoints.
//!
//! An address may stand in several slices, since it moves between them in two steps, and a pod in
//! the slices of both address families. A changed slice costs what is in it; the others are not
//! looked at again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    net::SocketAddr,
    sync::Arc,
};

use super::{
    port::{ServicePort, Wanted},
    slice::{Class, Entry, Pod, Slice},
    world::Change,
};
use crate::{
    discovery::{Endpoints, Reason, Update},
    endpoint::{Address, Endpoint, Protocol},
    error::DiscoverError,
};

/// The slices of one Service, by their names.
pub(super) type Slices = BTreeMap<Arc<str>, Arc<Slice>>;

/// The endpoints of one port of a Service.
#[derive(Debug)]
pub(super) struct Merge {
    port: Wanted,
    slices: Slices,
    /// How many of them leave it open which port is meant.
    unclear: usize,
    places: HashMap<SocketAddr, Place>,
    /// The addresses of each server, IPv4 before IPv6.
    servers: HashMap<Server, BTreeSet<SocketAddr>>,
    /// In one order everywhere.
    listed: BTreeMap<Server, (Class, Endpoint)>,
    ready: usize,
}

/// An address, as its slices have it.
#[derive(Debug, Default)]
struct Place {
    claims: Vec<Claim>,
    /// Whose address it is, by the claim that counts.
    owner: Option<Server>,
}

/// What one slice says of an address.
#[derive(Debug)]
struct Claim {
    slice_name: Arc<str>,
    slice: Arc<Slice>,
    at: usize,
    protocol: Protocol,
}

/// What the addresses of one endpoint have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Server {
    Pod(Pod, u16),
    /// Nothing tells what is behind it, and so of no other address that it is the same.
    Address(SocketAddr),
}

/// Which of the listed endpoints changed.
#[derive(Default)]
struct Changed {
    ready: bool,
    last_resort: bool,
}

// === impl Merge ===

impl Merge {
    pub(super) fn new(port: ServicePort) -> Self {
        Self::of(Wanted::new(port))
    }

    fn of(port: Wanted) -> Self {
        Self {
            port,
            slices: Slices::new(),
            unclear: 0,
            places: HashMap::new(),
            servers: HashMap::new(),
            listed: BTreeMap::new(),
            ready: 0,
        }
    }

    /// The slices are those of a new watch from now on: of the endpoints nothing is left. The Service is
    /// the same, and so is the port that it had.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::of(self.port.clone());
    }

    /// These slices changed; true if the endpoints to use are others than before.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> bool {
        let mut touched = HashSet::new();
        for (name, slice) in changes {
            if let Some(before) = self.slices.remove(&name) {
                self.unclear -= usize::from(self.port.is_unclear_in(&before));
                for (_, address, _) in entries(&self.port, &before) {
                    if let Some(place) = self.places.get_mut(&address) {
                        place.claims.retain(|claim| claim.slice_name != name);
                        touched.insert(address);
                    }
                }
            }
            let Some(slice) = slice else { continue };
            for (at, address, protocol) in entries(&self.port, &slice) {
                let (slice_name, slice) = (Arc::clone(&name), Arc::clone(&slice));
                let place = self.places.entry(address).or_default();
                place.claims.push(Claim { slice_name, slice, at, protocol });
                touched.insert(address);
            }
            self.unclear += usize::from(self.port.is_unclear_in(&slice));
            self.slices.insert(name, slice);
        }
        // Not before they are all clear again: what an unclear slice is taken to mean must not change.
        if self.unclear == 0 {
            self.port.settle(self.slices.values().map(|slice| &**slice));
        }
        let had_ready = self.ready > 0;
        let mut changed = Changed::default();
        for server in self.owners(touched) {
            self.renew(server, &mut changed);
        }
        let has_ready = self.ready > 0;
        had_ready != has_ready || if has_ready { changed.ready } else { changed.last_resort }
    }

    /// Gives the addresses to those that own them now; says whom that concerns.
    fn owners(&mut self, addresses: HashSet<SocketAddr>) -> HashSet<Server> {
        let mut concerned = HashSet::new();
        for address in addresses {
            let Some(place) = self.places.get_mut(&address) else { continue };
            let owner = place.best().map(|claim| Server::of(claim.entry(), address));
            if let Some(former) = mem::replace(&mut place.owner, owner.clone()) {
                if let Some(addresses) = self.servers.get_mut(&former) {
                    addresses.remove(&address);
                }
                concerned.insert(former);
            }
            match owner {
                Some(owner) => {
                    self.servers.entry(owner.clone()).or_default().insert(address);
                    concerned.insert(owner);
                }
                None => drop(self.places.remove(&address)),
            }
        }
        concerned
    }

    /// Lists the endpoint of `server` as it is now.
    fn renew(&mut self, server: Server, changed: &mut Changed) {
        let now = self.endpoint(&server);
        if self.servers.get(&server).is_some_and(BTreeSet::is_empty) {
            self.servers.remove(&server);
        }
        let before = match now.clone() {
            Some(now) => self.listed.insert(server, now),
            None => self.listed.remove(&server),
        };
        let class = |listed: &Option<(Class, Endpoint)>| listed.as_ref().map(|(class, _)| *class);
        let is = |listed: &Option<(Class, Endpoint)>, of: Class| class(listed) == Some(of);
        if before != now {
            changed.ready |= is(&before, Class::Ready) || is(&now, Class::Ready);
            changed.last_resort |= is(&before, Class::LastResort) || is(&now, Class::LastResort);
        }
        self.ready += usize::from(is(&now, Class::Ready));
        self.ready -= usize::from(is(&before, Class::Ready));
    }

    /// The endpoint of `server`; `None` if it is not to be used.
    fn endpoint(&self, server: &Server) -> Option<(Class, Endpoint)> {
        let addresses = self.servers.get(server)?;
        let best = addresses.iter().filter_map(|address| self.places.get(address)?.best());
        let best: Vec<&Claim> = best.collect();
        // A pod is ready or not as a whole; that one of its slices lags must not change its identity.
        let class = best.iter().map(|claim| claim.entry().class).max()?;
        let (claim, first) = (best.first()?, *addresses.first()?);
        if class == Class::Out {
            return None;
        }
        let endpoint = Endpoint::new(first)
            .with_more_addresses(addresses.iter().skip(1).copied().map(Address::from))
            .with_protocol(claim.protocol)
            .with_locality(claim.entry().locality(class));
        // The allocation is kept where nothing changed, which makes the next comparison cheap.
        let kept = self.listed.get(server).filter(|(_, listed)| *listed == endpoint);
        Some((class, kept.map_or(endpoint, |(_, listed)| listed.clone())))
    }

    /// The endpoints to use: those that are ready, else those that still serve while they terminate.
    pub(super) fn set(&self) -> Endpoints {
        let wanted = if self.ready > 0 { Class::Ready } else { Class::LastResort };
        let used = self.listed.values().filter(|(class, _)| *class == wanted);
        used.map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// What to say if there is no endpoint to use.
    pub(super) fn nothing(&self, service: &str) -> Option<Update> {
        if let Some(error) = self.doubt(service).filter(|_| !self.port.is_settled()) {
            return Some(Update::Failed(error));
        }
        // What is out of use is not listed.
        self.listed.is_empty().then(|| self.why_nothing(service))
    }

    /// What is wrong though there may be endpoints to use.
    pub(super) fn doubt(&self, service: &str) -> Option<DiscoverError> {
        let slices = self.slices.values().map(|slice| &**slice);
        (self.unclear > 0).then(|| Wanted::unclear(service, slices))
    }

    fn why_nothing(&self, service: &str) -> Update {
        let slices = self.slices.values();
        let resolved = slices.clone().filter(|slice| self.port.of(slice).is_some()).count();
        if self.slices.is_empty() {
            return Update::Empty(Reason::says(format!(
                "{service} has no EndpointSlice: there is no such Service, or it selects nothing"
            )));
        }
        if slices.clone().all(|slice| slice.of_names) {
            let text = format!("{service} has names instead of addresses, which nothing serves");
            return Update::Empty(Reason::says(text));
        }
        if resolved == 0 && slices.clone().any(|slice| !slice.endpoints.is_empty()) {
            return self.port.unresolved(service, slices.map(|slice| &**slice));
        }
        let known = self.places.len();
        let text = format!("{service} has no endpoint that is ready, of {known} that are known");
        Update::Empty(Reason::says(text))
    }
}

/// The entries of `slice` that have `port`: the place in the slice, and where they listen.
fn entries<'a>(
    port: &Wanted,
    slice: &'a Slice,
) -> impl Iterator<Item = (usize, SocketAddr, Protocol)> + use<'a> {
    let found = port.of(slice);
    slice.endpoints.iter().enumerate().filter_map(move |(at, entry)| {
        let (port, protocol) = found?;
        Some((at, SocketAddr::new(entry.address, port), protocol))
    })
}

// === impl Place ===

impl Place {
    /// The claim that counts: that of the most usable, since an address that moves is stale in one
    /// of its slices; of equals the one in the slice of the first name.
    fn best(&self) -> Option<&Claim> {
        let order = |claim: &&Claim| {
            (claim.entry().class, std::cmp::Reverse(Arc::clone(&claim.slice_name)))
        };
        self.claims.iter().max_by_key(order)
    }
}

// === impl Claim ===

impl Claim {
    fn entry(&self) -> &Entry {
        &self.slice.endpoints[self.at]
    }
}

// === impl Server ===

impl Server {
    fn of(entry: &Entry, address: SocketAddr) -> Self {
        match &entry.pod {
            Some(pod) => Self::Pod(pod.clone(), address.port()),
            None => Self::Address(address),
        }
    }
}

#[cfg(test)]
mod tests;
