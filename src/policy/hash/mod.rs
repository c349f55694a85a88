//! Consistent hashing: tables that say whose a key is, and who is next where that one cannot be used.
//!
//! A [`Table`] is built off the way of requests, once for each set of nodes, and looked up by all. It
//! knows every listed node, so that a key keeps its node while others come and go; what cannot be
//! used, or was tried, is walked past.

mod bids;
mod bounded;
mod host;
mod ketama;
mod maglev;
mod murmur;
mod points;
mod reach;
mod rendezvous;
mod ring;
mod shuffle;
#[cfg(all(test, not(evenkeel_loom)))]
mod test_tier;

pub use self::{
    bounded::BoundedLoad,
    ketama::Ketama,
    maglev::Maglev,
    rendezvous::Rendezvous,
    ring::{RingFunction, RingHash},
};
use std::{fmt, sync::Arc};

use super::{KeyHash, Pick, PickContext, Picker, Plain, Policy, Tier, plain::Owners};
use crate::error::BuildError;

/// A policy that sends a key to the node that a table says; [`BoundedLoad`] goes over any of them.
///
/// Sealed: the tables are this crate's own.
pub trait HashPolicy: Policy + Clone + Build {}

/// How a [`HashPolicy`] makes its table.
pub trait Build {
    /// What is looked up.
    type Table: Table;

    /// Whether the configuration makes sense.
    fn check_table(&self) -> Result<(), BuildError> {
        Ok(())
    }

    /// The hash that keys are read by.
    fn table_key_hash(&self) -> KeyHash {
        KeyHash::XxHash64
    }

    /// How many entries the table over so many endpoints has, at most.
    fn entries(&self, endpoints: usize) -> usize;

    /// The table over the nodes of `tier`.
    fn table(&self, tier: &Tier<'_>) -> Self::Table;
}

/// Whose a key is, and who is next.
pub trait Table: fmt::Debug + Send + Sync + 'static {
    /// Whose `key` is, whether that one can be used or not. By its index in the tier; any number where
    /// the tier is empty.
    fn owner(&self, key: u64) -> usize;

    /// The first node that `accept`s, from the owner of `key` on: every node is asked in the end,
    /// some perhaps more than once. By its index in the tier.
    fn find(&self, key: u64, accept: impl FnMut(usize) -> bool) -> Option<usize>;

    /// What a look-up comes to while the owner can be used.
    #[doc(hidden)]
    fn plain(self: Arc<Self>) -> Plain
    where
        Self: Sized,
    {
        Plain::Owner(self)
    }
}

impl<T: Table> Owners for T {
    fn owner_of(&self, key: u64) -> usize {
        self.owner(key)
    }
}

/// Picks what a table says.
#[derive(Debug)]
pub(super) struct HashPicker<T>(Arc<T>);

impl<T: Table> HashPicker<T> {
    pub(super) fn new(table: T) -> Self {
        Self(Arc::new(table))
    }
}

impl<T: Table> Picker for HashPicker<T> {
    fn plain(&self) -> Plain {
        Arc::clone(&self.0).plain()
    }

    #[inline]
    fn pick(&self, cx: &mut PickContext<'_>) -> Pick {
        let key = key_of(cx);
        self.0.find(key, |index| cx.accepts(index)).map_or(Pick::Fail, Pick::Use)
    }
}

/// The key of the request, or a random one: what has no key is spread.
#[inline]
fn key_of(cx: &mut PickContext<'_>) -> u64 {
    match cx.key() {
        Some(key) => key,
        None => cx.rng().next_u64(),
    }
}

/// What every policy by key offers: how it is paired with a key, and bounded.
macro_rules! hash_policy {
    ($policy:ident) => {
        impl $policy {
            /// By the value of a header; a request without it is spread at
            /// random. An invalid header name is an error when the balancer is built.
            pub fn by_header(name: &str) -> $crate::policy::Keyed<Self, $crate::policy::ByHeader> {
                Self::default().keyed($crate::policy::HashKey::header(name))
            }

            /// By what a function reads of the request: a hash (see
            /// [`KeyHash`](crate::policy::KeyHash)), or `None` to spread it at random.
            pub fn by<F, Req>(key: F) -> $crate::policy::Keyed<Self, $crate::policy::ByFn<F>>
            where
                F: Fn(&Req) -> Option<u64> + Clone + Send + Sync + 'static,
            {
                Self::default().keyed($crate::policy::HashKey::of(key))
            }

            /// No node above `factor` times the mean of its share: see
            /// [`BoundedLoad`](crate::policy::BoundedLoad).
            pub fn bounded(self, factor: f64) -> $crate::policy::BoundedLoad<Self> {
                $crate::policy::BoundedLoad::new(self, factor)
            }
        }
        $crate::policy::hash::keyed_policy!($policy);

        impl $crate::policy::hash::HashPolicy for $policy {}

        impl $crate::policy::Policy for $policy {
            fn scope(&self) -> $crate::policy::Scope {
                $crate::policy::Scope::Listed
            }

            fn check(&self) -> Result<(), $crate::error::BuildError> {
                $crate::policy::hash::Build::check_table(self)
            }

            fn key_hash(&self) -> $crate::policy::KeyHash {
                $crate::policy::hash::Build::table_key_hash(self)
            }

            fn build_work(&self, endpoints: usize) -> usize {
                $crate::policy::hash::Build::entries(self, endpoints)
            }

            fn build(
                &mut self,
                tier: &$crate::policy::Tier<'_>,
            ) -> std::sync::Arc<dyn $crate::policy::Picker> {
                self.picker(tier)
            }
        }
    };
}

/// The picker of a policy that keeps what it built last.
macro_rules! reused_picker {
    ($policy:ident) => {
        impl $policy {
            fn picker(
                &mut self,
                tier: &$crate::policy::Tier<'_>,
            ) -> std::sync::Arc<dyn $crate::policy::Picker> {
                use $crate::policy::hash::{Build, HashPicker};
                let mut built = std::mem::take(&mut self.built);
                let picker = built.reuse_or(tier, || HashPicker::new(self.table(tier)));
                self.built = built;
                picker
            }
        }
    };
}

/// How a policy is paired with a key.
macro_rules! keyed_policy {
    ($policy:ident $(<$p:ident: $bound:path>)?) => {
        impl $(<$p: $bound>)? $policy $(<$p>)? {
            /// By parts of the request; one that has none of them is spread at random.
            pub fn keyed<K>(
                self,
                key: $crate::policy::HashKey<K>,
            ) -> $crate::policy::Keyed<Self, K> {
                $crate::policy::Keyed::new(self, key)
            }
        }
    };
}

use {hash_policy, keyed_policy, reused_picker};
