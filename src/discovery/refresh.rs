//! "A connect failed, look again": the one thing that a pool says back to its source.
//!
//! What a source last said may be out of date just when it matters, and the first to notice is
//! whoever dials. So the pool asks, as often as it likes; the source answers as rarely as it likes.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use tokio::sync::mpsc;

/// The requests to look again, as a source sees them.
///
/// Requests coalesce: however many came since the last was taken, they are one. A source should
/// keep a floor between two looks, since a thousand endpoints may fail at once, and it may drop
/// this if it never looks again.
#[derive(Debug)]
pub struct RefreshRequests(mpsc::Receiver<()>);

/// The side that asks. Cheap to clone and to use.
#[derive(Clone, Debug)]
pub struct RefreshHandle(mpsc::Sender<()>);

/// A pair, as the pool makes one for its source; public so that a source can be tested.
///
/// ```
/// use evenkeel::discovery::refresh;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let (handle, mut requests) = refresh::channel();
/// handle.request();
/// handle.request();
/// requests.requested().await; // both of them
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn channel() -> (RefreshHandle, RefreshRequests) {
    // Room for one is what makes requests coalesce.
    let (sender, receiver) = mpsc::channel(1);
    (RefreshHandle(sender), RefreshRequests(receiver))
}

// === impl RefreshRequests ===

impl RefreshRequests {
    /// Completes when a request has come since the last one was taken.
    ///
    /// Nothing is lost if the future is dropped before it completes. When nobody is left to ask it
    /// stays pending, so that a loop that waits for this among others neither spins nor needs a
    /// case of its own.
    pub async fn requested(&mut self) {
        poll_fn(|cx| self.poll_requested(cx)).await;
    }

    /// [`requested`](Self::requested), for a stream that is written by hand.
    pub fn poll_requested(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.poll_recv(cx) {
            Poll::Ready(Some(())) => Poll::Ready(()),
            // Closed would be ready for ever.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

// === impl RefreshHandle ===

impl RefreshHandle {
    /// Asks the source to look again. Does nothing if a request waits already, or if the source
    /// does not listen.
    pub fn request(&self) {
        // Full means that a request waits; closed, that nobody listens.
        let _ = self.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::discovery::unfold::tests::counting_waker;

    #[test]
    fn requests_coalesce_and_a_dropped_wait_loses_none() {
        let (handle, mut requests) = channel();
        assert!(requests.requested().now_or_never().is_none());
        for _ in 0..1_000 {
            handle.clone().request();
        }
        assert!(requests.requested().now_or_never().is_some());
        assert!(requests.requested().now_or_never().is_none(), "a thousand requests are one");
        handle.request();
        assert!(requests.requested().now_or_never().is_some());
    }

    /// T15.
    #[test]
    fn without_anybody_to_ask_it_stays_pending_and_never_wakes() {
        let (handle, mut requests) = channel();
        handle.request();
        drop(handle);
        assert!(requests.requested().now_or_never().is_some(), "what was asked before stands");
        let (waker, wakes) = counting_waker();
        for _ in 0..10 {
            assert!(requests.poll_requested(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(wakes.count(), 0);
    }

    #[test]
    fn a_source_that_does_not_listen_is_no_trouble() {
        let (handle, requests) = channel();
        drop(requests);
        handle.request();
    }
}
