//! What may stand between a byte stream and HTTP: TLS plugs in here.
//!
//! ```text
//!  Connect ──Connected──▶ Secure, if there is one ──Secured──▶ handshake ──▶ up
//!                          within the same connect timeout      HTTP/1.1 or HTTP/2
//! ```
//! The dial of each connection asks, and what it learns holds for that connection alone: whether it
//! is HTTP/2 (by ALPN, else by prior knowledge), and the scheme that its requests are dressed with.

use std::{future::Future, pin::Pin, sync::Arc};

use http::uri::Scheme;

use super::connect::Connected;
use crate::{endpoint::Endpoint, error::BoxError};

/// Wraps byte streams. Called from the task of a dial, which drops the future at the connect
/// timeout. It may not block or panic.
pub(super) trait Secure: Send + Sync + 'static {
    fn secure(&self, stream: Connected, endpoint: &Endpoint, offer: Offer) -> Securing;
}

pub(super) type Securing = Pin<Box<dyn Future<Output = Result<Secured, BoxError>> + Send>>;

/// A stream that is ready for HTTP, and what is known of it.
pub(super) struct Secured {
    pub(super) stream: Connected,
    /// What both sides agreed on; without an agreement the offer decides.
    pub(super) spoken: Option<Spoken>,
    pub(super) scheme: Scheme,
    /// The name that was asked for, of a server whose endpoint has none.
    pub(super) server_name: Option<Arc<str>>,
}

/// What an endpoint may be spoken to in, before anything is agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Http1,
    /// Prior knowledge where nothing negotiates.
    Http2,
    /// The same, but that a server that negotiates has to agree.
    Http2Only,
    /// Whichever is agreed; HTTP/1.1 where nothing negotiates.
    Either,
}

/// The protocol of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

// === impl Offer ===

impl Offer {
    /// The protocol of a connection on which `agreed` was agreed.
    pub(super) fn settle(self, agreed: Option<Spoken>) -> Spoken {
        agreed.unwrap_or(match self {
            Self::Http2 | Self::Http2Only => Spoken::Http2,
            Self::Http1 | Self::Either => Spoken::Http1,
        })
    }

    /// What the first connection will speak, where that is known before it is made.
    pub(super) fn foreseen(self) -> Option<Spoken> {
        match self {
            Self::Http1 => Some(Spoken::Http1),
            Self::Http2 | Self::Http2Only => Some(Spoken::Http2),
            Self::Either => None,
        }
    }
}

// === impl Secured ===

impl Secured {
    /// A stream as it is.
    pub(super) fn plain(stream: Connected) -> Self {
        Self { stream, spoken: None, scheme: Scheme::HTTP, server_name: None }
    }
}
