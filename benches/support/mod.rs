//! Contenders that run in turns, A B A B, in short rounds within one run, and what came of it as
//! medians of times and of ratios: on a shared machine only those say something.

use std::{
    hint::{black_box, spin_loop},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use evenkeel::policy::Rng;

/// What one thread of a contender does: so many calls.
pub(crate) type Calls<'a> = Box<dyn FnMut(u64) + 'a>;

/// One way to do the work.
pub(crate) struct Contender<'a> {
    name: &'static str,
    /// By name, those of the same group that it is compared with.
    against: Vec<&'static str>,
    /// Makes what a thread of its own runs.
    thread: Box<dyn Fn() -> Calls<'a> + Sync + 'a>,
    slices: u64,
}

/// How long a bench runs.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    rounds: usize,
    round: Duration,
}

/// What became of a contender: medians over the rounds.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    /// Nanoseconds a call, on each thread.
    pub(crate) nanos: f64,
    /// Its time over that of each it is compared with, by name.
    pub(crate) ratios: Vec<(&'static str, f64)>,
}

/// What became of contenders that ran in turns.
pub(crate) struct Group {
    pub(crate) figures: Vec<Figure>,
    /// Turns that count, and all.
    pub(crate) kept: (usize, usize),
}

/// One turn of one thread.
struct Turn {
    begin: Instant,
    end: Instant,
    calls: u64,
    /// Time in slices that took so long that the thread was off its core.
    away: Duration,
}

/// Lets threads pass together, as often as they come.
struct Gate {
    came: AtomicUsize,
    threads: usize,
}

/// Parts of a turn, between which a thread looks at the clock and at its companion.
const SLICES: u64 = 64;
/// A slice this many times longer than the median one was interrupted.
const INTERRUPTED: u32 = 8;
/// How often the rounds are repeated until enough turns count.
const PASSES: usize = 4;
/// The share of a turn that must be spent together, on the cores.
const TOGETHER: f64 = 0.85;

impl<'a> Contender<'a> {
    pub(crate) fn new<F>(name: &'static str, against: &[&'static str], thread: F) -> Self
    where
        F: Fn() -> Calls<'a> + Sync + 'a,
    {
        Self { name, against: against.to_vec(), thread: Box::new(thread), slices: SLICES }
    }

    /// A turn of this contender is not cut into slices: beginning one is dear.
    #[allow(dead_code, reason = "not every bench has such a contender")]
    pub(crate) fn in_one_piece(self) -> Self {
        Self { slices: 1, ..self }
    }
}

impl Effort {
    /// A single tiny round, unless run by `cargo bench` and without `--test`.
    pub(crate) fn from_args() -> Self {
        let has = |flag: &str| std::env::args().any(|argument| argument == flag);
        if has("--test") || !has("--bench") {
            Self { rounds: 1, round: Duration::ZERO }
        } else {
            Self { rounds: 201, round: Duration::from_micros(1_000) }
        }
    }

