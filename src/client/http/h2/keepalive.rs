//! Whether the peer still answers: PINGs, as few as find a frozen peer in time.
//!
//! While a request is outstanding and the peer is silent: after 10, then 20 s of further silence, then
//! every 5 min. Besides, one for the first request that begins in the silence: at once if that is long,
//! else after 10 s. So a stream on which nothing is ever said, such as a watch, does not hide a peer that
//! freezes later from the requests beside it. DATA and HEADERS begin the count anew, any frame the silence.
//! Servers count PINGs, too: grpc-go closes a connection at the fourth that comes within 5 min of the one
//! before without data of its own (`MinTime`, two strikes), open streams or not, and others follow
//! gRPC proposal A8.

use std::{
    future::{pending, poll_fn},
    sync::Arc,
    time::{Duration, Instant},
};

use h2::{Ping, PingPong};

use super::trunk::State;
use crate::node::{Clock, after};

/// When an HTTP/2 connection is asked whether its peer still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Keepalive {
    /// The silence before the first PING; `None` sends none.
    pub(in super::super) first: Option<Duration>,
    /// How long the peer may take to answer one.
    pub(in super::super) timeout: Duration,
    /// Also while no request is outstanding.
    pub(in super::super) while_idle: bool,
    /// How often a peer of this endpoint has said that it gets too many: each doubles the silences.
    pub(in super::super) calmed: u32,
}

/// Watches one connection.
pub(super) struct Watch {
    settings: Keepalive,
    clock: Clock,
    ping: PingPong,
    state: Arc<State>,
    /// PINGs since the peer last sent data, besides the one for a request that began in the silence.
    pings: u32,
    /// That one was sent.
    doubted: bool,
    /// The next PING is that.
    doubts: bool,
    data_seen: u32,
}

/// From then on the silences are this long.
const LONGEST: Duration = Duration::from_secs(300);
/// The first silence, and twice that. With the one for a request they are as many as servers forgive.
const SHORT_ONES: u32 = 2;
/// A peer that was silent for longer is asked at once when a request begins, unless it has complained.
const DOUBTFUL: Duration = Duration::from_secs(30);
/// 64 times 5 min are over five hours.
const MOST_CALM: u32 = 6;

// === impl Keepalive ===

impl Keepalive {
    /// The silence before the next PING, after so many.
    fn silence(&self, pings: u32) -> Option<Duration> {
        let first = self.first?;
        let silence = match pings {
            0..SHORT_ONES => first.saturating_mul(1 << pings),
            _ => LONGEST.max(first),
        };
        Some(self.calm(silence))
    }

    /// The silence after which a peer is asked at once when a request begins.
    fn doubtful(&self) -> Duration {
        self.calm(DOUBTFUL)
    }

    fn calm(&self, silence: Duration) -> Duration {
        silence.saturating_mul(1 << self.calmed.min(MOST_CALM))
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            first: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(5),
            while_idle: false,
            calmed: 0,
        }
    }
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(
        settings: Keepalive,
        clock: Clock,
        ping: PingPong,
        state: Arc<State>,
    ) -> Self {
        Self {
            data_seen: state.monitor.data_seen(),
            settings,
            clock,
            ping,
            state,
            pings: 0,
            doubted: false,
            doubts: false,
        }
    }

    /// How long the peer may take to answer.
    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Ends when the peer has not answered in time.
    pub(super) async fn until_silent(mut self) {
        loop {
            while self.state.open() == 0 && !self.settings.while_idle {
                self.state.busy.notified().await;
            }
            let Some(due) = self.due() else { return pending().await };
            if self.clock.now() < due {
                tokio::select! {
                    biased;
                    // A request that began in a silence brings it forward.
                    () = self.state.doubted.notified() => {}
                    // Whatever else comes meanwhile can only put it off, and that is looked at then.
                    () = self.clock.sleep_until(due) => {}
                }
            } else if !self.ask().await {
                return;
            }
        }
    }

    /// When the next PING is due, unless a frame comes before.
    fn due(&mut self) -> Option<Instant> {
        let (state, monitor) = (&self.state, &self.state.monitor);
        let data_seen = monitor.data_seen();
        if data_seen != self.data_seen {
            (self.data_seen, self.pings, self.doubted) = (data_seen, 0, false);
        }
        let heard = monitor.last_life().max(state.answered());
        let since = if state.open() > 0 { heard.max(state.busy_since()) } else { heard };
        let due = after(since, self.settings.silence(self.pings)?);
        let begun = state.begun_in_silence();
        self.doubts = false;
        if self.doubted || begun <= heard {
            return Some(due);
        }
        let silence = match begun.saturating_duration_since(heard) > self.settings.doubtful() {
            true => Duration::ZERO,
            false => self.settings.silence(0)?,
        };
        let sooner = after(begun, silence);
        self.doubts = sooner < due;
        Some(sooner.min(due))
    }

    /// Whether the peer answers a PING, or shows otherwise that it lives.
    async fn ask(&mut self) -> bool {
        if self.ping.send_ping(Ping::opaque()).is_err() {
            // The connection is about to end, and says so itself.
            return pending().await;
        }
        if self.doubts {
            self.doubted = true;
        } else {
            self.pings += 1;
        }
        let mut since = self.clock.now();
        loop {
            tokio::select! {
                biased;
                pong = poll_fn(|cx| self.ping.poll_pong(cx)) => {
                    if pong.is_err() {
                        return pending().await;
                    }
                    self.state.set_answered(self.clock.now());
                    return true;
                }
                () = self.clock.sleep_until(after(since, self.settings.timeout)) => {
                    match self.state.monitor.last_life() {
                        life if life > since => since = life,
                        _ => return false,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R2: grpc-go, the strictest server known, forgives two PINGs that come within 5 min of the one
    /// before, until it has sent data again; the first after data is free.
    #[test]
    fn r2_no_server_at_its_defaults_punishes_the_pings() {
        let keepalive = Keepalive::default();
        let short = |pings: &u32| keepalive.silence(*pings).unwrap() < Duration::from_secs(300);
        let for_a_request = 1;
        let soon = (0..10).filter(short).count() + for_a_request;
        let free = 1;
        assert!(soon - free <= 2, "{soon} without data");
    }

    #[test]
    fn the_silences_double_and_a_peer_that_complains_is_heard() {
        let seconds = |keepalive: Keepalive| {
            [0, 1, 2, 3].map(|pings| keepalive.silence(pings).unwrap().as_secs())
        };
        let plain = Keepalive::default();
        assert_eq!(seconds(plain), [10, 20, 300, 300]);
        assert_eq!(seconds(Keepalive { calmed: 1, ..plain }), [20, 40, 600, 600]);
        let doubtful = |calmed| Keepalive { calmed, ..plain }.doubtful().as_secs();
        assert_eq!([0, 1, 2].map(doubtful), [30, 60, 120]);
        assert_eq!(seconds(Keepalive { calmed: 99, ..plain })[0], 640);
        assert_eq!(Keepalive { first: None, ..plain }.silence(0), None);
    }
}
