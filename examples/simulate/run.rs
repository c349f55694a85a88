//! One run: clients with a balancer each, servers with a queue each, and the events between them.
//!
//! Requests come at random (Poisson), each to a client at random. Delays that are always the same
//! need no heap: what is on the wire and what may time out stand in queues of their own. So the heap
//! holds what servers work at, and nothing else.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use evenkeel::{
    BuildError, Endpoint,
    node::{Lease, Outcome},
    policy::Rng,
    pool::TestBed,
};

use crate::{
    measure::{Ending, Measured},
    oracle,
    policies::Contender,
    scenario::{Change, SERVERS, Scenario, Script, exponential},
    server::{Completion, Mode, RequestId, Server},
    time::{MICRO, Nanos, SECOND, VirtualTime},
};

/// One way.
const WIRE: Nanos = 200 * MICRO;
const TIMEOUT: Nanos = 2 * SECOND;
const FAIL_FAST_AFTER: Nanos = 100 * MICRO;

/// What to run.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) contender: Contender,
    pub(crate) scenario: Scenario,
    pub(crate) clients: usize,
    pub(crate) load: f64,
    pub(crate) seed: u64,
    /// When the last request comes.
    pub(crate) until: Nanos,
}

struct Run {
    now: Nanos,
    time: VirtualTime,
    scenario: Scenario,
    until: Nanos,
    clients: Vec<TestBed>,
    endpoints: Vec<Endpoint>,
    listed: Vec<bool>,
    /// The server of each hash of a node, in order of the hashes.
    by_hash: Vec<(u64, usize)>,
    servers: Vec<Server>,
    /// Requests sent to each server and not yet dealt with there.
    sent: Vec<u32>,
    requests: Vec<Request>,
    free: Vec<RequestId>,
    to_servers: VecDeque<(Nanos, RequestId)>,
    to_clients: VecDeque<(Nanos, RequestId, bool)>,
    timeouts: VecDeque<(Nanos, RequestId, u32)>,
    at_servers: BinaryHeap<Reverse<AtServer>>,
    arrivals: Rng,
    chance: Rng,
    measured: Measured,
}

struct Request {
    /// None where the oracle sends, and where the client has given up.
    lease: Option<Lease>,
    server: usize,
    sent_at: Nanos,
    work: Nanos,
    /// What its answer will be, once it is served.
    good: bool,
    /// Counts the uses of this place in the table.
    turn: u32,
    waits: bool,
}

/// A server will be done with something.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct AtServer {
    at: Nanos,
    server: usize,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Complete { worker: usize, plan: u32 },
    Fail(RequestId),
}

/// Runs `setting`.
pub(crate) fn run(setting: Setting) -> Result<Measured, BuildError> {
    let mut chance = Rng::from_seed(setting.seed);
    let mut seed = || Rng::from_seed(chance.next_u64());
    // Of its own each, so that all policies meet the same requests and the same mishaps.
    let (mut events, arrivals, mut picks) = (seed(), seed(), seed());
    let mut script = setting.scenario.script(&mut events);
    if setting.contender.rebuilt {
        script.rebuild_every(SECOND);
    }
    let mut run = Run::new(setting, &script, arrivals, &mut picks)?;
    run.simulate(&script, script.mean_gap(setting.load));
    Ok(run.measured)
}

