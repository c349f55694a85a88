//! What went wrong between us and the API server, in words that help.

use std::{error::Error as _, time::Duration};

use super::list_watch::Scope;
use crate::error::DiscoverError;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Watch,
}

/// Why a list or a watch failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// `None`: there was no client to do anything with.
    pub(super) verb: Option<Verb>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Kube(kube::Error),
    Silent(Duration),
    Nonsense(&'static str),
    Client(DiscoverError),
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(verb: Verb, error: kube::Error) -> Self {
        Self { verb: Some(verb), cause: Cause::Kube(error) }
    }

    pub(super) fn silent(verb: Verb, after: Duration) -> Self {
        Self { verb: Some(verb), cause: Cause::Silent(after) }
    }

    pub(super) fn nonsense(verb: Verb, what: &'static str) -> Self {
        Self { verb: Some(verb), cause: Cause::Nonsense(what) }
    }

    /// There is no client.
    pub(super) fn of_client(error: DiscoverError) -> Self {
        Self { verb: None, cause: Cause::Client(error) }
    }

    /// Whether the server says that it no longer knows the version asked for.
    pub(super) fn is_gone(error: &kube::Error) -> bool {
        matches!(error, kube::Error::Api(status) if status.code == 410)
    }

    pub(super) fn doing(&self) -> &'static str {
        match self.verb {
            Some(Verb::List) => "list",
            Some(Verb::Watch) => "watch",
            None => "connect",
        }
    }

    /// Whether the server will not have this watch, whatever version it begins at, so that lists are
    /// all there is. Credentials that are not accepted are another matter: they can be renewed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.code(), Some(400..=499)) && !matches!(self.code(), Some(401 | 408 | 429))
    }

    /// Whether the server may dislike the version that it was asked for: it says 500 of one that it
    /// cannot read.
    pub(super) fn may_be_the_version(&self) -> bool {
        self.code() == Some(500)
    }

    /// How long the server wishes not to be asked again, by the body of its answer.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Cause::Kube(kube::Error::Api(status)) = &self.cause else { return None };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// What the server answered.
    fn code(&self) -> Option<u16> {
        match &self.cause {
            Cause::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether another client might do better: the credentials are not accepted, or nothing gets
    /// through at all.
    pub(super) fn is_of_client(&self) -> bool {
        match &self.cause {
            Cause::Kube(kube::Error::Api(status)) => status.code == 401,
            Cause::Kube(_) | Cause::Silent(_) => true,
            Cause::Nonsense(_) | Cause::Client(_) => false,
        }
    }

    /// What is said of it, with what can be done about it.
    pub(super) fn explain(&self, scope: &Scope) -> DiscoverError {
        let doing = || {
            let (verb, namespace) = (self.doing(), &scope.namespace);
            format!("cannot {verb} endpointslices.discovery.k8s.io in namespace `{namespace}`")
        };
        match &self.cause {
            Cause::Client(error) => error.clone(),
            Cause::Silent(after) => {
                DiscoverError::new(format!("{}: no answer within {after:?}", doing()))
            }
            Cause::Nonsense(what) => {
                DiscoverError::new(format!("{}: the answer makes no sense: {what}", doing()))
            }
            Cause::Kube(kube::Error::Api(status)) => {
                let advice = match status.code {
                    401 => " (the credentials are expired or wrong)",
                    403 => " (the service account needs a Role with the verbs `list` and `watch`)",
                    404 => " (this API server does not serve discovery.k8s.io/v1)",
                    _ => "",
                };
                let (code, message) = (status.code, &status.message);
                DiscoverError::new(format!("{}: {code}: {message}{advice}", doing()))
            }
            Cause::Kube(error) => {
                let mut text = format!("{}: {error}", doing());
                let mut cause = error.source();
                while let Some(error) = cause {
                    let part = error.to_string();
                    // kube's errors repeat their sources.
                    if !text.contains(&part) {
                        text.push_str(": ");
                        text.push_str(&part);
                    }
                    cause = error.source();
                }
                DiscoverError::new(text)
            }
        }
    }
}
