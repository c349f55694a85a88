//! When to look again: for sources that have to ask, as DNS has.
//!
//! An answer is good for the time that it says, between a floor and a ceiling; what failed is asked
//! again ever more rarely; a pool that cannot reach an endpoint may have it asked early, but never
//! before the floor. All times are jittered, so that those who began together drift apart. It is one
//! loop over one look at a time, so there is never a second one in flight; what of a look comes late
//! is said when it comes, and holds up no other. Whoever waits for the first answer hears after a
//! second that there is none yet.
//!
//! The backoff is that of gRPC (times 1.6, +-20 %), from the floor to the ceiling.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use futures_core::Stream;

use super::{RefreshRequests, Update, sleep::sleep_until, unfold::unfold};
use crate::{
    error::DiscoverError,
    node::{Clock, Rng, after},
};

/// Somebody who can be made to look, again and again.
pub(super) trait Look: Sized + Send + 'static {
    /// Before each look: finds out whom to ask.
    fn prepare(&mut self) -> impl Future<Output = Result<(), DiscoverError>> + Send;

    /// That a look has no answer yet.
    fn late(&self) -> DiscoverError;

    /// One look. It is let go on to its end, unless the source itself is dropped.
    fn look(self) -> impl Future<Output = (Self, Seen)> + Send;

    /// What comes late of the last look; for ever pending if nothing can. It is dropped when it is time
    /// for the next look, and must lose nothing by that.
    fn more(&mut self) -> impl Future<Output = Seen> + Send;
}

/// What a look has seen, and when to look again.
#[derive(Debug)]
pub(super) struct Seen {
    /// None if there is nothing new yet.
    pub(super) update: Option<Update>,
    pub(super) again: Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// What was seen is good for this long; earlier if a pool asks.
    After(Duration),
    /// Nothing is there. Ever more rarely, but earlier if a pool asks.
    Rarely,
    /// It failed: ever more rarely, whoever asks. Those who serve may have enough to do.
    Backoff,
}

/// How often to look.
#[derive(Clone)]
pub(super) struct Pace {
    pub(super) floor: Duration,
    pub(super) ceiling: Duration,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
}

enum Stage<L> {
    Due(L),
    Waiting(L, Wait),
    Looking {
        look: Pin<Box<dyn Future<Output = (L, Seen)> + Send>>,
        begun: Instant,
        /// What to say if it takes until then.
        late: Option<(Instant, DiscoverError)>,
    },
}

/// What decides on the time of the next look.
struct Timing {
    pace: Pace,
    refresh: RefreshRequests,
    /// Whether anything was said yet.
    heard: bool,
    /// Looks in a row that found nothing.
    in_vain: u32,
}

/// Until the next look.
#[derive(Clone, Copy)]
struct Wait {
    until: Instant,
    /// From when on a request is heard; never, if there is none.
    early: Option<Instant>,
}

/// How long the first answer may take before it is said that there is none yet. Calls wait for it, and
/// have to be told why when they give up.
const LATE: Duration = Duration::from_secs(1);
const JITTER: f64 = 0.1;
const BACKOFF_FACTOR: f64 = 1.6;
const BACKOFF_JITTER: f64 = 0.2;

/// The updates of `look`, at the given pace. The first look is at once.
pub(super) fn resume<L: Look>(
    look: L,
    pace: Pace,
    refresh: RefreshRequests,
) -> impl Stream<Item = Update> + Send + 'static {
    let timing = Timing { pace, refresh, heard: false, in_vain: 0 };
    unfold((timing, Stage::Due(look)), |(mut timing, stage)| async move {
        let (update, stage) = timing.next(stage).await;
        timing.heard = true;
        (update, (timing, stage))
    })
}

// === impl Pace ===

impl Pace {
    /// The time until what is good for `ttl` is looked at again.
    fn jittered(&mut self, ttl: Duration) -> Duration {
        let ttl = ttl.min(self.ceiling).max(self.floor);
        let jittered = ttl.mul_f64(1.0 + JITTER * self.either_way());
        // Who would come before the floor comes as much after it, or all would come at the floor.
        if jittered < self.floor { self.floor + (self.floor - jittered) } else { jittered }
    }

