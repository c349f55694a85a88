//! What layers over a client make of a call, told truthfully: where its response came from, and whether a
//! server may have processed it. Over pipes in memory, in paused time.

#![cfg(all(feature = "reqwest", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod late;
mod peer;
mod redirects;
