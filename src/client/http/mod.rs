//! HTTP/1.1 and HTTP/2 to one endpoint, over the connections of hyper and of h2.
//!
//! ```text
//!  HttpService ──checkout──▶ Pool ──▶ an idle connection, or a stream ──▶ request, response
//!                             │ none                  ▲
//!                             └──▶ dial ──▶ connect ──▶ handshake ──▶ up
//! ```
//! It exists beside hyper-util's client because a balancer has to know its connections: whether
//! one is up, when one broke, and whether a request was processed: one that was not is sent again
//! (`attempt.rs`). The pool is one endpoint's and reports to that endpoint's [`Link`]. Nothing here
//! waits for traffic to notice the end of a connection, and no task is spawned for a request, unless
//! its response begins before its body has ended.
//!
//! What TLS plugs into is the trait `Secure` in `secure.rs`: it stands between connect and
//! handshake, and says of each connection which protocol was agreed (ALPN) and the scheme and name
//! that its requests are dressed with.

mod attempt;
mod body;
mod connect;
mod dial;
mod error;
mod eyeballs;
mod frames;
mod h1;
mod h2;
mod head;
mod io;
mod lookup;
mod pool;
mod request_body;
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
    error::{ConnectError, ProtocolError, SchemeError},
    service::{HttpFuture, HttpService},
};
use self::{
    connect::{System, Watch},
    h2::Keepalive,
    pool::Pool,
    secure::{Offer, Secure},
};
use crate::{
    balance::{Balance, Builder},
    discovery::Discover,
    endpoint::{Address, Endpoint, Protocol},
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
    /// What is offered of HTTP/2 to endpoints whose protocol is unknown, if that was chosen.
    http2: Option<Offer>,
    /// The system's without one.
    connector: Option<Arc<dyn Connect>>,
    watch: Watch,
    secure: Option<Arc<dyn Secure>>,
    max_connections: usize,
    max_age: Option<Duration>,
    keepalive: Keepalive,
}

