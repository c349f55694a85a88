//! reqwest's requests and responses over a balancer: the last hop is the crate's own transport.
//!
//! ```text
//!  reqwest's builder ──▶ ReqwestClient ──▶ (layers) ──▶ Sent ──▶ Balance ──▶ connections
//!                         headers, timeout    yours      notes the URL       of each endpoint
//!                         reqwest::Response
//! ```
//! A reqwest client for each endpoint would cost some 100 kB and 2 ms, would let an explicit port or a
//! proxy variable override the endpoint, and would tell nothing of its connections.

#[cfg(feature = "cookies")]
mod cookies;
mod request;
mod response;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Body as HttpBodyTrait;
use reqwest::{Body, Client, IntoUrl, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "cookies")]
pub use self::cookies::{Cookies, CookiesFuture, WithCookies};
pub use self::request::{BalancedRequest, SendWith};
use super::{
    deadline::{TimedBody, Timers},
    http::{Http, HttpService},
    sent::{Note, Sent},
};
use crate::{
    balance::{AtBodyEnd, Balance, Builder, Handle},
    discovery::Discover,
    error::{BoxError, BuildError, Error, SendError},
    pool::Status,
};

/// reqwest's request builder and response, balanced; made by [`Builder::reqwest`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// # let _ = rustls::crypto::ring::default_provider().install_default();
/// use evenkeel::{Balance, client::SendWith};
///
/// # let server = {
/// #     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// #     let address = listener.local_addr()?;
/// #     let app = axum::Router::new().route("/v1/42", axum::routing::get(|| async { "ann" }));
/// #     tokio::spawn(async move { axum::serve(listener, app).await });
/// #     address
/// # };
/// let client = reqwest::Client::new();
/// // One that serves, and one where nobody listens.
/// let users = Balance::to(&format!("static://{server},127.0.0.1:1"))?.reqwest(client.clone())?;
///
/// let answer = users.get("http://users/v1/42").send().await?;
/// assert_eq!(answer.url().as_str(), "http://users/v1/42");
/// assert_eq!(answer.text().await?, "ann");
/// // Any request builder of reqwest's will do.
/// let answer = client.get("http://users/v1/42").send_with(&users).await?;
/// assert_eq!(answer.text().await?, "ann");
/// # Ok(()) }
/// ```
///
/// The URL's host (and port, if it has one) is what the server sees as `Host`; where the request goes,
/// and to which port, is the balancer's choice. No proxy is used, whatever the environment says.
///
/// # What holds, and how
///
/// The reqwest client that is handed in only begins requests. What it would do above them it keeps to
/// itself, so that is said here:
///
/// | of reqwest | here |
/// |---|---|
/// | every method of its request builder | forwarded; by [`SendWith`] also those to come |
/// | the response with its URL, headers, version, streaming body, `json()` and so on | the same type; the [`Endpoint`](crate::Endpoint) is in its extensions, and `remote_addr()` is `None` |
/// | timeout of a request | kept: from the start to the end of the response's body, waits included |
/// | timeout of the client | [`timeout`](Self::timeout) |
/// | default headers (`Host`, too), `user_agent` | [`default_headers`](Self::default_headers); `Accept: */*` is sent as by reqwest |
/// | `connect_timeout`, `pool_*`, `http2_keep_alive_*` | the transport's: [`Http`], with [`over`](Self::over) |
/// | `tcp_*`, `local_address`, `interface` | done by a [connector](Http::connector) of one's own; TCP is without delay |
/// | other `http2_*`, `http1_*` | none: the transport's windows and limits are fixed |
/// | TLS | the transport's: feature `tls`, with [`over`](Self::over) |
/// | redirects | none by default; `tower_http::follow_redirect` by [`layer`](Self::layer), within the origin (scheme, host, port) of the URL: one that leads out of it is an error that [says where to](Error::redirect), and no endpoint is asked in another's name; with the policy `SameOrigin` it is the answer |
/// | gzip, brotli, zstd, deflate | none by default; `tower_http::decompression` by [`layer`](Self::layer) |
/// | cookies | none by default; `Cookies` (feature `cookies`) by [`layer`](Self::layer) |
/// | `read_timeout` | `tower_http::timeout::ResponseBodyTimeoutLayer` by [`layer`](Self::layer) |
/// | retries of a request that the server never processed | done by the balancer |
/// | other retries | `tower::retry` by [`layer`](Self::layer) |
/// | proxies, `resolve`, `dns_resolver` | discovery takes their place; none is consulted |
/// | `RequestBuilder::version` | without effect: the connection has its protocol already |
/// | `https_only` | a transport with TLS refuses `http://` URLs with a typed error, one without `https://` ones |
///
/// Layers see `http::Request<reqwest::Body>`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// # let _ = rustls::crypto::ring::default_provider().install_default();
/// use std::time::Duration;
/// use evenkeel::Balance;
/// use tower_http::{decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer};
///
/// let users = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?
///     .reqwest(reqwest::Client::new())?
///     .timeout(Duration::from_secs(10))
///     .layer(DecompressionLayer::new())
///     .layer(FollowRedirectLayer::new());
/// # let _ = users.get("http://users/");
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ReqwestClient<S = Sent<Balance<HttpService>>> {
    client: Client,
    inner: S,
    headers: Arc<HeaderMap>,
    timeout: Option<Duration>,
    timers: Timers,
}

