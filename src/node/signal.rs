//! The wake of waiting calls: publish first, then signal; listen first, then look.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{Notify, futures::OwnedNotified};

/// Wakes everybody who listens.
#[derive(Debug)]
pub(crate) struct Signal(Arc<Notify>);

/// One wait for the next [`Signal::raise`] after [`Signal::listen`].
#[derive(Debug)]
pub(crate) struct Listener(Pin<Box<OwnedNotified>>);

// === impl Signal ===

impl Signal {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Notify::new()))
    }

    /// Wakes all listeners of this moment. Call it after what they look for can be seen.
    pub(crate) fn raise(&self) {
        self.0.notify_waiters();
    }

    /// Listens from here on. Look (again) for what is awaited after this, and only then wait: a
    /// change that the look missed raises the signal that the listener hears.
    pub(crate) fn listen(&self) -> Listener {
        let mut notified = Box::pin(Arc::clone(&self.0).notified_owned());
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
