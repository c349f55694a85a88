//! The C library's `getaddrinfo`, on few threads.
//!
//! A call cannot be ended: one whose question was given up runs on. If each look began another, names that
//! hang would fill the runtime's blocking threads, which files and the program's own work need, too.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::Name;
use tokio::sync::Semaphore;

use super::{
    answer::{Absent, Answer, Failure, Found, Records},
    flight::{Flights, Landed},
};
use crate::{
    error::{BoxError, DiscoverError},
    node::Clock,
};

pub(super) struct Getaddrinfo {
    flights: Flights<Name, Answer<IpAddr>>,
    places: Arc<Semaphore>,
}

/// Calls at once, of the 512 blocking threads that tokio has by default.
const AT_ONCE: usize = 8;
/// How long what comes without a TTL is good for: what CoreDNS would say for a Service.
const WITHOUT_TTL: Duration = Duration::from_secs(5);

// === impl Getaddrinfo ===

impl Getaddrinfo {
    pub(super) fn new() -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self { flights: Flights::new(Clock::default()), places }
    }

    /// The addresses of `name`; or what somebody else was told, who asked after `since`.
    pub(super) async fn ask(
        &self,
        name: &Name,
        since: Option<Instant>,
    ) -> Option<Landed<Answer<IpAddr>>> {
        let question = || addresses(Arc::clone(&self.places), name.clone());
        self.flights.ask(name.clone(), since, question).await
    }
}

async fn addresses(places: Arc<Semaphore>, name: Name) -> Answer<IpAddr> {
    let host = name.to_ascii();
    let found = within(places, move || (host, 0).to_socket_addrs()).await.map_err(|error| {
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

/// Makes the call on a blocking thread once there is a place, which is free again when the call has ended,
/// whether or not anybody still waits for it.
async fn within<T: Send + 'static>(
    places: Arc<Semaphore>,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BoxError> {
    let place = places.acquire_owned().await?;
    let found = tokio::task::spawn_blocking(move || {
        let found = call();
        drop(place);
        found
    });
    Ok(found.await??)
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::mpsc,
        task::{Context, Waker},
    };

    use super::*;

    /// R13: what hangs is no more than a thread a place, however often it is given up and asked anew.
    #[tokio::test]
    async fn r13_a_call_that_hangs_keeps_its_place_when_its_question_is_given_up() {
        let mut cx = Context::from_waker(Waker::noop());
        let places = Arc::new(Semaphore::new(1));
        let ((began, begins), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
        let mut hangs = Box::pin(within(Arc::clone(&places), move || {
            began.send(()).map_err(io::Error::other)?;
            let _ = ends.recv();
            Ok("late")
        }));
        assert!(hangs.as_mut().poll(&mut cx).is_pending());
        begins.recv().unwrap();
        drop(hangs);
        let mut next = pin!(within(Arc::clone(&places), || Ok("next")));
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert_eq!(places.available_permits(), 0);
        drop(end);
        assert_eq!(next.await.unwrap(), "next");
    }
}
