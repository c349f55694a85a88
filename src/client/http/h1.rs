//! One HTTP/1.1 connection: its exchanges one after another, and its way back to the pool.
//!
//! ```text
//!  pool ──checkout──▶ request ──response head──▶ connection's task ──body at its end──▶ pool
//! ```
//! The task that drives the connection also waits for its next readiness, so that no task is
//! spawned for a request.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::{
    connect::IsOpen,
    h2::Lifetime,
    head::Name,
    io::{Monitor, Wire},
    pool::Pool,
    request_body::Borrowed,
};
use crate::{
    error::BoxError,
    node::{Clock, Sleep},
};

/// The right to send the next request on a connection.
pub(super) struct Lane {
    pub(super) id: u64,
    /// Whether it has carried a request: the peer may close it at any time.
    pub(super) used: bool,
    pub(super) name: Arc<Name>,
    /// When it is old, and takes no more.
    pub(super) until: Option<Instant>,
    /// When it was last laid down.
    pub(super) parked_at: Option<Instant>,
    sender: http1::SendRequest<Borrowed>,
    exchange: Arc<Exchange>,
    home: mpsc::Sender<Lane>,
}

/// What a lane and its connection's task both know.
struct Exchange {
    phase: AtomicU8,
    use_of: AtomicU8,
    monitor: Arc<Monitor>,
    is_open: Option<IsOpen>,
    /// What hyper said of its end: to the request or to the connection's task, whichever it told.
    said: OnceLock<String>,
}

/// A connection broke, though not while it was being made.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
pub(super) struct Broke(#[source] BoxError);

/// Between exchanges, or a response is on its way whose head came, or the caller gave up.
const QUIET: u8 = 0;
/// A request was given to hyper, and what became of it is not known yet.
const AWAITING: u8 = 1;
/// It failed.
const FAILED: u8 = 2;
/// The connection ended while it was awaited. With its head or without it: hyper says that only to
/// the request, which therefore tells the pool.
const ENDED: u8 = 3;

/// No request was ever sent on the connection.
const UNUSED: u8 = 0;
const ASKED: u8 = 1;
/// A response came.
const ANSWERED: u8 = 2;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It has brought a response.
    Served,
    /// We let go of it, or a caller gave up.
    Clean,
    /// The peer closed it, and no request was ever sent on it.
    Unused,
    Broken(Broke),
}

/// A request that awaits its response head. Dropped, the caller gave up, and so hyper closes.
struct Awaiting<'a> {
    exchange: &'a Exchange,
    pool: &'a Pool,
    id: u64,
}

/// The driver of a connection, to be spawned.
pub(super) struct Driver {
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    exchange: Arc<Exchange>,
    returns: mpsc::Receiver<Lane>,
    id: u64,
}

pub(super) async fn handshake(
    id: u64,
    wire: Wire,
    monitor: Arc<Monitor>,
    is_open: Option<IsOpen>,
    name: Arc<Name>,
) -> hyper::Result<(Lane, Driver)> {
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(wire)).await?;
    let (phase, use_of) = (AtomicU8::new(QUIET), AtomicU8::new(UNUSED));
    let exchange = Arc::new(Exchange { phase, use_of, monitor, is_open, said: OnceLock::new() });
    let (home, returns) = mpsc::channel(1);
    let connection = Box::pin(connection.with_upgrades());
    let driver = Driver { connection, exchange: Arc::clone(&exchange), returns, id };
    Ok((
        Lane { id, used: false, name, until: None, parked_at: None, sender, exchange, home },
        driver,
    ))
}

// === impl Lane ===

impl Lane {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether a request may be sent: the best that can be known without sending it.
    pub(super) fn is_usable(&self) -> bool {
        let open = self.exchange.is_open.as_ref().is_none_or(|is_open| is_open());
        if !open {
            // The connection's task may end without having looked.
            self.exchange.monitor.note_closed();
        }
        open && !self.is_closed()
    }

    /// Whether it has lasted for as long as it may.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// What the stream under it knows.
    pub(super) fn monitor(&self) -> Arc<Monitor> {
        Arc::clone(&self.exchange.monitor)
    }

