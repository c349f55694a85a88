//! Where endpoints come from: sources, and what they may say.
//!
//! A source ([`Discover`]) is turned into a stream of [`Update`]s, each the state of the world and
//! never a difference: the pool compares once, so no source has to remember what it said before,
//! and a lost update costs nothing that the next does not repair. Errors are items of the stream,
//! never its end (as in gRPC's resolvers), because what was good a moment ago is the best guess
//! there is while the source cannot answer.
//!
//! Here are [`StaticList`] (a fixed list), [`Registry`] (the program itself pushes), with their
//! features names in DNS and Kubernetes Services, and [`Target`] (a `scheme://...` text that names a
//! source, also by schemes of one's own: [`Targets`]); any stream of updates is a source as well.
//! [`Failover`] and [`Merge`] make one of several.

use std::{fmt, sync::Arc, time::Duration};

use futures_core::Stream;

#[cfg(feature = "dns")]
pub use self::dns::{Dns, Families, Resolver};
pub use self::{
    failover::Failover,
    here::Here,
    merge::Merge,
    refresh::{RefreshHandle, RefreshRequests},
    registry::{RegisterError, Registration, Registry},
    static_list::StaticList,
    target::{Target, Targets},
};
use crate::{endpoint::Endpoint, error::DiscoverError};

mod any_source;
mod compose;
#[cfg(feature = "dns")]
mod dns;
mod failover;
mod here;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod merge;
mod part;
pub mod refresh;
mod registry;
#[cfg(feature = "dns")]
mod resume;
mod sleep;
mod static_list;
mod target;
mod unfold;

/// A source of endpoints.
///
/// # Contract
///
/// * [`on_empty`](Self::on_empty), [`target`](Self::target) and [`here`](Self::here) are asked first; then
///   [`watch`](Self::watch) is called, once, inside the tokio runtime that the balancer runs on.
/// * The stream is polled by the balancer's one task, with or without requests. It must not block;
///   a panic in it closes the balancer. It is dropped with the balancer, so what it spawned should
///   end with it.
/// * Each update is the whole state of the world. The first should come as soon as anything is
///   known: until then, requests wait. An update that repeats the last one is harmless.
/// * An error is an [`Update::Failed`] or [`Update::Partial`], never an end of the stream, and never
///   an empty set: only a source that knows that there is no endpoint says [`Update::Empty`]. The
///   source itself decides when to try again.
/// * A stream that ends leaves its last set standing, for good.
/// * A source whose answer may be out of date listens to the `refresh` requests, as rarely as it
///   sees fit; any other drops them.
///
/// # Writing one
///
/// Every stream of updates is a source already. A type of one's own can say more:
///
/// ```
/// use evenkeel::{
///     DiscoverError, Endpoint,
///     discovery::{Discover, Endpoints, OnEmpty, RefreshRequests, Update},
/// };
/// use futures::{Stream, stream};
/// use std::{net::SocketAddr, path::PathBuf, sync::Arc};
///
/// /// One address a line; read again whenever an endpoint refuses.
/// struct HostsFile(PathBuf);
///
/// impl Discover for HostsFile {
///     fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
///         stream::unfold((self, refresh, true), |(file, mut refresh, first)| async move {
///             if !first {
///                 refresh.requested().await;
///             }
///             Some((file.read().await, (file, refresh, false)))
///         })
///     }
///
///     fn on_empty(&self) -> OnEmpty {
///         OnEmpty::Keep // an empty file is a half-written one
///     }
///
///     fn target(&self) -> Arc<str> {
///         self.0.display().to_string().into()
///     }
/// }
///
/// impl HostsFile {
///     async fn read(&self) -> Update {
///         match tokio::fs::read_to_string(&self.0).await {
///             Ok(text) => {
///                 let lines = text.lines().filter_map(|line| line.parse::<SocketAddr>().ok());
///                 Update::Set(lines.map(Endpoint::from).collect::<Endpoints>())
///             }
///             Err(error) => Update::Failed(DiscoverError::caused("reading the hosts file", error)),
///         }
///     }
/// }
/// # fn is_source<D: Discover>(_: &D) {}
/// # is_source(&HostsFile(PathBuf::from("hosts.txt")));
/// # is_source(&stream::empty::<Update>());
/// ```
pub trait Discover: Send + 'static {
    /// Starts the source: the stream of what it finds.
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static;

    /// What the balancer should do when this source knows that there is no endpoint, unless its
    /// user decides otherwise.
    fn on_empty(&self) -> OnEmpty {
        OnEmpty::Clear
    }

    /// A short name of what is looked for, for errors and logs.
    fn target(&self) -> Arc<str> {
        Arc::from("custom")
    }

    /// Where this process runs, as far as the source finds out; nothing by default. Asked once,
    /// before [`watch`](Self::watch); what is set in it later counts from the next update on.
    fn here(&self) -> Here {
        Here::default()
    }
}

