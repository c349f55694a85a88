//! Endpoints that the program itself pushes.
//!
//! For whoever learns of endpoints by means of their own: from a callback, a control plane, a
//! configuration that is reloaded. The state is published through one `watch` channel, so any
//! number of changes between two looks of a reader are one, in no more memory than the state
//! itself; a reader builds its list when it looks, so that ten thousand registrations in a row do
//! not build ten thousand lists.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::pending,
    sync::Arc,
};

use futures_core::Stream;
use tokio::sync::watch;

use super::{Discover, Endpoints, Reason, RefreshRequests, Update, unfold::unfold};
use crate::endpoint::{Address, Endpoint, Identity};

/// A set of endpoints that the program changes while balancers watch it.
///
/// Clones share one set, and any number of balancers may watch it. An endpoint is listed for as
/// long as its [`Registration`] lives.
///
/// ```
/// use evenkeel::{Endpoint, Weight, discovery::Registry};
///
/// let registry = Registry::default();
/// let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
/// let mut registration = registry.register(endpoint.clone())?;
/// registration.update(endpoint.with_weight(Weight(3)))?; // keeps its connections
/// assert_eq!(registry.len(), 1);
///
/// drop(registration); // no new requests; those in flight run on
/// assert!(registry.is_empty());
/// # Ok::<(), evenkeel::discovery::RegisterError>(())
/// ```
///
/// When every clone and every registration is gone, balancers stay at what was listed last.
#[derive(Clone, Default)]
pub struct Registry(Arc<watch::Sender<State>>);

/// Keeps an endpoint listed; dropping it takes the endpoint off the list.
#[must_use = "the endpoint is listed only as long as its registration lives"]
pub struct Registration {
    registry: Registry,
    id: u64,
    endpoint: Endpoint,
}

/// Why a [`Registry`] does not take an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// An address, or a name, with port 0.
    #[error("`{address}` has port 0, which cannot be dialled")]
    PortZero {
        /// The address.
        address: Address,
    },
    /// An update that is another endpoint: its first address, server name or protocol differs.
    #[error("`{given}` is not the endpoint `{registered}` that is registered: register it anew")]
    OtherEndpoint {
        /// What is registered; it stays.
        registered: Endpoint,
        /// What was to replace it.
        given: Endpoint,
    },
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// What is listed, in the order of registration.
    listed: BTreeMap<u64, Endpoint>,
    /// Which registration an endpoint is listed by.
    listed_by: HashMap<Identity, u64>,
    /// Further registrations of endpoints that are listed already.
    waiting: HashMap<Identity, BTreeMap<u64, Endpoint>>,
}

// === impl Registry ===

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists `endpoint` until the registration is dropped.
    ///
    /// Of several registrations of one endpoint (same first address, server name and protocol) the
    /// oldest stands; when it goes, the next oldest takes over.
    ///
    /// # Errors
    ///
    /// If one of the endpoint's addresses has port 0.
    pub fn register(&self, endpoint: Endpoint) -> Result<Registration, RegisterError> {
        check_ports(&endpoint)?;
        let mut id = 0;
        self.0.send_if_modified(|state| {
            id = state.next_id;
            state.next_id += 1;
            state.add(id, endpoint.clone())
        });
        Ok(Registration { registry: self.clone(), id, endpoint })
    }

    /// What is listed now, in the order of registration.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        self.0.borrow().endpoints()
    }

    /// How many endpoints are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().listed.len()
    }

    /// Whether no endpoint is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Discover for Registry {
    fn watch(self, _refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        // Only a receiver: the stream must not keep the registry's own end open.
        unfold((self.0.subscribe(), true), |(mut changes, first)| async move {
            if !first && changes.changed().await.is_err() {
                // Nobody is left who could change anything, and a closed channel is ready for ever.
                pending::<()>().await;
            }
            let update = changes.borrow_and_update().update();
            (update, (changes, false))
        })
    }

    fn target(&self) -> Arc<str> {
        Arc::from("registry")
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("endpoints", &self.len()).finish_non_exhaustive()
    }
}

// === impl Registration ===

