//! What talks to an endpoint: the crate's own transports.
//!
//! A transport is a [`MakeEndpoint`](crate::pool::MakeEndpoint): the pool asks it for the service
//! of each endpoint, and its connections report to that endpoint's [`Link`](crate::node::Link).
//! [`Http`] is the one that all clients here go through.

#[cfg(any(feature = "tonic", feature = "reqwest"))]
mod deadline;
mod http;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(any(feature = "tonic", feature = "reqwest"))]
mod sent;
#[cfg(feature = "tonic")]
mod tonic;

pub use self::http::{
    BoxConnecting, Connect, ConnectError, Connected, Http, HttpBody, HttpFuture, HttpService,
    ProtocolError, SchemeError,
};
#[cfg(feature = "tls")]
pub use self::http::{ServerNameError, Tls};
#[cfg(feature = "reqwest")]
pub use self::reqwest::{BalancedRequest, ReqwestClient, SendWith, Sending};
#[cfg(feature = "cookies")]
pub use self::reqwest::{Cookies, CookiesFuture, WithCookies};
#[cfg(any(feature = "tonic", feature = "reqwest"))]
pub use self::sent::{Sent, SentFuture};
#[cfg(feature = "tonic")]
pub use self::tonic::{TonicChannel, TonicFuture};
#[cfg(feature = "reqwest")]
pub use crate::error::SendError;
