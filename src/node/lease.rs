//! Proof that a request is in flight on a node, from the pick to the end of its response.

use std::{fmt, sync::Arc, time::Instant};

use super::{LatencyModel, Node, Verdict, fleet::nanos, oldest::Generation, stats::Timing};
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
    /// And the request is no longer in flight.
    Released,
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
        if !matches!(self.stage, Stage::Waiting(_)) {
            return;
        }
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
        if !matches!(self.stage, Stage::Waiting(_)) {
            return;
        }
        let timing = self.end_waiting();
        self.stage = Stage::Told;
        self.node.stats.learn(&self.node.fleet, verdict, timing);
    }

    /// The stream ended with `verdict`: heard where the head left it open.
    pub fn finish(&mut self, verdict: Verdict) {
        match self.stage {
            Stage::Waiting(_) => self.respond(Head::Decided(verdict)),
            Stage::Streaming(timing) => {
                self.stage = Stage::Told;
                self.node.stats.learn(&self.node.fleet, verdict, timing);
            }
            Stage::Told | Stage::Released => {}
        }
    }

    /// The stream broke off, whatever its head said.
    pub fn break_off(&mut self, verdict: Verdict) {
        match self.stage {
            Stage::Waiting(_) => self.fail(verdict),
            Stage::Streaming(timing) => {
                self.stage = Stage::Told;
                self.node.stats.learn(&self.node.fleet, verdict, timing);
            }
            Stage::Told => self.node.stats.learn(&self.node.fleet, verdict, None),
            Stage::Released => {}
        }
    }

    /// The request outlived the time that the settings allow an attempt.
    pub(crate) fn time_out(&mut self) {
        if !matches!(self.stage, Stage::Waiting(_)) {
            return;
        }
        let timing = self.end_waiting();
        self.stage = Stage::Told;
        self.node.stats.timed_out(&self.node.fleet, timing);
    }

    /// The request was never processed here: it says nothing of the node.
    pub(crate) fn pass(&mut self) {
        if let Stage::Waiting(_) = self.stage {
            self.end_waiting();
        }
        if !matches!(self.stage, Stage::Released) {
            self.stage = Stage::Told;
        }
    }

    /// The request goes elsewhere.
    pub(crate) fn cancel(mut self) {
        self.pass();
    }

    /// The request is over, although the lease stays for the sake of its endpoint.
    #[inline]
    pub(crate) fn release(&mut self) {
        if let Stage::Waiting(_) = self.stage {
            let timing = self.end_waiting();
            self.node.stats.abandoned(&self.node.fleet, timing);
        }
        if matches!(std::mem::replace(&mut self.stage, Stage::Released), Stage::Released) {
            return;
        }
        if self.node.stats.leave() {
            self.node.left_idle();
        }
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
        self.release();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", &self.node.endpoint()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests;
