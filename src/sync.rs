//! The atomics, the lock and the notification, under names that the model checker can replace.

#[cfg(not(evenkeel_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(evenkeel_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

#[cfg(not(evenkeel_loom))]
pub(crate) mod notify {
    //! Waking all who listen.

    pub(crate) use tokio::sync::{Notify, futures::OwnedNotified};
}

#[cfg(evenkeel_loom)]
pub(crate) mod notify {
    //! What `Signal` uses of tokio's `Notify`, in terms that the model checker knows.

    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use loom::sync::Mutex;

    /// How often all were notified, and who waits for the next time.
    #[derive(Debug)]
    pub(crate) struct Notify(Mutex<(u64, Vec<Waker>)>);

    #[derive(Debug)]
    pub(crate) struct OwnedNotified {
        notify: std::sync::Arc<Notify>,
        /// The count at [`enable`](Self::enable).
        heard: Option<u64>,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self(Mutex::new((0, Vec::new())))
        }

        pub(crate) fn notify_waiters(&self) {
            let mut state = self.0.lock().expect("no model panics under the lock");
            state.0 += 1;
            state.1.drain(..).for_each(Waker::wake);
        }

        pub(crate) fn notified_owned(self: std::sync::Arc<Self>) -> OwnedNotified {
            OwnedNotified { notify: self, heard: None }
        }
    }

    impl OwnedNotified {
        pub(crate) fn enable(mut self: Pin<&mut Self>) -> bool {
            let count = self.notify.0.lock().expect("no model panics under the lock").0;
            *self.heard.get_or_insert(count) != count
        }
    }

    impl Future for OwnedNotified {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.as_mut().enable() {
                return Poll::Ready(());
            }
            let mut state = self.notify.0.lock().expect("no model panics under the lock");
            if self.heard != Some(state.0) {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        }
    }
}
