//! The part of a request that decides where it goes.

mod digest;
mod http;

use std::ops::ControlFlow;

use ::http::HeaderName;

pub use self::{
    digest::{KeyHash, hash_bytes},
    http::{ByCookie, ByExtension, ByHeader, ByPath, ByQuery},
};
use super::{IntoPolicy, Policy, PolicyFactory};
use crate::error::BuildError;

/// Reads the hash of a request's key.
///
/// Called once for each request, before the pick. A request without a key is spread like any other.
pub trait RequestKey<Req>: Clone + Send + Sync + 'static {
    /// The hash of the key, or `None` if the request has none.
    fn key(&self, request: &Req) -> Option<u64>;

    /// The hash of this key and of those `before` it; a break where no further key is to be read.
    /// They are joined as Envoy and gRPC do: the former rotated left by one bit, then exclusive or,
    /// so that a key read twice does not cancel itself out.
    fn join(&self, request: &Req, before: Option<u64>) -> ControlFlow<Option<u64>, Option<u64>> {
        let own = self.key(request);
        let joined = own.map(|own| before.map_or(0, |before| before.rotate_left(1)) ^ own);
        ControlFlow::Continue(joined.or(before))
    }
}

/// No key: the policy does not look at the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKey;

/// What a function reads of the request.
#[derive(Clone, Debug)]
pub struct ByFn<F>(F);

/// Two keys, one after the other: where one is missing, the other alone.
#[derive(Clone, Debug)]
pub struct Then<A, B>(A, B);

/// A key after which no other is read once there is one, be it this or one before.
#[derive(Clone, Debug)]
pub struct Terminal<K>(K);

/// What a policy picks by: parts of an HTTP request, or whatever a function reads, joined.
///
/// ```
/// use evenkeel::policy::{HashKey, RingHash};
///
/// // The user, if the request names one, or else the session and the path together.
/// let key = HashKey::header("x-user").terminal()
///     .then(HashKey::cookie("session"))
///     .then(HashKey::path());
/// let policy = RingHash::envoy().keyed(key);
/// ```
///
/// A name that can never match is an error when the balancer is built.
#[derive(Clone, Debug)]
pub struct HashKey<K>(Result<K, InvalidKey>);

/// A policy with the key that it picks by.
#[derive(Clone, Debug)]
pub struct Keyed<P, K> {
    policy: P,
    key: HashKey<K>,
}

#[derive(Clone, Debug)]
struct InvalidKey {
    what: &'static str,
    key: String,
}

/// A key that is read by the hash which its policy wants.
pub trait HashedBy: Sized {
    /// The same key, read by `hash`. What returns hashes of its own is left as it is.
    #[must_use]
    fn hashed_by(self, hash: KeyHash) -> Self;
}

// === impl HashKey ===

impl HashKey<ByHeader> {
    /// The value of a header, several values joined by commas.
    pub fn header(name: &str) -> Self {
        let invalid = |_| InvalidKey { what: "header name", key: name.to_owned() };
        Self(name.parse::<HeaderName>().map(ByHeader::new).map_err(invalid))
    }

    /// The same as gRPC's `requestHashHeader` has it (gRFC A76): binary headers, whose names end in
    /// `-bin`, are no keys.
    pub fn request_hash_header(name: &str) -> Self {
        let key = Self::header(name);
        match &key.0 {
            Ok(header) if header.name.as_str().ends_with("-bin") => {
                let what = "request hash header (it is binary)";
                Self(Err(InvalidKey { what, key: name.to_owned() }))
            }
            _ => key,
        }
    }
}

impl HashKey<ByCookie> {
    /// The value of a cookie.
    pub fn cookie(name: &str) -> Self {
        Self(
            checked(name, "cookie name", |byte| {
                byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte)
            })
            .map(ByCookie::new),
        )
    }
}

impl HashKey<ByPath> {
    /// The path of the URI, without the query.
    pub fn path() -> Self {
        Self(Ok(ByPath::new()))
    }
}

impl HashKey<ByQuery> {
    /// The value of a query parameter.
    pub fn query(name: &str) -> Self {
        Self(
            checked(name, "query parameter", |byte| {
                byte.is_ascii_graphic() && !b"&=#".contains(&byte)
            })
            .map(ByQuery::new),
        )
    }
}

