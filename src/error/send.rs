//! Why a request that reqwest built got no response.

use super::{BoxError, Error};
use crate::endpoint::Endpoint;

/// Why there is no response to a request of reqwest's.
///
/// reqwest's own error cannot be made outside of reqwest. What goes wrong later, in the response's
/// body, is a [`reqwest::Error`] whose sources lead to the balancer's [`Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The request could not be built, as with a URL that does not parse. Nothing was sent.
    #[error(transparent)]
    Request(reqwest::Error),
    /// The balancer's error, which names the endpoint where there was one. Also that of a timeout, of
    /// the request or of the client, and of a redirect to [another origin](Error::redirect).
    #[error(transparent)]
    Balance(Error),
    /// An error of a layer over the balancer.
    #[error(transparent)]
    Layer(BoxError),
}

impl SendError {
    pub(crate) fn of(error: BoxError) -> Self {
        match error.downcast() {
            Ok(error) => Self::Balance(*error),
            Err(error) => Self::Layer(error),
        }
    }

    /// The endpoint that the request went to, or was last tried on: where one may have processed it, that one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.balance()?.endpoint()
    }

    /// Whether a timeout passed: that of the request, of the client, or of the balancer's attempt.
    pub fn is_timeout(&self) -> bool {
        self.balance().is_some_and(Error::is_timeout)
    }

    /// Whether no server has processed the request: it is safe to send it again. Of a layer's error
    /// nothing is known.
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Request(_) => true,
            Self::Balance(error) => error.is_unprocessed(),
            Self::Layer(_) => false,
        }
    }

    /// The balancer's error, if it is that.
    pub fn balance(&self) -> Option<&Error> {
        match self {
            Self::Balance(error) => Some(error),
            _ => None,
        }
    }
}
