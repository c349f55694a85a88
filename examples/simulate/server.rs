//! A server: a FIFO queue before a few workers, whose speed may change while they work.

use std::collections::VecDeque;

use evenkeel::node::LoadReport;

use crate::time::{MILLI, Nanos, SECOND};

pub(crate) const WORKERS: usize = 4;

/// A request, by its place in the table of the run.
pub(crate) type RequestId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Serving,
    /// Answers an error at once.
    FailingFast,
    /// Refuses.
    Down,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) mode: Mode,
    /// 1 is the speed at which the mean of requests takes the mean time; 0 stands still.
    speed: f64,
    workers: [Option<Job>; WORKERS],
    waiting: VecDeque<(RequestId, Nanos)>,
    /// Completions planned under an earlier one are void.
    plan: u32,
    gauge: Gauge,
}

/// What the server knows of its own load, and reports with each answer.
#[derive(Debug, Default)]
struct Gauge {
    since: Nanos,
    finished: u32,
    /// How long workers were busy with what has finished.
    busy: Nanos,
    report: LoadReport,
}

/// What a worker is at.
#[derive(Clone, Copy, Debug)]
struct Job {
    request: RequestId,
    /// At speed 1, as of `since`.
    work_left: f64,
    since: Nanos,
    begun: Nanos,
}

/// How often a server looks at its load.
const GAUGE_PERIOD: Nanos = 500 * MILLI;

/// When a worker will be done, unless the plan changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) at: Nanos,
    pub(crate) worker: usize,
    pub(crate) plan: u32,
}

impl Server {
    pub(crate) fn new(speed: f64) -> Self {
        Self {
            mode: Mode::Serving,
            speed,
            workers: [None; WORKERS],
            waiting: VecDeque::new(),
            plan: 0,
            gauge: Gauge::default(),
        }
    }

    pub(crate) fn speed(&self) -> f64 {
        self.speed
    }

    /// Its load of late.
    pub(crate) fn report(&self) -> &LoadReport {
        &self.gauge.report
    }

    /// A request of so much work arrives; its completion, if a worker is free.
    pub(crate) fn arrive(
        &mut self,
        now: Nanos,
        request: RequestId,
        work: Nanos,
    ) -> Option<Completion> {
        match self.workers.iter().position(Option::is_none) {
            Some(worker) => self.start(now, worker, request, work),
            None => {
                self.waiting.push_back((request, work));
                None
            }
        }
    }

    /// A worker is done, unless that was planned otherwise since: its request, and the completion
    /// of the next.
    pub(crate) fn complete(&mut self, done: Completion) -> Option<(RequestId, Option<Completion>)> {
        if done.plan != self.plan {
            return None;
        }
        let job = self.workers[done.worker].take()?;
        self.gauge.finish(done.at, job.begun);
        let next = self
            .waiting
            .pop_front()
            .and_then(|(request, work)| self.start(done.at, done.worker, request, work));
        Some((job.request, next))
    }

    /// From now on at another speed: the new plan.
    pub(crate) fn change_speed(
        &mut self,
        now: Nanos,
        speed: f64,
    ) -> impl Iterator<Item = Completion> + '_ {
        for job in self.workers.iter_mut().flatten() {
            job.work_left -= now.saturating_sub(job.since) as f64 * self.speed;
            job.since = now;
        }
        self.speed = speed;
        self.plan += 1;
        (0..WORKERS).filter_map(|worker| self.planned(worker))
    }

    /// All that it has, lost.
    pub(crate) fn crash(&mut self) -> impl Iterator<Item = RequestId> + '_ {
        self.mode = Mode::Down;
        self.plan += 1;
        let running = self.workers.iter_mut().filter_map(Option::take).map(|job| job.request);
        running.chain(self.waiting.drain(..).map(|(request, _)| request))
    }

    fn start(
        &mut self,
        now: Nanos,
        worker: usize,
        request: RequestId,
        work: Nanos,
    ) -> Option<Completion> {
        self.workers[worker] =
            Some(Job { request, work_left: work as f64, since: now, begun: now });
        self.planned(worker)
    }

    fn planned(&self, worker: usize) -> Option<Completion> {
        let job = self.workers[worker]?;
        let rest = (job.work_left / self.speed).max(0.0);
        rest.is_finite().then(|| Completion {
            at: job.since + rest as Nanos,
            worker,
            plan: self.plan,
        })
    }
}

impl Gauge {
    fn finish(&mut self, now: Nanos, begun: Nanos) {
        self.finished += 1;
        self.busy += now - begun;
        let passed = now - self.since;
        if passed >= GAUGE_PERIOD {
            self.report.rps = f64::from(self.finished) * SECOND as f64 / passed as f64;
            self.report.application_utilization =
                self.busy as f64 / (passed * WORKERS as u64) as f64;
            (self.since, self.finished, self.busy) = (now, 0, 0);
        }
    }
}
