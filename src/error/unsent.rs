//! How a client hands a request back that was never sent.

use std::{any::Any, fmt};

use super::BoxError;

/// The error type of a client that can tell whether its request was sent, and can hand it back.
///
/// A [`Balance`](crate::Balance) recognises a service whose `Error` is `Unsent` of its own request
/// type. A request that comes back is picked again on another endpoint, without `Req: Clone` and
/// without a retry budget. It is no [`std::error::Error`] itself, since that would ask every
/// request body to be `Sync`; turned into a [`BoxError`] it becomes its cause.
///
/// ```
/// use evenkeel::Unsent;
///
/// let handed_back = Unsent::returned("GET /", "connection refused");
/// assert_eq!(handed_back.request(), Some(&"GET /"));
/// let lost: Unsent<&str> = Unsent::ambiguous("reset by peer");
/// assert!(!lost.is_unprocessed());
/// ```
pub struct Unsent<Req> {
    fate: Fate<Req>,
    cause: BoxError,
}

enum Fate<Req> {
    Returned(Req),
    #[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only that transport begins any"))]
    Begun(Begun),
    Unprocessed,
    Ambiguous,
}

/// A request whose sending was begun, and which a client of the same kind can take up where none of
/// it is lost.
pub(crate) struct Begun {
    /// A [`Resume`] of the client's type.
    resume: Box<dyn Any + Send>,
    how: Began,
}

/// What became of a request that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    /// The endpoint itself may be asked once more, if there is no other.
    pub(crate) here: bool,
    /// The endpoint's connection died with it.
    pub(crate) died: bool,
    /// A peer may have processed it, and it does no harm if another does.
    pub(crate) ambiguous: bool,
}

/// Calls a service of type `S` with a request that was begun.
pub(crate) type Resume<S, F> = Box<dyn FnOnce(&mut S) -> F + Send>;

impl Begun {
    /// How a service of type `S` takes it up, if it is of the kind that began it.
    pub(crate) fn resume<S: 'static, F: 'static>(self) -> Result<(Resume<S, F>, Began), Began> {
        let resume = self.resume.downcast::<Resume<S, F>>();
        resume.map(|resume| (*resume, self.how)).map_err(|_| self.how)
    }
}

impl<Req> Unsent<Req> {
    /// The request was never sent: here it is. Another endpoint may have it.
    pub fn returned(request: Req, cause: impl Into<BoxError>) -> Self {
        Self { fate: Fate::Returned(request), cause: cause.into() }
    }

    /// The request was begun and can be taken up again by another service of type `S`. Its type
    /// cannot be made anew once a body was polled, so the request itself does not come back.
    #[cfg(feature = "http")]
    pub(crate) fn begun<S: 'static, F: 'static>(
        resume: impl FnOnce(&mut S) -> F + Send + 'static,
        cause: impl Into<BoxError>,
        how: Began,
    ) -> Self {
        let resume: Resume<S, F> = Box::new(resume);
        let begun = Begun { resume: Box::new(resume), how };
        Self { fate: Fate::Begun(begun), cause: cause.into() }
    }

    /// The peer provably did not process the request, but the request is gone, or no endpoint will
    /// ever take it.
    pub fn unprocessed(cause: impl Into<BoxError>) -> Self {
        Self { fate: Fate::Unprocessed, cause: cause.into() }
    }

    /// The request was sent, at least in part: the peer may have processed it.
    pub fn ambiguous(cause: impl Into<BoxError>) -> Self {
        Self { fate: Fate::Ambiguous, cause: cause.into() }
    }

    /// The request, if it came back.
    pub fn request(&self) -> Option<&Req> {
        match &self.fate {
            Fate::Returned(request) => Some(request),
            _ => None,
        }
    }

    /// Whether the peer provably did not process the request.
    pub fn is_unprocessed(&self) -> bool {
        match &self.fate {
            Fate::Returned(_) | Fate::Unprocessed => true,
            Fate::Begun(begun) => !begun.how.ambiguous,
            Fate::Ambiguous => false,
        }
    }

    /// What went wrong.
    pub fn cause(&self) -> &BoxError {
        &self.cause
    }

    /// The request, if it came back, and what went wrong.
    pub fn into_parts(self) -> (Option<Req>, BoxError) {
        match self.fate {
            Fate::Returned(request) => (Some(request), self.cause),
            _ => (None, self.cause),
        }
    }

    /// How to take up a request that was begun.
    pub(crate) fn take_begun(self) -> Result<(Begun, BoxError), Self> {
        match self.fate {
            Fate::Begun(begun) => Ok((begun, self.cause)),
            fate => Err(Self { fate, cause: self.cause }),
        }
    }

    /// Takes `error` for what it is, if it is of this very type.
    pub(crate) fn recognise<E: 'static>(error: E) -> Result<Self, E>
    where
        Req: 'static,
    {
        let mut slot = Some(error);
        if let Some(unsent) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Self>>() {
            if let Some(unsent) = unsent.take() {
                return Ok(unsent);
            }
        }
        Err(slot.expect("only the branch that returned took it"))
    }
}

impl<Req> From<Unsent<Req>> for BoxError {
    fn from(unsent: Unsent<Req>) -> Self {
        unsent.cause
    }
}

impl<Req> fmt::Display for Unsent<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl<Req> fmt::Debug for Unsent<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent")
            .field("returned", &self.request().is_some())
            .field("unprocessed", &self.is_unprocessed())
            .field("cause", &self.cause)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_recognised_by_its_request_type_alone() {
        let (request, _) = Unsent::<String>::recognise(Unsent::returned("a".to_owned(), "x"))
            .unwrap()
            .into_parts();
        assert_eq!(request.as_deref(), Some("a"));
        assert!(Unsent::<u8>::recognise(Unsent::returned("a".to_owned(), "x")).is_err());
        assert!(Unsent::<u8>::recognise(std::io::Error::other("x")).is_err());
    }
}
