//! Everything that can go wrong, as types that say what was wrong and where.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

#[cfg(any(feature = "tonic", feature = "reqwest"))]
use http::Uri;

#[cfg(feature = "reqwest")]
pub use self::send::SendError;
pub(crate) use self::unsent::{Began, Resume};
pub use self::{
    build::{BuildError, ListError, ListErrorReason, TargetError, TargetErrorReason},
    unsent::Unsent,
};
use crate::endpoint::Endpoint;

mod build;
#[cfg(feature = "reqwest")]
mod send;
mod unsent;

/// Any error, boxed: the same type as `tower::BoxError`.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call through a [`Balance`](crate::Balance) failed.
///
/// It names the endpoint where there was one, keeps the client's own error as its
/// [`source`](StdError::source) (which can be downcast), and says whether the peer can have
/// processed the request:
///
/// ```
/// fn worth_another_try(error: &evenkeel::Error, idempotent: bool) -> bool {
///     error.is_unprocessed() || (idempotent && error.is_ambiguous())
/// }
/// # let _ = worth_another_try;
/// ```
pub struct Error(Box<Parts>);

struct Parts {
    kind: Kind,
    endpoint: Option<Endpoint>,
    unprocessed: bool,
    source: Option<BoxError>,
}

#[derive(Debug)]
enum Kind {
    Failed,
    BrokenOff,
    NoEndpoint {
        target: Arc<str>,
        census: Census,
        discovery: Option<DiscoverError>,
    },
    TooManyWaiting {
        target: Arc<str>,
        limit: usize,
    },
    AttemptTimeout {
        after: Duration,
    },
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    Deadline {
        after: Duration,
    },
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    Redirected {
        from: Uri,
        to: Uri,
    },
    Closed {
        target: Arc<str>,
    },
}

/// How many endpoints are known, and why each class of them could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Endpoints that discovery lists now; each other field counts some of these.
    pub known: usize,
    /// Whose last dial or readiness failed, and whose backoff has not ended.
    pub failed: usize,
    /// Not connected yet: idle or connecting.
    pub unconnected: usize,
    /// At their cap of requests in flight.
    pub full: usize,
    /// Tried by this request already.
    pub tried: usize,
    /// Left out by the rules for weight or priority.
    pub unlisted: usize,
    /// Outside of the subset that the balancer uses.
    pub outside: usize,
}

/// Why a source could not answer. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context}")]
pub struct DiscoverError {
    context: Arc<str>,
    #[source]
    source: Option<SharedError>,
}

