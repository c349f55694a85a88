//! What operators see of balancers without asking them.
//!
//! It stands at the end of the path: the pool tells an observer what it knows, and imports nothing
//! from here.

mod metrics;
