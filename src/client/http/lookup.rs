//! The addresses of a name, as the system has them (`getaddrinfo`).

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, LazyLock},
    vec,
};

use crate::{blocking::Places, error::BoxError};

/// Of the 512 blocking threads that tokio has by default. Dials that find all taken wait, as long as
/// their connect timeout lets them.
const AT_ONCE: usize = 32;

/// Of all balancers of this process.
static PLACES: LazyLock<Places> = LazyLock::new(|| Places::new(AT_ONCE));

pub(super) async fn addresses(
    host: &Arc<str>,
    port: u16,
) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
    let host = Arc::clone(host);
    PLACES.call(move || (&*host, port).to_socket_addrs()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_have_their_addresses_and_errors_their_cause() {
        let found: Vec<_> = addresses(&"127.0.0.1".into(), 80).await.unwrap().collect();
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 80))]);
        assert!(addresses(&"not a name".into(), 80).await.is_err());
    }
}
