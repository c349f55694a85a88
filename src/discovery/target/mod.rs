//! A text that names a source, such as a flag or a line of configuration holds.
//!
//! What stands behind a scheme is one line in [`Targets::source`]; it gets the [`Uri`], takes from
//! it what it knows, and says at which byte it does not understand the rest. A program adds schemes
//! of its own by value: there is no registry that everybody shares, so two libraries in one program
//! cannot disturb each other.

use std::{collections::BTreeMap, env, fmt, str::FromStr, sync::Arc};

use futures_core::Stream;

use self::{common::Common, uri::Uri};
#[cfg(feature = "dns")]
use super::dns::{self, Resolver};
#[cfg(feature = "kubernetes")]
use super::kubernetes::target::Clusters;
use super::{
    Discover, Here, OnEmpty, RefreshRequests, StaticList, Update,
    any_source::{AnySource, erase},
    part::Part,
};
use crate::error::{BoxError, BuildError, ListError};

mod common;
pub(in crate::discovery) mod uri;

/// A source that a text names: `scheme://...`.
///
/// | target | source | feature |
/// |---|---|---|
/// | `static://10.0.0.1:80,[::1]:80;weight=2` | [`StaticList`] | |
/// | `dns://users.shop.svc.cluster.local:8080` | the addresses of a name | `dns` |
/// | `srv://_http._tcp.users.shop.svc.cluster.local` | the targets of SRV records | `dns` |
/// | `k8s://namespace/service:port` | the endpoints of a Kubernetes Service | `kubernetes` |
///
/// All but `static` take options after a `?`, with `&` between them. These work for each:
///
/// | option | meaning |
/// |---|---|
/// | `on_empty=clear`, `keep` or a time such as `30s` | what a known-empty answer does ([`OnEmpty`]); the builder's own `on_empty` wins |
/// | `server_name=NAME` | the name that the servers go by, for TLS and the `Host` of requests that name none |
/// | `protocol=http1` or `http2` | the [`Protocol`](crate::Protocol) that the servers speak |
///
/// And these for `dns` and `srv`:
///
/// | option | meaning |
/// |---|---|
/// | `family=4`, `6` or `any` | which addresses to ask for |
/// | `resolver=system` or `getaddrinfo` | whom to ask; `srv` knows `system` alone |
/// | `nameserver=10.0.0.53,[::1]:5353` | whom to ask, in this order; port 53 unless it says another |
/// | `min_refresh=500ms`, `max_refresh=1m` | bounds for the time between two looks |
/// | `ignore_weights=true` | `srv` alone: takes all addresses alike |
///
/// ```
/// use evenkeel::{BuildError, discovery::Target};
///
/// let target: Target = "static://10.0.0.1:80,10.0.0.2:80".parse()?;
/// assert_eq!(target.to_string(), "static://10.0.0.1:80,10.0.0.2:80");
/// assert!(matches!("gopher://x".parse::<Target>(), Err(BuildError::UnknownScheme { .. })));
/// # Ok::<(), BuildError>(())
/// ```
#[derive(Clone)]
pub struct Target {
    text: Arc<str>,
    source: Arc<dyn AnySource>,
    common: Common,
}

/// The schemes that a target may have, with those of one's own.
///
/// The targets that one `Targets` and its clones parse share what they can: the resolver of `dns` and
/// `srv`, and for `k8s` the client of a cluster (one for each `kubeconfig` and `context`) and the watch of
/// a Service.
///
/// The resolver, and the clients with their connections to API servers, are kept until the last clone is
/// gone, the last target that was parsed with it, and the last balancer over such a target; so also while
/// nothing is balanced. Watches and questions end with those who want them. A program that parses targets
/// once has no need to keep it.
///
/// ```
/// use evenkeel::{
///     Balance, Endpoint,
///     discovery::{StaticList, Targets},
/// };
///
/// /// Ports of this machine: `local://8080,8081`.
/// fn local(ports: &str) -> Result<StaticList, Box<dyn std::error::Error + Send + Sync>> {
///     let ports = ports.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>()?;
///     Ok(StaticList::new(ports.into_iter().map(|port| Endpoint::new(([127, 0, 0, 1], port))))?)
/// }
///
/// let targets = Targets::new().with("local", local);
/// let builder = Balance::builder(targets.parse("local://8080,8081")?);
/// # let _ = builder;
/// assert!(targets.parse("local://http").is_err());
/// assert!(targets.parse("static://10.0.0.1:80").is_ok());
/// # Ok::<(), evenkeel::BuildError>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "schemes are served by the targets that are parsed with them"]
pub struct Targets {
    own: BTreeMap<String, OwnScheme>,
    #[cfg(feature = "dns")]
    resolver: Resolver,
    #[cfg(feature = "kubernetes")]
    clusters: Clusters,
}

