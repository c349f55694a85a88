//! What a watch has seen, how the watch itself does, and who is told of what.
//!
//! Whoever reads gets the slices of its Service that changed since it last looked, and is woken for
//! those alone: an event costs what is in its slice, however many slices, Services and readers there
//! are. For who looks late only the latest of each slice is kept, so that nothing piles up.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{merge::Slices, slice::Slice};
use crate::error::DiscoverError;

/// How a watch does.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// A whole list has been seen, so that what is not here does not exist.
    pub(super) listed: bool,
    /// Why the watch does not work, as long as it does not, and a number that tells one report from
    /// the next.
    pub(super) error: Option<(u64, DiscoverError)>,
}

/// What a watch knows. Written by its task alone.
#[derive(Debug, Default)]
pub(super) struct World(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    standing: Standing,
    services: HashMap<Arc<str>, Slices>,
    /// To which Service a slice belongs, by its name.
    owners: HashMap<Arc<str>, Arc<str>>,
    readers: HashMap<Arc<str>, Vec<Arc<Mailbox>>>,
    /// The watch's task is gone.
    ended: bool,
}

/// A slice by its name, as the server has it now.
pub(super) type Seen = (Arc<str>, Option<Slice>);

/// A slice by its name, and what became of it: `None` if it is gone.
pub(super) type Change = (Arc<str>, Option<Arc<Slice>>);

/// One who reads the slices of a Service.
#[derive(Debug)]
pub(super) struct Reader {
    world: Arc<World>,
    service: Arc<str>,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    news: Notify,
    changes: Mutex<HashMap<Arc<str>, Pending>>,
}

#[derive(Debug)]
struct Pending {
    slice: Option<Arc<Slice>>,
    /// The reader has an earlier one of that name.
    known: bool,
}

// === impl World ===

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }

    /// Takes what was seen, all of it in one moment, and how the watch does now, as `stand` changes it;
    /// wakes those whom it concerns.
    pub(super) fn take(&self, seen: Vec<Seen>, stand: impl FnOnce(&mut Standing) -> bool) {
        let mut inner = self.lock();
        seen.into_iter().for_each(|seen| inner.apply(seen));
        inner.stand(stand);
    }

    /// The same with a whole list: what it lacks is gone, and what it repeats is kept as it is.
    pub(super) fn replace(&self, listed: Vec<Seen>, stand: impl FnOnce(&mut Standing) -> bool) {
        let mut inner = self.lock();
        let names: HashSet<&str> = listed.iter().map(|(name, _)| &**name).collect();
        let gone: Vec<Arc<str>> =
            inner.owners.keys().filter(|name| !names.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| inner.remove(name));
        listed.into_iter().for_each(|seen| inner.apply(seen));
        inner.stand(stand);
    }

    /// Nothing will be seen any more.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.wake_all();
    }

    /// Reads `service` from now on, beginning with all that is known of it.
    pub(super) fn read(self: &Arc<Self>, service: &Arc<str>) -> Reader {
        let mailbox = Arc::new(Mailbox::default());
        let mut inner = self.lock();
        for (name, slice) in inner.services.get(service).into_iter().flatten() {
            mailbox.put(name, slice, false);
        }
        inner.readers.entry(Arc::clone(service)).or_default().push(Arc::clone(&mailbox));
        if inner.ended {
            mailbox.news.notify_one();
        }
        drop(inner);
        Reader { world: Arc::clone(self), service: Arc::clone(service), mailbox }
    }
}

// === impl Inner ===

impl Inner {
    /// The slice was added or changed; it is `None` if it is of no Service any more, or gone.
    fn apply(&mut self, (name, slice): Seen) {
        match slice {
            Some(slice) => self.put(name, slice),
            None => self.remove(&name),
        }
    }

    fn put(&mut self, name: Arc<str>, slice: Slice) {
        if self.owners.get(&name).is_some_and(|owner| *owner != slice.service) {
            self.remove(&name);
        }
        let service = Arc::clone(&slice.service);
        let slices = self.services.entry(Arc::clone(&service)).or_default();
        let known = slices.get(&name);
        if known.is_some_and(|known| **known == slice) {
            return;
        }
        if slice.of_names && !known.is_some_and(|known| known.of_names) {
            tracing::warn!(
                slice = %name, %service,
                "an EndpointSlice of names (FQDN) is left out: only IPv4 and IPv6 have a meaning"
            );
        }
        let slice = Arc::new(slice);
        let known = slices.insert(Arc::clone(&name), Arc::clone(&slice)).is_some();
        for reader in self.readers.get(&service).into_iter().flatten() {
            reader.put(&name, &slice, known);
            reader.news.notify_one();
        }
        self.owners.insert(name, service);
    }

