//! How long a link rests after it failed.

use std::time::Duration;

const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_FACTOR: f64 = 1.6;
pub(super) const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// The same where the peer accepts connections and soon ends them. It may serve a request yet, so one that
/// has nobody else and waits, by default 5 s, shall see the next dial, whatever the jitter.
pub(super) const BACKOFF_LIMIT_ACCEPTED: Duration = Duration::from_secs(4);
const BACKOFF_JITTER: f64 = 0.2;

/// The rest after so many failures in a row; `chance` is from 0 to 1.
pub(super) fn backoff(failures: u32, limit: Duration, chance: f64) -> Duration {
    let step = BACKOFF_FIRST.as_secs_f64() * BACKOFF_FACTOR.powf(f64::from(failures.min(64)));
    let jitter = 1.0 + BACKOFF_JITTER * (2.0 * chance - 1.0);
    Duration::from_secs_f64(step.min(limit.as_secs_f64()) * jitter)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_by_its_factor_and_stops_at_its_limit() {
        let seconds = |failures| backoff(failures, BACKOFF_LIMIT, 0.5).as_secs_f64();
        for (failures, expected) in
            [(0, 0.25), (1, 0.4), (2, 0.64), (7, 6.710_886_4), (8, 10.0), (4_000_000, 10.0)]
        {
            assert!(
                (seconds(failures) - expected).abs() < 1e-9,
                "{failures}: {}",
                seconds(failures)
            );
        }
        assert!((backoff(0, BACKOFF_LIMIT, 0.0).as_secs_f64() - 0.2).abs() < 1e-9);
        assert!((backoff(0, BACKOFF_LIMIT, 1.0).as_secs_f64() - 0.3).abs() < 1e-9);
    }
}
