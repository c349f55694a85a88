//! How long a watch waits: after failures, before it is doubted, until it is taken for frozen.

use std::time::Duration;

use crate::node::{Rng, Seeds};

/// How patient a watch is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Silence of a watch that lets it be taken for frozen, where the server is known to send
    /// bookmarks; also the limit for a list and for the head of a watch.
    pub(super) silence: Duration,
    /// The first wait after a failure; it grows up to 30 times that.
    pub(super) retry: Duration,
    /// Silence of a watch that lets it be doubted when an endpoint fails; not above `silence`.
    pub(super) recheck: Duration,
}

/// The waits of one watch. All are jittered: many clients see the same server restart, and the same
/// endpoint fail, in the same moment.
#[derive(Debug)]
pub(super) struct Pace {
    patience: Patience,
    rng: Rng,
    /// In a row.
    failures: u32,
    /// Doubts in a row that found nothing.
    in_vain: u32,
    /// The server has sent a bookmark, so that a minute without anything is one too many.
    bookmarks: bool,
}

/// The longest that a server is heard that asks to be left alone.
const LEFT_ALONE: Duration = Duration::from_secs(60);

// === impl Patience ===

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(90),
            retry: Duration::from_millis(500),
            recheck: Duration::from_secs(10),
        }
    }
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(patience: Patience) -> Self {
        let rng = Seeds::Thread.rng();
        Self { patience, rng, failures: 0, in_vain: 0, bookmarks: false }
    }

    pub(super) fn silence(&self) -> Duration {
        self.patience.silence
    }

    /// The wait after one more failure: longer each time, and as long as a server has `asked` for.
    pub(super) fn back_off(&mut self, asked: Option<Duration>) -> Duration {
        let factor = 1.6_f64.powi(self.failures.min(10) as i32).min(30.0);
        self.failures = self.failures.saturating_add(1);
        let wait = self.patience.retry.mul_f64(factor * (0.5 + self.rng.next_f64() / 2.0));
        // Upon what was asked for, or all who were asked would come back together.
        wait + asked.unwrap_or_default().min(LEFT_ALONE)
    }

    /// The watch has been good for a while, or has said something.
    pub(super) fn works(&mut self) {
        self.failures = 0;
    }

    pub(super) fn heard(&mut self, bookmark: bool) {
        if bookmark {
            self.bookmarks = true;
        } else {
            self.in_vain = 0;
        }
    }

    /// The watch was begun anew since an endpoint failed.
    pub(super) fn doubted(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// How long after its last word a watch stands, whatever endpoints do. Twice as long each time that
    /// nothing had been missed: an endpoint that is listed and dead would have it begun anew for ever.
    pub(super) fn trust(&mut self) -> Duration {
        let Patience { recheck, silence, .. } = self.patience;
        let trust = recheck.saturating_mul(1 << self.in_vain.min(10)).min(silence);
        trust.mul_f64(1.0 + self.rng.next_f64() / 2.0)
    }

    /// How many seconds a watch is to last: four to five minutes, so that the clients of a server that
    /// was restarted do not renew theirs together for ever.
    pub(super) fn lasts(&mut self) -> u32 {
        240 + self.rng.below(60) as u32
    }

    /// How long a watch may be silent that is to last for so many seconds. The server ends it by itself
    /// in time; one that sends bookmarks would have said something much earlier.
    pub(super) fn quiet(&self, lasts: u32) -> Duration {
        let in_time = Duration::from_secs(u64::from(lasts) + 5);
        if self.bookmarks { self.patience.silence.min(in_time) } else { in_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// R12, T9: the first wait leaves room for a second try within a second; later ones grow to 15 s,
    /// and no two are the same.
    #[test]
    fn r12_waits_grow_from_under_half_a_second_to_fifteen() {
        let mut pace = Pace::new(Patience::default());
        let waits: Vec<_> = (0..100).map(|_| pace.back_off(None)).collect();
        assert!(waits[0] >= SECOND / 4 && waits[0] <= SECOND / 2, "{waits:?}");
        assert!(waits[10..].iter().all(|wait| (SECOND * 15 / 2..=SECOND * 15).contains(wait)));
        assert!(waits.windows(2).all(|pair| pair[0] != pair[1]), "{waits:?}");
        pace.works();
        assert!(pace.back_off(None) <= SECOND / 2);
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_but_not_for_ever() {
        let mut pace = Pace::new(Patience::default());
        let wait = pace.back_off(Some(5 * SECOND));
        assert!(wait > 5 * SECOND && wait < 6 * SECOND, "{wait:?}");
        assert!(pace.back_off(Some(Duration::MAX)) < 2 * LEFT_ALONE);
    }

    #[test]
    fn doubts_in_vain_are_heard_ever_more_rarely() {
        let mut pace = Pace::new(Patience::default());
        for least in [10, 20, 40, 80, 90, 90] {
            let trust = pace.trust();
            assert!(trust >= least * SECOND && trust <= least * SECOND * 3 / 2, "{trust:?}");
            pace.doubted();
        }
        pace.heard(true);
        assert!(pace.trust() >= 90 * SECOND, "a bookmark shows no more than that it lives");
        pace.heard(false);
        assert!(pace.trust() <= 15 * SECOND, "something had been missed");
    }

    #[test]
    fn silence_is_measured_by_the_length_of_the_watch_until_a_bookmark_came() {
        let mut pace = Pace::new(Patience::default());
        assert_eq!(pace.quiet(250), 255 * SECOND);
        pace.heard(true);
        assert_eq!(pace.quiet(250), 90 * SECOND);
    }
}
