//! The C library's `getaddrinfo`.

use std::{
    net::{IpAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::Name;

use super::{
    answer::{Absent, Answer, Failure, Found, Records},
    flight::{Flights, Landed},
};
use crate::{blocking::Places, error::DiscoverError, node::Clock};

pub(super) struct Getaddrinfo {
    flights: Flights<Name, Answer<IpAddr>>,
    places: Places,
}

/// Calls at once, of the 512 blocking threads that tokio has by default.
const AT_ONCE: usize = 8;
/// How long what comes without a TTL is good for: what CoreDNS would say for a Service.
const WITHOUT_TTL: Duration = Duration::from_secs(5);

// === impl Getaddrinfo ===

impl Getaddrinfo {
    pub(super) fn new() -> Self {
        Self { flights: Flights::new(Clock::default()), places: Places::new(AT_ONCE) }
    }

    /// The addresses of `name`; or what somebody else was told, who asked after `since`.
    pub(super) async fn ask(
        &self,
        name: &Name,
        since: Option<Instant>,
    ) -> Option<Landed<Answer<IpAddr>>> {
        let question = || addresses(self.places.clone(), name.clone());
        self.flights.ask(name.clone(), since, question).await
    }
}

async fn addresses(places: Places, name: Name) -> Answer<IpAddr> {
    let host = name.to_ascii();
    let found = places.call(move || (host, 0).to_socket_addrs()).await.map_err(|error| {
        let error = DiscoverError::caused(format!("getaddrinfo of `{name}`: {error}"), error);
        Failure { error, answered: false }
    })?;
    let mut records: Vec<_> = found.map(|address| address.ip()).collect();
    records.sort_unstable();
    records.dedup();
    if records.is_empty() {
        return Ok(Found::Nothing(Absent::NoRecords));
    }
    Ok(Found::Records(Records { records, ttl: WITHOUT_TTL }))
}
