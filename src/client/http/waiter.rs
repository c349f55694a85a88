//! A request's place in the line for a connection.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{
    error::ConnectError,
    pool::{Granted, Pool},
};

/// A place in line. Given up, it hands on what it had been given.
pub(super) struct Waiter {
    pool: Arc<Pool>,
    granted: oneshot::Receiver<Granted>,
    served: bool,
}

impl Waiter {
    pub(super) fn new(pool: Arc<Pool>, granted: oneshot::Receiver<Granted>) -> Self {
        Self { pool, granted, served: false }
    }
}

impl Future for Waiter {
    type Output = Granted;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Granted> {
        let granted = ready!(Pin::new(&mut self.granted).poll(cx));
        self.served = true;
        Poll::Ready(
            granted.unwrap_or_else(|_| Err(ConnectError::closed(self.pool.link.endpoint().addr()))),
        )
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.served {
            self.pool.leave_line(&mut self.granted);
        }
    }
}
