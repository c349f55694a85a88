//! evenkeel
#![allow(missing_docs, unused)]
pub mod discovery;
mod endpoint;
mod error;
pub mod node;
pub mod pool;
mod sync;
pub use endpoint::*;
pub use error::{
    BoxError, BuildError, Census, DiscoverError, Error, ListError, ListErrorReason, Unsent,
};
