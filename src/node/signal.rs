//! The wake of waiting calls: publish first, then signal; listen first, then look.
//!
//! What is of use to few of them is noted, and the driver signals for it in a while: each signal has all
//! of them look at all nodes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::sync::{
    atomic::{AtomicBool, Ordering},
    notify::{Notify, OwnedNotified},
};

/// Wakes everybody who listens.
#[derive(Debug)]
pub(crate) struct Signal {
    notify: Arc<Notify>,
    noted: AtomicBool,
}

/// One wait for the next [`Signal::raise`] after [`Signal::listen`].
#[derive(Debug)]
pub(crate) struct Listener(Pin<Box<OwnedNotified>>);

// === impl Signal ===

impl Signal {
    pub(crate) fn new() -> Self {
        Self { notify: Arc::new(Notify::new()), noted: AtomicBool::new(false) }
    }

    /// Wakes all listeners of this moment. Call it after what they look for can be seen.
    pub(crate) fn raise(&self) {
        // A swap, not a store: whoever looks after this sees what was noted before it.
        self.noted.swap(false, Ordering::AcqRel);
        self.notify.notify_waiters();
    }

    /// Notes that there is something to look for, for which the driver raises the signal. Call it after
    /// that can be seen, and before the driver is asked to attend.
    pub(crate) fn note(&self) {
        self.noted.swap(true, Ordering::Release);
    }

    /// Whether something was noted since the signal was last raised.
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Acquire)
    }

    /// Listens from here on. Look (again) for what is awaited after this, and only then wait: a
    /// change that the look missed raises the signal that the listener hears.
    pub(crate) fn listen(&self) -> Listener {
        let mut notified = Box::pin(Arc::clone(&self.notify).notified_owned());
        notified.as_mut().enable();
        Listener(notified)
    }
}

// === impl Listener ===

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(all(test, evenkeel_loom))]
mod models {
    use super::*;
    use crate::sync::atomic::AtomicU64;
    use loom::thread;

    /// A call that listened before it looked misses no publication: either it saw the snapshot, or
    /// the signal reaches it. The cell stands for the pool's `ArcSwap`.
    #[test]
    fn listening_before_the_look_misses_nothing() {
        loom::model(|| {
            let snapshot = Arc::new(AtomicU64::new(0));
            let signal = Arc::new(Signal::new());
            let driver = {
                let (snapshot, signal) = (snapshot.clone(), signal.clone());
                thread::spawn(move || {
                    for version in 1..=2 {
                        snapshot.store(version, Ordering::Release);
                        signal.raise();
                    }
                })
            };
            let listener = signal.listen();
            let seen = snapshot.load(Ordering::Acquire);
            driver.join().unwrap();
            let mut listener = listener;
            let heard = Pin::new(&mut listener)
                .poll(&mut Context::from_waker(std::task::Waker::noop()))
                .is_ready();
            assert!(heard || seen == 2, "saw {seen} and would wait for ever");
        });
    }

    /// Who looks after a signal sees what was noted before; else the note stands, for the next one.
    #[test]
    fn a_note_outlives_the_signals_that_do_not_tell_it() {
        loom::model(|| {
            let state = Arc::new(AtomicU64::new(0));
            let signal = Arc::new(Signal::new());
            let client = {
                let (state, signal) = (state.clone(), signal.clone());
                thread::spawn(move || {
                    state.store(1, Ordering::Relaxed);
                    signal.note();
                })
            };
            signal.raise();
            let seen = state.load(Ordering::Relaxed);
            client.join().unwrap();
            assert!(seen == 1 || signal.is_noted());
        });
    }

    /// A waiter that was already polled is woken, in whatever moment the signal comes.
    #[test]
    fn a_polled_listener_is_woken() {
        loom::model(|| {
            let signal = Arc::new(Signal::new());
            let mut listener = signal.listen();
            let raiser = {
                let signal = signal.clone();
                thread::spawn(move || signal.raise())
            };
            let woken = Arc::new(Flag(loom::sync::atomic::AtomicBool::new(false)));
            let waker = std::task::Waker::from(woken.clone());
            let ready = Pin::new(&mut listener).poll(&mut Context::from_waker(&waker)).is_ready();
            raiser.join().unwrap();
            assert!(ready || woken.0.load(Ordering::Acquire));
        });
    }

    struct Flag(loom::sync::atomic::AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
}
