//! What tests of policies share: time that only they move, and endpoints.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use evenkeel::{
    Endpoint,
    node::{Clock, Lease, Time},
};

/// Time that stands still until it is told.
#[derive(Clone)]
pub(crate) struct HandTime {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl HandTime {
    pub(crate) fn new() -> Self {
        // Any moment serves, if there is a past to go back to.
        Self { start: Clock::default().now(), nanos: Arc::default() }
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::custom(self.clone())
    }

    /// So long after the start.
    pub(crate) fn set(&self, after: Duration) {
        self.nanos.store(after.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Time for HandTime {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, _until: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// The endpoint with number `index`.
pub(crate) fn endpoint(index: usize) -> Endpoint {
    Endpoint::new(([10, (index >> 16) as u8, (index >> 8) as u8, index as u8], 80))
}

/// The number of the endpoint that a request is on.
pub(crate) fn index_of(lease: &Lease) -> usize {
    let address = lease.endpoint().addr().socket().expect("all have one").ip();
    let std::net::IpAddr::V4(address) = address else { unreachable!("all are IPv4") };
    let [_, high, middle, low] = address.octets();
    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
}