    pub(super) async fn send(
        mut self,
        request: Request<Borrowed>,
        pool: &Pool,
    ) -> Result<Response<Incoming>, TrySendError<Request<Borrowed>>> {
        self.used = true;
        self.parked_at = None;
        let exchange = Arc::clone(&self.exchange);
        exchange.use_of.fetch_max(ASKED, Ordering::AcqRel);
        exchange.monitor.listen_anew();
        exchange.phase.store(AWAITING, Ordering::Release);
        let awaiting = Awaiting { exchange: &exchange, pool, id: self.id };
        let result = self.sender.try_send_request(request).await;
        match result {
            Ok(response) => {
                // First: a connection that is over already is judged by it once nobody awaits.
                exchange.use_of.store(ANSWERED, Ordering::Release);
                drop(awaiting);
                if response.extensions().get::<OnUpgrade>().is_some() {
                    // Before anybody gets it.
                    exchange.monitor.give_away();
                    // Before anybody learns that the request is over.
                    pool.give_away(self.id);
                }
                // Only now: before the head, hyper may call a sender ready whose request it has
                // not taken up yet.
                if self.sender.is_ready() {
                    // All of the response is here, as it is with most short ones. The next request
                    // may come before the connection's task runs again, and should not dial.
                    pool.park(self);
                } else {
                    // There is room, since there is one lane a connection.
                    let home = self.home.clone();
                    let _ = home.try_send(self);
                }
                Ok(response)
            }
            Err(error) => {
                // A body of the caller's own that breaks off ends the connection, through no fault
                // of the peer's.
                let innocent = error.message().is_some() || error.error().is_user();
                if !innocent {
                    exchange.say(error.error());
                }
                awaiting.end(if innocent { QUIET } else { FAILED });
                Err(error)
            }
        }
    }
}

// === impl Broke ===

impl Broke {
    /// What to tell the request that got `error`: more, where the stream knows more.
    pub(super) fn explain(error: hyper::Error, monitor: &Monitor) -> BoxError {
        let is_io = |error: &(dyn StdError + 'static)| error.is::<io::Error>();
        match monitor.cause() {
            Some(cause) if !is_io(&*cause) || !error.source().is_some_and(is_io) => {
                Self(cause).into()
            }
            _ => error.into(),
        }
    }
}

impl Awaiting<'_> {
    fn end(self, phase: u8) {
        self.settle(phase);
        std::mem::forget(self);
    }

    fn settle(&self, phase: u8) {
        if self.exchange.phase.swap(phase, Ordering::AcqRel) == ENDED {
            self.pool.http1_ended(self.id, self.exchange.end());
        }
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.settle(QUIET);
    }
}

// === impl Exchange ===

impl Exchange {
    fn say(&self, error: &hyper::Error) {
        let _ = self.said.set(error.to_string());
    }

    fn end(&self) -> End {
        let monitor = &self.monitor;
        let answered = self.use_of.load(Ordering::Acquire) == ANSWERED && monitor.has_heard();
        // A peer may answer an upload, and read no more of it.
        let broken = monitor.is_broken() || (monitor.is_deaf() && !answered);
        if broken || self.phase.load(Ordering::Acquire) != QUIET {
            // What the stream knows is why hyper says what it says.
            let said = || self.said.get().map_or("for no known reason", |said| said).into();
            return End::Broken(Broke(self.monitor.cause().unwrap_or_else(said)));
        }
        match self.use_of.load(Ordering::Acquire) {
            ANSWERED => End::Served,
            UNUSED if self.monitor.is_closed() => End::Unused,
            _ => End::Clean,
        }
    }
}

// === impl Driver ===

impl Driver {
    /// Drives the connection to its end.
    pub(super) async fn run(mut self, pool: Weak<Pool>, clock: Clock, lifetime: Lifetime) {
        let id = self.id;
        let exchange = Arc::clone(&self.exchange);
        let mut cut = pin!(exchange.monitor.was_cut());
        let mut returned: Option<Lane> = None;
        // It runs whether the lane lies idle or not: one timer for each period, none a request.
        let mut idle: Pin<Box<Sleep>> =
            Box::pin(clock.sleep_until(lifetime.next_look(clock.now())));
        loop {
            tokio::select! {
                biased;
                ended = &mut self.connection => {
                    if let Err(error) = ended {
                        exchange.say(&error);
                    }
                    break;
                }
                () = &mut cut => break,
                Some(lane) = self.returns.recv(), if returned.is_none() => returned = Some(lane),
                lane = ready(&mut returned), if returned.is_some() => {
                    if let (Some(lane), Some(pool)) = (lane, pool.upgrade()) {
                        pool.park(lane);
                    }
                }
                () = &mut idle => {
                    let next = pool.upgrade().and_then(|pool| pool.expire(id));
                    let next = next.unwrap_or_else(|| lifetime.next_look(clock.now()));
                    idle.set(clock.sleep_until(next));
                }
            }
        }
        // First the stream, then the news: who hears of it finds the socket closed.
        drop(self);
        let phase = &exchange.phase;
        let awaited =
            phase.compare_exchange(AWAITING, ENDED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if let (Some(pool), false) = (pool.upgrade(), awaited) {
            pool.http1_ended(id, exchange.end());
        }
    }
}

/// Takes the lane out once it is ready, or drops it once it never will be.
async fn ready(returned: &mut Option<Lane>) -> Option<Lane> {
    match returned {
        Some(lane) => {
            let ready = lane.sender.ready().await.is_ok();
            returned.take().filter(|_| ready)
        }
        None => std::future::pending().await,
    }
}
