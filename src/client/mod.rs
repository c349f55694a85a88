//! What talks to an endpoint: the crate's own transports.
//!
//! A transport is a [`MakeEndpoint`](crate::pool::MakeEndpoint): the pool asks it for the service
//! of each endpoint, and its connections report to that endpoint's [`Link`](crate::node::Link).
//! [`Http`] is the plain one, over hyper's connections.

mod http;

pub use self::http::{
    BoxConnecting, Connect, ConnectError, Connected, Http, HttpBody, HttpFuture, HttpService,
    SchemeError,
};
