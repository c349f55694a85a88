//! All that was asked for, on all cores, and what came of it.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use evenkeel::BuildError;

use crate::{
    args::Args,
    measure::{Measured, STEP},
    policies::ORACLE,
    progress::Progress,
    run::{Setting, run},
    scenario::{RUN, Scenario},
    time::SECOND,
};

/// The percentiles of the plots: from the median on, in even steps of the logarithm of the rest.
pub(crate) const CURVE_POINTS: usize = 41;
const CURVE_DECADES: f64 = 3.0;

/// What came of one policy in one scenario, in the mean of the seeds.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) policy: &'static str,
    pub(crate) scenario: Scenario,
    pub(crate) clients: usize,
    pub(crate) load: f64,
    pub(crate) seeds: u64,
    pub(crate) requests: u64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) mean: f64,
    failed: u64,
    timed_out: u64,
    /// The latencies in milliseconds at the points of the curve.
    pub(crate) curve: Vec<f64>,
    /// Requests to the watched servers and to all, in each step of time.
    shares: Vec<(u64, u64)>,
}

/// All cells, in the order that was asked for.
#[derive(Debug)]
pub(crate) struct Study(Vec<Cell>);

/// The share of requests that are slower than the `point`-th of the curve.
pub(crate) fn rest_at(point: usize) -> f64 {
    10_f64.powf(-CURVE_DECADES * point as f64 / (CURVE_POINTS - 1) as f64) / 2.0
}

impl Cell {
    fn new(setting: Setting) -> Self {
        Self {
            policy: setting.contender.name,
            scenario: setting.scenario,
            clients: setting.clients,
            load: setting.load,
            seeds: 0,
            requests: 0,
            p50: 0.0,
            p90: 0.0,
            p99: 0.0,
            p999: 0.0,
            mean: 0.0,
            failed: 0,
            timed_out: 0,
            curve: vec![0.0; CURVE_POINTS],
            shares: Vec::new(),
        }
    }

    /// One more seed.
    fn add(&mut self, run: &Figures) {
        self.seeds += 1;
        self.requests += run.requests;
        self.failed += run.failed;
        self.timed_out += run.timed_out;
        let weight = 1.0 / self.seeds as f64;
        let means = [&mut self.p50, &mut self.p90, &mut self.p99, &mut self.p999, &mut self.mean];
        let means = means.into_iter().chain(&mut self.curve);
        for (mean, sample) in means.zip(run.fixed.iter().chain([&run.mean]).chain(&run.curve)) {
            *mean += weight * (sample - *mean);
        }
        self.shares.resize(run.shares.len(), (0, 0));
        for (sum, &(watched, all)) in self.shares.iter_mut().zip(&run.shares) {
            *sum = (sum.0 + u64::from(watched), sum.1 + u64::from(all));
        }
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.scenario == other.scenario && self.clients == other.clients && self.load == other.load
    }

    /// The share of requests that ended in an error.
    pub(crate) fn errors(&self) -> f64 {
        self.failed as f64 / self.requests as f64
    }

    /// The share of requests that were given up.
    pub(crate) fn timeouts(&self) -> f64 {
        self.timed_out as f64 / self.requests as f64
    }

    /// The seconds since the beginning, and the share of the watched servers then.
    pub(crate) fn share_over_time(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.shares.iter().enumerate().map(|(step, &(watched, all))| {
            let middle = (step as f64 + 0.5) * STEP as f64 / SECOND as f64;
            (middle, watched as f64 / all.max(1) as f64)
        })
    }
}

/// What is kept of one run.
struct Figures {
    requests: u64,
    failed: u64,
    timed_out: u64,
    /// The percentiles that a [`Cell`] names.
    fixed: Vec<f64>,
    mean: f64,
    curve: Vec<f64>,
    shares: Vec<(u32, u32)>,
}

impl Figures {
    fn of(mut run: Measured) -> Self {
        let curve = (0..CURVE_POINTS).map(|point| 1.0 - rest_at(point));
        Self {
            fixed: run.latencies([0.5, 0.9, 0.99, 0.999]),
            mean: run.mean_latency(),
            curve: run.latencies(curve),
            requests: run.requests,
            failed: run.failed,
            timed_out: run.timed_out,
            shares: run.shares,
        }
    }
}

impl Study {
    /// Runs everything.
    pub(crate) fn run(args: &Args) -> Result<Self, BuildError> {
        let settings = settings(args);
        let progress = Progress::new(settings.len());
        let mut done: Vec<Option<Figures>> = settings.iter().map(|_| None).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (results, received) = mpsc::channel();
            for _ in 0..args.threads.min(settings.len()) {
                let (next, settings, results) = (&next, &settings, results.clone());
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&setting) = settings.get(index) else { return };
                        // Nobody listens any more after an error, which ends it all.
                        if results.send((index, run(setting).map(Figures::of))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(results);
            for (count, (index, figures)) in received.iter().enumerate() {
                done[index] = Some(figures?);
                progress.show(count + 1);
            }
            Ok::<_, BuildError>(())
        })?;
        progress.clear();
        let mut cells: Vec<Cell> = Vec::new();
        for (&setting, figures) in settings.iter().zip(done) {
            if setting.seed == 0 {
                cells.push(Cell::new(setting));
            }
            if let (Some(cell), Some(figures)) = (cells.last_mut(), figures) {
                cell.add(&figures);
            }
        }
        Ok(Self(cells))
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.0.iter()
    }

    /// The oracle's cell beside `cell`.
    pub(crate) fn oracle_of(&self, cell: &Cell) -> Option<&Cell> {
        self.0.iter().find(|other| other.policy == ORACLE.name && other.is_beside(cell))
    }

    /// Those with the same number of clients and load, a group each.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Cell]> {
        self.0.chunk_by(|one, next| one.clients == next.clients && one.load == next.load)
    }
}

/// Seeds last, so that the runs of a cell stand together.
fn settings(args: &Args) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &clients in &args.clients {
        for &load in &args.loads {
            for &scenario in &args.scenarios {
                for &contender in &args.contenders {
                    let setting =
                        Setting { contender, scenario, clients, load, seed: 0, until: RUN };
                    settings.extend((0..args.seeds).map(|seed| Setting { seed, ..setting }));
                }
            }
        }
    }
    settings
}
