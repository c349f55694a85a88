//! How an endpoint does: what counts as a failure.

mod classify;
mod grpc;
mod orca;
mod retry_after;

#[cfg(feature = "http")]
pub(crate) use self::grpc::is_grpc;
pub use self::{
    classify::{AnyResponse, Classify, HttpClassify},
    orca::ReportError,
};