/// The future of a request that is being sent: reqwest's response, or why there is none.
#[must_use = "futures do nothing unless polled"]
pub struct Sending {
    inner: Pin<Box<dyn Future<Output = Result<Response, SendError>> + Send>>,
}

const fn is_shared<T: Clone + Send + Sync + 'static>() {}
const _: () = is_shared::<ReqwestClient>();

// === impl Builder ===

impl<D, K, Cl> Builder<D, K, AtBodyEnd<Cl>>
where
    D: Discover,
    K: Clone + Send + Sync + 'static,
{
    /// A balancer for requests that are built by reqwest; `client` begins them, and does nothing else.
    /// Feature `reqwest`.
    ///
    /// For another configuration of the transport, put a [client over](ReqwestClient::over) what
    /// [`make`](Builder::make) gives.
    ///
    /// # Errors
    /// Those of [`make`](Builder::make).
    #[allow(clippy::type_complexity, reason = "users write the name alone, for its default")]
    pub fn reqwest(
        self,
        client: Client,
    ) -> Result<ReqwestClient<Sent<Balance<HttpService, K, AtBodyEnd<Cl>>>>, BuildError> {
        Ok(ReqwestClient::over(client, self.make(Http::default())?))
    }
}

// === impl ReqwestClient ===

impl<K, C> ReqwestClient<Sent<Balance<HttpService, K, C>>> {
    /// A client over a balancer with a transport of one's own configuration.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// # let _ = rustls::crypto::ring::default_provider().install_default();
    /// use std::time::Duration;
    /// use evenkeel::{Balance, client::{Http, ReqwestClient}};
    ///
    /// let http = Http::default().connect_timeout(Duration::from_millis(300));
    /// let balance = Balance::to("static://10.0.0.1:80,10.0.0.2:80")?.make(http)?;
    /// let users = ReqwestClient::over(reqwest::Client::new(), balance);
    /// # let _ = users.get("http://users/");
    /// # Ok(()) }
    /// ```
    pub fn over(client: Client, balance: Balance<HttpService, K, C>) -> Self {
        let timers = Timers::of(balance.fleet());
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("*/*"))]);
        let inner = Sent::redirected(balance);
        Self { client, inner, headers: Arc::new(headers), timeout: None, timers }
    }
}

impl<K, C> ReqwestClient<Sent<Balance<HttpService, K, C>>>
where
    K: Send + Sync + 'static,
{
    /// See [`Balance::status`].
    pub fn status(&self) -> Status {
        self.inner.get_ref().status()
    }

    /// See [`Balance::handle`]; good to have before layers are put over the client.
    pub fn handle(&self) -> Handle<K> {
        self.inner.get_ref().handle()
    }

    /// See [`Balance::ready`].
    ///
    /// # Errors
    /// The balancer is closed.
    pub async fn ready(&self) -> Result<(), Error> {
        self.inner.get_ref().ready().await
    }
}

