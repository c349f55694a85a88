//! What happens to the servers, and what requests ask of them.

use evenkeel::{policy::Rng, pool::Subset};

use crate::{
    server::WORKERS,
    time::{MILLI, Nanos, SECOND},
};

pub(crate) const SERVERS: usize = 40;
/// Work of the mean request.
pub(crate) const MEAN_WORK: Nanos = 10 * MILLI;
pub(crate) const RUN: Nanos = 20 * SECOND;
const WARM_UP: Nanos = 3 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Exponential,
    Lognormal,
    MixedSpeeds,
    Antagonist,
    FailFast,
    Stall,
    RollingRestart,
    ColdStart,
    TwoClasses,
    Flaky,
    RandomSubset,
    Aperture,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Speed(usize, f64),
    FailFast(usize, bool),
    Crash(usize),
    /// Back after a crash.
    Return(usize),
    /// Discovery lists these from now on: a range, and whether.
    List {
        first: usize,
        count: usize,
        listed: bool,
    },
    /// All clients build their pickers anew.
    Rebuild,
}

/// What happens when, and how fast each server is in the beginning.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) speeds: Vec<f64>,
    pub(crate) listed: usize,
    /// In order.
    pub(crate) changes: Vec<(Nanos, Change)>,
    /// The capacity that the load is a share of, in servers of speed 1.
    pub(crate) capacity: f64,
}

const FAIL_FAST: std::ops::Range<Nanos> = 6 * SECOND..14 * SECOND;
const STALL: std::ops::Range<Nanos> = 6 * SECOND..11 * SECOND;
const ANTAGONIST_SPEED: f64 = 0.4;
const ANTAGONIST_ON: f64 = 1.0;
const ANTAGONIST_OFF: f64 = 3.0;
/// 5 % of the servers.
const RESTARTED_AT_ONCE: usize = SERVERS / 20;
const RESTARTS_FROM: Nanos = 4 * SECOND;
const RESTART_EVERY: Nanos = 800 * MILLI;
const RESTART_TAKES: Nanos = 500 * MILLI;
const DISCOVERY_LAG: Nanos = 300 * MILLI;
const COLD_FOR: Nanos = 500 * MILLI;
const COLD_SPEED: f64 = 0.5;
const SUBSET: usize = 12;
const NEWCOMERS: usize = 8;
const NEWCOMERS_AT: Nanos = 6 * SECOND;
const NEWCOMERS_COLD_FOR: Nanos = SECOND;

