//! One question for all who want its answer.
//!
//! Balancers that share a resolver often want the same name. Who wants it while it is asked for waits
//! for that answer; who comes a moment later takes the answer over, unless it was theirs already: then
//! they want a newer one. So a name is asked for once in that moment, however many want it. This is no
//! cache: what is older than the shortest time between two looks is asked for anew.
//!
//! A question is a task of its own, which ends with the last of those who wait for it. None of them
//! can take it from the others.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use tokio::{sync::watch, task::AbortHandle};

use crate::node::Clock;

/// The questions that are under way, and the answers of the last moment.
pub(super) struct Flights<K, T> {
    table: Mutex<Table<K, T>>,
    clock: Clock,
}

struct Table<K, T> {
    flights: HashMap<K, Flight<T>>,
    /// So many that it is time to look which of them are of use.
    sweep_at: usize,
}

struct Flight<T> {
    asked: Instant,
    answer: watch::Receiver<Option<Landed<T>>>,
    /// Alive as long as anybody waits.
    task: Weak<Task>,
}

/// An answer, and when it came.
#[derive(Clone, Debug)]
pub(super) struct Landed<T> {
    pub(super) answer: T,
    pub(super) asked: Instant,
    pub(super) at: Instant,
}

/// Ends the question with the last that holds it.
struct Task(AbortHandle);

/// A place among those who wait for one answer.
struct Seat<T> {
    answer: watch::Receiver<Option<Landed<T>>>,
    /// Whether the question is one's own.
    own: bool,
    _task: Option<Arc<Task>>,
}

/// Below this nothing is gained by sweeping.
const FEW: usize = 64;

// === impl Flights ===

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(clock: Clock) -> Self {
        let table = Table { flights: HashMap::new(), sweep_at: FEW };
        Self { table: Mutex::new(table), clock }
    }

    /// The answer to the question about `subject`: the one that is under way, one that was asked for
    /// after `since`, or that of `question`. Of what was asked for before a clock that went back
    /// nothing is taken over. `None` if the question ended without an answer.
    pub(super) async fn ask<F>(
        &self,
        subject: K,
        since: Option<Instant>,
        question: impl Fn() -> F,
    ) -> Option<Landed<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            let mut seat = self.seat(&subject, since, &question);
            if let Ok(landed) = seat.answer.wait_for(Option::is_some).await {
                return landed.clone();
            }
            // Whoever asked did so on a runtime that is gone.
            if seat.own {
                return None;
            }
        }
    }

    fn seat<F>(&self, subject: &K, since: Option<Instant>, question: impl FnOnce() -> F) -> Seat<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let now = self.clock.now();
        let mut table = self.table();
        if let Some(seat) = table.flights.get(subject).and_then(|flight| flight.seat(since, now)) {
            return seat;
        }
        table.sweep(since, now);
        let (land, answer) = watch::channel(None);
        let (clock, question) = (self.clock.clone(), question());
        let task = tokio::spawn(async move {
            let answer = question.await;
            let _ = land.send(Some(Landed { answer, asked: now, at: clock.now() }));
        });
        let task = Arc::new(Task(task.abort_handle()));
        let flight = Flight { asked: now, answer: answer.clone(), task: Arc::downgrade(&task) };
        table.flights.insert(subject.clone(), flight);
        Seat { answer, own: true, _task: Some(task) }
    }

    fn table(&self) -> MutexGuard<'_, Table<K, T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Table ===

impl<K: Eq + Hash, T> Table<K, T> {
    /// Forgets what is of use to nobody, once there is so much of it that it is worth the look.
    fn sweep(&mut self, since: Option<Instant>, now: Instant) {
        if self.flights.len() >= self.sweep_at {
            self.flights.retain(|_, flight| flight.is_open() || flight.is_new(since, now));
            self.sweep_at = FEW.max(2 * self.flights.len());
        }
    }
}

// === impl Flight ===

impl<T> Flight<T> {
    fn seat(&self, since: Option<Instant>, now: Instant) -> Option<Seat<T>> {
        let seat = |task| Seat { answer: self.answer.clone(), own: false, _task: task };
        if self.answer.borrow().is_some() {
            return self.is_new(since, now).then(|| seat(None));
        }
        let task = self.task.upgrade()?;
        self.is_open().then(|| seat(Some(task)))
    }

    /// Whether an answer may still come.
    fn is_open(&self) -> bool {
        self.answer.has_changed().is_ok()
    }

    fn is_new(&self, since: Option<Instant>, now: Instant) -> bool {
        self.asked <= now && since.is_none_or(|since| self.asked > since)
    }
}

