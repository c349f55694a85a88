//! One dial: from an endpoint's addresses to a connection that is up, within the connect timeout.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{runtime::Handle, sync::watch};

use super::{
    Settings,
    connect::Connected,
    error::{ConnectError, SharedCause},
    eyeballs::{self, Trail},
    h1, h2,
    head::Name,
    io::{Monitor, Wire},
    lookup,
    pool::Pool,
    secure::{Offer, Secured, Spoken},
};
use crate::{
    endpoint::{Address, Endpoint},
    error::BoxError,
    node::{Clock, after},
};

/// What is known of a dial when it ends, even by a panic or the end of the runtime.
struct Outcome {
    pool: Weak<Pool>,
    address: Address,
    known: bool,
    /// Whether the task ever ran, and so was not dropped within `spawn`.
    ran: bool,
    /// Set by the first of two: whoever spawned it, once that is done, and the end of a task that never
    /// ran. The second tells the pool. A runtime that has ended drops the task within `spawn`, where
    /// the pool's lock is held.
    parted: Arc<AtomicBool>,
}

enum Made {
    Http1(h1::Lane, Box<h1::Driver>),
    Http2(h2::Trunk, Box<h2::Driver>),
}

/// Spawns a dial, which then tells the pool of its end; false if the runtime has ended, and nobody will
/// tell.
pub(super) fn start(
    pool: &Arc<Pool>,
    runtime: &Handle,
    id: u64,
    shunned: Vec<Address>,
    cancelled: watch::Receiver<()>,
) -> bool {
    let parted = Arc::default();
    runtime.spawn(run(pool, id, shunned, cancelled, Arc::clone(&parted)));
    !parted.swap(true, Ordering::AcqRel)
}

/// The task of a dial. It holds the pool weakly and ends with it.
fn run(
    pool: &Arc<Pool>,
    id: u64,
    shunned: Vec<Address>,
    mut cancelled: watch::Receiver<()>,
    parted: Arc<AtomicBool>,
) -> impl Future<Output = ()> + Send + use<> {
    let endpoint = pool.link.endpoint();
    let (settings, clock, offer) = (Arc::clone(&pool.settings), pool.clock.clone(), pool.offer);
    let (keepalive, lifetime) = (pool.keepalive(), pool.lifetime());
    let timeout = settings.connect_timeout;
    let address = endpoint.addr().clone();
    let pool = Arc::downgrade(pool);
    let mut outcome = Outcome { pool, address, known: false, ran: false, parted };
    let deadline = after(clock.now(), timeout);
    let trail = Trail::new(shunned);
    async move {
        outcome.ran = true;
        let dial = Dial {
            id,
            endpoint: &endpoint,
            offer,
            keepalive,
            lifetime,
            settings: &settings,
            clock: &clock,
            trail: &trail,
        };
        let made = tokio::select! {
            biased;
            made = dial.make() => made.map_err(|cause| ConnectError::failed(endpoint.addr(), cause)),
            () = clock.sleep_until(deadline) => {
                Err(ConnectError::timed_out(endpoint.addr(), timeout, trail.failed()))
            }
            _ = cancelled.changed() => Err(ConnectError::closed(endpoint.addr())),
        };
        outcome.settle(made, clock, lifetime, trail);
    }
}

/// What a dial is for, and by what means.
struct Dial<'a> {
    id: u64,
    endpoint: &'a Endpoint,
    offer: Offer,
    keepalive: h2::Keepalive,
    lifetime: h2::Lifetime,
    settings: &'a Settings,
    clock: &'a Clock,
    trail: &'a Trail,
}

impl Dial<'_> {
    /// A connection to whichever of the endpoint's addresses is up first.
    async fn make(&self) -> Result<(Made, Arc<Monitor>), SharedCause> {
        self.race(self.endpoint.addresses().cloned(), |address| self.reach(address)).await
    }

    async fn race<F>(
        &self,
        addresses: impl Iterator<Item = Address>,
        attempt: impl Fn(Address) -> F,
    ) -> Result<(Made, Arc<Monitor>), SharedCause>
    where
        F: Future<Output = Result<(Made, Arc<Monitor>), SharedCause>>,
    {
        let is_v6 = |address: &Address| matches!(address, Address::Socket(SocketAddr::V6(_)));
        let addresses = self.trail.order(addresses, is_v6);
        let delay = eyeballs::delay(addresses.len(), self.settings.connect_timeout);
        eyeballs::race(addresses, self.clock, delay, attempt).await
    }

    async fn reach(&self, address: Address) -> Result<(Made, Arc<Monitor>), SharedCause> {
        match &address {
            Address::Name { host, port } if self.settings.resolves() => {
                let found = lookup::addresses(host, *port).await;
                let addresses = found.map_err(|error| self.trail.note(&address, error))?;
                self.race(addresses.map(Address::Socket), |address| self.connect(address)).await
            }
            _ => self.connect(address).await,
        }
    }

    async fn connect(&self, address: Address) -> Result<(Made, Arc<Monitor>), SharedCause> {
        let made = self.come_up(&address).await;
        made.map_err(|error| self.trail.note(&address, error))
    }

    /// All the way to a connection that is up, so that an address at which something accepts, and no more,
    /// holds up no other.
    async fn come_up(&self, address: &Address) -> Result<(Made, Arc<Monitor>), BoxError> {
        self.trail.begin(address);
        let stream = self.settings.connect(address).await?;
        let Secured { stream, spoken, scheme, server_name } = match &self.settings.secure {
            Some(secure) => secure.secure(stream, self.endpoint, self.offer).await?,
            None => Secured::plain(stream),
        };
        let Connected { io, open } = stream;
        let name = Arc::new(Name::of(self.endpoint, scheme, server_name.as_deref()));
        let spoken = self.offer.settle(spoken);
        let (wire, monitor) = Wire::new(io, spoken == Spoken::Http2, self.clock);
        let of = Arc::clone(&monitor);
        let made = match spoken {
            Spoken::Http2 => {
                let up = h2::handshake(self.id, wire, of, name, self.keepalive, self.clock);
                let (trunk, driver) = up.await?;
                Made::Http2(trunk, Box::new(driver))
            }
            Spoken::Http1 => {
                let (mut lane, driver) = h1::handshake(self.id, wire, of, open, name).await?;
                lane.until = self.lifetime.until;
                Made::Http1(lane, Box::new(driver))
            }
        };
        self.trail.end_at(address);
        Ok((made, monitor))
    }
}

impl Outcome {
    fn settle(
        mut self,
        made: Result<(Made, Arc<Monitor>), ConnectError>,
        clock: Clock,
        lifetime: h2::Lifetime,
        trail: Trail,
    ) {
        let Some(pool) = self.pool.upgrade() else { return };
        self.known = true;
        pool.shun(trail);
        match made {
            Ok((Made::Http1(lane, driver), monitor)) => {
                // Counted before it can end.
                pool.connected_lane(lane, &monitor);
                tokio::spawn(driver.run(self.pool.clone(), clock, lifetime));
            }
            Ok((Made::Http2(trunk, driver), monitor)) => {
                pool.connected_trunk(trunk, &monitor);
                tokio::spawn(driver.run(self.pool.clone(), lifetime));
            }
            Err(error) => pool.dial_failed(error),
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if self.known || (!self.ran && !self.parted.swap(true, Ordering::AcqRel)) {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.dial_failed(ConnectError::closed(&self.address));
        }
    }
}
