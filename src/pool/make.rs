//! From an endpoint to the service that talks to it.

use crate::{endpoint::Endpoint, node::Link};

/// Makes the service of one endpoint.
///
/// Called by the pool's task, once for an endpoint that discovery lists, and again after its
/// service failed to become ready. It must return at once and cannot fail: a service that connects
/// does so later, and reports it through `link`; one that ignores `link` counts as connected.
///
/// Any `Fn(&Endpoint) -> S` is one:
///
/// ```
/// use evenkeel::{Endpoint, pool::MakeEndpoint, node::Link};
///
/// let make = |endpoint: &Endpoint| format!("a client of {endpoint}");
/// let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
/// assert_eq!(make.make(&endpoint, Link::standalone(&endpoint)), "a client of 10.0.0.1:80");
/// ```
pub trait MakeEndpoint: Send + 'static {
    /// What talks to an endpoint: a `tower_service::Service`, cloned for each call.
    type Service: Clone + Send + Sync + 'static;

    /// The service for `endpoint`.
    fn make(&self, endpoint: &Endpoint, link: Link) -> Self::Service;
}

impl<F, S> MakeEndpoint for F
where
    F: Fn(&Endpoint) -> S + Send + 'static,
    S: Clone + Send + Sync + 'static,
{
    type Service = S;

    fn make(&self, endpoint: &Endpoint, _link: Link) -> S {
        self(endpoint)
    }
}
