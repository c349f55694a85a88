//! Proof that a request is in flight on a node, from the pick to the end of its response.

mod state;

use std::{fmt, sync::Arc};

use self::state::{Stage, State};
use super::{
    Counted, LatencyModel, LoadReport, Node, Occupancy, Outcome, Verdict, latency::Timing,
};
use crate::endpoint::Endpoint;

/// Counts a request on its node until it is dropped. Dropped before
/// [`respond`](Self::respond), it stands for an abandoned request.
///
/// Two words, so that it is handed on in registers: a call moves it several times.
pub struct Lease {
    node: Arc<Node>,
    state: State,
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
    /// Takes a place on `node`, unless `cap` requests are in flight there. Where latency is
    /// measured, the time in nanoseconds of the fleet is given, and the model.
    #[inline]
    pub(crate) fn acquire(
        node: &Arc<Node>,
        cap: Option<u32>,
        timed: Option<(u64, LatencyModel)>,
    ) -> Option<Self> {
        Self::acquire_seen(node, node.occupancy(), cap, timed)
    }

    /// The same for one who has just `seen` how many there are.
    #[inline]
    pub(crate) fn acquire_seen(
        node: &Arc<Node>,
        seen: Occupancy,
        cap: Option<u32>,
        timed: Option<(u64, LatencyModel)>,
    ) -> Option<Self> {
        let state = match timed {
            None => node.stats.enter(seen, cap).then(State::untimed)?,
            Some((now, model)) => State::new(model, node.stats.enter_waiting(seen, cap, now)?, now),
        };
        Some(Self { node: Arc::clone(node), state })
    }

    /// Takes over the request's place in the crowd, until it is released.
    #[inline]
    pub(crate) fn count(&mut self, place: Counted<'_>) {
        place.hand_over();
        self.state.set_counted();
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
        match head {
            Head::Decided(verdict) if self.succeed_plainly(verdict) => {}
            head => self.respond_at_length(head),
        }
    }

    /// The commonest end by far: a success, with nothing measured and nothing to forgive.
    #[inline]
    fn succeed_plainly(&mut self, verdict: Verdict) -> bool {
        let plain = self.state.is_waiting_untimed()
            && verdict.outcome == Outcome::Success
            && self.node.stats.is_blameless();
        if plain {
            self.node.stats.answered(&self.node.fleet);
            self.state.set_stage(Stage::Told);
        }
        plain
    }

    fn respond_at_length(&mut self, head: Head) {
        if self.state.stage() != Stage::Waiting {
            return;
        }
        let timing = self.end_waiting();
        self.node.stats.answered(&self.node.fleet);
        match head {
            Head::AtEnd => {
                self.state.set_stage(Stage::Streaming);
                if let Some((timing, _)) = timing {
                    self.state.set_time(timing.nanos);
                }
            }
            Head::Decided(verdict) => {
                self.state.set_stage(Stage::Told);
                self.node.stats.learn(&self.node.fleet, verdict, timing);
            }
        }
    }

    /// Whether the policy makes use of [load reports](LoadReport): only then is it worth looking for
    /// one in a response.
    #[inline]
    pub fn wants_report(&self) -> bool {
        self.node.fleet.reports.are_wanted()
    }

    /// The response brought a load report. Read from the headers and trailers of HTTP by the crate
    /// itself; for other protocols a [`Complete`](crate::Complete) of one's own says it here.
    pub fn report(&self, report: &LoadReport) {
        if let Some(weight) = self.node.fleet.reports.weigh(report) {
            self.node.report.learn(weight, self.node.fleet.now_nanos());
        }
    }

    /// The request failed without a response head.
    pub fn fail(&mut self, verdict: Verdict) {
        if self.state.stage() != Stage::Waiting {
            return;
        }
        let timing = self.end_waiting();
        self.state.set_stage(Stage::Told);
        self.node.stats.learn(&self.node.fleet, verdict, timing);
    }

    /// The stream ended with `verdict`: heard where the head left it open.
    #[inline]
    pub fn finish(&mut self, verdict: Verdict) {
        if !self.succeed_plainly(verdict) {
            self.finish_at_length(verdict);
        }
    }