impl Registration {
    /// What was registered, or last updated to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Changes what is known of the endpoint, such as its weight: connections, statistics and
    /// health stay.
    ///
    /// # Errors
    ///
    /// If `endpoint` has another first address, server name or protocol, or an address with port
    /// 0. What was registered stays.
    pub fn update(&mut self, endpoint: Endpoint) -> Result<(), RegisterError> {
        if endpoint.identity() != self.endpoint.identity() {
            let registered = self.endpoint.clone();
            return Err(RegisterError::OtherEndpoint { registered, given: endpoint });
        }
        check_ports(&endpoint)?;
        self.endpoint = endpoint.clone();
        self.registry.0.send_if_modified(|state| state.replace(self.id, endpoint));
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.0.send_if_modified(|state| state.remove(self.id, &self.endpoint));
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn check_ports(endpoint: &Endpoint) -> Result<(), RegisterError> {
    match endpoint.addresses().find(|address| address.port() == Some(0)) {
        Some(address) => Err(RegisterError::PortZero { address: address.clone() }),
        None => Ok(()),
    }
}

// === impl State ===

/// Each change says whether it shows in what is listed.
impl State {
    fn add(&mut self, id: u64, endpoint: Endpoint) -> bool {
        let identity = endpoint.identity().clone();
        if self.listed_by.contains_key(&identity) {
            self.waiting.entry(identity).or_default().insert(id, endpoint);
            return false;
        }
        self.listed_by.insert(identity, id);
        self.listed.insert(id, endpoint);
        true
    }

    fn replace(&mut self, id: u64, endpoint: Endpoint) -> bool {
        if let Some(listed) = self.listed.get_mut(&id) {
            let changed = *listed != endpoint;
            *listed = endpoint;
            return changed;
        }
        if let Some(waiting) = self.waiting.get_mut(endpoint.identity()) {
            waiting.insert(id, endpoint);
        }
        false
    }

    fn remove(&mut self, id: u64, endpoint: &Endpoint) -> bool {
        let identity = endpoint.identity();
        let listed = self.listed.remove(&id).is_some();
        let Some(waiting) = self.waiting.get_mut(identity) else {
            self.listed_by.remove(identity);
            return listed;
        };
        if listed {
            if let Some((heir, endpoint)) = waiting.pop_first() {
                self.listed_by.insert(identity.clone(), heir);
                self.listed.insert(heir, endpoint);
            }
        } else {
            waiting.remove(&id);
        }
        if waiting.is_empty() {
            self.waiting.remove(identity);
        }
        listed
    }

    fn endpoints(&self) -> Endpoints {
        self.listed.values().cloned().collect()
    }

    fn update(&self) -> Update {
        if self.listed.is_empty() {
            Update::Empty(Reason::NothingRegistered)
        } else {
            Update::Set(self.endpoints())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::Context,
    };

    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::{
        discovery::{OnEmpty, refresh, unfold::tests::counting_waker},
        endpoint::Weight,
    };

    fn endpoint(i: u16) -> Endpoint {
        Endpoint::new(([10, 0, 0, 1], 1 + i))
    }

    fn watch(registry: &Registry) -> impl Stream<Item = Update> + Send + 'static {
        registry.clone().watch(refresh::channel().1)
    }

    /// What the stream says now, if anything: the weights of the set, or nothing for empty.
    fn next(stream: &mut Pin<&mut impl Stream<Item = Update>>) -> Option<Vec<u32>> {
        match stream.next().now_or_never()?.unwrap() {
            Update::Set(set) => Some(set.iter().map(|endpoint| endpoint.weight().0).collect()),
            Update::Empty(Reason::NothingRegistered) => Some(Vec::new()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn says_what_is_listed_first_and_then_each_change() {
        let registry = Registry::new();
        assert_eq!(registry.on_empty(), OnEmpty::Clear);
        let mut early = pin!(watch(&registry));
        assert_eq!(next(&mut early), Some(vec![]));
        assert_eq!(next(&mut early), None);

        let first = registry.register(endpoint(1)).unwrap();
        assert_eq!(next(&mut early), Some(vec![1]));
        let mut late = pin!(watch(&registry));
        assert_eq!(next(&mut late), Some(vec![1]));

        let mut second = registry.register(endpoint(2)).unwrap();
        second.update(endpoint(2).with_weight(Weight(5))).unwrap();
        for stream in [&mut early, &mut late] {
            assert_eq!(next(stream), Some(vec![1, 5]), "two changes between two looks are one");
            assert_eq!(next(stream), None);
        }
        second.update(endpoint(2).with_weight(Weight(5))).unwrap();
        assert_eq!(next(&mut early), None, "an update that changes nothing wakes nobody");

        drop(first);
        assert_eq!(next(&mut early), Some(vec![5]));
        assert_eq!(registry.endpoints(), Endpoints::from([second.endpoint().clone()]));
        drop(second);
        assert_eq!(next(&mut early), Some(vec![]));
        assert_eq!(next(&mut late), Some(vec![]));
    }

    #[test]
    fn the_oldest_registration_of_an_endpoint_stands_and_the_next_takes_over() {
        let registry = Registry::new();
        let weighing = |weight| endpoint(1).with_weight(Weight(weight));
        let mut stream = pin!(watch(&registry));
        let first = registry.register(weighing(1)).unwrap();
        let mut second = registry.register(weighing(2)).unwrap();
        let third = registry.register(weighing(3)).unwrap();
        let fourth = registry.register(weighing(4)).unwrap();
        assert_eq!(next(&mut stream), Some(vec![1]));
        assert_eq!(registry.len(), 1);

        second.update(weighing(20)).unwrap();
        drop(third);
        assert_eq!(next(&mut stream), None, "those that wait do not show");
        drop(first);
        assert_eq!(next(&mut stream), Some(vec![20]));
        second.update(weighing(21)).unwrap();
        assert_eq!(next(&mut stream), Some(vec![21]));
        drop(second);
        assert_eq!(next(&mut stream), Some(vec![4]));
        drop(fourth);
        assert_eq!(next(&mut stream), Some(vec![]));
        let state = registry.0.borrow();
        assert!(state.listed_by.is_empty() && state.waiting.is_empty(), "{state:?}");
    }

    #[test]
    fn what_cannot_be_dialled_or_is_another_endpoint_is_refused() {
        let registry = Registry::new();
        let zero = Address::from(([10, 0, 0, 1], 0));
        for (endpoint, address) in [
            (Endpoint::new(zero.clone()), zero.clone()),
            (Endpoint::new(Address::name("db", 0)), Address::name("db", 0)),
            (endpoint(1).with_more_addresses([zero.clone()]), zero.clone()),
        ] {
            let error = registry.register(endpoint).unwrap_err();
            assert_eq!(error, RegisterError::PortZero { address });
        }
        assert!(registry.is_empty());

        let mut registration = registry.register(endpoint(1)).unwrap();
        for given in [endpoint(2), endpoint(1).with_server_name("a.example")] {
            let registered = endpoint(1);
            let error = registration.update(given.clone()).unwrap_err();
            assert_eq!(error, RegisterError::OtherEndpoint { registered, given });
        }
        assert!(registration.update(endpoint(1).with_more_addresses([zero])).is_err());
        assert_eq!(registration.endpoint(), &endpoint(1));
        assert_eq!(registry.endpoints(), Endpoints::from([endpoint(1)]));
    }

    /// R8: whoever does not look costs no memory, and finds one update when it does.
    #[test]
    fn ten_thousand_changes_are_one_update() {
        let registry = Registry::new();
        let mut stream = pin!(watch(&registry));
        let mut registrations: Vec<_> =
            (0..10_000).map(|i| registry.register(endpoint(i)).unwrap()).collect();
        for (i, registration) in registrations.iter_mut().enumerate() {
            let changed = registration.endpoint().clone().with_weight(Weight(i as u32));
            registration.update(changed).unwrap();
        }
        assert_eq!(next(&mut stream), Some((0..10_000).collect()));
        assert_eq!(next(&mut stream), None);
    }

    /// T15: the channel is closed then, which is ready for ever to whoever asks it.
    #[test]
    fn without_handles_the_stream_stays_at_its_last_set_and_never_wakes() {
        for leave_one in [true, false] {
            let registry = Registry::new();
            let mut stream = pin!(watch(&registry));
            if leave_one {
                let registration = registry.register(endpoint(1)).unwrap();
                drop(registry);
                assert_eq!(
                    next(&mut stream),
                    Some(vec![1]),
                    "a registration outlives the registry"
                );
                drop(registration);
                assert_eq!(next(&mut stream), Some(vec![]));
            } else {
                assert_eq!(next(&mut stream), Some(vec![]));
                drop(registry);
            }
            let (waker, wakes) = counting_waker();
            for _ in 0..10 {
                assert!(stream.as_mut().poll_next(&mut Context::from_waker(&waker)).is_pending());
            }
            assert_eq!(wakes.count(), 0);
        }
    }

    #[tokio::test]
    async fn a_change_wakes_a_waiting_stream() {
        let registry = Registry::new();
        let stream = watch(&registry);
        let reader = tokio::spawn(async move {
            let mut stream = pin!(stream);
            while !matches!(stream.next().await, Some(Update::Set(_))) {}
        });
        tokio::task::yield_now().await;
        let _registration = registry.register(endpoint(1)).unwrap();
        reader.await.unwrap();
    }
}
