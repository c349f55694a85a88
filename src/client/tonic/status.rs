//! From what went wrong on the way to the status that a gRPC caller expects.

use std::{error::Error as StdError, sync::Arc};

use tonic::{Code, Status};

use crate::error::{BodyError, BoxError, Error};

/// The status of any error of the services below; its source is the error itself.
pub(super) fn of(error: impl Into<BoxError>) -> Status {
    match error.into().downcast::<Error>() {
        Ok(error) => of_balance(*error),
        Err(error) => Status::from_error(error),
    }
}

fn of_balance(error: Error) -> Status {
    // The stream of requests itself ended in a status.
    let own = causes(&error).find_map(|cause| cause.downcast_ref::<Status>()).cloned();
    if let Some(mut status) = own {
        status.set_source(Arc::new(error));
        return status;
    }
    let code = if error.is_timeout() {
        Code::DeadlineExceeded
    } else if error.is_unprocessed() {
        Code::Unavailable
    } else {
        causes(&error).find_map(told).unwrap_or(Code::Unavailable)
    };
    with_source(code, error)
}

/// What one cause of an error says for itself. A connection that broke says nothing: the peer is
/// unavailable, and nobody knows whether it has processed the request.
fn told(cause: Cause<'_>) -> Option<Code> {
    if cause.is::<BodyError>() {
        // The stream of requests failed, with something that is no status.
        return Some(Code::Unknown);
    }
    let error = cause.downcast_ref::<h2::Error>()?;
    // PROTOCOL-HTTP2.md, "Errors", knows a code for each reason of a RST_STREAM.
    if !error.is_reset() {
        return None;
    }
    Some(match error.reason()? {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    })
}

fn with_source(code: Code, error: impl StdError + Send + Sync + 'static) -> Status {
    // A status is often all that a log shows of it.
    let message = crate::error::chain(&error);
    let mut status = Status::new(code, message);
    status.set_source(Arc::new(error));
    status
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn causes<'a>(error: Cause<'a>) -> impl Iterator<Item = Cause<'a>> {
    std::iter::successors(Some(error), |error: &Cause<'a>| (*error).source())
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    use crate::{Endpoint, error::Census};

    fn failed(cause: impl Into<BoxError>, unprocessed: bool) -> Error {
        Error::failed(Endpoint::new(([10, 0, 0, 1], 80)), cause.into(), unprocessed)
    }

    fn code(error: impl Into<BoxError>) -> Code {
        of(error).code()
    }

    #[test]
    fn what_was_never_processed_is_unavailable() {
        assert_eq!(code(failed(io::Error::other("refused"), true)), Code::Unavailable);
        assert_eq!(code(Error::closed("x".into())), Code::Unavailable);
        assert_eq!(code(Error::too_many_waiting("x".into(), 1)), Code::Unavailable);
        assert_eq!(
            code(Error::no_endpoint("x".into(), Census::default(), None)),
            Code::Unavailable
        );
    }

    #[test]
    fn what_may_have_been_processed_says_how_it_ended() {
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80));
        let late = Error::attempt_timeout(endpoint, Duration::from_secs(1));
        assert_eq!(code(late), Code::DeadlineExceeded);
        assert_eq!(code(failed(io::Error::other("reset by peer"), false)), Code::Unavailable);
        assert_eq!(code(failed(Status::aborted("mine"), false)), Code::Aborted);
        let own = BodyError(io::Error::other("disk full").into());
        assert_eq!(code(failed(own, false)), Code::Unknown);
        assert_eq!(code(io::Error::other("what is that")), Code::Unknown);
    }

    #[test]
    fn r25_the_source_is_the_error_that_names_the_endpoint() {
        let status = of(failed(io::Error::other("reset by peer"), false));
        let source = status.source().and_then(|source| source.downcast_ref::<Error>()).unwrap();
        assert!(source.is_ambiguous());
        assert_eq!(source.endpoint().unwrap().to_string(), "10.0.0.1:80");
        assert_eq!(status.message(), "the request failed at endpoint 10.0.0.1:80: reset by peer");
    }
}
