//! The part of a request that decides where it goes.

use http::{HeaderName, Request};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::{IntoPolicy, Policy, PolicyFactory};
use crate::error::BuildError;

/// Reads the hash of a request's key.
///
/// Called once for each request, before the pick. A request without a key is spread like any other.
pub trait RequestKey<Req>: Clone + Send + Sync + 'static {
    /// The hash of the key, or `None` if the request has none.
    fn key(&self, request: &Req) -> Option<u64>;
}

/// No key: the policy does not look at the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKey;

/// The value of a header: xxHash64 with seed 0, several values joined by commas (as gRFC A76 does).
#[derive(Clone, Debug)]
pub struct ByHeader(HeaderName);

/// What a function reads of the request.
#[derive(Clone, Debug)]
pub struct ByFn<F>(F);

/// A policy with the key that it picks by.
#[derive(Clone, Debug)]
pub struct Keyed<P, K> {
    policy: P,
    key: Result<K, InvalidKey>,
}

#[derive(Clone, Debug)]
struct InvalidKey(String);

/// The hash that keys are compared by: xxHash64 with seed 0.
///
/// ```
/// assert_eq!(evenkeel::policy::hash_bytes(b""), 0xef46_db37_51d8_e999);
/// ```
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

// === impl Keyed ===

impl<P: Policy> Keyed<P, ByHeader> {
    /// `policy` by the value of a header. An invalid name is an error when the balancer is built.
    pub fn by_header(policy: P, name: &str) -> Self {
        let key = name.parse().map(ByHeader).map_err(|_| InvalidKey(name.to_owned()));
        Self { policy, key }
    }
}

impl<P: Policy, F> Keyed<P, ByFn<F>> {
    /// `policy` by what `key` reads of a request.
    pub fn by_fn(policy: P, key: F) -> Self {
        Self { policy, key: Ok(ByFn(key)) }
    }
}

impl<P, K> IntoPolicy for Keyed<P, K>
where
    P: Policy + Clone + Sync,
    K: Clone + Send + Sync + 'static,
{
    type Key = K;

    fn into_policy(self) -> Result<(PolicyFactory, K), BuildError> {
        match self.key {
            Ok(key) => Ok((PolicyFactory::cloning(self.policy), key)),
            Err(InvalidKey(key)) => Err(BuildError::Key { what: "header name", key }),
        }
    }
}

// === impl RequestKey ===

impl<Req> RequestKey<Req> for NoKey {
    #[inline]
    fn key(&self, _request: &Req) -> Option<u64> {
        None
    }
}

impl<B> RequestKey<Request<B>> for ByHeader {
    fn key(&self, request: &Request<B>) -> Option<u64> {
        let mut values = request.headers().get_all(&self.0).iter();
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(hash_bytes(first.as_bytes()));
        };
        let mut hasher = Xxh64::new(0);
        hasher.update(first.as_bytes());
        for value in std::iter::once(second).chain(values) {
            hasher.update(b",");
            hasher.update(value.as_bytes());
        }
        Some(hasher.digest())
    }
}

impl<F, Req> RequestKey<Req> for ByFn<F>
where
    F: Fn(&Req) -> Option<u64> + Clone + Send + Sync + 'static,
{
    fn key(&self, request: &Req) -> Option<u64> {
        (self.0)(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_are_one_key_joined_by_commas() {
        let key = ByHeader(HeaderName::from_static("x-user"));
        let request = |values: &[&str]| {
            let mut builder = Request::builder();
            for value in values {
                builder = builder.header("X-User", *value);
            }
            builder.body(()).unwrap()
        };
        assert_eq!(key.key(&request(&[])), None);
        assert_eq!(key.key(&request(&["a,b"])), key.key(&request(&["a", "b"])));
        assert_eq!(key.key(&request(&["a"])), Some(hash_bytes(b"a")));
        assert_ne!(key.key(&request(&["a", "b"])), key.key(&request(&["b", "a"])));
    }
}
