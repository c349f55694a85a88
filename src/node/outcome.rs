//! How a request ended, as its node remembers it.

use std::time::Duration;

/// How a request ended for the endpoint that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was served. A client's own mistake (most 4xx) is a success of the server.
    Success,
    /// The endpoint failed it: raises the endpoint's load, and counts against its health.
    Failure,
    /// The endpoint refused it for want of room (429 and the like): raises its load, and does not
    /// count against its health.
    Overloaded,
    /// The caller dropped it before the response head. Neutral for success; its age may raise the
    /// latency estimate, and never lowers it.
    Abandoned,
}

/// What a [`Classify`](crate::health::Classify) says of a response: how it ended, and for how long
/// the endpoint asks to be spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How the request ended.
    pub outcome: Outcome,
    /// A Retry-After or a gRPC pushback; the node's success stays at its floor that long, at most
    /// 60 s. Not read for a success.
    pub spare_for: Option<Duration>,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, spare_for: None }
    }
}
