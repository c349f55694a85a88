//! Any source, behind one type: what a target holds, and what sources are composed of.

use std::{pin::Pin, sync::Arc};

use futures_core::Stream;

use super::{Discover, Here, OnEmpty, RefreshRequests, Update};

pub(super) type Updates = Pin<Box<dyn Stream<Item = Update> + Send>>;

/// [`Discover`] for a source that is shared, and so can be started more than once.
pub(super) trait AnySource: Send + Sync {
    fn start(&self, refresh: RefreshRequests) -> Updates;
    fn default_on_empty(&self) -> OnEmpty;
    fn name(&self) -> Arc<str>;
    fn place(&self) -> Here;
}

pub(super) fn erase<D: Discover + Clone + Sync>(source: D) -> Arc<dyn AnySource> {
    Arc::new(source)
}

// === impl AnySource ===

impl<D: Discover + Clone + Sync> AnySource for D {
    fn start(&self, refresh: RefreshRequests) -> Updates {
        Box::pin(self.clone().watch(refresh))
    }

    fn default_on_empty(&self) -> OnEmpty {
        self.on_empty()
    }

    fn name(&self) -> Arc<str> {
        self.target()
    }

    fn place(&self) -> Here {
        Discover::here(self)
    }
}