/// The request's own body broke off: no fault of the endpoint's.
#[cfg(feature = "http")]
#[derive(Debug, thiserror::Error)]
#[error("the request's body failed")]
pub(crate) struct BodyError(#[source] pub(crate) BoxError);

/// An error that several holders share.
#[derive(Clone)]
pub(crate) struct SharedError(Arc<dyn StdError + Send + Sync>);

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

// === impl Error ===

impl Error {
    fn new(kind: Kind) -> Self {
        Self(Box::new(Parts { kind, endpoint: None, unprocessed: true, source: None }))
    }

    pub(crate) fn failed(endpoint: Endpoint, source: BoxError, unprocessed: bool) -> Self {
        Self(Box::new(Parts {
            kind: Kind::Failed,
            endpoint: Some(endpoint),
            unprocessed,
            source: Some(source),
        }))
    }

    pub(crate) fn broken_off(endpoint: Endpoint, source: BoxError) -> Self {
        Self(Box::new(Parts {
            kind: Kind::BrokenOff,
            endpoint: Some(endpoint),
            unprocessed: false,
            source: Some(source),
        }))
    }

    pub(crate) fn attempt_timeout(endpoint: Endpoint, after: Duration) -> Self {
        Self(Box::new(Parts {
            kind: Kind::AttemptTimeout { after },
            endpoint: Some(endpoint),
            unprocessed: false,
            source: None,
        }))
    }

    /// The caller's own deadline passed; `endpoint` is the last that may have processed the request, if
    /// it is known.
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    pub(crate) fn deadline(after: Duration, endpoint: Option<Endpoint>, unprocessed: bool) -> Self {
        Self(Box::new(Parts {
            kind: Kind::Deadline { after },
            unprocessed,
            endpoint,
            // Clients above know a timeout by it.
            source: Some(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }))
    }

    /// What came from `endpoint` leads from one origin to another.
    #[cfg(any(feature = "tonic", feature = "reqwest"))]
    pub(crate) fn redirected(endpoint: Option<Endpoint>, from: &Uri, to: Uri) -> Self {
        Self(Box::new(Parts {
            kind: Kind::Redirected { from: from.clone(), to },
            endpoint,
            unprocessed: false,
            source: None,
        }))
    }

    pub(crate) fn no_endpoint(
        target: Arc<str>,
        census: Census,
        discovery: Option<DiscoverError>,
    ) -> Self {
        Self::new(Kind::NoEndpoint { target, census, discovery })
    }

    pub(crate) fn too_many_waiting(target: Arc<str>, limit: usize) -> Self {
        Self::new(Kind::TooManyWaiting { target, limit })
    }

    pub(crate) fn closed(target: Arc<str>) -> Self {
        Self::new(Kind::Closed { target })
    }

    /// Adds what happened at the last endpoint that was tried.
    pub(crate) fn with_last(
        mut self,
        endpoint: Option<Endpoint>,
        source: Option<BoxError>,
    ) -> Self {
        if source.is_some() {
            self.0.endpoint = endpoint;
            self.0.source = source;
        }
        self
    }

    /// A peer may have processed the request before this came of it.
    pub(crate) fn after_all_ambiguous(mut self) -> Self {
        self.0.unprocessed = false;
        self
    }

    /// The endpoint that the request went to, or was last tried on: where one may have processed it, that one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.0.endpoint.as_ref()
    }

    /// What the balancer balances, as its source says it, where that and no endpoint is at fault: no
    /// endpoint could be used, too many calls wait, or the balancer is closed.
    pub fn target(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::NoEndpoint { target, .. }
            | Kind::TooManyWaiting { target, .. }
            | Kind::Closed { target } => Some(target.as_ref()),
            _ => None,
        }
    }

    /// Whether the peer provably did not process the request: it is safe to send it again.
    pub fn is_unprocessed(&self) -> bool {
        self.0.unprocessed
    }

    /// Whether the peer may have processed the request; the opposite of
    /// [`is_unprocessed`](Self::is_unprocessed).
    pub fn is_ambiguous(&self) -> bool {
        !self.0.unprocessed
    }

    /// Whether the attempt took longer than `attempt_timeout`; or the whole call longer than the
    /// deadline that it brought, as those of tonic and reqwest may.
    pub fn is_timeout(&self) -> bool {
        match self.0.kind {
            Kind::AttemptTimeout { .. } => true,
            #[cfg(any(feature = "tonic", feature = "reqwest"))]
            Kind::Deadline { .. } => true,
            _ => false,
        }
    }

    /// Whether no endpoint could be used, after the wait that the settings allow.
    pub fn is_no_endpoint(&self) -> bool {
        matches!(self.0.kind, Kind::NoEndpoint { .. })
    }

    /// Whether the call was refused at once to bound the load: too many calls wait already, or
    /// every endpoint that could serve is at its cap of requests in flight.
    pub fn is_overloaded(&self) -> bool {
        match &self.0.kind {
            Kind::TooManyWaiting { .. } => true,
            Kind::NoEndpoint { census, .. } => census.full > 0,
            _ => false,
        }
    }

    /// Whether the balancer itself is gone: its runtime ended, or its task died.
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, Kind::Closed { .. })
    }

    /// Where a redirect led that was not followed there: to another origin (scheme, host or port), which
    /// a balancer does not reach. A layer of reqwest's client had followed it.
    ///
    /// Whoever wants to go there takes another client. A policy of redirects that stops at the origin's
    /// end, such as `tower_http`'s `SameOrigin`, gives the redirect itself back instead of this error.
    #[cfg(feature = "reqwest")]
    pub fn redirect(&self) -> Option<&Uri> {
        match &self.0.kind {
            Kind::Redirected { to, .. } => Some(to),
            _ => None,
        }
    }

    /// How many endpoints were known and why none served, where that is the error.
    pub fn census(&self) -> Option<Census> {
        match &self.0.kind {
            Kind::NoEndpoint { census, .. } => Some(*census),
            _ => None,
        }
    }

    /// The last error of discovery, where no endpoint could be used.
    pub fn discovery(&self) -> Option<&DiscoverError> {
        match &self.0.kind {
            Kind::NoEndpoint { discovery, .. } => discovery.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Failed => f.write_str("the request failed")?,
            Kind::BrokenOff => f.write_str("the response broke off")?,
            Kind::NoEndpoint { target, census, discovery } => {
                write!(f, "no endpoint of `{target}` can be used: {census}")?;
                if let Some(error) = discovery {
                    write!(f, "; discovery last said: {error}")?;
                }
            }
            Kind::TooManyWaiting { target, limit } => {
                write!(f, "{limit} calls wait for an endpoint of `{target}` already")?;
            }
            Kind::AttemptTimeout { after } => write!(f, "no response within {after:?}")?,
            #[cfg(any(feature = "tonic", feature = "reqwest"))]
            Kind::Deadline { after } => write!(f, "the call was not complete within {after:?}")?,
            #[cfg(any(feature = "tonic", feature = "reqwest"))]
            Kind::Redirected { from, to } => {
                write!(f, "the redirect from {from} to {to} leads to another origin")?;
            }
            Kind::Closed { target } => write!(f, "the balancer of `{target}` is closed")?,
        }
        match (&self.0.endpoint, &self.0.kind) {
            (Some(endpoint), Kind::NoEndpoint { .. }) if self.0.unprocessed => {
                write!(f, "; last tried {endpoint}")
            }
            (Some(endpoint), Kind::NoEndpoint { .. }) => {
                write!(f, "; {endpoint} may have processed the request")
            }
            (Some(endpoint), _) => write!(f, " at endpoint {endpoint}"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("endpoint", &self.0.endpoint)
            .field("unprocessed", &self.0.unprocessed)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source: &(dyn StdError + 'static) = self.0.source.as_deref()?;
        // An error that others hold as well is shown as what it is, so that it can be downcast.
        Some(source.downcast_ref::<SharedError>().map_or(source, |shared| &*shared.0))
    }
}

// === impl Census ===

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} known", self.known)?;
        let classes = [
            (self.failed, "failed to connect"),
            (self.unconnected, "not connected yet"),
            (self.full, "at the cap of requests in flight"),
            (self.tried, "tried by this request"),
            (self.unlisted, "left out by weight or priority"),
            (self.outside, "outside of the subset"),
        ];
        let mut separator = " (";
        for (count, class) in classes.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {class}")?;
            separator = ", ";
        }
        if separator == ", " { f.write_str(")") } else { Ok(()) }
    }
}

// === impl DiscoverError ===

impl DiscoverError {
    /// What a source says of an error of its own making.
    pub fn new(context: impl Into<Arc<str>>) -> Self {
        Self { context: context.into(), source: None }
    }

    /// What was being done, and the error that came of it.
    ///
    /// ```
    /// use std::{error::Error, io};
    /// let error = evenkeel::DiscoverError::caused("reading hosts.txt", io::Error::other("gone"));
    /// assert_eq!(error.to_string(), "reading hosts.txt");
    /// assert_eq!(error.source().map(ToString::to_string), Some("gone".to_owned()));
    /// ```
    pub fn caused(context: impl Into<Arc<str>>, source: impl Into<BoxError>) -> Self {
        Self { context: context.into(), source: Some(SharedError::new(source)) }
    }
}

// === impl SharedError ===

impl SharedError {
    pub(crate) fn new(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            // Within another its type would be hidden.
            Ok(shared) => *shared,
            Err(error) => Self(Arc::from(error)),
        }
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for SharedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
