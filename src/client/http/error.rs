//! What the transport itself can say of a request that did not get through.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::uri::Scheme;

use crate::{endpoint::Address, error::BoxError};

/// No connection to the endpoint could be made, or none was free.
///
/// The cause of an [`Unsent`](crate::Unsent) that hands its request back, or where an earlier connection
/// died with that, the source of the cause, which says so. Its [`source`](StdError::source) is what the connector or the protocol said, such as a
/// [`std::io::Error`]; that of a dial that timed out is the `ConnectError` of the last address that did
/// not hang but fail, if any did. Cheap to clone: every request that waited for the dial gets the same.
#[derive(Clone)]
pub struct ConnectError {
    address: Address,
    cause: Cause,
}

#[derive(Clone)]
enum Cause {
    /// After how long, and what another of the endpoint's addresses said meanwhile.
    TimedOut(Duration, Option<Arc<ConnectError>>),
    Busy(Duration),
    Failed(SharedCause),
    Closed,
}

/// Why an attempt failed, as its own type, for several errors that tell of it.
pub(super) type SharedCause = Arc<dyn StdError + Send + Sync>;

/// A request that was sent again, since the connection that it was sent on died, did not get through.
#[derive(Debug, thiserror::Error)]
#[error("a connection died with the request ({died_of}), which was sent again")]
pub(super) struct AfterDeath {
    pub(super) died_of: String,
    pub(super) source: BoxError,
}

/// The request's URI asks for a scheme that this transport does not speak: `https` of one without TLS,
/// or `http` of one with it.
///
/// No endpoint was dialled for it. A request without a scheme, as in `/path`, is always accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this transport speaks `{spoken}`, and not `{scheme}`{}", way_out(.scheme))]
pub struct SchemeError {
    scheme: String,
    spoken: Scheme,
}

/// The version of HTTP that the server, or the connection to it, speaks is not one that will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// [Only HTTP/2](super::Http::http2_only) was offered, and in the TLS handshake (ALPN) the server did
    /// not agree to it.
    #[error("the server does not agree to HTTP/2 in the TLS handshake (ALPN)")]
    NotAgreed,
    /// A gRPC call met a connection of HTTP/1.1, which cannot carry it. It was not sent; another endpoint may
    /// have it.
    #[error("gRPC needs HTTP/2, and this connection speaks HTTP/1.1")]
    GrpcOverHttp1,
    /// An `Upgrade` (to a WebSocket, say) met a connection of HTTP/2, which has none (RFC 9113 section 8.6).
    /// It was not sent; another endpoint may have it. To have it, say by
    /// [`with_protocol`](crate::Endpoint::with_protocol) that the endpoint speaks HTTP/1.1.
    #[error("an upgrade needs HTTP/1.1, and this connection speaks HTTP/2")]
    UpgradeOverHttp2,
    /// An extended CONNECT (RFC 8441) met a connection of HTTP/1.1, which has none. It was not sent; another
    /// endpoint may have it.
    #[error("extended CONNECT needs HTTP/2, and this connection speaks HTTP/1.1")]
    ExtendedConnectOverHttp1,
    /// An extended CONNECT met an HTTP/2 peer whose settings do not allow it (RFC 8441 section 3). It was
    /// not sent; another endpoint may have it.
    #[error("the server does not allow extended CONNECT")]
    ExtendedConnectNotAllowed,
}

// === impl ConnectError ===

impl ConnectError {
    pub(super) fn timed_out(address: &Address, after: Duration, other: Option<Self>) -> Self {
        Self { address: address.clone(), cause: Cause::TimedOut(after, other.map(Arc::new)) }
    }

    pub(super) fn busy(address: &Address, after: Duration) -> Self {
        Self { address: address.clone(), cause: Cause::Busy(after) }
    }

    pub(super) fn failed(address: &Address, cause: SharedCause) -> Self {
        Self { address: address.clone(), cause: Cause::Failed(cause) }
    }

    pub(super) fn closed(address: &Address) -> Self {
        Self { address: address.clone(), cause: Cause::Closed }
    }

    /// The address that identifies the endpoint.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the connect timeout ended the dial.
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(..))
    }

    /// Whether there are connections, and none was free for as long as a dial may take: as many
    /// streams are open as the peer allows, on as many connections as
    /// [`max_connections`](super::Http::max_connections) does.
    pub fn is_busy(&self) -> bool {
        matches!(self.cause, Cause::Busy(_))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match &self.cause {
            Cause::TimedOut(after, _) => write!(f, "no connection to {address} within {after:?}"),
            Cause::Busy(after) => {
                write!(f, "all connections to {address} were busy for {after:?}")
            }
            Cause::Failed(_) => write!(f, "cannot connect to {address}"),
            Cause::Closed => write!(f, "the client of {address} is closed"),
        }
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ConnectError");
        debug.field("address", &self.address);
        match &self.cause {
            Cause::TimedOut(after, None) => debug.field("timed_out", after),
            Cause::TimedOut(after, Some(other)) => {
                debug.field("timed_out", after).field("source", other)
            }
            Cause::Busy(after) => debug.field("busy_for", after),
            Cause::Failed(cause) => debug.field("source", cause),
            Cause::Closed => debug.field("closed", &true),
        };
        debug.finish()
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.cause {
            Cause::Failed(cause) => Some(&**cause),
            Cause::TimedOut(_, Some(other)) => Some(&**other),
            _ => None,
        }
    }
}

// === impl SchemeError ===

impl SchemeError {
    pub(super) fn new(scheme: &Scheme, spoken: &Scheme) -> Self {
        Self { scheme: scheme.to_string(), spoken: spoken.clone() }
    }

    /// The scheme that was asked for.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }
}

/// Whom to ask for it instead.
fn way_out(scheme: &str) -> &'static str {
    match scheme {
        "https" => {
            "; `Builder::https` does, and with reqwest `ReqwestClient::over` such a balancer"
        }
        _ => "",
    }
}
