//! The pool.
mod make;
pub use self::make::MakeEndpoint;
