//! The way of a request: a tower service that picks in `call`, and counts to the end of the body.

mod body;
mod builder;
mod future;
mod judge;
mod layer;
mod plan;
mod service;
mod wait;

pub use self::{
    body::{AtBodyEnd, AtResponse, BalancedBody, Complete},
    builder::Builder,
    future::ResponseFuture,
    layer::{Addressed, AddressedFuture, BalanceLayer, LayerError},
    service::{Balance, Handle, Unset},
};
