//! Endpoints by number.

use evenkeel::{Endpoint, node::Lease};

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