type OwnScheme = Arc<dyn Fn(&str) -> Result<Arc<dyn AnySource>, BoxError> + Send + Sync>;

// === impl Target ===

impl Target {
    /// Takes the text for a target. Nothing is looked up yet.
    ///
    /// # Errors
    ///
    /// If it is no `scheme://...`, if no source of this build serves the scheme, or if the source
    /// does not understand the rest: then the error says which part, and at which byte.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        Targets::new().parse(text)
    }

    /// The target that the environment variable `name` holds.
    ///
    /// # Errors
    ///
    /// If the variable is not set or is not Unicode, or those of [`parse`](Self::parse); each names
    /// the variable.
    ///
    /// ```
    /// use evenkeel::discovery::Target;
    ///
    /// let target = Target::from_env("USERS_TARGET").or_else(|_| "static://127.0.0.1:8080".parse())?;
    /// # let _ = target;
    /// # Ok::<(), evenkeel::BuildError>(())
    /// ```
    pub fn from_env(name: &str) -> Result<Self, BuildError> {
        Targets::new().from_env(name)
    }
}

impl Discover for Target {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        self.common.over(self.source.start(refresh))
    }

    fn on_empty(&self) -> OnEmpty {
        self.common.on_empty.unwrap_or_else(|| self.source.default_on_empty())
    }

    fn target(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    fn here(&self) -> Here {
        self.source.place()
    }
}

impl FromStr for Target {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        Self::parse(text)
    }
}

/// For what is read from a configuration.
impl TryFrom<String> for Target {
    type Error = BuildError;

    fn try_from(text: String) -> Result<Self, BuildError> {
        Self::parse(&text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.text).finish()
    }
}

// === impl Targets ===

impl Targets {
    /// The schemes of this build, and no other.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a scheme: `parse` gets what stands after the `://`, and makes a source of it. A scheme
    /// of this build gives way to one of the same name; of two, the last counts. The position in a
    /// [`ListError`] that `parse` gives back is moved to where that is in the whole target.
    ///
    /// Schemes know no case. One that [RFC 3986] does not allow (a letter, then letters, digits,
    /// `+`, `-` and `.`) is never asked for.
    ///
    /// [RFC 3986]: https://www.rfc-editor.org/rfc/rfc3986#section-3.1
    pub fn with<D, E, F>(mut self, scheme: &str, parse: F) -> Self
    where
        F: Fn(&str) -> Result<D, E> + Send + Sync + 'static,
        D: Discover + Clone + Sync,
        E: Into<BoxError>,
    {
        let parse = move |rest: &str| parse(rest).map(erase).map_err(Into::into);
        self.own.insert(scheme.to_ascii_lowercase(), Arc::new(parse));
        self
    }

