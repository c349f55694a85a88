//! A request on its way: from connection to connection, as long as it is provably not processed.

use std::{mem, sync::Arc, time::Duration};

use http::{Request, Response, request::Parts, uri::Scheme};
use tokio::runtime::Handle;

use super::{
    body::HttpBody,
    error::{AfterDeath, ConnectError},
    h1::{Broke, Lane},
    h2,
    head::{Name, check_http1, check_http2, check_scheme},
    pool::{Checkout, Grant, Granted, Pool},
    request_body::{Lent, RequestBody},
    waiter::Waiter,
};
use crate::{
    error::{BoxError, chain},
    node::after,
};

/// A request as the caller gave it, and what became of it so far.
pub(super) struct Job {
    head: Parts,
    body: RequestBody,
    /// A peer has refused its stream. Another time it is the caller's turn to decide.
    refused: bool,
    /// How many connections have died with it, which is sent again for being idempotent.
    deaths: u8,
    /// What the first of them died of.
    died_of: Option<String>,
}

/// Why a request got no response.
pub(super) enum Failed {
    /// Here it is: another endpoint may have it.
    Back {
        job: Box<Job>,
        cause: BoxError,
        why: Why,
    },
    /// Not processed, and it cannot be sent again.
    Unprocessed(BoxError),
    Ambiguous(BoxError),
}

/// Why a request comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Never sent, or the peer will not process it.
    Unsent,
    /// Its stream was refused: this endpoint may have it once more, too.
    Refused,
    /// The connection died with it.
    Died,
}

/// What to do next.
enum Next {
    /// Another connection. A `fresh` one has carried nothing yet.
    Again {
        fresh: bool,
    },
    /// Back to whoever called; see [`Failed::Back`].
    Back {
        cause: BoxError,
        why: Why,
    },
    Fail(Failed),
}

/// How many connections may turn out closed before the request asks for a new one, and how many may
/// go away with it before it is another endpoint's turn.
const TRIES: usize = 3;

/// The same for HTTP/2 connections that have served others: servers replace those as a matter of course,
/// and some after a few requests.
const TRIES_WHERE_SERVED: usize = 16;

/// How much longer than its dial a request waits: a tick of the timer, since the dial knows more of what
/// went wrong.
const GRACE: Duration = Duration::from_millis(1);

/// How many connections may die with an idempotent request. That is no more, since the request itself
/// may be what they die of.
const DEATHS: u8 = 2;

/// Sends a request on connections of `pool`, until there is a response or no hope.
pub(super) async fn send(pool: Arc<Pool>, mut job: Box<Job>) -> Result<Response<HttpBody>, Failed> {
    // What no connection will carry is refused without a dial.
    let carries = if pool.settings.secure.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    check_scheme(&job.head.uri, &carries).map_err(|error| Failed::Unprocessed(error.into()))?;
    let (mut tries, mut fresh) = (0, false);
    loop {
        let granted = match pool.checkout(fresh || tries >= TRIES) {
            Checkout::Now(grant) => Ok(grant),
            Checkout::Later(waiter) => match in_time(&pool, waiter).await {
                // Returned by another request, it may have been closed meanwhile.
                Ok(Grant::Http1(lane)) if lane.used && !lane.is_usable() => continue,
                granted => granted,
            },
        };
        let grant = match granted {
            Ok(grant) => grant,
            Err(error) => {
                return Err(Failed::Back { job, cause: error.into(), why: Why::Unsent });
            }
        };
        let name = grant.name();
        let fits = check_scheme(&job.head.uri, name.scheme());
        fits.map_err(|error| Failed::Unprocessed(error.into()))?;
        tries += 1;
        let next = match grant {
            Grant::Http1(lane) => match http1(lane, &name, &mut job, &pool, tries).await {
                Ok(response) => return Ok(response),
                Err(next) => next,
            },
            Grant::Http2(slot) => match http2(slot, &name, &mut job, &pool, tries).await {
                Ok(response) => return Ok(response),
                Err(next) => next,
            },
        };
        match next {
            Next::Again { fresh: anew } => fresh = anew,
            Next::Back { cause, why } => return Err(Failed::Back { job, cause, why }),
            Next::Fail(failed) => return Err(failed),
        }
    }
}

/// A connection that is returned or made within the connect timeout.
async fn in_time(pool: &Pool, waiter: Waiter) -> Granted {
    let timeout = pool.settings.connect_timeout;
    let deadline = after(pool.clock.now(), timeout.saturating_add(GRACE));
    tokio::select! {
        biased;
        granted = waiter => granted,
        () = pool.link.sleep_until(deadline) => {
            let endpoint = pool.link.endpoint();
            Err(match pool.has_connections() {
                true => ConnectError::busy(endpoint.addr(), timeout),
                false => ConnectError::timed_out(endpoint.addr(), timeout, None),
            })
        }
    }
}

