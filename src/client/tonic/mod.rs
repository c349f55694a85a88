//! gRPC clients of tonic on the crate's own transport: what goes where a `Channel` went.
//!
//! ```text
//!  generated client ──▶ TonicChannel ──▶ (layers) ──▶ Balance ──▶ HTTP/2 connections
//!   interceptors         deadline          yours       pick         of each endpoint
//!   message limits       tonic::Status
//! ```
//! A tonic `Channel` for each endpoint would say that it is ready when its server refuses; this one
//! knows its connections, since they are the crate's own.

mod status;
mod timeout;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBodyTrait;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    deadline::{Deadline, TimedBody, Timers},
    http::{Http, HttpService},
    sent::{Note, Sent},
};
use crate::{
    balance::{AtBodyEnd, Balance, Builder, Handle},
    discovery::Discover,
    error::{BoxError, BuildError, Error},
    pool::Status,
};

/// A balanced channel for any client that tonic generates; made by [`Builder::tonic`].
///
/// It has the types of a `tonic::transport::Channel`, but for its error, which is a
/// [`tonic::Status`]. Interceptors, message limits and compression are the generated client's own,
/// and work as they do over a `Channel`. It is cheap to clone, and always ready.
///
/// | | |
/// |---|---|
/// | scheme and authority | filled in from the endpoint where the request has none; no `with_origin` needed |
/// | deadline (`grpc-timeout`, as set by [`tonic::Request::set_timeout`], else [`timeout`](Self::timeout)) | passed on to the server, and kept here: it covers the waits, the response and its whole stream, and ends in DEADLINE_EXCEEDED (a `Channel` stops at the response head, with CANCELLED) |
/// | `user-agent` | `evenkeel/` and the crate's version, unless the request has one |
/// | outcome for the balancer | the status in the head or the trailers, see [`HttpClassify`](crate::health::HttpClassify) |
/// | which endpoint answered | the [`Endpoint`](crate::Endpoint) in the response's extensions |
///
/// # Errors
///
/// What the server says is passed on as it is. What goes wrong on the way is a status whose
/// [`source`](std::error::Error::source) is the balancer's [`Error`](crate::Error), which names the
/// endpoint:
///
/// | what happened | code |
/// |---|---|
/// | the server does not speak HTTP/2 | UNAVAILABLE, with a [`ProtocolError`](super::ProtocolError) among its causes |
/// | never processed: no endpoint, no connection, refused | UNAVAILABLE |
/// | the connection broke meanwhile | UNAVAILABLE, with a source that [is ambiguous](crate::Error::is_ambiguous) |
/// | the deadline passed, or the balancer's attempt timeout | DEADLINE_EXCEEDED |
/// | the server reset the stream | [as gRPC over HTTP/2 says](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors) |
/// | the request's own stream failed | that status |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// use evenkeel::{Balance, client::TonicChannel};
/// use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
///
/// # let server = {
/// #     let (_reporter, health) = tonic_health::server::health_reporter();
/// #     let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse()?)?;
/// #     let address = incoming.local_addr()?;
/// #     tokio::spawn(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming));
/// #     address
/// # };
/// // One that serves, and one where nobody listens.
/// let channel = Balance::to(&format!("static://{server},127.0.0.1:1"))?.tonic()?;
/// let mut health: HealthClient<TonicChannel> = HealthClient::new(channel);
/// let answer = health.check(HealthCheckRequest::default()).await?;
/// assert_eq!(answer.into_inner().status, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TonicChannel<S = Sent<Balance<HttpService>>> {
    inner: S,
    timers: Timers,
    timeout: Option<Duration>,
    /// Why it is not ready, to be said by the next call: of an error of `poll_ready` generated clients
    /// make UNKNOWN.
    unready: Option<tonic::Status>,
}

pin_project! {
    /// The future of a call on a [`TonicChannel`].
    #[must_use = "futures do nothing unless polled"]
    pub struct TonicFuture<F> {
        // Gone once the deadline has passed, so that its stream is reset.
        #[pin]
        inner: Option<F>,
        deadline: Deadline,
        // Of a call with a deadline.
        note: Option<Note>,
        unready: Option<tonic::Status>,
    }
}

const fn is_shared<T: Clone + Send + Sync + 'static>() {}
const _: () = is_shared::<TonicChannel>();

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("evenkeel/", env!("CARGO_PKG_VERSION")));

// === impl Builder ===

impl<D, K, Cl> Builder<D, K, AtBodyEnd<Cl>>
where
    D: Discover,
    K: Clone + Send + Sync + 'static,
{
    /// A channel for generated tonic clients, over HTTP/2 by prior knowledge and without TLS.
    /// Feature `tonic`.
    ///
    /// For another configuration of the transport, put a
    /// [channel over](TonicChannel::over) what [`make`](Builder::make) gives.
    ///
    /// # Errors
    /// Those of [`make`](Builder::make).
    #[allow(clippy::type_complexity, reason = "users write the name alone, for its default")]
    pub fn tonic(
        self,
    ) -> Result<TonicChannel<Sent<Balance<HttpService, K, AtBodyEnd<Cl>>>>, BuildError> {
        Ok(TonicChannel::over(self.make(Http::default().http2_prior_knowledge())?))
    }

    /// A channel for generated tonic clients, over TLS and HTTP/2 alone. The name that servers go by is
    /// taken from the target, as [`https`](Builder::https) does, unless `tls` or the endpoint has one.
    /// Features `tonic` and `tls`.
    ///
    /// A server that does not agree to HTTP/2 (ALPN) is not used: its dial ends in a
    /// [`ProtocolError`](super::ProtocolError), which is among the causes of the calls' statuses.
    ///
    /// # Errors
    /// Those of [`Http::tls`] and of [`make`](Builder::make).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// use evenkeel::{Balance, client::Tls};
    ///
    /// // Once in the program, by its `main`; rustls has others besides ring.
    /// let _ = rustls::crypto::ring::default_provider().install_default();
    ///
    /// let cart = Balance::to("static://10.0.0.1:443;name=cart.example.com")?.tonic_tls(Tls::webpki())?;
    /// # let _ = cart;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tls")]
    #[allow(clippy::type_complexity, reason = "users write the name alone, for its default")]
    pub fn tonic_tls(
        self,
        tls: super::Tls,
    ) -> Result<TonicChannel<Sent<Balance<HttpService, K, AtBodyEnd<Cl>>>>, BuildError> {
        let tls = tls.named_by(&self.target());
        Ok(TonicChannel::over(self.make(Http::default().http2_only().tls(tls)?)?))
    }
}

