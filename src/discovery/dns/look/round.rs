//! What one look asks for: the addresses of some sites.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    super::{
        answer::{Absent, Answer, Failure, Found},
        sites::Site,
    },
    open::{Key, Open, no_answer},
};
use crate::{
    discovery::sleep::sleep_until,
    node::{Clock, after},
};

/// How long those who answer wait for those who do not, before what is known goes out.
const GRACE: Duration = Duration::from_millis(500);

/// The answers to a look, whichever of its names they are of.
pub(super) type Done = HashMap<Key, Answer<IpAddr>>;

/// The parts of one look.
pub(super) struct Round {
    pub(super) sites: Vec<Site>,
    pub(super) asked: Vec<Key>,
    /// What an earlier look asked for already: it is not waited for again.
    pub(super) late: HashSet<Key>,
    /// What is not asked for, since a moment ago there was nothing.
    pub(super) barren: HashSet<Key>,
    /// How long the list of the sites itself is good for.
    pub(super) ttl: Option<Duration>,
}

/// What the answers say of a host's name.
pub(super) enum Verdict {
    Found,
    Nothing(Absent),
    Failed(Failure),
}

// === impl Round ===

impl Round {
    pub(super) fn new(sites: Vec<Site>, ttl: Option<Duration>) -> Self {
        let (asked, late, barren) = Default::default();
        Self { sites, asked, late, barren, ttl }
    }

    /// Whether all that was asked for is answered, or given up.
    pub(super) fn is_complete(&self, open: &Open) -> bool {
        !self.asked.iter().any(|key| open.contains(key))
    }

    pub(super) fn has_addresses(&self, done: &Done) -> bool {
        self.sites.iter().any(|site| site.is_usable() && !site.addresses.is_empty())
            || self.asked.iter().any(|key| matches!(done.get(key), Some(Ok(Found::Records(_)))))
    }

    /// Whether the name is said not to exist: with no kind of record then (RFC 8020).
    pub(super) fn has_no_name(&self, done: &Done) -> bool {
        let no_name = |key| matches!(done.get(key), Some(Ok(Found::Nothing(Absent::NoName))));
        self.asked.iter().any(no_name)
    }

    /// Waits for all answers; but, once there is `enough`, for no more than the grace, and then not for
    /// those which an earlier look has waited for.
    pub(super) async fn gather(
        &self,
        open: &mut Open,
        done: &mut Done,
        clock: &Clock,
        enough: impl Fn(&Self, &Done) -> bool,
    ) {
        let mut until = None;
        while !self.is_complete(open) {
            if enough(self, done) {
                if !self.asked.iter().any(|key| open.contains(key) && !self.late.contains(key)) {
                    return;
                }
                until.get_or_insert_with(|| after(clock.now(), GRACE));
            }
            tokio::select! {
                biased;
                answer = open.next() => match answer {
                    Some((key, answer)) => drop(done.insert(key, answer)),
                    None => return,
                },
                () = sleep_until(clock, until) => return,
            }
        }
    }

    /// What is known of the one name that it is about.
    pub(super) fn verdict(&self, open: &Open, done: &Done, whom: &str) -> Verdict {
        if self.has_addresses(done) {
            return Verdict::Found;
        }
        let mut absent = Absent::NoName;
        let mut failures = Vec::new();
        for key in &self.asked {
            match done.get(key) {
                Some(Ok(Found::Nothing(nothing))) => absent = absent.min(*nothing),
                Some(Err(failure)) => failures.push(failure.clone()),
                _ => {
                    let error = no_answer(key, whom, open.contains(key));
                    failures.push(Failure { error, answered: false });
                }
            }
        }
        // What does not exist leads the search on, whatever else is not known of it.
        let answered = self.has_no_name(done) || failures.iter().all(|failure| failure.answered);
        match failures.into_iter().next() {
            Some(first) => Verdict::Failed(Failure { answered, ..first }),
            None => Verdict::Nothing(absent),
        }
    }
}
