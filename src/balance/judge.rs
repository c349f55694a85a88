//! What an error of a client says of the request, and of the endpoint.

use std::error::Error as StdError;

use tower_service::Service;

use super::body::{Complete, is_callers, is_refused};
use crate::{
    error::{Began, BoxError, Error, Resume, SharedError, Unsent},
    node::Lease,
};

/// What becomes of the request.
pub(super) enum Judged<S, Req, F> {
    /// Never sent, and here it is: another endpoint may have it.
    Returned {
        request: Req,
        cause: BoxError,
    },
    /// Begun and not processed: another service of its type may go on with it.
    Begun {
        resume: Resume<S, F>,
        how: Began,
        cause: BoxError,
    },
    Failed(Error),
}

/// Judges it, and tells the node.
#[cold]
pub(super) fn judge<S, Req, C>(
    complete: &C,
    lease: &mut Lease,
    error: S::Error,
) -> Judged<S, Req, S::Future>
where
    S: Service<Req> + 'static,
    S::Error: Into<BoxError> + 'static,
    Req: 'static,
    C: Complete<S::Response>,
{
    let (request, unprocessed, cause) = match Unsent::<Req>::recognise(error) {
        Ok(unsent) => {
            let unsent = match unsent.take_begun() {
                Ok((begun, cause)) => match begun.resume() {
                    Ok((resume, how)) => return Judged::Begun { resume, how, cause },
                    // The client's service is wrapped in one of another type.
                    Err(how) if how.ambiguous => Unsent::ambiguous(cause),
                    Err(_) => Unsent::unprocessed(cause),
                },
                Err(unsent) => unsent,
            };
            let unprocessed = unsent.is_unprocessed();
            let (request, cause) = unsent.into_parts();
            (request, unprocessed, cause)
        }
        Err(error) => {
            let cause = error.into();
            (None, is_refused(&*cause), cause)
        }
    };
    // A client that could not connect: the next request need not try. One that reports its
    // connection knows better, since it may have others.
    if unprocessed && !lease.node().link.is_managed() && is_refused(&*cause) {
        lease.node().fail_link(SharedError::new(cause.to_string()));
    }
    if let Some(request) = request {
        return Judged::Returned { request, cause };
    }
    if unprocessed || is_callers(&*cause) {
        lease.pass();
    } else {
        lease.fail(complete.error(&*cause as &(dyn StdError + 'static)));
    }
    Judged::Failed(Error::failed(lease.endpoint(), cause, unprocessed))
}
