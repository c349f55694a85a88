//! Lists the EndpointSlices, then watches them, for as long as anybody is interested.
//!
//! A loop of our own over kube's `Api`, since kube's watcher tells neither bookmarks nor a watch
//! that ends at once from one that is merely quiet: see `docs/decisions` on the watch.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_core::Stream;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    client::{Clients, Loan},
    failure::{Failure, Verb},
    pace::Pace,
    slice::{SERVICE_LABEL, Slice},
    world::{Seen, Standing, World},
};

/// Slices in one page of a list, as other clients ask for.
const PAGE: u32 = 500;
/// Events that were there at once and are published together.
const BATCH: usize = 512;
/// How long the configuration may take.
const LOAD: Duration = Duration::from_secs(30);
/// How long an answer may take until those who wait for endpoints are told what they wait for. It is well
/// within the time that calls wait.
const PROMPT: Duration = Duration::from_secs(2);
/// How long the head of a watch may take: the server sends it at once.
const HEAD: Duration = Duration::from_secs(10);
/// Watches in a row that began and ended without a word, after which the version that they began at is
/// not trusted any more: it may be of another life of the API server.
const FRUITLESS: u32 = 3;

/// What a watch watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) namespace: Arc<str>,
    /// `None`: every Service of the namespace.
    pub(super) service: Option<Arc<str>>,
}

/// The task of a watch.
pub(super) struct ListWatch {
    pub(super) clients: Arc<Clients>,
    pub(super) scope: Scope,
    pub(super) pace: Pace,
    pub(super) world: Arc<World>,
    /// An endpoint failed: is the watch still good?
    pub(super) doubts: Arc<Notify>,
    /// What is to be published with the next.
    pub(super) seen: Vec<Seen>,
    pub(super) reports: u64,
    /// What the last report was of.
    pub(super) reported: Option<Verb>,
}

/// How far a watch came.
struct Watched {
    /// The version up to which everything was seen.
    at: String,
    /// The server took it.
    begun: bool,
    heard: bool,
}

/// How a watch ended.
enum Ended {
    /// The server ended it, as it does after some minutes.
    Closed,
    /// The server no longer knows what happened since.
    Gone,
    /// Nothing was heard for too long.
    Silent,
    /// An endpoint failed.
    Doubted,
    Failed(Failure),
}

// === impl ListWatch ===

