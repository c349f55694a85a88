//! Proof that a request is in flight on a node, from the pick to the end of its response.

use std::{fmt, sync::Arc, time::Instant};

use super::{
    LatencyModel, Node, Outcome, Verdict, fleet::nanos, oldest::Generation, stats::Timing,
};
use crate::endpoint::Endpoint;

/// Counts a request on its node until it is dropped. Dropped before
/// [`respond`](Self::respond), it stands for an abandoned request.
pub struct Lease {
    node: Arc<Node>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// No response head yet. The times are there if the policy measures latency.
    Waiting(Option<Watch>),
    /// The head came; how it ended shows at the end of the stream.
    Streaming(Option<(Timing, LatencyModel)>),
    /// All is said that there is to say.
    Told,
}

#[derive(Clone, Copy)]
struct Watch {
    started: Instant,
    generation: Generation,
    model: LatencyModel,
}

/// What a response head says of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Head {
    /// All of it.
    Decided(Verdict),
    /// The end of the stream will tell (as in gRPC, whose status is in the trailers).
    AtEnd,
}

// === impl Lease ===

impl Lease {
    /// Takes a place on `node`, unless `cap` requests are in flight there. `now` is given where
    /// `model` measures latency.
    #[inline]
    pub(crate) fn acquire(
        node: &Arc<Node>,
        cap: Option<u32>,
        timed: Option<(Instant, LatencyModel)>,
    ) -> Option<Self> {
        if !node.stats.enter(cap) {
            return None;
        }
        let watch = timed.map(|(started, model)| Watch {
            started,
            generation: node.stats.begin_waiting(&node.fleet, started),
            model,
        });
        Some(Self { node: Arc::clone(node), stage: Stage::Waiting(watch) })
    }

    /// The endpoint, as discovery describes it now.
    pub fn endpoint(&self) -> Endpoint {
        self.node.endpoint()
    }

    /// The node that the request is on.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The response head came. The latency ends here; the request stays in flight until the drop.
    #[inline]
    pub fn respond(&mut self, head: Head) {
        let timing = self.end_waiting();
        self.node.stats.answered(&self.node.fleet);
        self.stage = match head {
            Head::AtEnd => Stage::Streaming(timing),
            Head::Decided(verdict) => {
                self.node.stats.learn(&self.node.fleet, verdict, timing);
                Stage::Told
            }
        };
    }

    /// The request failed without a response head.
    pub fn fail(&mut self, verdict: Verdict) {
        let timing = self.end_waiting();
        self.stage = Stage::Told;
        self.node.stats.learn(&self.node.fleet, verdict, timing);
    }

    /// The stream ended with `verdict`. After a decided head only a failure adds something.
    pub fn finish(&mut self, verdict: Verdict) {
        match std::mem::replace(&mut self.stage, Stage::Told) {
            Stage::Streaming(timing) => self.node.stats.learn(&self.node.fleet, verdict, timing),
            Stage::Told if verdict.outcome != Outcome::Success => {
                self.node.stats.learn(&self.node.fleet, verdict, None);
            }
            Stage::Told => {}
            waiting @ Stage::Waiting(_) => {
                self.stage = waiting;
                self.respond(Head::Decided(verdict));
            }
        }
    }

    /// The request outlived the time that the settings allow an attempt.
    pub(crate) fn time_out(&mut self) {
        let timing = self.end_waiting();
        self.stage = Stage::Told;
        self.node.stats.timed_out(&self.node.fleet, timing);
    }

    /// The request was never sent here: it says nothing of the node.
    pub(crate) fn cancel(mut self) {
        self.end_waiting();
        self.stage = Stage::Told;
    }

    #[inline]
    fn end_waiting(&mut self) -> Option<(Timing, LatencyModel)> {
        let Stage::Waiting(Some(watch)) = self.stage else { return None };
        self.stage = Stage::Told;
        self.node.stats.end_waiting(watch.generation);
        let now = self.node.fleet.now();
        let waited = nanos(now.saturating_duration_since(watch.started));
        Some((Timing { now, nanos: waited }, watch.model))
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if let Stage::Waiting(_) = self.stage {
            let timing = self.end_waiting();
            self.node.stats.abandoned(&self.node.fleet, timing);
        }
        if self.node.stats.leave() {
            self.node.left_idle();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", &self.node.endpoint()).finish_non_exhaustive()
    }
}
