//! A small discrete-event loop: so many requests in flight, always, over servers that are functions.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use evenkeel::{
    node::{Lease, NodeId, Outcome, Time, Verdict},
    policy::IntoPolicy,
    pool::TestBed,
};

use crate::{
    hand_time::HandTime,
    numbered::{endpoint, index_of},
};

/// What a server does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// Says so after a time.
    After(Duration, Verdict),
    /// Says nothing; the caller gives up after a time, and drops the request.
    Abandoned(Duration),
    /// Says nothing, and nobody gives up.
    Never,
}

/// Balancer, clock and what is in flight between them.
pub(crate) struct World {
    pub(crate) bed: TestBed,
    pub(crate) now: Duration,
    /// When each request was sent, and to which endpoint.
    pub(crate) log: Vec<(Duration, usize)>,
    /// The most that were in flight on each endpoint.
    pub(crate) peaks: HashMap<usize, u32>,
    /// Not picked, as if every request had tried them.
    pub(crate) shunned: Vec<NodeId>,
    time: HandTime,
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    in_flight: HashMap<u64, (Lease, Reply)>,
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Reply {
    pub(crate) fn success(millis: u64) -> Self {
        Self::After(ms(millis), Outcome::Success.into())
    }

    pub(crate) fn failure(millis: u64) -> Self {
        Self::After(ms(millis), Outcome::Failure.into())
    }
}

impl World {
    /// `policy` over endpoints with the numbers 0 up to and without `nodes`.
    pub(crate) fn new(policy: impl IntoPolicy, nodes: usize, seed: u64) -> Self {
        let time = HandTime::new();
        let endpoints = (0..nodes).map(endpoint);
        let bed = TestBed::new(policy, endpoints)
            .expect("these have no key to be wrong")
            .clock(time.clock(), seed);
        Self {
            bed,
            now: Duration::ZERO,
            log: Vec::new(),
            peaks: HashMap::new(),
            shunned: Vec::new(),
            time,
            due: BinaryHeap::new(),
            in_flight: HashMap::new(),
        }
    }

    /// Runs until `end` with `parallel` requests in flight; a new one takes the place of each that
    /// ends. `serve` is told the endpoint and the time.
    pub(crate) fn run(
        &mut self,
        end: Duration,
        parallel: usize,
        mut serve: impl FnMut(usize, Duration) -> Reply,
    ) {
        loop {
            while self.in_flight.len() < parallel {
                self.send(&mut serve);
            }
            match self.due.peek() {
                Some(&Reverse((at, _))) if at <= end => {}
                _ => break,
            }
            let Some(Reverse((at, request))) = self.due.pop() else { break };
            self.set(at.max(self.now));
            let Some((mut lease, reply)) = self.in_flight.remove(&request) else { continue };
            if let Reply::After(_, verdict) = reply {
                lease.finish(verdict);
            }
        }
        self.set(end);
    }

    /// Waits for what is in flight; a second is enough for all that answers.
    pub(crate) fn drain(&mut self) {
        self.run(self.now + secs(1), 0, |_, _| Reply::Never);
    }

    /// Lets time pass in which nothing happens.
    pub(crate) fn set(&mut self, now: Duration) {
        self.now = now;
        self.time.set(now);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.time.now()
    }

    fn send(&mut self, serve: &mut impl FnMut(usize, Duration) -> Reply) {
        let lease = self.bed.pick_except(None, &self.shunned).expect("some node is accepted");
        let index = index_of(&lease);
        let request = self.log.len() as u64;
        self.log.push((self.now, index));
        let peak = self.peaks.entry(index).or_default();
        *peak = lease.node().in_flight().max(*peak);
        let reply = serve(index, self.now);
        match reply {
            Reply::After(time, _) | Reply::Abandoned(time) => {
                self.due.push(Reverse((self.now + time, request)));
            }
            Reply::Never => {}
        }
        self.in_flight.insert(request, (lease, reply));
    }

    /// How many requests were sent to `index` from `from` on, and how many to all.
    pub(crate) fn sent_since(&self, index: usize, from: Duration) -> (usize, usize) {
        let since = self.log.iter().filter(|(at, _)| *at >= from);
        let all = since.clone().count();
        (since.filter(|&&(_, to)| to == index).count(), all)
    }

    /// The share of requests sent to `index` from `from` on.
    pub(crate) fn share_since(&self, index: usize, from: Duration) -> f64 {
        let (sent, all) = self.sent_since(index, from);
        sent as f64 / all as f64
    }
}
