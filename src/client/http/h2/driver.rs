//! The task of a connection: it moves its bytes, watches its peer, and tells the pool of its end.

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{Builder, Connection},
};

use super::{
    super::{
        head::Name,
        io::{Monitor, Wire},
        pool::Pool,
    },
    keepalive::{Keepalive, Watch},
    trunk::{Gone, State, Trunk},
};
use crate::{
    error::BoxError,
    node::{Clock, after},
};

/// The driver of a connection, to be spawned.
pub(in super::super) struct Driver {
    connection: Connection<Wire, Bytes>,
    watch: Watch,
    state: Arc<State>,
    clock: Clock,
    id: u64,
}

/// Ends the connection's time with the pool.
#[derive(Clone, Copy)]
pub(in super::super) struct Lifetime {
    /// When it is old.
    pub(in super::super) until: Option<Instant>,
    /// How long it may lie idle where another carries what comes.
    pub(in super::super) idle: Duration,
}

impl Lifetime {
    /// When to look again at a connection that is not idle now.
    pub(in super::super) fn next_look(&self, now: Instant) -> Instant {
        let idle = after(now, self.idle);
        // Once it is old, whoever uses it lets it go.
        self.until.filter(|&until| until > now).map_or(idle, |until| until.min(idle))
    }
}

/// What may be on its way to us: the windows of a stream and of the connection.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// What a response's head may take.
const MOST_HEADERS: u32 = 64 * 1024;
/// What a stream may queue before its body is not asked for more.
const SEND_BUFFER: usize = 1024 * 1024;

/// Streams from which on the task of the connection lets those go first that are about to use it. So it
/// writes for many at once, and does not contend with them for the lock that they share with it.
const MANY: u32 = 8;

/// Opens HTTP/2 on `wire`, and waits until the peer has.
pub(in super::super) async fn handshake(
    id: u64,
    wire: Wire,
    monitor: Arc<Monitor>,
    name: Arc<Name>,
    keepalive: Keepalive,
    clock: &Clock,
) -> Result<(Trunk, Driver), BoxError> {
    let began = clock.now();
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    let (sender, mut connection) = builder.handshake(wire).await?;
    tokio::select! {
        biased;
        () = monitor.heard() => {}
        ended = &mut connection => {
            ended?;
            return Err(Gone::Closed.into());
        }
    }
    let ping = connection.ping_pong().ok_or("the keepalive of a connection was taken twice")?;
    let trunk = Trunk::new(id, name, sender, monitor, began);
    let state = Arc::clone(&trunk.state);
    let watch = Watch::new(keepalive, clock.clone(), ping, Arc::clone(&state));
    let driver = Driver { connection, watch, state, clock: clock.clone(), id };
    Ok((trunk, driver))
}

// === impl Driver ===

impl Driver {
    /// Drives the connection to its end.
    pub(in super::super) async fn run(self, pool: Weak<Pool>, lifetime: Lifetime) {
        let Self { mut connection, watch, state, clock, id } = self;
        let monitor = &state.monitor;
        let mut complained = false;
        let mut gone = |why: Gone, cause: BoxError| {
            let Some(pool) = pool.upgrade() else { return };
            // With nothing running, a connection ends as soon as it has read its GOAWAY.
            let calm = u32::from(Reason::ENHANCE_YOUR_CALM);
            if !complained && monitor.goaway().is_some_and(|goaway| goaway.code == calm) {
                complained = true;
                pool.calm_down();
            }
            pool.trunk_gone(id, why, cause);
        };
        let timeout = watch.timeout();
        let mut silent = pin!(watch.until_silent());
        let mut old = pin!(async {
            match lifetime.until {
                Some(until) => clock.sleep_until(until).await,
                None => pending().await,
            }
        });
        let mut idle = pin!(until_surplus(&state, &clock, lifetime.idle, &pool, id));
        let (mut leaving, mut watched, mut young, mut wanted) = (false, true, true, true);
        let mut gathered = false;
        let mut moving = poll_fn(|cx| {
            gathered = !gathered && state.open() >= MANY;
            if gathered {
                // Back at the end of the line of tasks.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pin::new(&mut connection).poll(cx)
        });
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut moving => break ended,
                () = monitor.going_away(), if !leaving => {
                    leaving = true;
                    gone(Gone::GoAway, Gone::GoAway.into());
                }
                () = &mut silent, if watched => {
                    watched = false;
                    let why = Gone::Silent(timeout);
                    let _ = state.end.set(why);
                    gone(why, why.into());
                    monitor.cut();
                }
                () = &mut old, if young => {
                    young = false;
                    gone(Gone::Old, Gone::Old.into());
                }
                () = &mut idle, if wanted => wanted = false,
            }
        };
        let _ = state.end.set(Gone::Closed);
        gone(Gone::Closed, ended.map_or_else(BoxError::from, |()| Gone::Closed.into()));
    }
}

/// Ends when the connection has lain idle for `limit` and the pool has let go of it.
async fn until_surplus(state: &State, clock: &Clock, limit: Duration, pool: &Weak<Pool>, id: u64) {
    let mut until = after(clock.now(), limit);
    loop {
        clock.sleep_until(until).await;
        let now = clock.now();
        let idle_until = after(state.monitor.last_life(), limit);
        if state.open() > 0 || idle_until > now {
            until = idle_until.max(after(now, limit / 2));
            continue;
        }
        match pool.upgrade() {
            Some(pool) if !pool.retire_surplus(id) => until = after(now, limit),
            _ => return,
        }
    }
}
