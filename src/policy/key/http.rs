//! Keys that are read of an HTTP request.

use std::{marker::PhantomData, sync::Arc};

use http::{HeaderName, Request, header::COOKIE};

use super::{HashedBy, KeyHash, RequestKey};

/// The value of a header; several values are joined by commas (as gRFC A76 does). An empty value is
/// a key like any other.
#[derive(Clone, Debug)]
pub struct ByHeader {
    pub(super) name: HeaderName,
    hash: KeyHash,
}

/// The value of a cookie: of the first that has the name, without the double quotes around it. An
/// empty value is no key.
#[derive(Clone, Debug)]
pub struct ByCookie {
    name: Arc<str>,
    hash: KeyHash,
}

/// The path of the URI, without the query.
#[derive(Clone, Copy, Debug)]
pub struct ByPath {
    hash: KeyHash,
}

/// The value of a query parameter, as it stands in the URI: of the first that has the name.
#[derive(Clone, Debug)]
pub struct ByQuery {
    name: Arc<str>,
    hash: KeyHash,
}

/// The bytes of an extension of the request of type `T`.
pub struct ByExtension<T> {
    hash: KeyHash,
    of: PhantomData<fn(&T)>,
}

// === impl ByHeader ===

impl ByHeader {
    pub(super) fn new(name: HeaderName) -> Self {
        Self { name, hash: KeyHash::default() }
    }
}

impl HashedBy for ByHeader {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self { hash, ..self }
    }
}

impl<B> RequestKey<Request<B>> for ByHeader {
    fn key(&self, request: &Request<B>) -> Option<u64> {
        let values = request.headers().get_all(&self.name).iter();
        self.hash.hash_joined(values.map(|value| value.as_bytes()))
    }
}

// === impl ByCookie ===

impl ByCookie {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), hash: KeyHash::default() }
    }
}

impl HashedBy for ByCookie {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self { hash, ..self }
    }
}

impl<B> RequestKey<Request<B>> for ByCookie {
    fn key(&self, request: &Request<B>) -> Option<u64> {
        let headers = request.headers().get_all(COOKIE).iter();
        let mut pairs = headers.flat_map(|header| header.as_bytes().split(|&byte| byte == b';'));
        let value = pairs.find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|&byte| byte == b'=')?;
            (pair[..at].trim_ascii_end() == self.name.as_bytes()).then(|| &pair[at + 1..])
        })?;
        let value = value.trim_ascii_start();
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        let value = quoted.unwrap_or(value);
        (!value.is_empty()).then(|| self.hash.hash(value))
    }
}

// === impl ByPath ===

impl ByPath {
    pub(super) fn new() -> Self {
        Self { hash: KeyHash::default() }
    }
}

impl HashedBy for ByPath {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self { hash }
    }
}

impl<B> RequestKey<Request<B>> for ByPath {
    fn key(&self, request: &Request<B>) -> Option<u64> {
        Some(self.hash.hash(request.uri().path().as_bytes()))
    }
}

// === impl ByQuery ===

impl ByQuery {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), hash: KeyHash::default() }
    }
}

impl HashedBy for ByQuery {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self { hash, ..self }
    }
}

impl<B> RequestKey<Request<B>> for ByQuery {
    fn key(&self, request: &Request<B>) -> Option<u64> {
        let mut pairs = request.uri().query()?.split('&');
        let value = pairs.find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == &*self.name).then_some(value)
        })?;
        Some(self.hash.hash(value.as_bytes()))
    }
}

// === impl ByExtension ===

impl<T> ByExtension<T> {
    pub(super) fn new() -> Self {
        Self { hash: KeyHash::default(), of: PhantomData }
    }
}

impl<T> HashedBy for ByExtension<T> {
    fn hashed_by(self, hash: KeyHash) -> Self {
        Self { hash, ..self }
    }
}

impl<T, B> RequestKey<Request<B>> for ByExtension<T>
where
    T: AsRef<[u8]> + Send + Sync + 'static,
{
    fn key(&self, request: &Request<B>) -> Option<u64> {
        let value = request.extensions().get::<T>()?;
        Some(self.hash.hash(value.as_ref()))
    }
}

impl<T> Clone for ByExtension<T> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, of: PhantomData }
    }
}

impl<T> std::fmt::Debug for ByExtension<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByExtension").field("of", &std::any::type_name::<T>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::hash_bytes, *};

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn of(text: &str) -> Option<u64> {
        Some(hash_bytes(text.as_bytes()))
    }

    #[test]
    fn several_values_are_one_key_joined_by_commas() {
        let key = ByHeader::new(HeaderName::from_static("x-user"));
        let request = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("X-User", *value)).collect();
            request("/", &headers)
        };
        assert_eq!(key.key(&request(&[])), None);
        assert_eq!(key.key(&request(&[""])), of(""));
        assert_eq!(key.key(&request(&["a,b"])), key.key(&request(&["a", "b"])));
        assert_eq!(key.key(&request(&["a"])), of("a"));
        assert_ne!(key.key(&request(&["a", "b"])), key.key(&request(&["b", "a"])));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let key = ByCookie::new("id");
        let found = |cookies: &[&str]| {
            let headers: Vec<_> = cookies.iter().map(|value| ("cookie", *value)).collect();
            key.key(&request("/", &headers))
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&["xid=1; id2=3;id"]), None);
        assert_eq!(found(&["a=b; id=anna; id=bert"]), of("anna"));
        assert_eq!(found(&["a=b", "id=\"anna\""]), of("anna"));
        assert_eq!(found(&["id=a=b"]), of("a=b"));
        assert_eq!(found(&["id="]), None);
        assert_eq!(found(&["id=\"\""]), None);
    }

    #[test]
    fn the_path_and_the_query_are_apart() {
        let with = |uri| request(uri, &[]);
        assert_eq!(ByPath::new().key(&with("http://a/b/c?d=e")), of("/b/c"));
        assert_eq!(ByPath::new().key(&with("http://a")), of("/"));
        let key = ByQuery::new("d");
        assert_eq!(key.key(&with("/b?d=e&d=f")), of("e"));
        assert_eq!(key.key(&with("/b?xd=1&d")), of(""));
        assert_eq!(key.key(&with("/b?xd=1")), None);
        assert_eq!(key.key(&with("/b")), None);
    }

    #[test]
    fn an_extension_is_a_key_where_there_is_one() {
        #[derive(Clone)]
        struct Tenant(&'static str);
        impl AsRef<[u8]> for Tenant {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        let key = ByExtension::<Tenant>::new();
        let mut request = request("/", &[]);
        assert_eq!(key.key(&request), None);
        request.extensions_mut().insert(Tenant("acme"));
        assert_eq!(key.key(&request), of("acme"));
    }
}
