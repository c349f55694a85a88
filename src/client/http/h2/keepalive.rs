//! Whether the peer still answers: PINGs, as few as find a frozen peer in time.
//!
//! While a request is outstanding and the peer is silent: after 10, then 20, then 40 s of further
//! silence, then every 5 min. DATA and HEADERS begin the count anew, any frame the silence. Servers
//! count PINGs, too: grpc-go closes a connection at the fourth that comes within 5 min of the one
//! before without data of its own (`MinTime`, two strikes), open streams or not, and others follow
//! gRPC proposal A8.

use std::{
    future::{pending, poll_fn},
    mem,
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
    /// PINGs since the peer last sent data, besides the one after a long idleness.
    pings: u32,
    /// That one.
    beside: u32,
    /// The next PING is that.
    doubtful: bool,
    data_seen: u32,
    answered: Option<Instant>,
}

/// From then on the silences are this long.
const LONGEST: Duration = Duration::from_secs(300);
/// Doubled twice, the first silence is the last of the short ones.
const SHORT_ONES: u32 = 3;
/// A connection that lay idle for longer is checked beside its first request.
const DOUBTFUL: Duration = Duration::from_secs(30);
/// 64 times 5 min are over five hours.
const MOST_CALM: u32 = 6;

// === impl Keepalive ===

impl Keepalive {
    /// The silence before the next PING, after so many, and another `beside` a first request.
    fn silence(&self, pings: u32, beside: u32) -> Option<Duration> {
        let first = self.first?;
        let silence = match pings + beside {
            0..SHORT_ONES => first.saturating_mul(1 << pings),
            _ => LONGEST.max(first),
        };
        Some(silence.saturating_mul(1 << self.calmed.min(MOST_CALM)))
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
            beside: 0,
            doubtful: false,
            answered: None,
        }
    }

    /// How long the peer may take to answer.
    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Ends when the peer has not answered in time.
    pub(super) async fn until_silent(mut self) {
        loop {
            let due = if self.state.open() > 0 || self.settings.while_idle {
                self.due()
            } else {
                self.first_request().await
            };
            let Some(due) = due else { return pending().await };
            if self.clock.now() < due {
                // Whatever comes meanwhile can only put it off, and that is looked at then.
                self.clock.sleep_until(due).await;
            } else if !self.ask().await {
                return;
            }
        }
    }

    /// When the next PING is due, unless a frame comes before.
    fn due(&mut self) -> Option<Instant> {
        let monitor = &self.state.monitor;
        let data_seen = monitor.data_seen();
        if data_seen != self.data_seen {
            (self.data_seen, self.pings, self.beside) = (data_seen, 0, 0);
        }
        let silence = self.settings.silence(self.pings, self.beside)?;
        let busy = (self.state.open() > 0).then(|| self.state.busy_since());
        let since = [Some(monitor.last_life()), busy, self.answered].into_iter().flatten().max()?;
        Some(after(since, silence))
    }

    /// Waits for a request. After a long idleness the peer is asked at once.
    async fn first_request(&mut self) -> Option<Instant> {
        let last_life = self.state.monitor.last_life();
        loop {
            self.state.busy.notified().await;
            if self.state.open() > 0 {
                break;
            }
        }
        let due = self.due()?;
        let idle = self.state.busy_since().saturating_duration_since(last_life);
        if idle <= DOUBTFUL || self.state.monitor.last_life() != last_life {
            return Some(due);
        }
        self.doubtful = true;
        Some(self.clock.now())
    }

    /// Whether the peer answers a PING, or shows otherwise that it lives.
    async fn ask(&mut self) -> bool {
        if self.ping.send_ping(Ping::opaque()).is_err() {
            // The connection is about to end, and says so itself.
            return pending().await;
        }
        if mem::take(&mut self.doubtful) {
            self.beside = 1;
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
                    self.answered = Some(self.clock.now());
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
        for beside in [0, 1] {
            let mut strikes = 0;
            for pings in (1 - beside)..10 {
                let silence = keepalive.silence(pings, beside).unwrap();
                strikes += u32::from(silence < Duration::from_secs(300));
            }
            assert!(strikes <= 2, "{strikes} after {beside}");
        }
    }

    #[test]
    fn the_silences_double_and_a_peer_that_complains_is_heard() {
        let seconds = |keepalive: Keepalive, beside| {
            [0, 1, 2, 3, 4].map(|pings| keepalive.silence(pings, beside).unwrap().as_secs())
        };
        let plain = Keepalive::default();
        assert_eq!(seconds(plain, 0), [10, 20, 40, 300, 300]);
        assert_eq!(seconds(plain, 1), [10, 20, 300, 300, 300]);
        assert_eq!(seconds(Keepalive { calmed: 1, ..plain }, 0), [20, 40, 80, 600, 600]);
        assert_eq!(seconds(Keepalive { calmed: 99, ..plain }, 0)[0], 640);
        assert_eq!(Keepalive { first: None, ..plain }.silence(0, 0), None);
    }
}