/// One try on an HTTP/1.1 connection.
async fn http1(
    lane: Lane,
    name: &Name,
    job: &mut Job,
    pool: &Pool,
    tries: usize,
) -> Result<Response<HttpBody>, Next> {
    if let Err(error) = check_http1(&job.head) {
        pool.park(lane);
        return Err(job.hand_back(Why::Unsent, error));
    }
    let (used, monitor) = (lane.used, lane.monitor());
    let mut head = job.head.clone();
    name.dress_http1(&mut head);
    let lent = Lent::new(mem::replace(&mut job.body, RequestBody::gone()));
    let mut error = match lane.send(Request::from_parts(head, lent.borrowed()), pool).await {
        Ok(response) => {
            lent.forget();
            return Ok(response.map(|body| HttpBody::http1(body, lent)));
        }
        Err(error) => error,
    };
    if let Some(own) = lent.take_failure() {
        return Err(Next::Fail(Failed::Ambiguous(own.into())));
    }
    job.body = lent.reclaim();
    let returned = error.take_message().is_some();
    let error = Broke::explain(error.into_error(), &monitor);
    if returned {
        // A new connection that dies before its first request, or one too many that did.
        return Err(match used && tries <= TRIES {
            true => job.again(false, error),
            false => job.hand_back(Why::Unsent, error),
        });
    }
    // The peer closed it between two requests, as servers do, or before the first, as those that end
    // do; or it died of this one: nobody knows.
    let quiet = !monitor.has_heard() && !monitor.is_cut();
    Err(match quiet {
        true => job.outlive(used, error),
        false => Next::Fail(Failed::Ambiguous(error)),
    })
}

/// One try on a stream of an HTTP/2 connection.
async fn http2(
    slot: h2::Slot,
    name: &Name,
    job: &mut Job,
    pool: &Pool,
    tries: usize,
) -> Result<Response<HttpBody>, Next> {
    let Some(runtime) = pool.link.runtime().or_else(|| Handle::try_current().ok()) else {
        return Err(job.hand_back(Why::Unsent, "a tokio runtime is needed to send"));
    };
    if let Err(error) = check_http2(&job.head, || slot.allows_extended_connect()) {
        return Err(job.hand_back(Why::Unsent, error));
    }
    let record = slot.trunk.record();
    let mut head = job.head.clone();
    name.dress_http2(&mut head);
    let failed = match h2::exchange(slot, head, &mut job.body, &runtime).await {
        Ok(response) => return Ok(response),
        Err(failed) => failed,
    };
    let most = if record.has_served() { TRIES_WHERE_SERVED } else { TRIES };
    Err(match failed {
        h2::Failed::Unsent(cause) | h2::Failed::Above(cause) if tries <= most => {
            job.again(false, cause)
        }
        h2::Failed::Unsent(cause) | h2::Failed::Above(cause) => job.hand_back(Why::Unsent, cause),
        h2::Failed::Refused(cause) if !mem::replace(&mut job.refused, true) => {
            job.hand_back(Why::Refused, cause)
        }
        h2::Failed::Refused(cause) | h2::Failed::Unfit(cause) => Next::Fail(job.unprocessed(cause)),
        h2::Failed::Died(cause) => job.outlive(record.has_served(), cause),
        h2::Failed::Ambiguous(cause) => Next::Fail(Failed::Ambiguous(cause)),
    })
}

// === impl Job ===

impl Job {
    pub(super) fn new<B>(request: Request<B>) -> Box<Self>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body);
        Self::without_past(head, body)
    }

    fn without_past(head: Parts, body: RequestBody) -> Box<Self> {
        Box::new(Self { head, body, refused: false, deaths: 0, died_of: None })
    }

    /// Whether a peer may have processed it.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.deaths > 0
    }

    /// Why it comes back now, with what a peer that may have processed it did before.
    pub(super) fn with_past(&self, cause: BoxError) -> BoxError {
        match self.died_of.clone() {
            Some(died_of) => AfterDeath { died_of, source: cause }.into(),
            None => cause,
        }
    }

    /// The request as it was given, unless it has a past.
    pub(super) fn into_request<B: 'static>(self: Box<Self>) -> Result<Request<B>, Box<Self>> {
        if self.refused || self.is_ambiguous() {
            return Err(self);
        }
        let Self { head, body, .. } = *self;
        match body.take_back() {
            Ok(body) => Ok(Request::from_parts(head, body)),
            Err(body) => Err(Self::without_past(head, *body)),
        }
    }

    fn unprocessed(&self, cause: BoxError) -> Failed {
        match self.is_ambiguous() {
            true => Failed::Ambiguous(cause),
            false => Failed::Unprocessed(cause),
        }
    }

    /// Another connection, if all that was sent of the body is still here.
    fn again(&mut self, fresh: bool, cause: impl Into<BoxError>) -> Next {
        match self.body.rewind() {
            true => Next::Again { fresh },
            false => Next::Fail(self.unprocessed(cause.into())),
        }
    }

    /// What to do with a request that a connection died with before a byte of its response. If it is
    /// idempotent it may be sent again (RFC 9110 section 9.2.2): once here, on a connection that is new,
    /// if that one had served others, and once elsewhere.
    fn outlive(&mut self, served: bool, cause: impl Into<BoxError>) -> Next {
        let cause = cause.into();
        self.deaths += 1;
        if !self.head.method.is_idempotent() || self.deaths > DEATHS {
            return Next::Fail(Failed::Ambiguous(cause));
        }
        self.died_of.get_or_insert_with(|| chain(&*cause));
        match served && self.deaths == 1 {
            true => self.again(true, cause),
            false => self.hand_back(Why::Died, cause),
        }
    }

    /// Back to whoever called, likewise.
    fn hand_back(&mut self, why: Why, cause: impl Into<BoxError>) -> Next {
        match self.body.rewind() {
            true => Next::Back { cause: cause.into(), why },
            false => Next::Fail(self.unprocessed(cause.into())),
        }
    }
}
