//! The balancer as a tower service.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{
    body::{AtBodyEnd, Complete},
    future::ResponseFuture,
};
use crate::{
    error::{BoxError, BuildError, Error},
    policy::{NoKey, RequestKey},
    pool::{
        Settings, Status,
        shared::{Control, Held},
    },
};

/// A client-side load balancer: a tower service over the services of many endpoints.
///
/// `S` is the service of one endpoint, `K` reads a request's key for policies that hash, and `C`
/// decides when a response is complete. Any number of request types go through one balancer, as
/// long as `S` takes them.
///
/// It is cheap to clone and needs no buffer: `poll_ready` reserves nothing and is ready as long as
/// the balancer lives; each call picks its own endpoint, and what there is to wait for is waited
/// for inside the call's future, where the caller's timeout covers it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use evenkeel::{Balance, Endpoint};
/// use tower::{ServiceExt, service_fn};
///
/// // Any service will do: here one that answers with the name of its endpoint.
/// let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
///     .complete_at_response()
///     .make(|endpoint: &Endpoint| {
///         let name = endpoint.to_string();
///         service_fn(move |_: ()| std::future::ready(Ok::<_, std::io::Error>(name.clone())))
///     })?;
/// let answer = balance.clone().oneshot(()).await?;
/// assert!(answer.starts_with("10.0.0."));
/// # Ok(()) }
/// ```
pub struct Balance<S, K = NoKey, C = AtBodyEnd> {
    shared: Arc<Held<S, K>>,
    complete: C,
}

/// Stands where the service type of a [`Balance`] is not chosen yet, so that `Balance::to` and
/// `Balance::builder` need no annotation.
#[derive(Clone, Copy, Debug)]
pub struct Unset;

/// Looks at a balancer and changes it, whatever its service. Cheap to clone; keeps the balancer
/// alive.
pub struct Handle<K = NoKey> {
    control: Arc<dyn Control<K>>,
}

// === impl Balance ===

impl<S, K, C> Balance<S, K, C> {
    pub(super) fn new(shared: Arc<Held<S, K>>, complete: C) -> Self {
        Self { shared, complete }
    }

    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    pub(crate) fn fleet(&self) -> &Arc<crate::node::Fleet> {
        &self.shared.fleet
    }
}

impl<S, K, C> Balance<S, K, C>
where
    S: Send + Sync + 'static,
    K: Send + Sync + 'static,
{
    /// A handle on this balancer.
    pub fn handle(&self) -> Handle<K> {
        let shared: Arc<Held<S, K>> = Arc::clone(&self.shared);
        Handle { control: shared }
    }

    /// The endpoints and how they do, and what discovery last said.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// See [`Handle::update`].
    ///
    /// # Errors
    /// A setting out of range, or a key that can never match; then nothing changes.
    pub fn update(&self, settings: Settings<K>) -> Result<(), BuildError> {
        self.shared.update(settings)
    }

    /// See [`Handle::ready`].
    ///
    /// # Errors
    /// The balancer is closed.
    pub async fn ready(&self) -> Result<(), Error> {
        ready(&*self.shared).await
    }
}

impl<S, K, C, Req> Service<Req> for Balance<S, K, C>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + 'static,
    Req: 'static,
    K: RequestKey<Req>,
    C: Complete<S::Response>,
{
    type Response = C::Response;
    type Error = Error;
    type Future = ResponseFuture<S, Req, K, C>;

    /// Ready as long as the balancer lives; reserves nothing.
    #[inline]
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(if self.shared.is_closed() { Err(self.shared.closed_error()) } else { Ok(()) })
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(&self.shared, self.complete.clone(), request, K::key)
    }
}

impl<S, K, C: Clone> Clone for Balance<S, K, C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), complete: self.complete.clone() }
    }
}

impl<S, K, C> fmt::Debug for Balance<S, K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("target", &self.shared.target).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl<K> Handle<K> {
    /// The endpoints and how they do, and what discovery last said.
    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Changes settings while the balancer runs: endpoints keep their connections, counts and
    /// estimates, also under another policy. In force for calls from shortly after.
    ///
    /// # Errors
    /// A setting out of range, or a key that can never match; then nothing changes.
    pub fn update(&self, settings: Settings<K>) -> Result<(), BuildError> {
        self.control.update(settings)
    }

    /// Waits until some endpoint is connected (or, with a client that does not report its
    /// connections, listed): a gate for a program's start. Waits for as long as it takes. What was
    /// registered before is known after, so that the first request is picked among all of it.
    ///
    /// # Errors
    /// The balancer is closed.
    pub async fn ready(&self) -> Result<(), Error> {
        ready(&*self.control).await
    }
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Self { control: Arc::clone(&self.control) }
    }
}

impl<K> fmt::Debug for Handle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("target", &self.status().target).finish_non_exhaustive()
    }
}

async fn ready<K>(control: &dyn Control<K>) -> Result<(), Error> {
    let _ = control.catch_up().await;
    loop {
        let mut listener = control.listen();
        if let Some(result) = control.readiness() {
            return result;
        }
        poll_fn(|cx| Pin::new(&mut listener).poll(cx)).await;
    }
}