// === impl TonicChannel ===

impl<K, C> TonicChannel<Sent<Balance<HttpService, K, C>>> {
    /// A channel over a balancer with a transport of one's own configuration, which has to speak
    /// HTTP/2. One that may choose, as that of `Builder::https`, falls back to HTTP/1.1 where a server
    /// does not agree to more. That server takes no call: each goes on to another, and fails with a
    /// [`ProtocolError`](super::ProtocolError) where there is none. `Http::http2_only` finds such servers
    /// at the dial.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// use std::time::Duration;
    /// use evenkeel::{Balance, client::{Http, TonicChannel}};
    ///
    /// let http = Http::default().http2_prior_knowledge().connect_timeout(Duration::from_millis(300));
    /// let channel = TonicChannel::over(Balance::to("static://10.0.0.1:80")?.make(http)?);
    /// # let _ = channel;
    /// # Ok(()) }
    /// ```
    pub fn over(balance: Balance<HttpService, K, C>) -> Self {
        let timers = Timers::of(balance.fleet());
        Self { inner: Sent::new(balance), timers, timeout: None, unready: None }
    }
}

impl<K, C> TonicChannel<Sent<Balance<HttpService, K, C>>>
where
    K: Send + Sync + 'static,
{
    /// See [`Balance::status`].
    pub fn status(&self) -> Status {
        self.inner.get_ref().status()
    }

    /// See [`Balance::handle`]; good to have before layers are put over the channel.
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

impl<S> TonicChannel<S> {
    /// How long a call may take that brings no deadline of its own, from its start to the end of its stream;
    /// for ever by default. The server is told, as it is of a call's own. A `grpc-timeout` that does not
    /// parse is no deadline, and is replaced by this one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// use std::time::Duration;
    /// use evenkeel::Balance;
    ///
    /// let cart = Balance::to("static://10.0.0.1:80")?.tonic()?.timeout(Duration::from_secs(10));
    /// # let _ = cart;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Puts a tower layer between the deadline and the balancer, such as a retry.
    pub fn layer<L: Layer<S>>(self, layer: L) -> TonicChannel<L::Service> {
        let (timers, timeout) = (self.timers, self.timeout);
        TonicChannel { inner: layer.layer(self.inner), timers, timeout, unready: None }
    }

    /// What is under the deadline: the balancer, with its layers.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B> Service<Request<Body>> for TonicChannel<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBodyTrait<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = tonic::Status;
    type Future = TonicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        self.inner.poll_ready(cx).map(|ready| {
            self.unready = ready.err().map(status::of);
            Ok(())
        })
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let unready = self.unready.take();
        if unready.is_some() {
            return TonicFuture { inner: None, deadline: Deadline::default(), note: None, unready };
        }
        let limit = timeout::of(request.headers()).or_else(|| {
            let timeout = self.timeout?;
            request.headers_mut().insert(timeout::NAME, timeout::value(timeout));
            Some(timeout)
        });
        let deadline = self.timers.within(limit);
        let note = limit.map(|_| Note::new(&self.timers));
        request.headers_mut().entry(header::USER_AGENT).or_insert(USER_AGENT);
        let inner = match &note {
            Some(note) => {
                note.given();
                note.during(|| self.inner.call(request))
            }
            None => self.inner.call(request),
        };
        TonicFuture { inner: Some(inner), deadline, note, unready }
    }
}

impl<S: fmt::Debug> fmt::Debug for TonicChannel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TonicChannel").field(&self.inner).finish()
    }
}

// === impl TonicFuture ===

impl<F, B, E> Future for TonicFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBodyTrait<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Body>, tonic::Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(status) = this.unready.take() {
            return Poll::Ready(Err(status));
        }
        let inner = this.inner.as_mut().as_pin_mut().expect("a future is not polled after its end");
        let polled = match &this.note {
            Some(note) => note.during(|| inner.poll(cx)),
            None => inner.poll(cx),
        };
        if let Poll::Ready(answer) = polled {
            let deadline = std::mem::take(this.deadline);
            return Poll::Ready(match answer {
                Ok(response) => {
                    Ok(TimedBody::of(response, deadline)
                        .map(|inner| Body::new(StatusBody { inner })))
                }
                Err(error) => Err(status::of(error)),
            });
        }
        this.deadline.poll_over(cx).map(|over| {
            // Dropped, it tells where it was.
            this.inner.set(None);
            let note = this.note.take().expect("a call with a deadline has a note");
            Err(status::of(note.error(over)))
        })
    }
}

impl<F> fmt::Debug for TonicFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TonicFuture").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

pin_project! {
    /// A body whose errors are statuses.
    struct StatusBody<B> {
        #[pin]
        inner: TimedBody<B>,
    }
}

impl<B> HttpBodyTrait for StatusBody<B>
where
    B: HttpBodyTrait<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        let frame = self.project().inner.poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(status::of)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
