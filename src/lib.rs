//! evenkeel
#![allow(missing_docs, unused)]
#[cfg(feature = "http")]
pub mod client;
mod endpoint;
mod error;
pub mod node;
pub mod pool;
mod sync;
pub use endpoint::*;
pub use error::{
    BoxError, BuildError, Census, DiscoverError, Error, ListError, ListErrorReason, Unsent,
};
