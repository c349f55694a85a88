//! When calls that wait hear of what is of use to few of them: a node went down, or may be dialled again.
//!
//! At once after a pause, else only so often: each time all of them look at all nodes, and where
//! everything is down there is such news all the time.

use std::time::{Duration, Instant};

use crate::node::{Signal, after};

const LEAST_BETWEEN: Duration = Duration::from_millis(10);
/// Also where there are many to look, and at much.
const MOST_BETWEEN: Duration = Duration::from_secs(1);
/// For each node at which each of them looks, which takes about a tenth of this.
const FOR_A_NODE: Duration = Duration::from_nanos(100);

#[derive(Debug, Default)]
pub(super) struct News {
    told_at: Option<Instant>,
    due: Option<Instant>,
}

// === impl News ===

impl News {
    /// When to [pass on](Self::pass_on) what was noted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Raises `signal` for what was noted, unless that was just done: so many calls would look at so many
    /// nodes.
    pub(super) fn pass_on(&mut self, signal: &Signal, calls: usize, nodes: usize, now: Instant) {
        self.due = None;
        if !signal.is_noted() {
            return;
        }
        // A clock that went back says nothing of the pause.
        let told_at = self.told_at.filter(|&at| at <= now);
        match told_at.map(|at| after(at, between(calls, nodes))) {
            Some(earliest) if earliest > now => self.due = Some(earliest),
            _ => {
                self.told_at = Some(now);
                signal.raise();
            }
        }
    }
}

fn between(calls: usize, nodes: usize) -> Duration {
    let looks = u32::try_from(calls.saturating_mul(nodes)).unwrap_or(u32::MAX);
    FOR_A_NODE.saturating_mul(looks).clamp(LEAST_BETWEEN, MOST_BETWEEN)
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_at_once_and_then_as_often_as_the_looks_allow() {
        let start = crate::node::Clock::default().now();
        let signal = Signal::new();
        let mut news = News::default();
        let mut tell = |after: Duration, calls, nodes| {
            news.pass_on(&signal, calls, nodes, start + after);
            (signal.is_noted(), news.due().map(|due| due - start))
        };
        let ms = Duration::from_millis;
        assert_eq!(tell(ms(0), 1, 1), (false, None), "there are none");
        signal.note();
        assert_eq!(tell(ms(1), 1, 1), (false, None));
        signal.note();
        assert_eq!(tell(ms(2), 1, 1), (true, Some(ms(11))));
        assert_eq!(tell(ms(2), 2_000, 500), (true, Some(ms(101))));
        assert_eq!(tell(ms(102), 2_000, 500), (false, None));
        signal.note();
        assert_eq!(tell(ms(103), usize::MAX, 2), (true, Some(ms(1_102))));
        signal.raise();
        assert_eq!(tell(ms(104), 1, 1), (false, None), "all heard of it otherwise");
        signal.note();
        assert_eq!(tell(ms(5), 1, 1), (false, None), "the clock went back");
    }
}
