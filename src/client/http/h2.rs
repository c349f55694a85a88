//! One HTTP/2 connection, shared by all requests of an endpoint.
//!
//! It is up when the peer has sent its preface, not when the handshake says so: that returns
//! before a single byte was read. It is replaced as soon as the peer says GOAWAY, while the
//! requests on it run to their end.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{
    body::RequestBody,
    head::Name,
    io::{Monitor, Wire},
    pool::Pool,
};
use crate::error::BoxError;

/// A handle on a connection, to be cloned for each request.
#[derive(Clone)]
pub(super) struct Trunk {
    pub(super) id: u64,
    pub(super) name: Arc<Name>,
    sender: http2::SendRequest<RequestBody>,
    monitor: Arc<Monitor>,
    /// Whether a response came on it: then its end says nothing against the peer.
    served: Arc<AtomicBool>,
}

/// The driver of a connection, to be spawned.
pub(super) struct Driver {
    connection: Pin<Box<http2::Connection<TokioIo<Wire>, RequestBody, TokioExecutor>>>,
    monitor: Arc<Monitor>,
    id: u64,
}

/// Why a connection takes no more requests.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error("the peer said GOAWAY")]
    GoAway,
    #[error("the peer closed the connection")]
    Closed,
}

pub(super) async fn handshake(
    id: u64,
    wire: TokioIo<Wire>,
    monitor: Arc<Monitor>,
    name: Arc<Name>,
) -> Result<(Trunk, Driver), BoxError> {
    // The stream is cut unless all goes well: hyper's own task would keep it open.
    let unless_up = CutOnDrop(Some(Arc::clone(&monitor)));
    let builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(wire).await?;
    let mut connection = Box::pin(connection);
    tokio::select! {
        biased;
        () = monitor.heard() => {}
        ended = &mut connection => {
            ended?;
            return Err(Gone::Closed.into());
        }
    }
    unless_up.keep();
    let driver = Driver { connection, monitor: Arc::clone(&monitor), id };
    Ok((Trunk { id, name, sender, monitor, served: Arc::default() }, driver))
}

struct CutOnDrop(Option<Arc<Monitor>>);

impl CutOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(monitor) = &self.0 {
            monitor.cut();
        }
    }
}

// === impl Trunk ===

impl Trunk {
    /// Why no request may be sent, if none may.
    pub(super) fn gone(&self) -> Option<Gone> {
        match () {
            () if self.monitor.is_going_away() => Some(Gone::GoAway),
            () if self.sender.is_closed() => Some(Gone::Closed),
            () => None,
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let sent = self.sender.try_send_request(request).await;
        if sent.is_ok() {
            self.served.store(true, Ordering::Relaxed);
        }
        sent
    }

    pub(super) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }
}

// === impl Driver ===

impl Driver {
    /// Drives the connection to its end.
    pub(super) async fn run(mut self, pool: Weak<Pool>) {
        let gone = |cause: BoxError| {
            if let Some(pool) = pool.upgrade() {
                pool.http2_gone(self.id, cause);
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut self.connection => ended,
            () = self.monitor.going_away() => {
                gone(Gone::GoAway.into());
                (&mut self.connection).await
            }
        };
        gone(ended.map_or_else(BoxError::from, |()| Gone::Closed.into()));
    }
}

/// Whether the peer has provably not processed the request: it said GOAWAY with a lower last
/// stream, or REFUSED_STREAM. hyper reports a stream at or below the last one as an I/O error.
pub(super) fn is_unprocessed(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (error.is_go_away() || error.is_reset() && refused);
        }
        next = error.source();
    }
    false
}