impl<S> ReqwestClient<S> {
    /// Headers for requests that lack them. A `Host` among them stands in for that of the URL.
    pub fn default_headers(mut self, headers: HeaderMap) -> Self {
        let all = Arc::make_mut(&mut self.headers);
        for name in headers.keys() {
            all.remove(name);
        }
        all.extend(headers);
        self
    }

    /// How long a request may take that has no timeout of its own, from its start to the end of the
    /// response's body; for ever by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Puts a tower layer under the headers and the timeout, and over the layers so far.
    pub fn layer<L: Layer<S>>(self, layer: L) -> ReqwestClient<L::Service> {
        ReqwestClient {
            client: self.client,
            inner: layer.layer(self.inner),
            headers: self.headers,
            timeout: self.timeout,
            timers: self.timers,
        }
    }

    /// The balancer, with its layers.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $method:ident;)+) => {
        impl<S: Clone> ReqwestClient<S> {
            $(
                $(#[$doc])*
                pub fn $name<U: IntoUrl>(&self, url: U) -> BalancedRequest<S> {
                    self.request(Method::$method, url)
                }
            )+

            /// Begins a request of any method.
            pub fn request<U: IntoUrl>(&self, method: Method, url: U) -> BalancedRequest<S> {
                BalancedRequest::new(self.client.request(method, url), self.clone())
            }
        }
    };
}

methods! {
    /// Begins a `GET`.
    get GET;
    /// Begins a `POST`.
    post POST;
    /// Begins a `PUT`.
    put PUT;
    /// Begins a `PATCH`.
    patch PATCH;
    /// Begins a `DELETE`.
    delete DELETE;
    /// Begins a `HEAD`.
    head HEAD;
}

impl<S, B> ReqwestClient<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBodyTrait<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends a request that is built already.
    pub fn execute(&self, request: Request) -> Sending {
        let mut deadline = self.timers.within(request.timeout().copied().or(self.timeout));
        let url = request.url().clone();
        let mut service = self.inner.clone();
        let note = Note::new(&self.timers);
        let prepared = http::Request::try_from(request).map(|request| self.prepare(request));
        let inner = async move {
            let request = prepared.map_err(SendError::Request)?;
            let uri = request.uri().clone();
            let given = note.clone();
            let mut sending = pin!(Some(note.throughout(async move {
                poll_fn(|cx| service.poll_ready(cx)).await?;
                given.given();
                service.call(request).await
            })));
            let sent = poll_fn(|cx| {
                let sending = sending.as_mut().as_pin_mut();
                match sending.expect("it is there until it is over").poll(cx) {
                    Poll::Ready(sent) => Poll::Ready(Ok(sent)),
                    Poll::Pending => deadline.poll_over(cx).map(Err),
                }
            });
            match sent.await {
                Ok(Ok(answer)) => Ok(response::of(TimedBody::of(answer, deadline), &uri, url)),
                Ok(Err(error)) => Err(SendError::of(error.into())),
                Err(over) => {
                    // Dropped, it tells where it was.
                    sending.set(None);
                    Err(SendError::Balance(note.error(over)))
                }
            }
        };
        Sending { inner: Box::pin(inner) }
    }

    fn prepare(&self, mut request: http::Request<Body>) -> http::Request<Body> {
        let headers = request.headers_mut();
        for name in self.headers.keys() {
            if !headers.contains_key(name) {
                for value in self.headers.get_all(name) {
                    headers.append(name, value.clone());
                }
            }
        }
        request
    }
}

impl<S, B> Service<Request> for ReqwestClient<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBodyTrait<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = SendError;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Sending {
        self.execute(request)
    }
}

impl<S: fmt::Debug> fmt::Debug for ReqwestClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestClient")
            .field("inner", &self.inner)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

// === impl Sending ===

impl Future for Sending {
    type Output = Result<Response, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl Sending {
    fn failed(error: SendError) -> Self {
        Self { inner: Box::pin(std::future::ready(Err(error))) }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