/// What a source says. Always the state of the world, never a difference.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Update {
    /// The complete set. Replaces the last one; endpoints that it lacks are drained. A set without
    /// endpoints is taken for [`Empty`](Self::Empty).
    Set(Endpoints),
    /// The source's merged view, where some part of it could not answer: fresh where a part
    /// answered, last good where one failed. Applied as a set; the error is shown.
    Partial(Endpoints, DiscoverError),
    /// The source knows that there is no endpoint, and why. [`OnEmpty`] says what comes of it.
    Empty(Reason),
    /// The source could not answer. The last set stands; the error is shown.
    Failed(DiscoverError),
}

/// The endpoints of an [`Update`]: what the source says, in its order.
///
/// It is kept as it is said, duplicates included. The pool drops those whose identity (first
/// address, server name and protocol) stood before: the first one wins, weights are not added.
///
/// ```
/// use evenkeel::{Endpoint, discovery::Endpoints};
///
/// let endpoints: Endpoints = (1..=3).map(|i| Endpoint::new(([10, 0, 0, i], 80))).collect();
/// assert_eq!(endpoints.len(), 3);
/// assert_eq!(endpoints.iter().next().map(ToString::to_string).as_deref(), Some("10.0.0.1:80"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

/// Why a source knows that there is no endpoint.
///
/// ```
/// use evenkeel::discovery::Reason;
///
/// let reason = Reason::says("the name does not exist (NXDOMAIN)");
/// assert_eq!(reason.to_string(), "the name does not exist (NXDOMAIN)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The program has registered nothing, or nothing any more.
    NothingRegistered,
    /// The source lists nothing, and says no more.
    NothingListed,
    /// What the source says of it.
    Says(Arc<str>),
}

/// What becomes of the last set when the source knows that there is no endpoint.
///
/// Failures are no concern of this: they never touch the last set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnEmpty {
    /// Drop it at once. Right where an address may soon be another's, as a pod's may; the default.
    #[default]
    Clear,
    /// Drop it unless endpoints are listed again within this time. Right where emptiness is often
    /// a hiccup, as in DNS.
    KeepFor(Duration),
    /// Keep it until endpoints are listed again.
    Keep,
}

// === impl Discover ===

impl<S> Discover for S
where
    S: Stream<Item = Update> + Send + 'static,
{
    fn watch(self, _refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        self
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// The endpoints, in the source's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Endpoint> {
        self.0.iter()
    }

    /// How many there are, duplicates included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        Self(endpoints.into_iter().collect())
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self(endpoints)
    }
}

impl<const N: usize> From<[Endpoint; N]> for Endpoints {
    fn from(endpoints: [Endpoint; N]) -> Self {
        Self(endpoints.into())
    }
}

impl IntoIterator for Endpoints {
    type Item = Endpoint;
    type IntoIter = std::vec::IntoIter<Endpoint>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = &'a Endpoint;
    type IntoIter = std::slice::Iter<'a, Endpoint>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

// === impl Reason ===

impl Reason {
    /// What the source says of it.
    pub fn says(text: impl Into<Arc<str>>) -> Self {
        Self::Says(text.into())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingRegistered => "nothing is registered",
            Self::NothingListed => "no endpoint is listed",
            Self::Says(text) => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt, stream};

    use super::*;

    #[test]
    fn any_stream_is_a_source() {
        let source = stream::iter([
            Update::Set([Endpoint::new(([10, 0, 0, 1], 80))].into()),
            Update::Failed(DiscoverError::new("the source is down")),
        ]);
        assert_eq!(source.on_empty(), OnEmpty::Clear);
        assert_eq!(&*source.target(), "custom");
        let (_handle, refresh) = refresh::channel();
        let updates: Vec<_> = source.watch(refresh).collect().now_or_never().unwrap();
        assert!(matches!(&updates[..], [Update::Set(set), Update::Failed(_)] if set.len() == 1));
    }

    #[test]
    fn endpoints_keep_order_and_duplicates() {
        let twice = [1, 2, 1].map(|i| Endpoint::new(([10, 0, 0, i], 80)));
        let endpoints = Endpoints::from(twice.clone());
        assert!(endpoints.iter().eq(&twice));
        assert_eq!(endpoints.into_iter().collect::<Vec<_>>(), twice);
    }
}