impl Run {
    fn new(
        setting: Setting,
        script: &Script,
        arrivals: Rng,
        picks: &mut Rng,
    ) -> Result<Self, BuildError> {
        let time = VirtualTime::new();
        let endpoints: Vec<_> = (0..SERVERS as u16)
            .map(|server| Endpoint::new(([10, 0, (server >> 8) as u8, server as u8], 80)))
            .collect();
        let listed: Vec<_> = (0..SERVERS).map(|server| server < script.listed).collect();
        let mut by_hash = Vec::new();
        let mut clients = Vec::new();
        if let Some(build) = setting.contender.build {
            let everything = build(endpoints.clone())?;
            by_hash
                .extend(everything.nodes().enumerate().map(|(server, node)| (node.hash(), server)));
            by_hash.sort_unstable();
            for client in 0..setting.clients {
                let known = endpoints[..script.listed].to_vec();
                let bed = build(known)?.clock(time.clock(), picks.next_u64());
                clients.push(match setting.scenario.subset(client, setting.clients) {
                    None => bed,
                    Some(subset) => bed.subset(subset),
                });
            }
        }
        Ok(Self {
            now: 0,
            time,
            scenario: setting.scenario,
            until: setting.until,
            clients,
            endpoints,
            listed,
            by_hash,
            servers: script.speeds.iter().map(|&speed| Server::new(speed)).collect(),
            sent: vec![0; SERVERS],
            requests: Vec::new(),
            free: Vec::new(),
            to_servers: VecDeque::new(),
            to_clients: VecDeque::new(),
            timeouts: VecDeque::new(),
            at_servers: BinaryHeap::new(),
            arrivals,
            chance: Rng::from_seed(picks.next_u64()),
            measured: Measured::new(setting.scenario, setting.until),
        })
    }

    fn simulate(&mut self, script: &Script, mean_gap: f64) {
        let gap = move |rng: &mut Rng| (mean_gap * exponential(rng)) as Nanos;
        let mut next_request = gap(&mut self.arrivals);
        let mut changes = script.changes.iter().copied().peekable();
        loop {
            let change = changes.peek().map(|&(at, _)| at);
            let completion = self.at_servers.peek().map(|Reverse(event)| event.at);
            let at_server = self.to_servers.front().map(|&(at, _)| at);
            let at_client = self.to_clients.front().map(|&(at, ..)| at);
            let timeout = self.timeouts.front().map(|&(at, ..)| at);
            let request = (next_request < self.until).then_some(next_request);
            let all = [change, completion, at_server, at_client, timeout, request];
            let Some(now) = all.into_iter().flatten().min() else { break };
            self.now = now;
            self.time.set(now);
            let is_due = |at: Option<Nanos>| at == Some(now);
            if is_due(change) {
                if let Some((_, change)) = changes.next() {
                    self.change(change);
                }
            } else if is_due(completion) {
                if let Some(Reverse(event)) = self.at_servers.pop() {
                    self.at_server(event);
                }
            } else if is_due(at_server) {
                if let Some((_, id)) = self.to_servers.pop_front() {
                    self.arrive(id);
                }
            } else if is_due(at_client) {
                if let Some((_, id, good)) = self.to_clients.pop_front() {
                    self.answered(id, good);
                }
            } else if is_due(timeout) {
                if let Some((_, id, turn)) = self.timeouts.pop_front() {
                    self.time_out(id, turn);
                }
            } else {
                next_request += gap(&mut self.arrivals);
                self.send();
            }
        }
    }

    // --- clients ---

    fn send(&mut self) {
        let client = self.arrivals.next_u64();
        let work = self.scenario.work(&mut self.arrivals);
        let good = self.arrivals.next_f64() >= self.scenario.failure();
        let picked = if self.clients.is_empty() {
            oracle::pick(&self.servers, &self.sent, &self.listed, &mut self.chance)
                .map(|server| (server, None))
        } else {
            let client = ((u128::from(client) * self.clients.len() as u128) >> 64) as usize;
            self.clients[client].pick(None).map(|lease| (self.server_of(&lease), Some(lease)))
        };
        let Some((server, lease)) = picked else {
            self.measured.ended(self.now, self.now, Ending::Failed);
            return;
        };
        self.measured.sent(self.now, server);
        self.sent[server] += 1;
        let id = self.place(Request {
            lease,
            server,
            sent_at: self.now,
            work,
            good,
            turn: 0,
            waits: true,
        });
        self.to_servers.push_back((self.now + WIRE, id));
        self.timeouts.push_back((self.now + TIMEOUT, id, self.requests[id as usize].turn));
    }

