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
    Late(Duration),
    Nonsense(&'static str),
    Client(DiscoverError),
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(verb: Verb, error: kube::Error) -> Self {
        match error {
            // What is no event, kube reads as a status in which everything is missing.
            kube::Error::Api(status) if status.code == 0 && status.message.is_empty() => {
                Self::nonsense(verb, "no event")
            }
            error => Self { verb: Some(verb), cause: Cause::Kube(error) },
        }
    }

    pub(super) fn silent(verb: Verb, after: Duration) -> Self {
        Self { verb: Some(verb), cause: Cause::Silent(after) }
    }

    /// No answer so far, which is still awaited.
    pub(super) fn late(verb: Option<Verb>, after: Duration) -> Self {
        Self { verb, cause: Cause::Late(after) }
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

    /// Whether the credentials are not accepted.
    pub(super) fn is_of_credentials(&self) -> bool {
        self.code() == Some(401)
    }

    /// Whether another client might do better: the credentials are not accepted, or nothing gets
    /// through at all. A watch that breaks had got through, and a new client may have a program run
    /// for its credentials.
    pub(super) fn is_of_client(&self) -> bool {
        match &self.cause {
            Cause::Kube(kube::Error::Api(_)) => self.is_of_credentials(),
            Cause::Kube(kube::Error::ReadEvents(_) | kube::Error::SerdeError(_)) => false,
            Cause::Kube(_) | Cause::Silent(_) => true,
            Cause::Late(_) | Cause::Nonsense(_) | Cause::Client(_) => false,
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
            Cause::Late(after) if self.verb.is_none() => DiscoverError::new(format!(
                "no way to a Kubernetes API server yet: its configuration is still read after {after:?}"
            )),
            Cause::Late(after) => DiscoverError::new(format!(
                "{}: no answer yet from the API server, after {after:?}",
                doing()
            )),
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16) -> Failure {
        let status = Status::failure("text", "reason").with_code(code);
        Failure::new(Verb::Watch, kube::Error::Api(status.boxed()))
    }

    /// R12: what a refusal, an unready server and a broken way each lead to.
    #[test]
    fn r12_each_answer_has_its_consequences() {
        // The code; whether it is a refusal, may be the version's fault, and may be the client's.
        for (code, refusal, version, client) in [
            (400, true, false, false),
            (401, false, false, true),
            (403, true, false, false),
            (404, true, false, false),
            (408, false, false, false),
            (429, false, false, false),
            (500, false, true, false),
            (502, false, false, false),
            (503, false, false, false),
            (504, false, false, false),
        ] {
            let failure = answer(code);
            let found =
                (failure.is_refusal(), failure.may_be_the_version(), failure.is_of_client());
            assert_eq!(found, (refusal, version, client), "{code}");
        }
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let reading = Failure::new(Verb::Watch, kube::Error::ReadEvents(broken()));
        assert!(!reading.is_of_client(), "it had got through");
        let service = Failure::new(Verb::List, kube::Error::Service(broken().into()));
        assert!(service.is_of_client() && !service.is_refusal() && !service.may_be_the_version());
        assert!(Failure::silent(Verb::List, Duration::from_secs(1)).is_of_client());
    }

    #[test]
    fn a_server_says_in_its_answer_when_to_come_back() {
        assert_eq!(answer(429).retry_after(), None);
        // As its storage says it while it is not ready.
        let text = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "storage is (re)initializing", "reason": "TooManyRequests",
            "details": {"retryAfterSeconds": 3}, "code": 429}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        let failure = Failure::new(Verb::List, kube::Error::Api(status.boxed()));
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(3)));
    }
}
