//! The addresses of a name, as the system has them (`getaddrinfo`), on few threads.
//!
//! The call cannot be ended, so with dead nameservers it outlives its dial by many seconds. One a dial
//! would fill the runtime's blocking threads, which files and the user's own work need, too.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    vec,
};

use tokio::sync::Semaphore;

use crate::error::BoxError;

/// Of the 512 blocking threads that tokio has by default. Dials that find all taken wait, as long as
/// their connect timeout lets them.
const AT_ONCE: usize = 32;

/// Of all balancers of this process.
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

pub(super) async fn addresses(
    host: &Arc<str>,
    port: u16,
) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
    let host = Arc::clone(host);
    within(&PLACES, move || (&*host, port).to_socket_addrs()).await
}

/// Does `look_up` on a blocking thread once there is a place, which is free again when that has ended,
/// whether or not anybody still waits for it.
async fn within<T: Send + 'static>(
    places: &'static Semaphore,
    look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BoxError> {
    let place = places.acquire().await?;
    let found = tokio::task::spawn_blocking(move || {
        let found = look_up();
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

    #[tokio::test]
    async fn r13_a_lookup_that_hangs_keeps_its_place_when_its_dial_is_over() {
        static TWO: Semaphore = Semaphore::const_new(2);
        let mut cx = Context::from_waker(Waker::noop());
        let (began, begins) = mpsc::channel();
        let hanging = |name: &'static str| {
            let ((end, ends), began) = (mpsc::channel::<()>(), began.clone());
            let lookup = within(&TWO, move || {
                began.send(name).map_err(io::Error::other)?;
                let _ = ends.recv();
                Ok(name)
            });
            (end, Box::pin(lookup))
        };
        let (end_one, mut one) = hanging("one");
        let (_end_two, mut two) = hanging("two");
        assert!(one.as_mut().poll(&mut cx).is_pending() && two.as_mut().poll(&mut cx).is_pending());
        let mut both = [begins.recv().unwrap(), begins.recv().unwrap()];
        both.sort_unstable();
        assert_eq!(both, ["one", "two"]);
        // Their dials time out, and the system goes on looking.
        drop((one, two));

        let mut three = pin!(within(&TWO, || Ok("three")));
        assert!(three.as_mut().poll(&mut cx).is_pending());
        assert_eq!(TWO.available_permits(), 0);
        drop(end_one);
        assert_eq!(three.await.unwrap(), "three");
    }

    #[tokio::test]
    async fn names_have_their_addresses_and_errors_their_cause() {
        let found: Vec<_> = addresses(&"127.0.0.1".into(), 80).await.unwrap().collect();
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 80))]);
        assert!(addresses(&"not a name".into(), 80).await.is_err());
    }
}
