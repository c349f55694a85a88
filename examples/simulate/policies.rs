//! The policies by name.

use std::time::Duration;

use evenkeel::{
    BuildError, Endpoint,
    policy::{
        IntoPolicy, LeastLoad, LeastRequest, LoadMetric, P2c, Random, RoundRobin,
        WeightedRoundRobin,
    },
    pool::TestBed,
};

/// How a name becomes a balancer over endpoints.
type Build = fn(Vec<Endpoint>) -> Result<TestBed, BuildError>;

#[derive(Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// The same in a few words.
    pub(crate) what: &'static str,
    /// Nothing for the oracle, which is no balancer.
    pub(crate) build: Option<Build>,
    /// Whether it is compared unless others are asked for.
    pub(crate) telling: bool,
    /// Whether it takes up new weights by the clock.
    pub(crate) rebuilt: bool,
}

/// Knows the true queues and speeds of all servers, which no client can.
pub(crate) const ORACLE: Contender = Contender {
    name: "oracle",
    what: "the least expected delay, from true queues and speeds",
    build: None,
    telling: true,
    rebuilt: false,
};

pub(crate) const ALL: &[Contender] = &[
    ORACLE,
    new("random", "Random", |to| bed(Random, to)).telling(),
    new("round-robin", "RoundRobin", |to| bed(RoundRobin::new(), to)).telling(),
    new("weighted-rr", "WeightedRoundRobin by load reports, blackout 1 s", |to| {
        bed(WeightedRoundRobin::new().blackout_period(Duration::from_secs(1)), to)
    })
    .rebuilt()
    .telling(),
    new("least-request", "LeastRequest, of two choices", |to| bed(LeastRequest::new(), to))
        .telling(),
    new("least-request-scan", "LeastRequest, of all", |to| bed(LeastRequest::new().scan(), to)),
    new("peak-ewma", "P2c::peak_ewma", |to| bed(P2c::peak_ewma(), to)).telling(),
    new("peak-ewma-scan", "by LoadMetric::PeakEwma, of all", |to| {
        bed(LeastLoad::by(LoadMetric::PeakEwma).scan(), to)
    }),
    new("cost-2", "by LoadMetric::Cost, of two choices", |to| bed(P2c::by(LoadMetric::Cost), to))
        .telling(),
    new("cost-5", "by LoadMetric::Cost, of five", |to| {
        bed(LeastLoad::by(LoadMetric::Cost).choices(5), to)
    }),
    new("default", "by LoadMetric::Cost, of all up to 64", |to| bed(LeastLoad::default(), to))
        .telling(),
];

const fn new(name: &'static str, what: &'static str, build: Build) -> Contender {
    Contender { name, what, build: Some(build), telling: false, rebuilt: false }
}

impl PartialEq for Contender {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Contender {
    const fn telling(self) -> Self {
        Self { telling: true, ..self }
    }

    const fn rebuilt(self) -> Self {
        Self { rebuilt: true, ..self }
    }
}

fn bed(policy: impl IntoPolicy, endpoints: Vec<Endpoint>) -> Result<TestBed, BuildError> {
    TestBed::new(policy, endpoints)
}

pub(crate) fn named(name: &str) -> Option<Contender> {
    ALL.iter().copied().find(|contender| contender.name == name)
}
