//! A stream out of an async function, for sources that wait for more than one thing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use pin_project_lite::pin_project;

pin_project! {
    /// The stream of [`unfold`].
    pub(super) struct Unfold<S, F, Fut> {
        state: Option<S>,
        step: F,
        #[pin]
        future: Option<Fut>,
    }
}

/// The stream of what `step` yields, one call after another, each with the state of the last.
pub(super) fn unfold<T, S, F, Fut>(state: S, step: F) -> Unfold<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = (T, S)>,
{
    Unfold { state: Some(state), step, future: None }
}

// === impl Unfold ===

impl<T, S, F, Fut> Stream for Unfold<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = (T, S)>,
{
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut this = self.project();
        if let Some(state) = this.state.take() {
            let future = (this.step)(state);
            this.future.set(Some(future));
        }
        // Without a future there was a panic inside it: the stream is over.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let (item, state) = ready!(future.poll(cx));
        this.future.set(None);
        *this.state = Some(state);
        Poll::Ready(Some(item))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
    };

    use futures::{FutureExt, StreamExt};

    use super::*;

    #[derive(Default)]
    pub(in crate::discovery) struct Wakes(AtomicUsize);

    impl Wakes {
        pub(in crate::discovery) fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A waker, and how often it was woken.
    pub(in crate::discovery) fn counting_waker() -> (Waker, Arc<Wakes>) {
        let wakes = Arc::new(Wakes::default());
        (wakes.clone().into(), wakes)
    }

    #[test]
    fn hands_the_state_on_and_keeps_a_pending_step() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<u32>(4);
        let sums = unfold((receiver, 0), |(mut receiver, sum)| async move {
            let sum = sum + receiver.recv().await.unwrap();
            (sum, (receiver, sum))
        });
        let mut sums = std::pin::pin!(sums);
        assert_eq!(sums.next().now_or_never(), None);
        for (number, sum) in [(1, 1), (2, 3), (3, 6)] {
            sender.try_send(number).unwrap();
            assert_eq!(sums.next().now_or_never(), Some(Some(sum)));
        }
        assert_eq!(sums.next().now_or_never(), None);
    }
}
