//! Questions that are under way. They outlive the look that asked them: a later one that wants the same
//! waits for the same answer, so that one that hangs neither holds the others up nor is asked twice.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::IpAddr,
    time::Duration,
};

use hickory_resolver::proto::rr::Name;
use tokio::task::{AbortHandle, JoinSet};

use super::super::answer::{Answer, Failure, Family};
use crate::{
    error::DiscoverError,
    node::{Clock, after},
};

/// What one question is about.
pub(super) type Key = (Name, Family);

pub(super) struct Open {
    tasks: JoinSet<(Key, Answer<IpAddr>)>,
    pending: HashMap<Key, AbortHandle>,
    clock: Clock,
}

/// How long an answer is waited for. Some hundred targets whose server is dead wait for their turn for
/// minutes, and each of them would be known to be late only then.
const PATIENCE: Duration = Duration::from_secs(30);

// === impl Open ===

impl Open {
    pub(super) fn new(clock: Clock) -> Self {
        Self { tasks: JoinSet::new(), pending: HashMap::new(), clock }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.pending.contains_key(key)
    }

    /// Asks; `whom` is named if there is no answer for long.
    pub(super) fn ask<F>(&mut self, key: Key, whom: &str, answer: F)
    where
        F: Future<Output = Answer<IpAddr>> + Send + 'static,
    {
        let (clock, until) = (self.clock.clone(), after(self.clock.now(), PATIENCE));
        let given_up = no_answer(&key, whom, false);
        let of = key.clone();
        let task = self.tasks.spawn(async move {
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = clock.sleep_until(until) => {
                    Err(Failure { error: given_up, answered: false })
                }
            };
            (of, answer)
        });
        self.pending.insert(key, task);
    }

    /// The next answer; none if no question is open. Nothing is lost if it is dropped.
    pub(super) async fn next(&mut self) -> Option<(Key, Answer<IpAddr>)> {
        loop {
            match self.tasks.join_next_with_id().await? {
                Ok((id, (key, answer))) => {
                    // One that was ended may have had its answer already. It is of no look any more, and
                    // not to be taken for the answer of one that asks the same again.
                    if self.pending.get(&key).is_some_and(|task| task.id() == id) {
                        self.pending.remove(&key);
                        return Some((key, answer));
                    }
                }
                // Nobody wants it any more, or it ended without an answer.
                Err(gone) => self.pending.retain(|_, task| task.id() != gone.id()),
            }
        }
    }

    /// Ends all questions but these.
    pub(super) fn keep(&mut self, wanted: &HashSet<Key>) {
        self.pending.retain(|key, task| {
            let is_wanted = wanted.contains(key);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
    }
}

pub(super) fn no_answer((name, family): &Key, whom: &str, is_open: bool) -> DiscoverError {
    let yet = if is_open { " yet" } else { "" };
    DiscoverError::new(format!("`{name}` {family}: no answer{yet} from {whom}"))
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    fn failure(text: &'static str) -> Answer<IpAddr> {
        Err(Failure { error: DiscoverError::new(text), answered: false })
    }

    /// A question that was ended had its answer already: that is none to the same question, asked anew.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_wants_is_taken_for_no_other() {
        let mut open = Open::new(Clock::default());
        let key: Key = (Name::root(), Family::V4);
        open.ask(key.clone(), "nobody", async { failure("old") });
        // Until it has its answer, which nobody reads.
        while !open.pending[&key].is_finished() {
            tokio::task::yield_now().await;
        }
        open.keep(&HashSet::new());
        open.ask(key.clone(), "nobody", async { failure("new") });
        assert!(open.contains(&key));
        let (answered, Err(failure)) = open.next().await.unwrap() else { panic!("both fail") };
        assert_eq!((answered, failure.error.to_string()), (key, "new".to_owned()));
        assert!(open.next().await.is_none(), "and there is no other");
    }
}
