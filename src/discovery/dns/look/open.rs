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
            let Some(task) = self.tasks.join_next().await else {
                self.pending.clear();
                return None;
            };
            match task {
                Ok((key, answer)) => {
                    self.pending.remove(&key);
                    return Some((key, answer));
                }
                // Who asked is gone without an answer.
                Err(gone) if gone.is_panic() => self.pending.retain(|_, task| !task.is_finished()),
                // Nobody wants it any more.
                Err(_) => {}
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