    fn finish_at_length(&mut self, verdict: Verdict) {
        match self.state.stage() {
            Stage::Waiting => self.respond_at_length(Head::Decided(verdict)),
            Stage::Streaming => {
                self.state.set_stage(Stage::Told);
                let timing = self.timing_of_head();
                self.node.stats.learn(&self.node.fleet, verdict, timing);
            }
            Stage::Told | Stage::Released => {}
        }
    }

    /// The response is over with `verdict`: [`finish`](Self::finish) and the drop in one, which is
    /// the cheapest way to end a request.
    #[inline]
    pub fn conclude(mut self, verdict: Verdict) {
        let stats = &self.node.stats;
        let plain = self.state.stage() == Stage::Waiting
            && !self.state.is_counted()
            && verdict.outcome == Outcome::Success
            && stats.is_blameless();
        if !plain {
            return self.finish_at_length(verdict);
        }
        stats.answered(&self.node.fleet);
        let left = match self.state.model() {
            LatencyModel::None => stats.leave(),
            model => {
                let timing = self.timing();
                // The exchange fetches the cache line for writing, once: with the estimates first, it would
                // come for reading before that.
                let left = stats.leave_waiting(self.state.waits(), self.state.time());
                stats.sample(&self.node.fleet, model, timing);
                left
            }
        };
        self.state = State::RELEASED;
        self.node.left(left);
    }

    /// The stream broke off, whatever its head said.
    pub fn break_off(&mut self, verdict: Verdict) {
        match self.state.stage() {
            Stage::Waiting => self.fail(verdict),
            Stage::Streaming => {
                self.state.set_stage(Stage::Told);
                let timing = self.timing_of_head();
                self.node.stats.learn(&self.node.fleet, verdict, timing);
            }
            Stage::Told => self.node.stats.learn(&self.node.fleet, verdict, None),
            Stage::Released => {}
        }
    }

    /// The request outlived the time that it was given: a failure, and a latency of at least that
    /// long.
    pub fn time_out(&mut self) {
        if self.state.stage() != Stage::Waiting {
            return;
        }
        let timing = self.end_waiting();
        self.state.set_stage(Stage::Told);
        self.node.stats.timed_out(&self.node.fleet, timing);
    }

    /// The request was never processed here: it says nothing of the node.
    pub(crate) fn pass(&mut self) {
        if self.state.stage() == Stage::Waiting {
            self.end_waiting();
        }
        if self.state.stage() != Stage::Released {
            self.state.set_stage(Stage::Told);
        }
    }

    /// The request goes elsewhere.
    pub(crate) fn cancel(mut self) {
        self.pass();
    }

    /// The request is over, although the lease stays for the sake of its endpoint.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.state.stage() != Stage::Released {
            self.release_at_length();
        }
    }

    fn release_at_length(&mut self) {
        if self.state.stage() == Stage::Waiting {
            self.abandon();
        }
        let was_counted = self.state.is_counted();
        self.state = State::RELEASED;
        let left = self.node.stats.leave();
        self.node.left(left);
        // After it has left: whoever no longer finds it in the crowd finds its place free.
        if was_counted {
            self.node.fleet.crowd.leave();
        }
    }

    #[cold]
    fn abandon(&mut self) {
        let timing = self.end_waiting();
        self.node.stats.abandoned(&self.node.fleet, timing);
    }

    #[inline]
    fn end_waiting(&mut self) -> Option<(Timing, LatencyModel)> {
        if self.state.stage() != Stage::Waiting {
            return None;
        }
        self.state.set_stage(Stage::Told);
        let model = self.state.model();
        if model == LatencyModel::None {
            return None;
        }
        let timing = self.timing();
        self.node.stats.end_waiting(self.state.waits(), self.state.time());
        Some((timing, model))
    }

    /// Of a request that waited up to now.
    #[inline]
    fn timing(&self) -> Timing {
        let now = self.node.fleet.now_nanos();
        Timing { now, nanos: self.state.nanos_until(now) }
    }

    /// The latency that was measured at the head, for a verdict of now.
    fn timing_of_head(&self) -> Option<(Timing, LatencyModel)> {
        let model = self.state.model();
        (model != LatencyModel::None).then(|| {
            let now = self.node.fleet.now_nanos();
            (Timing { now, nanos: self.state.time() }, model)
        })
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
