//! What was built last, for as long as nothing that it depends on changes.

use std::{fmt, sync::Arc};

use super::{Picker, Tier};
use crate::endpoint::Endpoint;

/// The pickers of the last build, one a tier, with what they were built of.
///
/// Many builds are for others' sake: another tier changed, or the settings. A table of a million
/// points need not be made again for that.
pub(super) struct Built<P>(Vec<Option<Made<P>>>);

struct Made<P> {
    picker: Arc<P>,
    endpoints: Vec<Endpoint>,
    weights: Vec<u32>,
}

impl<P: Picker> Built<P> {
    /// The last picker, or the one that `make` makes.
    pub(super) fn reuse_or(
        &mut self,
        tier: &Tier<'_>,
        make: impl FnOnce() -> P,
    ) -> Arc<dyn Picker> {
        if self.0.len() <= tier.index() {
            self.0.resize_with(tier.index() + 1, || None);
        }
        let slot = &mut self.0[tier.index()];
        let endpoints: Vec<_> = tier.nodes().iter().map(|node| node.endpoint()).collect();
        if let Some(made) = slot {
            if made.weights == tier.weights() && made.endpoints == endpoints {
                return Arc::clone(&made.picker) as Arc<dyn Picker>;
            }
        }
        let picker = Arc::new(make());
        let weights = tier.weights().to_vec();
        *slot = Some(Made { picker: Arc::clone(&picker), endpoints, weights });
        picker
    }
}

impl<P> Default for Built<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P> Clone for Built<P> {
    /// A clone is for another balancer, which has nodes of its own.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<P> fmt::Debug for Built<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Built").field(&self.0.len()).finish()
    }
}