impl Http {
    /// How long a dial may take, from its start to a connection that is up; 1 s by default.
    ///
    /// HTTP/1.1 is up when the peer has accepted and TLS, if there is any, is agreed on; HTTP/2 when the
    /// peer has sent its first frame.
    ///
    /// An endpoint that has several addresses is tried at the next of them when one fails, or is not up
    /// within 250 ms, families in turn (RFC 8305, gRFC A61); sooner, though not before 100 ms, where the
    /// last would not have half of this time. What a dial tried in vain, later ones try last.
    ///
    /// If a dial fails while all HTTP/1.1 connections of the endpoint are busy, the requests that wait
    /// for one go on waiting as long as one is returned within a quarter of this time. When none is,
    /// they go to another endpoint, and this one counts as failed until a connection is returned or a
    /// dial comes through.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.connect_timeout = timeout)
    }

    /// Speaks HTTP/2 without asking to endpoints whose protocol is unknown; otherwise HTTP/1.1.
    ///
    /// With TLS, HTTP/2 is all that is offered, and assumed of a server that takes no part in ALPN.
    pub fn http2_prior_knowledge(self) -> Self {
        self.with(|settings| settings.http2 = Some(Offer::Http2))
    }

    /// As [`http2_prior_knowledge`](Self::http2_prior_knowledge), but that with TLS a server has to
    /// agree (ALPN), as RFC 9113 wants it; one that does not is a [`ProtocolError`] of the dial.
    pub fn http2_only(self) -> Self {
        self.with(|settings| settings.http2 = Some(Offer::Http2Only))
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

    /// How many HTTP/2 connections an endpoint may have at a time; 10 by default, 1 at least.
    ///
    /// A second one is opened only where the peer's cap of concurrent streams is reached. Beyond the
    /// last, requests wait for a stream, at most as long as for a connection, and then come back for
    /// another endpoint. HTTP/1.1 has as many connections as requests.
    pub fn max_connections(self, connections: usize) -> Self {
        self.with(|settings| settings.max_connections = connections.max(1))
    }

    /// How long a connection may last, less up to a fifth of it by chance; without a limit by default.
    ///
    /// One that is older takes no new request, finishes what runs on it, and is closed. Where a load
    /// balancer or a virtual address stands before the real servers, this is what brings new ones
    /// into use.
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|settings| settings.max_age = Some(age.max(Duration::from_millis(1))))
    }

    /// How long an HTTP/2 peer may be silent, with a request outstanding, before it is asked by a
    /// PING; 10 s by default, `None` asks never.
    ///
    /// If the silence lasts, the next follows after twice as long, and the others every 5 min; besides,
    /// one is sent for the first request that begins in the silence, at once where that has lasted for over
    /// 30 s: more would be punished by servers at their defaults. A peer that says `ENHANCE_YOUR_CALM`
    /// doubles all of these for its endpoint.
    pub fn keepalive_after(self, silence: Option<Duration>) -> Self {
        let silence = silence.map(|silence| silence.max(Duration::from_millis(1)));
        self.with(|settings| settings.keepalive.first = silence)
    }

    /// How long an HTTP/2 peer may take to answer a PING before its connection is cut; 5 s by
    /// default. Its requests then fail as [ambiguous](crate::Unsent::is_unprocessed).
    pub fn keepalive_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.keepalive.timeout = timeout.max(Duration::from_millis(1)))
    }

    /// Whether HTTP/2 peers are asked by PINGs while no request is outstanding, too; not by default,
    /// since many servers close a connection for it.
    pub fn keepalive_while_idle(self, asked: bool) -> Self {
        self.with(|settings| settings.keepalive.while_idle = asked)
    }

    /// What opens the byte streams; TCP with `TCP_NODELAY`, and Unix sockets, by default.
    ///
    /// That TCP finds out by itself when the host is gone; see [`tcp_keepalive`](Self::tcp_keepalive) and
    /// [`tcp_user_timeout`](Self::tcp_user_timeout), which are for it alone.
    ///
    /// Such a connector is given names as they are. Otherwise they are resolved by the system
    /// (`getaddrinfo`), and their addresses tried as those of an endpoint are.
    pub fn connector(self, connector: impl Connect) -> Self {
        self.with(|settings| settings.connector = Some(Arc::new(connector)))
    }

    /// How long a host may be silent over TCP before the system asks whether it is there (keepalive); 15 s
    /// by default, `None` asks never. In whole seconds, 1 at least.
    ///
    /// On Linux, Android, Apple's systems, FreeBSD and NetBSD it asks again after as long, and gives up
    /// after three questions; elsewhere, as on Windows, at the system's own pace. It is the only way in which
    /// an HTTP/1.1 connection learns that its host is gone, as one without power is.
    pub fn tcp_keepalive(self, silence: Option<Duration>) -> Self {
        let silence = silence.map(|silence| silence.max(Duration::from_secs(1)));
        self.with(|settings| settings.watch.keepalive = silence)
    }

    /// How long what was sent over TCP may remain unacknowledged, or find no room at the peer, before
    /// the connection breaks (`TCP_USER_TIMEOUT`, on Linux and Android); 30 s by default, 1 ms at
    /// least; `None` leaves that to the system, which takes about a quarter of an hour.
    ///
    /// A peer that is alive and reads nothing is cut by it, too: a server that pauses an upload for longer
    /// loses it, and nobody knows what became of that request. Where servers do so, take a longer time.
    pub fn tcp_user_timeout(self, timeout: Option<Duration>) -> Self {
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        self.with(|settings| settings.watch.user_timeout = timeout)
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
    /// to [`make`](Builder::make). Feature `http`, on by default.
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
    fn connect(&self, address: &Address) -> BoxConnecting {
        match &self.connector {
            Some(connector) => connector.connect(address),
            None => System(self.watch).connect(address),
        }
    }

    /// Whether a dial looks names up before the connector is asked.
    fn resolves(&self) -> bool {
        self.connector.is_none()
    }

    fn offer(&self, endpoint: &Endpoint) -> Offer {
        match (endpoint.protocol(), self.http2) {
            (Protocol::Http1, _) => Offer::Http1,
            (_, Some(chosen)) => chosen,
            (Protocol::Http2, None) => Offer::Http2,
            (Protocol::Unspecified, None) if self.secure.is_some() => Offer::Either,
            (Protocol::Unspecified, None) => Offer::Http1,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(90),
            max_idle: 32,
            http2: None,
            connector: None,
            watch: Watch::default(),
            secure: None,
            max_connections: 10,
            max_age: None,
            keepalive: Keepalive::default(),
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
            .field("max_connections", &self.max_connections)
            .field("max_age", &self.max_age)
            .field("keepalive", &self.keepalive)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}
