//! What discovery says, and what it makes of the roster.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Instant};

use super::{BATCH, Driver, Updates};
use crate::{
    discovery::{Endpoints, OnEmpty, Reason, Update},
    endpoint::Endpoint,
    error::DiscoverError,
    node::after,
    pool::{
        apply::Applying,
        diff::can_be_dialled,
        make::MakeEndpoint,
        observer::Discovered,
        subset::Selection,
        turns::{Turn, let_go, off_worker},
    },
};

impl<M, K> Driver<M, K>
where
    M: MakeEndpoint,
    K: Clone + Send + Sync + 'static,
{
    /// Several updates at once cost one snapshot.
    pub(super) async fn hear_what_is_ready(&mut self, updates: &mut Option<Updates>) {
        for _ in 1..BATCH {
            let Some(stream) = updates.as_mut() else { return };
            match poll_fn(|cx| Poll::Ready(stream.as_mut().poll_next(cx))).await {
                Poll::Ready(Some(update)) => self.hear(update).await,
                // Asked again, many a stream panics.
                Poll::Ready(None) => return end(updates),
                Poll::Pending => return,
            }
        }
        // A source that always has something to say must not keep the worker for itself.
        tokio::task::yield_now().await;
    }

    pub(super) async fn hear(&mut self, update: Update) {
        let now = self.fleet.now();
        self.view.heard_at = Some(now);
        let error = match update {
            Update::Set(endpoints) if endpoints.is_empty() => {
                self.hear_empty(Reason::NothingListed, now).await;
                None
            }
            Update::Set(endpoints) => self.hear_set(endpoints, now).await,
            // A merged view of nothing is no view: no part of the source has ever answered.
            Update::Partial(endpoints, error) if endpoints.is_empty() => Some(error),
            Update::Partial(endpoints, error) => {
                let invalid = self.hear_set(endpoints, now).await;
                Some(invalid.unwrap_or(error))
            }
            Update::Empty(reason) => {
                self.hear_empty(reason, now).await;
                None
            }
            Update::Failed(error) => Some(error),
        };
        match (&self.view.error, &error) {
            (None, Some(error)) => tracing::warn!(%error, "discovery failed, the last set stands"),
            (Some(_), Some(error)) => tracing::debug!(%error, "discovery failed again"),
            (Some(_), None) => tracing::info!("discovery answers again"),
            (None, None) => {}
        }
        self.view.error = error;
        self.outdated |= self.place.has_moved();
        self.shared.discovery.store(Arc::new(self.view.clone()));
    }

    pub(super) async fn hear_set(
        &mut self,
        endpoints: Endpoints,
        now: Instant,
    ) -> Option<DiscoverError> {
        if !endpoints.iter().any(can_be_dialled) {
            // A mistake and no answer: it does not take away what works.
            return invalid(endpoints.iter());
        }
        self.view.answered_at = Some(now);
        self.view.empty = None;
        self.clear_at = None;
        self.apply(endpoints).await
    }

    pub(super) async fn hear_empty(&mut self, reason: Reason, now: Instant) {
        self.view.answered_at = Some(now);
        self.view.empty = Some(reason);
        match self.on_empty {
            OnEmpty::Clear => drop(self.apply(Endpoints::default()).await),
            OnEmpty::KeepFor(time) => {
                self.clear_at.get_or_insert(after(now, time));
            }
            OnEmpty::Keep => {}
        }
    }

    /// Makes the roster the subset of what `endpoints` say; an error names what of it cannot be used.
    pub(super) async fn apply(&mut self, endpoints: Endpoints) -> Option<DiscoverError> {
        let before = std::mem::replace(&mut self.known, Arc::new(endpoints));
        let_go(before.len(), before);
        self.apply_subset().await
    }

    pub(super) async fn apply_subset(&mut self) -> Option<DiscoverError> {
        let (inside, mut selection, news) = self.select().await?;
        let mut applying = Applying::begin(inside, &mut self.roster);
        let diff = loop {
            let mut turn = Turn::begin(&self.fleet);
            match applying.go_on(&mut self.roster, &self.make, &mut turn) {
                Some(diff) => break diff,
                None => tokio::task::yield_now().await,
            }
        };
        let_go(self.known.len(), applying);
        self.outdated |= self.roster.take_shares(|index| selection.share(index));
        if news {
            self.outside = std::mem::take(&mut selection.outside).into();
            self.outdated = true;
        }
        let_go(self.known.len(), selection);
        if !diff.is_empty() {
            self.outdated = true;
            tracing::info!(
                added = diff.added,
                removed = diff.removed,
                changed = diff.changed,
                endpoints = self.roster.listed().len(),
                outside = self.outside.len(),
                "the set of endpoints changed"
            );
        }
        invalid(diff.invalid.iter())
    }

    /// The endpoints of the subset, with their shares and with what is outside, and whether that is
    /// another than before. `None` if the runtime is shutting down.
    pub(super) async fn select(&mut self) -> Option<(Arc<Endpoints>, Selection, bool)> {
        let (subset, seed) = (self.limits.subset, self.subset_seed);
        let (known, outside) = (Arc::clone(&self.known), Arc::clone(&self.outside));
        if subset.is_all() {
            return Some((known, Selection::default(), !outside.is_empty()));
        }
        let select = move || {
            let mut selection = subset.select(Endpoints::clone(&known), seed);
            let inside = std::mem::take(&mut selection.inside);
            let news = *outside != *selection.outside;
            (Arc::new(inside.into()), selection, news)
        };
        off_worker(self.known.len(), select).await
    }

    pub(super) fn tell(&mut self) {
        self.telling.tell(Discovered {
            failing: self.view.error.is_some(),
            endpoints: self.roster.listed().len() + self.outside.len(),
        });
    }
}

/// The error that names endpoints which cannot be dialled, if there are any.
fn invalid<'a>(
    mut endpoints: impl ExactSizeIterator<Item = &'a Endpoint>,
) -> Option<DiscoverError> {
    let count = endpoints.len();
    let first = endpoints.next()?;
    let text = format!("{count} endpoints with port 0 are left out, first {first}");
    Some(DiscoverError::new(text))
}

/// The next update; pending for ever once there are no more.
pub(super) async fn next(updates: &mut Option<Updates>) -> Option<Update> {
    match updates {
        Some(updates) => poll_fn(|cx| updates.as_mut().poll_next(cx)).await,
        None => std::future::pending().await,
    }
}

/// There are no more updates.
pub(super) fn end(updates: &mut Option<Updates>) {
    tracing::debug!("discovery ended; its last set stands");
    *updates = None;
}