    /// Looks up the names of `dns://` and `srv://` targets through `resolver`, unless a target names
    /// its own (`nameserver=`, `resolver=`). By default it is one [`Resolver::system`].
    ///
    /// The targets of one `Targets` and of its clones share it: two of them that want the same name
    /// ask for it together. What [`Balance::to`](crate::Balance::to) or [`Target::parse`] makes of a
    /// text has a resolver of its own, for there is nothing that a whole process shares unasked.
    ///
    /// ```
    /// use evenkeel::{Balance, discovery::{Resolver, Targets}};
    ///
    /// let targets = Targets::new().resolver(Resolver::nameservers([([10, 96, 0, 10], 53).into()]));
    /// let users = Balance::builder(targets.parse("dns://users.shop.svc.cluster.local:8080")?);
    /// let carts = Balance::builder(targets.parse("srv://_grpc._tcp.carts.shop.svc.cluster.local")?);
    /// # let _ = (users, carts);
    /// # Ok::<(), evenkeel::BuildError>(())
    /// ```
    #[cfg(feature = "dns")]
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Takes the text for a target. Nothing is looked up yet.
    ///
    /// # Errors
    ///
    /// Those of [`Target::parse`], and what a scheme of one's own says.
    pub fn parse(&self, text: &str) -> Result<Target, BuildError> {
        let none = || BuildError::Target { target: text.to_owned() };
        let mut uri = Uri::parse(text).ok_or_else(none)?;
        // Schemes know no case (RFC 3986 3.1).
        let scheme = uri.scheme().to_ascii_lowercase();
        let (source, common) = match self.own.get(&scheme) {
            Some(parse) => {
                let refused = |source: BoxError| BuildError::OwnScheme {
                    scheme: scheme.clone(),
                    target: text.to_owned(),
                    source: match source.downcast::<ListError>() {
                        Ok(list) => in_target(*list, uri.rest()).into(),
                        Err(other) => other,
                    },
                };
                (parse(uri.rest().text).map_err(refused)?, Common::default())
            }
            None => self.source(&scheme, &mut uri)?,
        };
        Ok(Target { text: text.into(), source, common })
    }

    /// The target that the environment variable `name` holds.
    ///
    /// # Errors
    ///
    /// Those of [`Target::from_env`].
    pub fn from_env(&self, name: &str) -> Result<Target, BuildError> {
        let wrong = |source| BuildError::Variable { name: name.to_owned(), source };
        let text = env::var(name).map_err(|error| wrong(error.into()))?;
        self.parse(&text).map_err(|error| wrong(error.into()))
    }

    /// The source of a scheme of this build, and the options that all of them take.
    fn source(
        &self,
        scheme: &str,
        uri: &mut Uri<'_>,
    ) -> Result<(Arc<dyn AnySource>, Common), BuildError> {
        let source = match scheme {
            // Its options stand with each endpoint, and a path may hold any character.
            "static" => return Ok((erase(list(uri.body())?), Common::default())),
            "dns" | "srv" => self.dns(scheme, uri)?,
            "k8s" => self.kubernetes(uri)?,
            #[cfg(test)]
            "test" => {
                uri.read_options()?;
                erase(list(uri.body())?)
            }
            _ => {
                let (scheme, target) = (uri.scheme().to_owned(), uri.text().to_owned());
                return Err(BuildError::UnknownScheme { scheme, target });
            }
        };
        let common = Common::take(uri)?;
        uri.finish()?;
        Ok((source, common))
    }

    #[cfg(feature = "dns")]
    fn dns(&self, scheme: &str, uri: &mut Uri<'_>) -> Result<Arc<dyn AnySource>, BuildError> {
        uri.read_options()?;
        Ok(erase(dns::from_uri(scheme, uri, self.resolver.clone())?))
    }

    #[cfg(not(feature = "dns"))]
    fn dns(&self, _scheme: &str, uri: &mut Uri<'_>) -> Result<Arc<dyn AnySource>, BuildError> {
        Err(missing("dns", uri))
    }

    #[cfg(feature = "kubernetes")]
    fn kubernetes(&self, uri: &mut Uri<'_>) -> Result<Arc<dyn AnySource>, BuildError> {
        uri.read_options()?;
        Ok(erase(self.clusters.source(uri)?))
    }

    #[cfg(not(feature = "kubernetes"))]
    fn kubernetes(&self, uri: &mut Uri<'_>) -> Result<Arc<dyn AnySource>, BuildError> {
        Err(missing("kubernetes", uri))
    }
}

/// The list that stands at a place in a target.
fn list(part: Part<'_>) -> Result<StaticList, ListError> {
    StaticList::parse(part.text).map_err(|error| in_target(error, part))
}

/// The `error` of a list that is this part of a target.
fn in_target(error: ListError, part: Part<'_>) -> ListError {
    ListError { position: part.position + error.position, ..error }
}

#[cfg(not(all(feature = "dns", feature = "kubernetes")))]
fn missing(feature: &'static str, uri: &Uri<'_>) -> BuildError {
    BuildError::MissingFeature { target: uri.text().to_owned(), feature }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("own", &self.own.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
