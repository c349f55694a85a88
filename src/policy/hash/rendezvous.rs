//! Rendezvous hashing: every node bids for the key, the highest bid wins.

use std::sync::Arc;

use super::{Build, HashPicker, bids::Bids, hash_policy};
use crate::policy::{Picker, Tier};

/// Rendezvous hashing, or highest random weight (Thaler, Ravishankar: "Using name-based mappings to
/// increase hit rates", 1998; weights as in Schindelhauer, Schomaker: "Weighted distributed hash
/// tables", 2005).
///
/// The same key goes to the same endpoint in every process, whatever the order of endpoints. When
/// an endpoint goes, its keys move and no others; when one comes or a weight changes, keys move only
/// to or from it. Shares follow weights as exactly as keys are many. A pick looks at all nodes, so
/// it is for up to some hundreds of them.
///
/// ```
/// use evenkeel::{Endpoint, policy::{Rendezvous, hash_bytes}, pool::TestBed};
///
/// let endpoints = (1..=9).map(|last| Endpoint::new(([10, 0, 0, last], 80)));
/// let bed = TestBed::new(Rendezvous::by_header("x-user"), endpoints).unwrap();
/// let key = Some(hash_bytes(b"anna"));
/// assert_eq!(bed.pick(key).unwrap().endpoint(), bed.pick(key).unwrap().endpoint());
/// ```
///
/// By what a function reads:
///
/// ```
/// use evenkeel::policy::{Rendezvous, hash_bytes};
/// let _by_path = Rendezvous::by(|request: &http::Request<()>| {
///     Some(hash_bytes(request.uri().path().as_bytes()))
/// });
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Rendezvous;

impl Rendezvous {
    fn picker(self, tier: &Tier<'_>) -> Arc<dyn Picker> {
        Arc::new(HashPicker::new(self.table(tier)))
    }
}

impl Build for Rendezvous {
    type Table = Bids;

    fn entries(&self, endpoints: usize) -> usize {
        endpoints
    }

    fn table(&self, tier: &Tier<'_>) -> Bids {
        Bids::of(tier)
    }
}

hash_policy!(Rendezvous);