impl<T: AsRef<[u8]> + Send + Sync + 'static> HashKey<ByExtension<T>> {
    /// The bytes of an extension of the request.
    pub fn extension() -> Self {
        Self(Ok(ByExtension::new()))
    }
}

impl<F> HashKey<ByFn<F>> {
    /// What a function reads of the request: a hash (see [`KeyHash`]), or `None` if it has no key.
    pub fn of<Req>(key: F) -> Self
    where
        F: Fn(&Req) -> Option<u64> + Clone + Send + Sync + 'static,
    {
        Self(Ok(ByFn(key)))
    }
}

impl<K> HashKey<K> {
    /// Joined with `next`: both decide where a request goes, or the one that it has.
    #[must_use]
    pub fn then<L>(self, next: HashKey<L>) -> HashKey<Then<K, L>> {
        HashKey(self.0.and_then(|key| Ok(Then(key, next.0?))))
    }

    /// Those that follow are read only where there is no key up to here.
    #[must_use]
    pub fn terminal(self) -> HashKey<Terminal<K>> {
        HashKey(self.0.map(Terminal))
    }
}

/// A name of at least one byte, all of which `may` stand in it.
fn checked<'a>(
    name: &'a str,
    what: &'static str,
    may: impl Fn(u8) -> bool,
) -> Result<&'a str, InvalidKey> {
    if !name.is_empty() && name.bytes().all(may) {
        Ok(name)
    } else {
        Err(InvalidKey { what, key: name.to_owned() })
    }
}

// === impl Keyed ===

impl<P, K> Keyed<P, K> {
    pub(super) fn new(policy: P, key: HashKey<K>) -> Self {
        Self { policy, key }
    }
}

impl<P: Policy> Keyed<P, ByHeader> {
    /// `policy` by the value of a header. An invalid name is an error when the balancer is built.
    pub fn by_header(policy: P, name: &str) -> Self {
        Self::new(policy, HashKey::header(name))
    }
}

impl<P: Policy, F> Keyed<P, ByFn<F>> {
    /// `policy` by what `key` reads of a request.
    pub fn by_fn(policy: P, key: F) -> Self {
        Self::new(policy, HashKey(Ok(ByFn(key))))
    }
}

