//! One dial: from an endpoint's addresses to a connection that is up, within the connect timeout.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    Settings,
    connect::{Connect, Connected},
    error::ConnectError,
    h1, h2,
    head::Name,
    io::{Monitor, Wire},
    pool::{Grant, Pool},
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
    Http1(h1::Lane, h1::Driver),
    Http2(h2::Trunk, h2::Driver),
}

/// The task of a dial. It holds the pool weakly and ends with it.
pub(super) fn run(
    pool: &Arc<Pool>,
    id: u64,
    mut cancelled: watch::Receiver<()>,
) -> impl Future<Output = ()> + Send + use<> {
    let endpoint = pool.link.endpoint();
    let (settings, clock, offer) = (Arc::clone(&pool.settings), pool.clock.clone(), pool.offer);
    let timeout = settings.connect_timeout;
    let outcome =
        Outcome { pool: Arc::downgrade(pool), address: endpoint.addr().clone(), known: false };
    let deadline = after(clock.now(), timeout);
    async move {
        let making = make(id, &settings, &endpoint, offer, &clock, deadline);
        let made = tokio::select! {
            biased;
            made = making => made.map_err(|cause| ConnectError::failed(endpoint.addr(), cause)),
            () = clock.sleep_until(deadline) => {
                Err(ConnectError::timed_out(endpoint.addr(), timeout))
            }
            _ = cancelled.changed() => Err(ConnectError::closed(endpoint.addr())),
        };
        outcome.settle(made, clock);
    }
}

async fn make(
    id: u64,
    settings: &Settings,
    endpoint: &Endpoint,
    offer: Offer,
    clock: &Clock,
    deadline: Instant,
) -> Result<(Made, Arc<Monitor>), BoxError> {
    let stream = connect(&*settings.connector, endpoint, clock, deadline).await?;
    let Secured { stream, spoken, scheme, server_name } = match &settings.secure {
        Some(secure) => secure.secure(stream, endpoint, offer).await?,
        None => Secured::plain(stream),
    };
    let Connected { io, open } = stream;
    let name = Arc::new(Name::of(endpoint, scheme, server_name.as_deref()));
    let spoken = offer.settle(spoken);
    let (wire, monitor) = Wire::new(io, spoken == Spoken::Http2);
    let made = match spoken {
        Spoken::Http2 => {
            let (trunk, driver) = h2::handshake(id, wire, Arc::clone(&monitor), name).await?;
            Made::Http2(trunk, driver)
        }
        Spoken::Http1 => {
            let (lane, driver) = h1::handshake(id, wire, Arc::clone(&monitor), open, name).await?;
            Made::Http1(lane, driver)
        }
    };
    Ok((made, monitor))
}

/// Tries the addresses in turn; each may take its share of the time that is left.
async fn connect(
    connector: &dyn Connect,
    endpoint: &Endpoint,
    clock: &Clock,
    deadline: Instant,
) -> Result<Connected, BoxError> {
    let mut left = endpoint.addresses().count() as u32;
    let mut last = None;
    for address in endpoint.addresses() {
        let now = clock.now();
        let share = deadline.saturating_duration_since(now) / left.max(1);
        left -= 1;
        let connected = tokio::select! {
            biased;
            connected = connector.connect(address) => connected,
            // The last address has all that is left, and that is the deadline itself.
            () = clock.sleep_until(after(now, share)), if left > 0 => {
                Err(format!("no connection to {address} within {share:?}").into())
            }
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| "the endpoint has no address".into()))
}

impl Outcome {
    fn settle(mut self, made: Result<(Made, Arc<Monitor>), ConnectError>, clock: Clock) {
        let Some(pool) = self.pool.upgrade() else { return };
        self.known = true;
        match made {
            Ok((Made::Http1(lane, driver), monitor)) => {
                // Counted before it can end.
                pool.connected(Grant::Http1(lane), &monitor);
                tokio::spawn(driver.run(self.pool.clone(), clock, pool.settings.idle_timeout));
            }
            Ok((Made::Http2(trunk, driver), monitor)) => {
                pool.connected(Grant::Http2(trunk), &monitor);
                tokio::spawn(driver.run(self.pool.clone()));
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
