//! Plain HTTP/1.1 and HTTP/2 to one endpoint, over hyper's connections.
//!
//! ```text
//!  HttpService ──checkout──▶ Pool ──▶ an idle or shared connection ──▶ request, response
//!                             │ none                  ▲
//!                             └──▶ dial ──▶ connect ──▶ handshake ──▶ up
//! ```
//! It exists beside hyper-util's client because a balancer has to know its connections: whether
//! one is up, when one broke, and whether a request was ever sent. The pool is one endpoint's and
//! reports to that endpoint's [`Link`]. Nothing here waits for traffic to notice the end of a
//! connection, and no task is spawned for a request.
//!
//! What TLS plugs into is the trait `Secure` in `secure.rs`: it stands between connect and
//! handshake, and says of each connection which protocol was agreed (ALPN) and the scheme and name
//! that its requests are dressed with.

mod body;
mod connect;
mod dial;
mod error;
mod frames;
mod h1;
mod h2;
mod head;
mod io;
mod pool;
mod secure;
mod service;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod waiter;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "tls")]
pub use self::tls::{ServerNameError, Tls};
pub use self::{
    body::HttpBody,
    connect::{BoxConnecting, Connect, Connected},
    error::{ConnectError, SchemeError},
    service::{HttpFuture, HttpService},
};
use self::{
    pool::Pool,
    secure::{Offer, Secure},
};
use crate::{
    balance::{Balance, Builder},
    discovery::Discover,
    endpoint::{Endpoint, Protocol},
    error::BuildError,
    node::Link,
    pool::MakeEndpoint,
};

/// The plain HTTP transport: HTTP/1.1, or HTTP/2 by prior knowledge, without TLS.
///
/// Each endpoint gets its own pool of connections, which reports to the endpoint's [`Link`]. An
/// endpoint whose [`protocol`](Endpoint::protocol) is known is spoken to in that; the others as
/// configured here. A clone shares the configuration and no connection.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// use std::time::Duration;
/// use evenkeel::{Endpoint, client::Http, node::Link, pool::MakeEndpoint};
/// use tower::Service;
///
/// let http = Http::default().connect_timeout(Duration::from_millis(300));
/// // A balancer does this for every endpoint that it discovers.
/// let endpoint = Endpoint::new(([127, 0, 0, 1], 1));
/// let mut service = http.make(&endpoint, Link::standalone(&endpoint));
///
/// let request = http::Request::get("/health").body(String::new())?;
/// let unsent = service.call(request).await.unwrap_err();
/// assert!(unsent.request().is_some(), "nobody listens there, so the request came back");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Http {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    connect_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
    http2: bool,
    connector: Arc<dyn Connect>,
    secure: Option<Arc<dyn Secure>>,
}

impl Http {
    /// How long a dial may take, from its start to a connection that is up; 1 s by default.
    ///
    /// HTTP/1.1 is up when the peer has accepted, HTTP/2 when the peer has sent its first frame.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.connect_timeout = timeout)
    }

    /// Speaks HTTP/2 without asking to endpoints whose protocol is unknown; otherwise HTTP/1.1.
    pub fn http2_prior_knowledge(self) -> Self {
        self.with(|settings| settings.http2 = true)
    }

    /// How long an HTTP/1.1 connection may lie idle before it is closed; 90 s by default, 1 ms at
    /// least.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.idle_timeout = timeout.max(Duration::from_millis(1)))
    }

    /// How many idle HTTP/1.1 connections an endpoint may keep; 32 by default. Beyond that the
    /// one that has been idle for longest is closed.
    pub fn max_idle(self, connections: usize) -> Self {
        self.with(|settings| settings.max_idle = connections)
    }

    /// What opens the byte streams; TCP with `TCP_NODELAY`, and Unix sockets, by default.
    pub fn connector(self, connector: impl Connect) -> Self {
        self.with(|settings| settings.connector = Arc::new(connector))
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl MakeEndpoint for Http {
    type Service = HttpService;

    fn make(&self, endpoint: &Endpoint, link: Link) -> HttpService {
        HttpService::new(Pool::new(Arc::clone(&self.settings), endpoint, link))
    }
}

// === impl Builder ===

impl<D, K, C> Builder<D, K, C>
where
    D: Discover,
    K: Clone + Send + Sync + 'static,
{
    /// A balancer over the plain HTTP transport with its defaults; another configuration of it goes
    /// to [`make`](Builder::make).
    ///
    /// # Errors
    /// Those of [`make`](Builder::make).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// use evenkeel::{Balance, client::Http};
    ///
    /// let http1 = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?.http()?;
    /// let http2 = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
    ///     .make(Http::default().http2_prior_knowledge())?;
    /// # let _ = (http1, http2);
    /// # Ok(()) }
    /// ```
    pub fn http(self) -> Result<Balance<HttpService, K, C>, BuildError> {
        self.make(Http::default())
    }
}

// === impl Settings ===

impl Settings {
    fn offer(&self, endpoint: &Endpoint) -> Offer {
        match endpoint.protocol() {
            Protocol::Http1 => Offer::Http1,
            Protocol::Http2 => Offer::Http2,
            Protocol::Unspecified if self.http2 => Offer::Http2,
            Protocol::Unspecified if self.secure.is_some() => Offer::Either,
            Protocol::Unspecified => Offer::Http1,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(90),
            max_idle: 32,
            http2: false,
            connector: Arc::new(connect::System),
            secure: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_idle", &self.max_idle)
            .field("http2", &self.http2)
            .finish_non_exhaustive()
    }
}
