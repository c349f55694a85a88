//! The plain HTTP transport, over real sockets for order and counts and over pipes in paused time
//! for timers. The names of the tests carry the requirement that they show.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod addresses;
mod breaks;
#[path = "../support/causes.rs"]
mod causes;
mod dials;
mod early;
mod end;
mod http1;
mod http2;
mod keepalive;
mod raw;
mod replay;
mod streams;
mod support;
mod wire;