    fn remove(&mut self, name: &str) {
        let Some(service) = self.owners.remove(name) else { return };
        let Some(slices) = self.services.get_mut(&service) else { return };
        slices.remove(name);
        if slices.is_empty() {
            self.services.remove(&service);
        }
        for reader in self.readers.get(&service).into_iter().flatten() {
            reader.remove(name);
            reader.news.notify_one();
        }
    }

    fn stand(&mut self, stand: impl FnOnce(&mut Standing) -> bool) {
        if stand(&mut self.standing) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        self.readers.values().flatten().for_each(|reader| reader.news.notify_one());
    }
}

// === impl Mailbox ===

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Pending>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: &Arc<str>, slice: &Arc<Slice>, known: bool) {
        let slice = Some(Arc::clone(slice));
        match self.lock().entry(Arc::clone(name)) {
            Entry::Occupied(mut pending) => pending.get_mut().slice = slice,
            Entry::Vacant(none) => drop(none.insert(Pending { slice, known })),
        }
    }

    fn remove(&self, name: &str) {
        let mut changes = self.lock();
        match changes.get_mut(name) {
            // It came and went.
            Some(pending) if !pending.known => drop(changes.remove(name)),
            Some(pending) => pending.slice = None,
            None => drop(changes.insert(name.into(), Pending { slice: None, known: true })),
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Waits for news; false if there will be none.
    pub(super) async fn changed(&self) -> bool {
        self.mailbox.news.notified().await;
        !self.world.lock().ended
    }

    /// How the watch does, and what changed since the last look; nothing before a whole list was seen.
    pub(super) fn look(&self) -> (Standing, Vec<Change>) {
        // Under the lock of the world, so that both are of one moment.
        let inner = self.world.lock();
        let standing = inner.standing.clone();
        let changes =
            if standing.listed { mem::take(&mut *self.mailbox.lock()) } else { HashMap::new() };
        drop(inner);
        (standing, changes.into_iter().map(|(name, pending)| (name, pending.slice)).collect())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        let Some(readers) = inner.readers.get_mut(&self.service) else { return };
        readers.retain(|reader| !Arc::ptr_eq(reader, &self.mailbox));
        if readers.is_empty() {
            inner.readers.remove(&self.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use allocation_counter::measure;

    use super::{
        super::{
            merge::Merge,
            port::ServicePort,
            slice::{Class, Entry, Port},
        },
        *,
    };
    use crate::endpoint::{Locality, Protocol};

    /// The slice of the number `slice`, with a hundred entries of which the first is of class `first`.
    fn slice(service: &str, slice: u32, first: Class) -> Seen {
        let entry = |at: u32| Entry {
            address: IpAddr::from((0x0a00_0000 + slice * 100 + at).to_be_bytes()),
            class: if at == 0 { first } else { Class::Ready },
            pod: None,
            locality: Locality::default(),
        };
        let port = Port { name: "http".into(), number: Some(80), protocol: Protocol::Unspecified };
        let (ports, endpoints) = (Some(vec![port]), (0..100).map(entry).collect());
        let made = Slice { service: service.into(), ports, endpoints, of_names: false };
        (format!("{service}-{slice}").into(), Some(made))
    }

    fn world(services: u32, slices: u32) -> Arc<World> {
        let world = Arc::new(World::default());
        let others = (0..services).map(|number| slice(&format!("other-{number}"), 0, Class::Ready));
        let listed = (0..slices).map(|number| slice("cart", number, Class::Ready)).chain(others);
        world.replace(listed.collect(), |standing| !mem::replace(&mut standing.listed, true));
        world
    }

    fn woken(reader: &Reader) -> bool {
        use futures::FutureExt;
        reader.changed().now_or_never().is_some()
    }

    #[test]
    fn who_comes_to_a_world_that_has_ended_hears_of_it() {
        let world = world(1, 1);
        world.end();
        assert!(woken(&world.read(&"cart".into())));
    }

    /// An event costs what is in its slice: neither the number of other Services in the namespace, nor
    /// that of other slices of the same, makes a difference. Counted in allocations, up to the maps'
    /// own nodes and growth; the copy of a map, or of all endpoints, would be thousands of them.
    #[test]
    fn an_event_costs_what_is_in_its_slice_whatever_else_there_is() {
        let cost = |services, slices| {
            let world = world(services, slices);
            let reader = world.read(&"cart".into());
            let mut merge = Merge::new(ServicePort::Only);
            assert!(merge.apply(reader.look().1));
            assert!(!woken(&reader), "what was there before is no news");
            // Once, so that what grows has grown.
            for class in [Class::Out, Class::Ready, Class::Out, Class::Ready] {
                world.take(vec![slice("cart", 0, class)], |_| false);
                assert!(merge.apply(reader.look().1));
            }
            let event = vec![slice("cart", 0, Class::Out)];
            let all = measure(|| {
                world.take(event, |_| false);
                let (_, changes) = reader.look();
                assert_eq!(changes.len(), 1);
                assert!(merge.apply(changes));
            });
            (all.count_total, all.bytes_total)
        };
        let (few, few_bytes) = cost(0, 1);
        let (many, many_bytes) = cost(1_000, 100);
        assert!(many <= few + 8, "{few} and {many} allocations");
        assert!(many_bytes <= few_bytes + 2_048, "{few_bytes} and {many_bytes} bytes");
    }

    /// Of a Service that nobody reads, nobody hears.
    #[test]
    fn an_event_of_another_service_wakes_nobody() {
        let world = world(10, 1);
        let (cart, other) = (world.read(&"cart".into()), world.read(&"other-3".into()));
        assert_eq!((cart.look().1.len(), other.look().1.len()), (1, 1));
        assert!(!woken(&cart) && !woken(&other));
        world.take(vec![slice("other-3", 0, Class::Out)], |_| false);
        assert!(!woken(&cart) && woken(&other));
        assert_eq!((cart.look().1.len(), other.look().1.len()), (0, 1));
        world.take(vec![slice("other-3", 0, Class::Out)], |_| false);
        assert!(!woken(&other), "nothing changed");
        // How the watch does concerns all.
        world.take(Vec::new(), |standing| {
            standing.error = Some((1, DiscoverError::new("down")));
            true
        });
        assert!(woken(&cart) && woken(&other));
        world.end();
        assert!(woken(&cart) && world.lock().ended);
    }

    /// R8: who does not look has each slice once, whatever happened to it, and is told of none that came
    /// and went; and who is gone is forgotten.
    #[test]
    fn r8_nothing_piles_up_for_who_does_not_look() {
        let world = world(0, 2);
        let reader = world.read(&"cart".into());
        assert_eq!(reader.look().1.len(), 2);
        for number in 0..1_000 {
            let passing: Arc<str> = format!("cart-{}", 10 + number).into();
            world.take(vec![slice("cart", 10 + number, Class::Ready)], |_| false);
            world.take(
                vec![slice("cart", 1, if number % 2 == 0 { Class::Out } else { Class::Ready })],
                |_| false,
            );
            world.take(vec![(passing, None)], |_| false);
        }
        world.take(vec![("cart-0".into(), None)], |_| false);
        let pending = reader.mailbox.lock().len();
        assert_eq!(pending, 2);
        let mut changes = reader.look().1;
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(matches!(&changes[..], [(gone, None), (kept, Some(_))]
            if &**gone == "cart-0" && &**kept == "cart-1"));
        drop(reader);
        assert!(world.lock().readers.is_empty());
    }

    /// R11: what moves from one Service to another leaves the one and comes to the other.
    #[test]
    fn r11_a_slice_that_changes_hands_is_told_to_both() {
        let world = world(1, 1);
        let (cart, other) = (world.read(&"cart".into()), world.read(&"other-0".into()));
        let _ = (cart.look(), other.look());
        let (_, moved) = slice("other-0", 7, Class::Ready);
        world.take(vec![("cart-0".into(), moved)], |_| false);
        assert!(matches!(&cart.look().1[..], [(name, None)] if &**name == "cart-0"));
        assert!(matches!(&other.look().1[..], [(name, Some(_))] if &**name == "cart-0"));
        // A list that lacks it, and repeats the other.
        world.replace(vec![slice("other-0", 0, Class::Ready)], |_| false);
        assert!(matches!(&other.look().1[..], [(name, None)] if &**name == "cart-0"));
    }
}