    /// The time after so many looks in vain, the last one included.
    fn backoff(&mut self, in_vain: u32) -> Duration {
        let exponent = i32::try_from(in_vain.saturating_sub(1)).unwrap_or(i32::MAX);
        let floor = self.floor.as_secs_f64().max(0.001);
        let wait = floor * BACKOFF_FACTOR.powi(exponent);
        let wait = wait.min(self.ceiling.as_secs_f64()).max(floor);
        let jittered = wait * (1.0 + BACKOFF_JITTER * self.either_way());
        Duration::from_secs_f64(if jittered < floor { 2.0 * floor - jittered } else { jittered })
    }

    /// A number between -1 and 1.
    fn either_way(&mut self) -> f64 {
        2.0 * self.rng.next_f64() - 1.0
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace")
            .field("floor", &self.floor)
            .field("ceiling", &self.ceiling)
            .finish_non_exhaustive()
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn failed(error: DiscoverError) -> Self {
        Self { update: Some(Update::Failed(error)), again: Again::Backoff }
    }
}

// === impl Timing ===

impl Timing {
    async fn next<L: Look>(&mut self, mut stage: Stage<L>) -> (Update, Stage<L>) {
        loop {
            let (update, next) = match stage {
                Stage::Waiting(mut look, mut wait) => match self.wait(&mut look, &mut wait).await {
                    Some(update) => (Some(update), Stage::Waiting(look, wait)),
                    None => (None, Stage::Due(look)),
                },
                Stage::Due(look) => self.begin(look).await,
                Stage::Looking { mut look, begun, late } => {
                    let due = late.as_ref().map(|(at, _)| *at);
                    let seen = tokio::select! {
                        biased;
                        seen = &mut look => Some(seen),
                        () = sleep_until(&self.pace.clock, due) => None,
                    };
                    match (seen, late) {
                        (Some((look, Seen { update, again })), _) => {
                            (update, Stage::Waiting(look, self.after(begun, again)))
                        }
                        (None, late) => {
                            let update = late.map(|(_, error)| Update::Failed(error));
                            (update, Stage::Looking { look, begun, late: None })
                        }
                    }
                }
            };
            stage = next;
            if let Some(update) = update {
                return (update, stage);
            }
        }
    }

    async fn begin<L: Look>(&mut self, mut look: L) -> (Option<Update>, Stage<L>) {
        // What was asked for until now is answered by this look.
        poll_fn(|cx| {
            let _ = self.refresh.poll_requested(cx);
            Poll::Ready(())
        })
        .await;
        let begun = self.pace.clock.now();
        let late = if self.heard { None } else { Some(after(begun, LATE)) };
        let prepared = tokio::select! {
            biased;
            prepared = look.prepare() => Some(prepared),
            () = sleep_until(&self.pace.clock, late) => None,
        };
        // Once that is said, it is waited for.
        let Some(prepared) = prepared else {
            return (Some(Update::Failed(look.late())), Stage::Due(look));
        };
        if let Err(error) = prepared {
            let Seen { update, again } = Seen::failed(error);
            return (update, Stage::Waiting(look, self.after(begun, again)));
        }
        let late = late.map(|at| (at, look.late()));
        (None, Stage::Looking { look: Box::pin(look.look()), begun, late })
    }

    /// What comes late of the last look; nothing when it is time for the next.
    async fn wait<L: Look>(&mut self, look: &mut L, wait: &mut Wait) -> Option<Update> {
        loop {
            let seen = tokio::select! {
                biased;
                seen = look.more() => seen,
                () = self.pace.clock.sleep_until(wait.until) => return None,
                () = self.refresh.requested(), if wait.early.is_some() => {
                    tracing::debug!("looking early, since an endpoint cannot be reached");
                    let early = wait.early.take();
                    wait.until = early.map_or(wait.until, |early| early.min(wait.until));
                    continue;
                }
            };
            if let Again::After(ttl) = seen.again {
                let until = after(self.pace.clock.now(), self.pace.jittered(ttl));
                wait.until = wait.until.min(until);
            }
            if seen.update.is_some() {
                return seen.update;
            }
        }
    }

    /// When to look again after a look that began then.
    fn after(&mut self, begun: Instant, again: Again) -> Wait {
        let now = self.pace.clock.now();
        let early = Some(after(begun, self.pace.floor));
        match again {
            Again::After(ttl) => {
                self.in_vain = 0;
                Wait { until: after(now, self.pace.jittered(ttl)), early }
            }
            Again::Rarely | Again::Backoff => {
                self.in_vain = self.in_vain.saturating_add(1);
                let until = after(now, self.pace.backoff(self.in_vain));
                Wait { until, early: early.filter(|_| again == Again::Rarely) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
