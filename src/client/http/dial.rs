//! One dial: from an endpoint's addresses to a connection that is up, within the connect timeout.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use tokio::sync::watch;

use super::{
    Settings,
    connect::Connected,
    error::ConnectError,
    eyeballs, h1, h2,
    head::Name,
    io::{Monitor, Wire},
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
}

enum Made {
    Http1(h1::Lane, Box<h1::Driver>),
    Http2(h2::Trunk, Box<h2::Driver>),
}

/// The task of a dial. It holds the pool weakly and ends with it.
pub(super) fn run(
    pool: &Arc<Pool>,
    id: u64,
    mut cancelled: watch::Receiver<()>,
) -> impl Future<Output = ()> + Send + use<> {
    let endpoint = pool.link.endpoint();
    let (settings, clock, offer) = (Arc::clone(&pool.settings), pool.clock.clone(), pool.offer);
    let (keepalive, lifetime) = (pool.keepalive(), pool.lifetime());
    let timeout = settings.connect_timeout;
    let outcome =
        Outcome { pool: Arc::downgrade(pool), address: endpoint.addr().clone(), known: false };
    let deadline = after(clock.now(), timeout);
    async move {
        let of = Of { id, endpoint: &endpoint, offer, keepalive, lifetime };
        let making = make(of, &settings, &clock);
        let made = tokio::select! {
            biased;
            made = making => made.map_err(|cause| ConnectError::failed(endpoint.addr(), cause)),
            () = clock.sleep_until(deadline) => {
                Err(ConnectError::timed_out(endpoint.addr(), timeout))
            }
            _ = cancelled.changed() => Err(ConnectError::closed(endpoint.addr())),
        };
        outcome.settle(made, clock, lifetime);
    }
}

/// What a dial is for.
struct Of<'a> {
    id: u64,
    endpoint: &'a Endpoint,
    offer: Offer,
    keepalive: h2::Keepalive,
    lifetime: h2::Lifetime,
}

async fn make(
    of: Of<'_>,
    settings: &Settings,
    clock: &Clock,
) -> Result<(Made, Arc<Monitor>), BoxError> {
    let Of { id, endpoint, offer, keepalive, lifetime } = of;
    let is_v6 = |address: &Address| matches!(address, Address::Socket(SocketAddr::V6(_)));
    let addresses = eyeballs::interleave(endpoint.addresses().cloned(), is_v6);
    let connector = &settings.connector;
    let stream = eyeballs::race(addresses, clock, |address| connector.connect(&address)).await?;
    let Secured { stream, spoken, scheme, server_name } = match &settings.secure {
        Some(secure) => secure.secure(stream, endpoint, offer).await?,
        None => Secured::plain(stream),
    };
    let Connected { io, open } = stream;
    let name = Arc::new(Name::of(endpoint, scheme, server_name.as_deref()));
    let spoken = offer.settle(spoken);
    let (wire, monitor) = Wire::new(io, spoken == Spoken::Http2, clock);
    let made = match spoken {
        Spoken::Http2 => {
            let monitor = Arc::clone(&monitor);
            let (trunk, driver) = h2::handshake(id, wire, monitor, name, keepalive, clock).await?;
            Made::Http2(trunk, Box::new(driver))
        }
        Spoken::Http1 => {
            let monitor = Arc::clone(&monitor);
            let (mut lane, driver) = h1::handshake(id, wire, monitor, open, name).await?;
            lane.until = lifetime.until;
            Made::Http1(lane, Box::new(driver))
        }
    };
    Ok((made, monitor))
}

impl Outcome {
    fn settle(
        mut self,
        made: Result<(Made, Arc<Monitor>), ConnectError>,
        clock: Clock,
        lifetime: h2::Lifetime,
    ) {
        let Some(pool) = self.pool.upgrade() else { return };
        self.known = true;
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
        if self.known {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.dial_failed(ConnectError::closed(&self.address));
        }
    }
}
