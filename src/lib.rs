//! evenkeel
#![allow(missing_docs, unused)]
mod balance;
pub mod discovery;
mod endpoint;
mod error;
pub mod health;
pub mod node;
pub mod policy;
pub mod pool;
mod sync;
pub use balance::*;
pub use endpoint::{Address, Endpoint, Locality, Metadata, Priority, Protocol, Weight};
pub use error::{
    BoxError, BuildError, Census, DiscoverError, Error, ListError, ListErrorReason, Unsent,
};
