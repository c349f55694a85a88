//! When to look again: for sources that have to ask, as DNS has.
//!
//! An answer is good for the time that it says, between a floor and a ceiling; what failed is asked
//! again ever more rarely; a pool that cannot reach an endpoint may have it asked early, but never
//! before the floor. All times are jittered, so that those who began together drift apart. It is one
//! loop over one look at a time, so there is never a second one in flight.
//!
//! The backoff is that of gRPC (times 1.6, +-20 %), from the floor to the ceiling.

use std::{
    fmt,
    future::{Future, poll_fn},
    task::Poll,
    time::{Duration, Instant},
};

use futures_core::Stream;

use super::{RefreshRequests, Update, unfold::unfold};
use crate::node::{Clock, Rng, after};

/// Somebody who can be made to look, again and again.
pub(super) trait Look: Send + 'static {
    /// One look. It is let go on to its end, unless the source itself is dropped.
    fn look(&mut self) -> impl Future<Output = Seen> + Send;
}

/// What a look has seen, and when to look again.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) update: Update,
    pub(super) again: Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// At once: this was the first part of one look.
    AtOnce,
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

struct Looking<L> {
    look: L,
    pace: Pace,
    refresh: RefreshRequests,
    wait: Option<Wait>,
    /// When the look began that this is a part of.
    begun: Option<Instant>,
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

const JITTER: f64 = 0.1;
const BACKOFF_FACTOR: f64 = 1.6;
const BACKOFF_JITTER: f64 = 0.2;

/// The updates of `look`, at the given pace. The first look is at once.
pub(super) fn resume<L: Look>(
    look: L,
    pace: Pace,
    refresh: RefreshRequests,
) -> impl Stream<Item = Update> + Send + 'static {
    let looking = Looking { look, pace, refresh, wait: None, begun: None, in_vain: 0 };
    unfold(looking, |mut looking| async move {
        looking.wait().await;
        (looking.next().await, looking)
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

// === impl Looking ===

impl<L: Look> Looking<L> {
    async fn wait(&mut self) {
        let Some(Wait { until, early }) = self.wait.take() else { return };
        let clock = &self.pace.clock;
        let Some(early) = early else { return clock.sleep_until(until).await };
        tokio::select! {
            () = clock.sleep_until(until) => return,
            () = self.refresh.requested() => {}
        }
        tracing::debug!("looking early, since an endpoint cannot be reached");
        clock.sleep_until(early.min(until)).await;
    }

    async fn next(&mut self) -> Update {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                // What was asked for until now is answered by this look.
                poll_fn(|cx| {
                    let _ = self.refresh.poll_requested(cx);
                    Poll::Ready(())
                })
                .await;
                self.pace.clock.now()
            }
        };
        let Seen { update, again } = self.look.look().await;
        let now = self.pace.clock.now();
        let early = Some(after(begun, self.pace.floor));
        match again {
            Again::AtOnce => self.begun = Some(begun),
            Again::After(ttl) => {
                self.in_vain = 0;
                self.wait = Some(Wait { until: after(now, self.pace.jittered(ttl)), early });
            }
            Again::Rarely | Again::Backoff => {
                self.in_vain = self.in_vain.saturating_add(1);
                let until = after(now, self.pace.backoff(self.in_vain));
                let early = early.filter(|_| again == Again::Rarely);
                self.wait = Some(Wait { until, early });
            }
        }
        update
    }
}

#[cfg(test)]
mod tests;