impl ListWatch {
    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        let mut version = None;
        let mut fruitless = 0;
        loop {
            let (clients, limit) = (Arc::clone(&self.clients), self.pace.silence().min(LOAD));
            let loan = match self.await_aloud(None, clients.get(limit)).await {
                Ok(loan) => loan,
                Err(error) => {
                    self.report(Failure::of_client(error));
                    self.back_off(None).await;
                    continue;
                }
            };
            let api = Api::namespaced(loan.client.clone(), &self.scope.namespace);
            let at = match version.take() {
                Some(at) => at,
                None => match self.list(&api).await {
                    Ok(at) => {
                        fruitless = 0;
                        at
                    }
                    Err(failure) => {
                        self.fail(failure, &loan).await;
                        continue;
                    }
                },
            };
            let mut watch = Watched { at, begun: false, heard: false };
            let ended = self.watch(&api, &mut watch).await;
            fruitless = match &ended {
                _ if watch.heard => 0,
                // One that was ended early had little time to say anything.
                Ended::Doubted => fruitless,
                // An API server that is away for a while is not to be listed by all when it is back.
                Ended::Failed(failure) if !watch.begun && !failure.may_be_the_version() => {
                    fruitless
                }
                _ => fruitless + 1,
            };
            let trusted = fruitless < FRUITLESS;
            match ended {
                Ended::Gone => {
                    tracing::debug!(scope = %self.scope, "the watch is too old, listing anew");
                    self.back_off(None).await;
                }
                // The wait is for those that end at once, which must not make a loop spin, and for
                // servers that end the watches of all clients in one moment.
                Ended::Closed | Ended::Silent | Ended::Doubted => {
                    version = trusted.then_some(watch.at);
                    self.back_off(None).await;
                }
                Ended::Failed(failure) => {
                    version = (trusted && !failure.is_refusal()).then_some(watch.at);
                    self.fail(failure, &loan).await;
                }
            }
        }
    }

    /// Lists everything; the version that the list is of. Nothing is taken from half a list.
    async fn list(&mut self, api: &Api<EndpointSlice>) -> Result<String, Failure> {
        let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
        params.label_selector = Some(self.scope.selector());
        let mut slices = Vec::new();
        loop {
            let page = timeout(self.pace.silence(), api.list(&params));
            let page = match self.await_aloud(Some(Verb::List), page).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) if Failure::is_gone(&error) && params.continue_token.is_some() => {
                    // The pages took longer than the server remembers: all in one, then.
                    tracing::debug!(scope = %self.scope, "a list expired between its pages");
                    slices.clear();
                    params.continue_token = None;
                    params.limit = None;
                    continue;
                }
                Ok(Err(error)) => return Err(Failure::new(Verb::List, error)),
                Err(_elapsed) => return Err(Failure::silent(Verb::List, self.pace.silence())),
            };
            // What is kept of a slice is a small part of it, and the pages may be many.
            slices.extend(page.items.into_iter().map(Slice::read));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_some() {
                continue;
            }
            let version = page.metadata.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| Failure::nonsense(Verb::List, "no version"))?;
            // A server that answers with a list is reached.
            let solved = self.reported != Some(Verb::Watch);
            let again = self.world.standing().listed;
            self.world.replace(slices, |standing| {
                let solved = solved && standing.error.take().is_some();
                !std::mem::replace(&mut standing.listed, true) || solved
            });
            tracing::debug!(scope = %self.scope, version, again, "listed");
            return Ok(version);
        }
    }

    /// Waits for `answer`, and says so if it takes long and nothing else is known yet.
    async fn await_aloud<T>(&mut self, verb: Option<Verb>, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let Standing { listed, error } = self.world.standing();
        // What was said of the configuration stands no longer once that is there.
        let is_new = error.is_none() || (verb.is_some() && self.reported.is_none());
        if !listed && is_new {
            tokio::select! {
                biased;
                answer = answer.as_mut() => return answer,
                () = sleep(PROMPT) => self.report(Failure::late(verb, PROMPT)),
            }
        }
        answer.await
    }

    /// Watches from where `watch` is, and moves it on with what is seen.
    async fn watch(&mut self, api: &Api<EndpointSlice>, watch: &mut Watched) -> Ended {
        let lasts = self.pace.lasts();
        let mut params = WatchParams::default().labels(&self.scope.selector()).timeout(lasts);
        params.bookmarks = true;
        let limit = self.pace.silence().min(HEAD);
        let stream = match timeout(limit, api.watch(&params, &watch.at)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if Failure::is_gone(&error) => return Ended::Gone,
            Ok(Err(error)) => return Ended::Failed(Failure::new(Verb::Watch, error)),
            Err(_elapsed) => return Ended::Failed(Failure::silent(Verb::Watch, limit)),
        };
        watch.begun = true;
        self.world.take(Vec::new(), |standing| standing.error.take().is_some());
        let mut stream = pin!(stream);
        let doubts = Arc::clone(&self.doubts);
        let mut quiet = pin!(sleep(self.pace.quiet(lasts)));
        let mut trust = pin!(sleep(self.pace.trust()));
        let mut trusted = true;
        loop {
            let mut event = tokio::select! {
                event = poll_fn(|cx| stream.as_mut().poll_next(cx)) => event,
                () = quiet.as_mut() => {
                    let scope = &self.scope;
                    tracing::info!(%scope, "the watch is silent for too long, beginning anew");
                    return Ended::Silent;
                }
                () = doubts.notified(), if !trusted => {
                    tracing::debug!(scope = %self.scope, "an endpoint failed, beginning the watch anew");
                    self.pace.doubted();
                    return Ended::Doubted;
                }
                () = trust.as_mut(), if trusted => {
                    trusted = false;
                    self.pace.works();
                    continue;
                }
            };
            for _ in 0..BATCH {
                let taken = match event {
                    Some(Ok(event)) => self.take(event, &mut watch.at),
                    Some(Err(error)) => Err(Ended::Failed(Failure::new(Verb::Watch, error))),
                    None => Err(Ended::Closed),
                };
                if let Err(ended) = taken {
                    self.publish();
                    return ended;
                }
                watch.heard = true;
                match poll_fn(|cx| Poll::Ready(stream.as_mut().poll_next(cx))).await {
                    Poll::Ready(more) => event = more,
                    Poll::Pending => break,
                }
            }
            self.publish();
            self.pace.works();
            quiet.set(sleep(self.pace.quiet(lasts)));
            trust.set(sleep(self.pace.trust()));
            trusted = true;
        }
    }

    fn take(&mut self, event: WatchEvent<EndpointSlice>, at: &mut String) -> Result<(), Ended> {
        let moved = |slice: &EndpointSlice| slice.metadata.resource_version.clone();
        let version = match event {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                let version = moved(&slice);
                self.seen.push(Slice::read(slice));
                version
            }
            WatchEvent::Deleted(slice) => {
                let version = moved(&slice);
                self.seen.extend(slice.metadata.name.map(|name| (name.into(), None)));
                version
            }
            WatchEvent::Bookmark(bookmark) => {
                self.pace.heard(true);
                *at = bookmark.metadata.resource_version;
                return Ok(());
            }
            WatchEvent::Error(status) if status.code == 410 => return Err(Ended::Gone),
            WatchEvent::Error(status) => {
                return Err(Ended::Failed(Failure::new(Verb::Watch, kube::Error::Api(status))));
            }
        };
        self.pace.heard(false);
        match version.filter(|version| !version.is_empty()) {
            Some(version) => *at = version,
            None => return Err(Ended::Failed(Failure::nonsense(Verb::Watch, "no version"))),
        }
        Ok(())
    }

    // --- what others see ---

    fn publish(&mut self) {
        self.world.take(std::mem::take(&mut self.seen), |_| false);
    }

    async fn fail(&mut self, failure: Failure, loan: &Arc<Loan>) {
        if failure.is_of_client() {
            self.clients.give_up(loan, failure.is_of_credentials()).await;
        }
        let asked = failure.retry_after().max(loan.retry_after());
        self.report(failure);
        self.back_off(asked).await;
    }

    async fn back_off(&mut self, asked: Option<Duration>) {
        sleep(self.pace.back_off(asked)).await;
    }

    fn report(&mut self, failure: Failure) {
        let error = failure.explain(&self.scope);
        let known = self.world.standing().error.map(|(_, known)| known.to_string());
        let Scope { namespace, service } = &self.scope;
        let service = service.as_deref().unwrap_or("*");
        if known.is_some_and(|known| known == error.to_string()) {
            tracing::debug!(%namespace, service, %error, "still no watch of EndpointSlices");
            return;
        }
        tracing::warn!(
            verb = failure.doing(),
            resource = "endpointslices.discovery.k8s.io",
            %namespace, service, %error,
            "no watch of EndpointSlices, what was last seen stands"
        );
        self.reports += 1;
        self.reported = failure.verb;
        let error = Some((self.reports, error));
        self.world.take(Vec::new(), |standing| {
            *standing = Standing { error, ..*standing };
            true
        });
    }
}

impl Drop for ListWatch {
    fn drop(&mut self) {
        self.world.end();
    }
}

// === impl Scope ===

impl Scope {
    fn selector(&self) -> String {
        match &self.service {
            Some(service) => format!("{SERVICE_LABEL}={service}"),
            None => SERVICE_LABEL.to_owned(),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service.as_deref().unwrap_or("*"))
    }
}
