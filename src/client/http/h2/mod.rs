//! HTTP/2 to one endpoint, over the h2 crate: connections that many requests share.
//!
//! ```text
//!  Pool ──Slot──▶ exchange ──HEADERS, DATA──▶ driver ──▶ wire
//!          a stream   │  └─ pump: the request's body      │ keepalive, GOAWAY, age
//!                     └──▶ response head ──▶ Incoming     ▼
//!                          the slot goes with it         Pool
//! ```
//! A connection is up when the peer has sent its preface, not when the handshake says so: that
//! returns before a single byte was read. It is replaced as soon as the peer says GOAWAY, while the
//! requests on it run to their end. Why h2 and not hyper over it: `docs/decisions`.

mod driver;
mod exchange;
mod incoming;
mod keepalive;
mod pump;
mod trunk;

pub(super) use self::{
    driver::{Driver, Lifetime, handshake},
    exchange::{Failed, exchange},
    incoming::Incoming,
    keepalive::Keepalive,
    trunk::{Gone, Slot, Trunk},
};
