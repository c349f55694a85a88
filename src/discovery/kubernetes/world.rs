//! What a watch has seen: the slices of each Service, and how the watch itself does.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{merge::Slices, slice::Slice};
use crate::error::DiscoverError;

/// What a watch publishes. Cheap to clone: whoever looks late finds the latest, and nothing piles up
/// for who does not look.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    services: Arc<HashMap<Arc<str>, Arc<Slices>>>,
    /// A whole list has been seen, so that what is not here does not exist.
    pub(super) listed: bool,
    /// Why the watch does not work, as long as it does not, and a number that tells one report from
    /// the next.
    pub(super) error: Option<(u64, DiscoverError)>,
}

/// What a watch has seen, for itself.
#[derive(Debug, Default)]
pub(super) struct World {
    services: Arc<HashMap<Arc<str>, Arc<Slices>>>,
    /// To which Service a slice belongs, by its name.
    owners: HashMap<Arc<str>, Arc<str>>,
}

// === impl View ===

impl View {
    /// The slices of `service`.
    pub(super) fn slices(&self, service: &str) -> Arc<Slices> {
        self.services.get(service).cloned().unwrap_or_default()
    }

    /// Takes what `world` knows; true if it is anything new.
    pub(super) fn take(&mut self, world: &World) -> bool {
        let differs = !Arc::ptr_eq(&self.services, &world.services);
        self.services = Arc::clone(&world.services);
        differs
    }
}

// === impl World ===

impl World {
    /// The slice called `name` was added or changed; it is `None` if it is of no Service any more.
    pub(super) fn apply(&mut self, (name, slice): (Arc<str>, Option<Slice>)) {
        match slice {
            Some(slice) => self.put(name, slice),
            None => self.remove(&name),
        }
    }

    fn put(&mut self, name: Arc<str>, slice: Slice) {
        if self.owners.get(&name).is_some_and(|owner| *owner != slice.service) {
            self.remove(&name);
        }
        let known = self.services.get(&slice.service).and_then(|slices| slices.get(&name));
        if known.is_some_and(|known| **known == slice) {
            return;
        }
        if slice.of_names && !known.is_some_and(|known| known.of_names) {
            let service = &slice.service;
            tracing::warn!(
                slice = %name, %service,
                "an EndpointSlice of names (FQDN) is left out: only IPv4 and IPv6 have a meaning"
            );
        }
        let services = Arc::make_mut(&mut self.services);
        self.owners.insert(Arc::clone(&name), Arc::clone(&slice.service));
        let slices = services.entry(Arc::clone(&slice.service)).or_default();
        Arc::make_mut(slices).insert(name, Arc::new(slice));
    }

    /// The slice called `name` is gone.
    pub(super) fn remove(&mut self, name: &str) {
        let Some(service) = self.owners.remove(name) else { return };
        let services = Arc::make_mut(&mut self.services);
        let Some(slices) = services.get_mut(&service) else { return };
        Arc::make_mut(slices).remove(name);
        if slices.is_empty() {
            services.remove(&service);
        }
    }

    /// A whole list: what it lacks is gone, and what it repeats is kept as it is.
    pub(super) fn replace(&mut self, listed: Vec<(Arc<str>, Option<Slice>)>) {
        let names: HashSet<&str> = listed.iter().map(|(name, _)| &**name).collect();
        let gone: Vec<Arc<str>> =
            self.owners.keys().filter(|name| !names.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        listed.into_iter().for_each(|slice| self.apply(slice));
    }
}