impl Scenario {
    pub(crate) const ALL: [Self; 12] = [
        Self::Exponential,
        Self::Lognormal,
        Self::MixedSpeeds,
        Self::Antagonist,
        Self::FailFast,
        Self::Stall,
        Self::RollingRestart,
        Self::ColdStart,
        Self::TwoClasses,
        Self::Flaky,
        Self::RandomSubset,
        Self::Aperture,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exponential => "exponential",
            Self::Lognormal => "lognormal",
            Self::MixedSpeeds => "mixed-speeds",
            Self::Antagonist => "antagonist",
            Self::FailFast => "fail-fast",
            Self::Stall => "stall",
            Self::RollingRestart => "rolling-restart",
            Self::ColdStart => "cold-start",
            Self::TwoClasses => "two-classes",
            Self::Flaky => "flaky",
            Self::RandomSubset => "random-subset",
            Self::Aperture => "aperture",
        }
    }

    /// The same, short enough for a column.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Exponential => "exp",
            Self::Lognormal => "lognorm",
            Self::MixedSpeeds => "mixed",
            Self::Antagonist => "antagon",
            Self::FailFast => "failing",
            Self::Stall => "stall",
            Self::RollingRestart => "rolling",
            Self::ColdStart => "cold",
            Self::TwoClasses => "classes",
            Self::Flaky => "flaky",
            Self::RandomSubset => "subset",
            Self::Aperture => "apertur",
        }
    }

    /// The same in a few words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Exponential => "equal servers, exponential work of 10 ms",
            Self::Lognormal => "equal servers, lognormal work of sigma 1.2",
            Self::MixedSpeeds => {
                "half of the servers at full speed, a quarter at 1/2, a quarter at 1/4"
            }
            Self::Antagonist => "each server at 0.4 of its speed for 1 s of 4 s in the mean",
            Self::FailFast => "one server answers errors within 0.1 ms from 6 s to 14 s",
            Self::Stall => "one server stands still from 6 s to 11 s",
            Self::RollingRestart => "two servers at a time crash and return; discovery lags 300 ms",
            Self::ColdStart => "measured from the first request; 8 cold servers join at 6 s",
            Self::Flaky => "one request in a hundred fails, wherever it goes",
            Self::RandomSubset => "exponential; each client uses 12 servers, drawn at random",
            Self::Aperture => "exponential; each client uses 12 servers, by deterministic aperture",
            Self::TwoClasses => "90 % of the requests are 5 ms of work, 10 % are 55 ms",
        }
    }

    /// The servers whose share of the requests the plots show, and what they are.
    pub(crate) fn watched(self) -> (std::ops::Range<usize>, &'static str) {
        match self {
            Self::MixedSpeeds => (SERVERS * 3 / 4..SERVERS, "the slowest quarter"),
            Self::FailFast => (0..1, "the failing server"),
            Self::Stall => (0..1, "the server that stands still"),
            Self::RollingRestart => (0..RESTARTED_AT_ONCE, "the first two restarted"),
            Self::ColdStart => (SERVERS - NEWCOMERS..SERVERS, "the newcomers"),
            _ => (0..1, "one of the servers"),
        }
    }

    /// The part of the servers that a client uses; all of them by default.
    pub(crate) fn subset(self, client: usize, clients: usize) -> Option<Subset> {
        match self {
            Self::RandomSubset => Some(Subset::random(SUBSET)),
            Self::Aperture => {
                let subset = Subset::aperture(client as u32, clients as u32);
                Some(subset.at_least(SUBSET as u32))
            }
            _ => None,
        }
    }

    pub(crate) fn is_subset(self) -> bool {
        matches!(self, Self::RandomSubset | Self::Aperture)
    }

    /// From when on requests are counted.
    pub(crate) fn measured_from(self) -> Nanos {
        if self == Self::ColdStart { 0 } else { WARM_UP }
    }

    /// The work of one request.
    pub(crate) fn work(self, rng: &mut Rng) -> Nanos {
        let mean = MEAN_WORK as f64;
        let work = match self {
            Self::Lognormal => mean * lognormal(1.2, rng),
            Self::MixedSpeeds => mean * lognormal(1.0, rng),
            Self::TwoClasses if rng.next_f64() < 0.9 => mean * 0.5,
            Self::TwoClasses => mean * 5.5,
            _ => mean * exponential(rng),
        };
        work as Nanos
    }

    /// The chance that a request fails at the end of its work.
    pub(crate) fn failure(self) -> f64 {
        if self == Self::Flaky { 0.01 } else { 0.0 }
    }

    pub(crate) fn script(self, rng: &mut Rng) -> Script {
        let mut speeds = vec![1.0; SERVERS];
        let mut changes = Vec::new();
        let mut capacity = SERVERS as f64;
        let mut listed = SERVERS;
        match self {
            Self::Exponential
            | Self::Lognormal
            | Self::TwoClasses
            | Self::Flaky
            | Self::RandomSubset
            | Self::Aperture => {}
            Self::MixedSpeeds => {
                speeds[SERVERS / 2..SERVERS * 3 / 4].fill(0.5);
                speeds[SERVERS * 3 / 4..].fill(0.25);
                capacity = speeds.iter().sum();
            }
            Self::Antagonist => {
                let share = ANTAGONIST_ON / (ANTAGONIST_ON + ANTAGONIST_OFF);
                capacity *= 1.0 - share * (1.0 - ANTAGONIST_SPEED);
                for (server, speed) in speeds.iter_mut().enumerate() {
                    let mut on = rng.next_f64() < share;
                    *speed = if on { ANTAGONIST_SPEED } else { 1.0 };
                    let mut at = 0.0;
                    loop {
                        at += exponential(rng) * if on { ANTAGONIST_ON } else { ANTAGONIST_OFF };
                        if at * SECOND as f64 > RUN as f64 {
                            break;
                        }
                        on = !on;
                        let speed = if on { ANTAGONIST_SPEED } else { 1.0 };
                        changes.push(((at * SECOND as f64) as Nanos, Change::Speed(server, speed)));
                    }
                }
            }
            Self::FailFast => {
                changes.push((FAIL_FAST.start, Change::FailFast(0, true)));
                changes.push((FAIL_FAST.end, Change::FailFast(0, false)));
            }
            Self::Stall => {
                changes.push((STALL.start, Change::Speed(0, 0.0)));
                changes.push((STALL.end, Change::Speed(0, 1.0)));
            }
            Self::RollingRestart => {
                for (turn, first) in (0..SERVERS).step_by(RESTARTED_AT_ONCE).enumerate() {
                    let down = RESTARTS_FROM + turn as u64 * RESTART_EVERY;
                    restart(first, down, &mut changes);
                }
            }
            Self::ColdStart => {
                listed -= NEWCOMERS;
                capacity = listed as f64;
                speeds[listed..].fill(COLD_SPEED);
                let joined = Change::List { first: listed, count: NEWCOMERS, listed: true };
                changes.push((NEWCOMERS_AT, joined));
                let warm = NEWCOMERS_AT + NEWCOMERS_COLD_FOR;
                changes.extend((listed..SERVERS).map(|server| (warm, Change::Speed(server, 1.0))));
            }
        }
        changes.sort_by_key(|&(at, _)| at);
        Script { speeds, listed, changes, capacity }
    }
}

impl Script {
    /// For policies that take up new weights by the clock.
    pub(crate) fn rebuild_every(&mut self, period: Nanos) {
        self.changes.extend((1..RUN / period).map(|turn| (turn * period, Change::Rebuild)));
        self.changes.sort_by_key(|&(at, _)| at);
    }

    /// The mean time between requests at `load`.
    pub(crate) fn mean_gap(&self, load: f64) -> f64 {
        MEAN_WORK as f64 / (load * self.capacity * WORKERS as f64)
    }
}

fn restart(first: usize, down: Nanos, changes: &mut Vec<(Nanos, Change)>) {
    let back = down + RESTART_TAKES;
    for server in first..first + RESTARTED_AT_ONCE {
        changes.push((down, Change::Crash(server)));
        changes.push((down, Change::Speed(server, COLD_SPEED)));
        changes.push((back, Change::Return(server)));
        changes.push((back + COLD_FOR, Change::Speed(server, 1.0)));
    }
    let list = |listed| Change::List { first, count: RESTARTED_AT_ONCE, listed };
    changes.push((down + DISCOVERY_LAG, list(false)));
    changes.push((back + DISCOVERY_LAG, list(true)));
}

/// Exponential of mean 1.
pub(crate) fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.next_f64()).ln()
}

/// Lognormal of mean 1.
fn lognormal(sigma: f64, rng: &mut Rng) -> f64 {
    // Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    let radius = (2.0 * exponential(rng)).sqrt();
    let normal = radius * (std::f64::consts::TAU * rng.next_f64()).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}