    /// Runs `contenders` in turns on `threads` threads at once, one or two; for longer, up to a
    /// limit, where other work on the machine spoils most turns.
    pub(crate) fn run(self, contenders: &[Contender<'_>], threads: usize) -> Group {
        let slice_calls: Vec<u64> =
            contenders.iter().map(|contender| self.calibrate(contender, threads)).collect();
        let mut rounds: Vec<Vec<Option<f64>>> = Vec::new();
        for _ in 0..PASSES {
            rounds.extend(self.pass(contenders, threads, &slice_calls));
            let kept = |at: usize| rounds.iter().filter(move |round: &&Vec<_>| round[at].is_some());
            if (0..contenders.len()).all(|at| kept(at).count() * 3 >= self.rounds) {
                break;
            }
        }
        judge(contenders, &rounds)
    }

    /// For each round, the time of a call of each contender, or nothing where it does not count.
    fn pass(
        self,
        contenders: &[Contender<'_>],
        threads: usize,
        slice_calls: &[u64],
    ) -> Vec<Vec<Option<f64>>> {
        let gate = Gate { came: AtomicUsize::new(0), threads };
        let stop: Vec<AtomicBool> =
            (0..self.rounds * contenders.len()).map(|_| AtomicBool::new(false)).collect();
        let all_turns = Mutex::new(Vec::new());
        let work = || {
            let mut calls: Vec<_> = contenders.iter().map(|c| (c.thread)()).collect();
            let mut turns = Vec::with_capacity(stop.len());
            for round in 0..self.rounds {
                for (index, contender) in contenders.iter().enumerate() {
                    let stop = &stop[round * contenders.len() + index];
                    gate.pass();
                    turns.push(turn(&mut calls[index], contender.slices, slice_calls[index], stop));
                }
            }
            all_turns.lock().expect("no other thread panicked").push(turns);
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let all_turns = all_turns.into_inner().expect("no thread panicked");
        let nanos = |at: usize| {
            let turns: Vec<&Turn> = all_turns.iter().map(|turns| &turns[at]).collect();
            let sum: f64 = turns.iter().map(|turn| turn.nanos()).sum();
            together(&turns).then_some(sum / turns.len() as f64)
        };
        let each = contenders.len();
        (0..self.rounds)
            .map(|round| (0..each).map(|index| nanos(round * each + index)).collect())
            .collect()
    }

    /// Calls in a slice, so that a turn lasts as long as it shall.
    fn calibrate(self, contender: &Contender<'_>, threads: usize) -> u64 {
        let mut calls = (contender.thread)();
        let mut count = 1;
        loop {
            let begin = now();
            calls(count);
            let took = now().saturating_duration_since(begin);
            if took * 4 >= self.round {
                // Threads that share are slower; a turn is not to last much longer for that.
                let whole = self.round.as_secs_f64() / took.as_secs_f64().max(1e-9) * count as f64;
                return (whole as u64 / contender.slices / threads as u64).max(1);
            }
            count *= 2;
        }
    }
}

fn judge(contenders: &[Contender<'_>], rounds: &[Vec<Option<f64>>]) -> Group {
    let position =
        |name| contenders.iter().position(|c| c.name == name).expect("compared within the group");
    let figures = contenders.iter().enumerate().map(|(index, contender)| {
        let against = contender.against.iter().map(|&other| {
            let other_index = position(other);
            let ratio = |round: &Vec<Option<f64>>| Some(round[index]? / round[other_index]?);
            (other, median(rounds.iter().filter_map(ratio)))
        });
        Figure {
            name: contender.name,
            nanos: median(rounds.iter().filter_map(|round| round[index])),
            ratios: against.collect(),
        }
    });
    let kept = rounds.iter().flatten().flatten().count();
    Group { figures: figures.collect(), kept: (kept, rounds.len() * contenders.len()) }
}

impl Turn {
    fn nanos(&self) -> f64 {
        self.time().as_nanos() as f64 / self.calls as f64
    }

    fn time(&self) -> Duration {
        self.end.saturating_duration_since(self.begin)
    }
}

impl Gate {
    fn pass(&self) {
        let came = self.came.fetch_add(1, Ordering::AcqRel);
        let full = (came / self.threads + 1) * self.threads;
        let mut patience = 0_u32;
        while self.came.load(Ordering::Acquire) < full {
            patience += 1;
            if patience % 10_000 == 0 {
                thread::yield_now();
            } else {
                spin_loop();
            }
        }
    }
}

/// A turn ends for all threads once one is through, so that none is ever alone.
fn turn(calls: &mut Calls<'_>, slices: u64, slice_calls: u64, stop: &AtomicBool) -> Turn {
    let mut took = Vec::with_capacity(slices as usize);
    let begin = now();
    let mut last = begin;
    while took.is_empty() || ((took.len() as u64) < slices && !stop.load(Ordering::Relaxed)) {
        calls(slice_calls);
        let now = now();
        took.push(now.saturating_duration_since(last));
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    let calls = took.len() as u64 * slice_calls;
    took.sort_unstable();
    let usual = took[took.len() / 2].max(Duration::from_micros(2));
    let away = took.iter().filter(|&&slice| slice > usual * INTERRUPTED).sum();
    Turn { begin, end: last, calls, away }
}

/// Whether the threads of a turn ran at the same time, and were on their cores.
fn together(turns: &[&Turn]) -> bool {
    let present =
        |turn: &&Turn| turn.away.as_secs_f64() <= (1.0 - TOGETHER) * turn.time().as_secs_f64();
    if turns.len() == 1 {
        return true;
    }
    let (begins, ends) = (turns.iter().map(|t| t.begin), turns.iter().map(|t| t.end));
    let (Some(first), Some(both)) = (begins.clone().min(), begins.max()) else { return true };
    let (Some(over), Some(last)) = (ends.clone().min(), ends.max()) else { return true };
    let whole = last.saturating_duration_since(first).as_secs_f64();
    over.saturating_duration_since(both).as_secs_f64() >= TOGETHER * whole
        && turns.iter().all(present)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A call's random bits, from a generator of the thread's own.
#[inline]
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        Rng::from_seed(next).next_u64()
    })
}

/// The time, as a floor has to read it.
#[inline]
#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
pub(crate) fn now() -> Instant {
    black_box(Instant::now())
}

/// Two distinct numbers below `nodes`, from one draw.
#[inline]
#[allow(dead_code, reason = "not every bench draws two")]
pub(crate) fn two_of(nodes: usize) -> (usize, usize) {
    let bits = random();
    let first = (((bits & 0xffff_ffff) * nodes as u64) >> 32) as usize;
    let second = (((bits >> 32) * (nodes as u64 - 1)) >> 32) as usize;
    (first, second + usize::from(second >= first))
}

/// A table of what groups of the same contenders came to, one column each.
#[allow(clippy::print_stdout, reason = "tables are what a bench is for")]
pub(crate) fn print_table(title: &str, columns: &[String], groups: &[Group], threads: usize) {
    let how = if threads == 1 { "one thread" } else { "two threads at once" };
    println!("\n{title}, {how}: ns a call, and the median of its ratios");
    if threads > 1 {
        let kept: usize = groups.iter().map(|group| group.kept.0).sum();
        let all: usize = groups.iter().map(|group| group.kept.1).sum();
        println!(
            "(barrier start; counted are {kept} of {all} turns, those in which both threads were on \
             their cores for {:.0} % of it; a dash stands where there was none)",
            TOGETHER * 100.0
        );
    }
    print!("{:<44}", "");
    columns.iter().for_each(|column| print!("{column:>14}"));
    println!();
    for (row, figure) in groups[0].figures.iter().enumerate() {
        print!("{:<44}", figure.name);
        groups.iter().for_each(|group| {
            print!("{:>14}", shown(group.figures[row].nanos, |n| format!("{n:.1}")))
        });
        println!();
        for (column, (other, _)) in figure.ratios.iter().enumerate() {
            print!("    {:<40}", format!("/ {other}"));
            groups.iter().for_each(|group| {
                let ratio = group.figures[row].ratios[column].1;
                print!("{:>14}", shown(ratio, |ratio| format!("x {ratio:.2}")));
            });
            println!();
        }
    }
}

/// A median, if there is one.
fn shown(median: f64, show: impl Fn(f64) -> String) -> String {
    if median.is_nan() { "-".into() } else { show(median) }
}
