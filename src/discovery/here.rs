//! Where this process runs, as a source finds out.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::endpoint::Locality;

/// A place that a source may find out while it runs. Clones share it.
///
/// ```
/// use evenkeel::{Locality, discovery::Here};
///
/// let here = Here::default();
/// assert_eq!(*here.get(), Locality::default());
/// here.set(Locality { zone: Some("eu-west-1a".into()), ..Locality::default() });
/// assert_eq!(here.clone().get().zone.as_deref(), Some("eu-west-1a"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Here(Arc<ArcSwap<Locality>>);

// === impl Here ===

impl Here {
    /// What is known so far.
    #[must_use]
    pub fn get(&self) -> Arc<Locality> {
        self.0.load_full()
    }

    /// What was found out; true if that is anything new. A balancer heeds it at the source's next
    /// update.
    pub fn set(&self, here: Locality) -> bool {
        let news = **self.0.load() != here;
        if news {
            self.0.store(Arc::new(here));
        }
        news
    }
}