    fn answered(&mut self, id: RequestId, good: bool) {
        let now = self.now;
        let request = &mut self.requests[id as usize];
        if request.waits {
            request.waits = false;
            let (outcome, ending) = if good {
                (Outcome::Success, Ending::Answered)
            } else {
                (Outcome::Failure, Ending::Failed)
            };
            if let Some(mut lease) = request.lease.take() {
                if lease.wants_report() {
                    lease.report(self.servers[request.server].report());
                }
                lease.finish(outcome.into());
            }
            self.measured.ended(request.sent_at, now, ending);
        }
        self.free.push(id);
    }

    fn time_out(&mut self, id: RequestId, turn: u32) {
        let request = &mut self.requests[id as usize];
        if request.turn == turn && request.waits {
            request.waits = false;
            if let Some(mut lease) = request.lease.take() {
                lease.time_out();
            }
            self.measured.ended(request.sent_at, self.now, Ending::TimedOut);
        }
    }

    fn server_of(&self, lease: &Lease) -> usize {
        let hash = lease.node().hash();
        let at = self.by_hash.partition_point(|&(known, _)| known < hash);
        self.by_hash[at].1
    }

    fn place(&mut self, mut request: Request) -> RequestId {
        match self.free.pop() {
            Some(id) => {
                let place = &mut self.requests[id as usize];
                request.turn = place.turn.wrapping_add(1);
                *place = request;
                id
            }
            None => {
                self.requests.push(request);
                (self.requests.len() - 1) as RequestId
            }
        }
    }

    // --- servers ---

    fn arrive(&mut self, id: RequestId) {
        let Request { server, work, .. } = self.requests[id as usize];
        match self.servers[server].mode {
            Mode::Serving => {
                let completion = self.servers[server].arrive(self.now, id, work);
                self.expect(server, completion);
            }
            Mode::FailingFast => {
                let what = What::Fail(id);
                self.at_servers.push(Reverse(AtServer {
                    at: self.now + FAIL_FAST_AFTER,
                    server,
                    what,
                }));
            }
            Mode::Down => self.answer(id, false),
        }
    }

    fn at_server(&mut self, event: AtServer) {
        match event.what {
            What::Fail(id) => self.answer(id, false),
            What::Complete { worker, plan } => {
                let done = Completion { at: event.at, worker, plan };
                if let Some((id, next)) = self.servers[event.server].complete(done) {
                    self.answer(id, self.requests[id as usize].good);
                    self.expect(event.server, next);
                }
            }
        }
    }

    fn answer(&mut self, id: RequestId, good: bool) {
        self.sent[self.requests[id as usize].server] -= 1;
        self.to_clients.push_back((self.now + WIRE, id, good));
    }

    fn expect(&mut self, server: usize, completion: Option<Completion>) {
        if let Some(Completion { at, worker, plan }) = completion {
            let what = What::Complete { worker, plan };
            self.at_servers.push(Reverse(AtServer { at, server, what }));
        }
    }

    // --- what happens ---

    fn change(&mut self, change: Change) {
        match change {
            Change::Speed(server, speed) => {
                let plan: Vec<_> = self.servers[server].change_speed(self.now, speed).collect();
                plan.into_iter().for_each(|completion| self.expect(server, Some(completion)));
            }
            Change::FailFast(server, fails) => {
                self.servers[server].mode = if fails { Mode::FailingFast } else { Mode::Serving };
            }
            Change::Crash(server) => {
                let lost: Vec<_> = self.servers[server].crash().collect();
                lost.into_iter().for_each(|id| self.answer(id, false));
            }
            Change::Return(server) => self.servers[server].mode = Mode::Serving,
            Change::Rebuild => self.clients.iter_mut().for_each(TestBed::rebuild),
            Change::List { first, count, listed } => {
                self.listed[first..first + count].fill(listed);
                let named = self.endpoints.iter().zip(&self.listed);
                let known: Vec<_> =
                    named.filter(|(_, listed)| **listed).map(|(one, _)| one.clone()).collect();
                for client in &mut self.clients {
                    client.update(known.iter().cloned());
                }
            }
        }
    }
}
