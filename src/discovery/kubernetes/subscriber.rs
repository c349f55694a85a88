//! One balancer's interest in a watch: from the slices that it publishes to updates.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Feed, KubernetesService,
    merge::Merge,
    name::{RULE, is_label},
    own_place::Search,
    world::Reader,
};
use crate::{
    discovery::{RefreshRequests, Update},
    endpoint::Locality,
    error::DiscoverError,
};

/// What follows a change within this time is one update with it: a rollout writes many slices, and a
/// pod of two families comes in two.
const MERGE_WINDOW: Duration = Duration::from_millis(20);
/// Before a watch whose runtime is gone is begun on this one.
const RESTART: Duration = Duration::from_secs(1);

/// The state of the stream of a [`KubernetesService`].
pub(super) struct Subscriber {
    source: KubernetesService,
    refresh: RefreshRequests,
    watch: Option<(Arc<Feed>, Reader)>,
    merge: Merge,
    /// For the own place, until it is found.
    search: Option<Search>,
    /// There can be no such Service, so that there is nothing to watch.
    impossible: bool,
    /// To be said before anything is waited for.
    next: Option<Update>,
    /// The name in what is said of it.
    name: String,
    said: Said,
}

/// What was said last.
#[derive(Default)]
struct Said {
    anything: bool,
    /// Why there was nothing, or what was wrong with what there was.
    trouble: Option<String>,
    report: Option<u64>,
}

async fn found(search: &mut Option<Search>) -> Locality {
    match search {
        Some(search) => search.found().await,
        None => std::future::pending().await,
    }
}

// === impl Subscriber ===

impl Subscriber {
    pub(super) fn new(source: KubernetesService, refresh: RefreshRequests) -> Self {
        let merge = Merge::new(source.port.clone());
        let name = format!("Service `{}/{}`", source.namespace, source.service);
        let search = None;
        // It would become a part of a path or a selector, and so another question.
        let names = [("namespace", &source.namespace), ("Service", &source.service)];
        let impossible = names.into_iter().find(|(_, name)| !is_label(name)).map(|(what, name)| {
            DiscoverError::new(format!("there can be no {what} `{name}` ({source}): {RULE}"))
        });
        Self {
            source,
            refresh,
            watch: None,
            merge,
            search,
            impossible: impossible.is_some(),
            next: impossible.map(Update::Failed),
            name,
            said: Said::default(),
        }
    }

    pub(super) async fn next(mut self) -> (Update, Self) {
        loop {
            if let Some(update) = self.next.take() {
                return (update, self);
            }
            if self.impossible {
                std::future::pending::<()>().await;
            }
            let Some((feed, reader)) = &mut self.watch else {
                let feed = self.source.cluster.feed(&self.source.namespace, &self.source.service);
                let reader = feed.world.read(&self.source.service);
                self.merge.begin_anew();
                self.watch = Some((feed, reader));
                self.search = Search::begin(&self.source.cluster);
                if let Some(update) = self.say() {
                    return (update, self);
                }
                continue;
            };
            let goes_on = tokio::select! {
                goes_on = reader.changed() => goes_on,
                () = self.refresh.requested() => {
                    feed.doubts.notify_one();
                    continue;
                }
                here = found(&mut self.search) => {
                    self.search = None;
                    if self.source.here.set(here) {
                        // For who is to heed it: what is in force, once more.
                        self.said.anything = false;
                    }
                    true
                }
            };
            if !goes_on {
                self.watch = None;
                sleep(RESTART).await;
                continue;
            }
            if self.said.anything {
                sleep(MERGE_WINDOW).await;
            }
            if let Some(update) = self.say() {
                return (update, self);
            }
        }
    }

    /// What is new in the watch, if anything. Where nothing is, the endpoints are not looked at.
    fn say(&mut self) -> Option<Update> {
        let (_, reader) = self.watch.as_ref()?;
        let (standing, changes) = reader.look();
        let error = standing.error.as_ref();
        let report = error.map(|(number, _)| *number);
        let error_is_news = report != self.said.report;
        self.said.report = report;
        let error: Option<DiscoverError> = error.map(|(_, error)| error.clone());
        if !standing.listed {
            return error.filter(|_| error_is_news).map(Update::Failed);
        }
        let first = !self.said.anything;
        if changes.is_empty() && !first && !error_is_news {
            return None;
        }
        let set_is_news = self.merge.apply(changes);
        let nothing = self.merge.nothing(&self.name);
        let doubt = self.merge.doubt(&self.name);
        let trouble = match &nothing {
            Some(Update::Empty(reason)) => Some(reason.to_string()),
            Some(Update::Failed(error)) => Some(error.to_string()),
            _ => doubt.as_ref().map(ToString::to_string),
        };
        let trouble_is_news = trouble != self.said.trouble;
        self.said.anything = true;
        self.said.trouble = trouble;
        let news = set_is_news || trouble_is_news || first;
        if !news && !error_is_news {
            return None;
        }
        let update = nothing.unwrap_or_else(|| match doubt {
            Some(doubt) => Update::Partial(self.merge.set(), doubt),
            None => Update::Set(self.merge.set()),
        });
        match (update, error) {
            (Update::Set(set), Some(error)) if news => Some(Update::Partial(set, error)),
            (update, error) if news => {
                self.next = error.filter(|_| error_is_news).map(Update::Failed);
                Some(update)
            }
            // The last set stands, and it no longer is what there is for certain.
            (_, Some(error)) if error_is_news => Some(Update::Failed(error)),
            // It works again: what is in force is said once more, now without an error.
            (update, None) if error_is_news => Some(update),
            _ => None,
        }
    }
}