impl<P, K> IntoPolicy for Keyed<P, K>
where
    P: Policy + Clone + Sync,
    K: HashedBy + Clone + Send + Sync + 'static,
{
    type Key = K;

    fn into_policy(self) -> Result<(PolicyFactory, K), BuildError> {
        self.policy.check()?;
        match self.key.0 {
            Ok(key) => {
                let key = key.hashed_by(self.policy.key_hash());
                Ok((PolicyFactory::cloning(self.policy), key))
            }
            Err(InvalidKey { what, key }) => Err(BuildError::Key { what, key }),
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

impl<F, Req> RequestKey<Req> for ByFn<F>
where
    F: Fn(&Req) -> Option<u64> + Clone + Send + Sync + 'static,
{
    fn key(&self, request: &Req) -> Option<u64> {
        (self.0)(request)
    }
}

impl<A: RequestKey<Req>, B: RequestKey<Req>, Req> RequestKey<Req> for Then<A, B> {
    fn key(&self, request: &Req) -> Option<u64> {
        match self.join(request, None) {
            ControlFlow::Continue(hash) | ControlFlow::Break(hash) => hash,
        }
    }

    fn join(&self, request: &Req, before: Option<u64>) -> ControlFlow<Option<u64>, Option<u64>> {
        let before = self.0.join(request, before)?;
        self.1.join(request, before)
    }
}

impl<K: RequestKey<Req>, Req> RequestKey<Req> for Terminal<K> {
    fn key(&self, request: &Req) -> Option<u64> {
        self.0.key(request)
    }

    fn join(&self, request: &Req, before: Option<u64>) -> ControlFlow<Option<u64>, Option<u64>> {
        match self.0.join(request, before)? {
            None => ControlFlow::Continue(None),
            found => ControlFlow::Break(found),
        }
    }
}

// === impl HashedBy ===

impl<F> HashedBy for ByFn<F> {
    fn hashed_by(self, _hash: KeyHash) -> Self {
        self
    }
}

impl<A: HashedBy, B: HashedBy> HashedBy for Then<A, B> {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self(self.0.hashed_by(hash), self.1.hashed_by(hash))
    }
}

impl<K: HashedBy> HashedBy for Terminal<K> {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self(self.0.hashed_by(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Ketama, RingHash};

    type Request = ::http::Request<()>;

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut builder = Request::builder().uri("/path?q=1");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn find<K: RequestKey<Request>>(key: HashKey<K>, headers: &[(&str, &str)]) -> Option<u64> {
        key.0.unwrap().key(&request(headers))
    }

    fn header(name: &str) -> HashKey<ByHeader> {
        HashKey::header(name)
    }

    /// Envoy's `HashPolicyImpl::generateHash`: rotated, then exclusive or; the tests of its
    /// `config_impl_test.cc` ask that two equal policies do not cancel out.
    #[test]
    fn keys_are_joined_as_in_envoy() {
        let (a, b) = (hash_bytes(b"1"), hash_bytes(b"2"));
        let both = || header("a").then(header("b"));
        assert_eq!(find(both(), &[("a", "1"), ("b", "2")]), Some(a.rotate_left(1) ^ b));
        assert_eq!(find(both(), &[("a", "1")]), Some(a));
        assert_eq!(find(both(), &[("b", "2")]), Some(b));
        assert_eq!(find(both(), &[]), None);
        let twice = header("a").then(header("a"));
        assert_eq!(find(twice, &[("a", "1")]), Some(a.rotate_left(1) ^ a));
    }

    #[test]
    fn a_terminal_key_ends_the_reading_once_there_is_one() {
        let (a, b) = (hash_bytes(b"1"), hash_bytes(b"2"));
        let chain = || header("a").then(header("b").terminal()).then(header("c"));
        assert_eq!(find(chain(), &[("b", "2"), ("c", "3")]), Some(b));
        // One before it is one, too.
        assert_eq!(find(chain(), &[("a", "1"), ("c", "3")]), Some(a));
        assert_eq!(find(chain(), &[("c", "3")]), Some(hash_bytes(b"3")));
        let nested = header("a").terminal().then(header("b")).then(HashKey::path());
        assert_eq!(find(nested, &[("a", "1"), ("b", "2")]), Some(a));
        let right = header("a").then(header("b").terminal().then(header("c")));
        assert_eq!(find(right, &[("a", "1"), ("c", "2")]), Some(a));
    }

    #[test]
    fn functions_join_with_the_rest() {
        let key = HashKey::of(|request: &Request| Some(request.headers().len() as u64))
            .then(HashKey::query("q"));
        assert_eq!(find(key, &[("a", "1")]), Some(2 ^ hash_bytes(b"1")));
    }

    #[test]
    fn a_key_is_read_by_the_hash_of_its_policy() {
        let keyed = Ketama::nginx().keyed(HashKey::path().then(header("a").terminal()));
        let (_, key) = keyed.into_policy().unwrap();
        let (path, a) = (KeyHash::Crc32.hash(b"/path"), KeyHash::Crc32.hash(b"1"));
        assert_eq!(key.key(&request(&[("a", "1")])), Some(path.rotate_left(1) ^ a));
    }

    #[test]
    fn names_that_can_never_match_are_errors() {
        fn error<K: HashedBy + Clone + Send + Sync + 'static>(key: HashKey<K>) -> String {
            RingHash::new().keyed(key).into_policy().err().unwrap().to_string()
        }
        assert_eq!(error(header("a b")), "`a b` is no valid header name for a request key");
        assert!(error(HashKey::cookie("a;b")).contains("cookie name"));
        assert!(error(HashKey::cookie("")).contains("cookie name"));
        assert!(error(HashKey::query("a&b")).contains("query parameter"));
        assert!(error(HashKey::request_hash_header("user-bin")).contains("is binary"));
        assert!(error(HashKey::path().then(header(""))).contains("header name"));
        assert!(RingHash::grpc().keyed(HashKey::request_hash_header("User")).into_policy().is_ok());
    }
}