// === impl Task ===

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use futures::FutureExt;
    use tokio::{runtime, time::sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts the questions, each of which takes a second and is answered with its number.
    #[derive(Default)]
    struct Asked(Arc<AtomicU32>);

    impl Asked {
        fn question(&self) -> impl Future<Output = u32> + Send + use<> {
            let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                sleep(SECOND).await;
                number
            }
        }

        fn count(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn flights() -> Flights<&'static str, u32> {
        Flights::new(Clock::default())
    }

    /// R6: single flight, of a subject and not of all.
    #[tokio::test(start_paused = true)]
    async fn r6_who_comes_while_it_is_asked_for_waits_for_that_answer() {
        let (flights, asked) = (flights(), Asked::default());
        let ask = |subject| flights.ask(subject, None, || asked.question());
        let late = async {
            sleep(SECOND / 2).await;
            ask("a").await
        };
        let (one, two, late, other) = tokio::join!(ask("a"), ask("a"), late, ask("b"));
        let numbers = [one, two, late, other].map(|landed| landed.unwrap().answer);
        assert_eq!(numbers, [1, 1, 1, 2]);
        assert_eq!(asked.count(), 2);
    }

    /// R6: an answer is taken over if it was asked for late enough, which what is one's own never is.
    #[tokio::test(start_paused = true)]
    async fn r6_an_answer_is_taken_over_if_it_is_new() {
        let (flights, asked) = (flights(), Asked::default());
        let begin = Clock::default().now();
        let ask = async |since| {
            let landed = flights.ask("a", since, || asked.question()).await.unwrap();
            (landed.answer, landed.asked, landed.at)
        };
        let first = ask(None).await;
        assert_eq!(first, (1, begin, begin + SECOND));
        sleep(SECOND).await;
        assert_eq!(ask(None).await, first, "it says how old it is");
        assert_eq!(ask(begin.checked_sub(SECOND)).await, first);
        assert_eq!(ask(Some(first.1)).await.0, 2, "who has it wants another");
        assert_eq!(ask(Some(first.1)).await.0, 2, "which is good for the next");
    }

    /// T11: what was asked for in what is now the future tells nothing.
    #[tokio::test(start_paused = true)]
    async fn t11_nothing_is_taken_over_from_before_a_clock_went_back() {
        let (flights, asked) = (flights(), Asked::default());
        flights.ask("a", None, || asked.question()).await.unwrap();
        let table = flights.table();
        let flight = &table.flights["a"];
        let before = flight.asked.checked_sub(SECOND).unwrap();
        assert!(flight.seat(None, flight.asked).is_some());
        assert!(flight.seat(None, before).is_none());
    }

    /// T6: whoever began it may go; with the last it ends.
    #[tokio::test(start_paused = true)]
    async fn t6_a_question_ends_with_the_last_who_waits() {
        struct Ends(Arc<AtomicU32>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (flights, ended) = (flights(), Arc::new(AtomicU32::new(0)));
        let question = || {
            let ends = Ends(Arc::clone(&ended));
            async move {
                let _ends = ends;
                sleep(SECOND).await;
                7
            }
        };
        let mut first = Box::pin(flights.ask("a", None, question));
        let mut second = Box::pin(flights.ask("a", None, question));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        sleep(SECOND / 2).await;
        assert_eq!(ended.load(Ordering::SeqCst), 0, "the second still waits");
        assert_eq!(second.await.unwrap().answer, 7);
        assert_eq!(ended.load(Ordering::SeqCst), 1);

        let mut alone = Box::pin(flights.ask("b", None, question));
        assert!((&mut alone).now_or_never().is_none());
        tokio::task::yield_now().await;
        drop(alone);
        tokio::task::yield_now().await;
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        // And what was given up is no answer to wait for.
        assert_eq!(flights.ask("b", None, question).await.unwrap().answer, 7);
    }

    /// A question that ends without an answer is asked again by those who joined it, and not without
    /// end by who asked.
    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_no_loop() {
        let (flights, asked) = (flights(), AtomicU32::new(0));
        let question = || {
            asked.fetch_add(1, Ordering::SeqCst);
            async {
                sleep(SECOND).await;
                panic!("as a test of what should not be");
            }
        };
        let ask = || flights.ask("a", None, question);
        let (one, two) = tokio::join!(ask(), ask());
        assert!(one.is_none() && two.is_none());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    /// Who waits for a question on a runtime that ends asks on its own.
    #[test]
    fn a_runtime_that_ends_takes_no_answer_from_another() {
        let flights = flights();
        let begin = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        begin.block_on(async {
            let never = flights.ask("a", None, pending);
            assert!(never.now_or_never().is_none());
        });
        let mut first = Box::pin(flights.ask("a", None, pending));
        begin.block_on(async { assert!((&mut first).now_or_never().is_none()) });
        let other = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut second = Box::pin(flights.ask("a", None, || async { 5 }));
        other.block_on(async { assert!((&mut second).now_or_never().is_none()) });
        drop(begin);
        assert_eq!(other.block_on(second).unwrap().answer, 5);
        assert!(other.block_on(first).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn old_answers_are_forgotten() {
        let flights: Flights<u32, u32> = Flights::new(Clock::default());
        for subject in 0..10_000 {
            let since = Clock::default().now().checked_sub(SECOND);
            flights.ask(subject, since, || async move { subject }).await.unwrap();
            sleep(SECOND / 10).await;
        }
        let kept = flights.table().flights.len();
        assert!(kept <= FEW, "a second's worth are ten: {kept}");
    }
}
