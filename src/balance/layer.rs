//! Balancing under an HTTP client that dials what the URI says.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Uri, header, uri::Scheme};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::{AtBodyEnd, is_refused},
    plan::Checked,
    service::Balance,
};
use crate::{
    discovery::Discover,
    endpoint::{Address, Endpoint},
    error::{BoxError, Unsent},
    policy::NoKey,
};

/// Puts a balancer over a client that dials the authority of a request's URI; made by
/// [`Builder::layer`](crate::Builder::layer).
pub struct BalanceLayer<D, K = NoKey, C = AtBodyEnd> {
    source: D,
    checked: Checked<K>,
    complete: C,
}

/// A client, pointed at one endpoint.
#[derive(Clone, Debug)]
pub struct Addressed<S> {
    client: S,
    authority: Result<http::uri::Authority, LayerError>,
}

/// Why a request cannot go through [`Builder::layer`](crate::Builder::layer).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The client would check the certificate against the endpoint's address.
    #[error(
        "a balancing layer points the URI at an address, so it cannot serve https; \
         use `Builder::http` or `Builder::make`, which keep the name"
    )]
    Https,
    /// Such as a Unix socket.
    #[error("the endpoint `{0}` cannot be named by a URI")]
    Address(String),
}

pin_project! {
    /// The future of an [`Addressed`] client.
    #[must_use = "a future does nothing unless it is polled"]
    pub struct AddressedFuture<F, B> {
        #[pin]
        sent: Option<F>,
        refused: Option<Unsent<Request<B>>>,
    }
}

// === impl BalanceLayer ===

impl<D, K, C> BalanceLayer<D, K, C> {
    pub(super) fn new(source: D, checked: Checked<K>, complete: C) -> Self {
        Self { source, checked, complete }
    }
}

impl<D, K, C, S> Layer<S> for BalanceLayer<D, K, C>
where
    D: Discover + Clone,
    K: Clone + Send + Sync + 'static,
    C: Clone,
    S: Clone + Send + Sync + 'static,
{
    type Service = Balance<Addressed<S>, K, C>;

    fn layer(&self, client: S) -> Self::Service {
        let make = move |endpoint: &Endpoint| Addressed::new(client.clone(), endpoint);
        self.checked.clone().start(self.source.clone(), make, self.complete.clone())
    }
}

impl<D: Clone, K: Clone, C: Clone> Clone for BalanceLayer<D, K, C> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            checked: self.checked.clone(),
            complete: self.complete.clone(),
        }
    }
}

impl<D, K, C> fmt::Debug for BalanceLayer<D, K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceLayer").finish_non_exhaustive()
    }
}

// === impl Addressed ===

impl<S> Addressed<S> {
    fn new(client: S, endpoint: &Endpoint) -> Self {
        let address = endpoint.addr();
        let authority = match address {
            Address::Unix(_) => Err(LayerError::Address(address.to_string())),
            _ => address.to_string().parse().map_err(|_| LayerError::Address(address.to_string())),
        };
        Self { client, authority }
    }

    /// Points the URI at the endpoint, and keeps the name that the caller used as the `Host`. An
    /// endpoint that no URI can name gives the request back: another may do.
    #[allow(clippy::result_large_err, reason = "it is the request itself that comes back")]
    fn address<B>(&self, mut request: Request<B>) -> Result<Request<B>, Unsent<Request<B>>> {
        let authority = match &self.authority {
            Ok(authority) => authority.clone(),
            Err(error) => return Err(Unsent::returned(request, error.clone())),
        };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        if parts.scheme.as_ref().is_some_and(|scheme| *scheme == Scheme::HTTPS) {
            return Err(Unsent::unprocessed(LayerError::Https));
        }
        if let Some(name) = parts.authority.replace(authority) {
            let host = name.as_str().rsplit_once('@').map_or(name.as_str(), |(_, host)| host);
            let host = HeaderValue::from_str(host);
            if let (Ok(host), false) = (host, request.headers().contains_key(header::HOST)) {
                request.headers_mut().insert(header::HOST, host);
            }
        }
        parts.scheme = Some(Scheme::HTTP);
        parts.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).map_err(Unsent::unprocessed)?;
        Ok(request)
    }
}

impl<S, B> Service<Request<B>> for Addressed<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = Unsent<Request<B>>;
    type Future = AddressedFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx).map_err(Unsent::ambiguous)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (sent, refused) = match self.address(request) {
            Ok(request) => (Some(self.client.call(request)), None),
            Err(error) => (None, Some(error)),
        };
        AddressedFuture { sent, refused }
    }
}

impl<F, Res, E, B> Future for AddressedFuture<F, B>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, Unsent<Request<B>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(sent) = this.sent.as_pin_mut() {
            return sent.poll(cx).map_err(|error| {
                let cause = error.into();
                if is_refused(&*cause) {
                    Unsent::unprocessed(cause)
                } else {
                    Unsent::ambiguous(cause)
                }
            });
        }
        let refused = this.refused.take();
        Poll::Ready(Err(refused.unwrap_or_else(|| Unsent::unprocessed("polled after its end"))))
    }
}

impl<F, B> fmt::Debug for AddressedFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressedFuture").finish_non_exhaustive()
    }
}
