//! The atomics, under a name that the model checker can replace.

#[cfg(not(evenkeel_loom))]
pub(crate) use std::sync::atomic;

#[cfg(evenkeel_loom)]
pub(crate) use loom::sync::atomic;
