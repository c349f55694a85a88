//! What discovery finds: one server, with everything that balancing wants to know of it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where an endpoint listens.
///
/// ```
/// use evenkeel::Address;
///
/// let address = Address::from(([10, 0, 0, 1], 8080));
/// assert_eq!(address.to_string(), "10.0.0.1:8080");
/// assert_eq!(Address::name("db.internal", 5432).to_string(), "db.internal:5432");
/// assert_eq!(Address::unix("/run/app.sock").to_string(), "unix:/run/app.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A name that whoever dials resolves, and a port.
    Name {
        /// The host's name, without a port.
        host: Arc<str>,
        /// The port; never 0 in a usable endpoint.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

/// The wire protocol an endpoint is known to speak, where discovery can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Discovery does not say; the client decides. The default.
    #[default]
    Unspecified,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge where the connection is not encrypted.
    Http2,
}

/// An endpoint's share relative to the others of its tier; 1 by default.
///
/// An endpoint of weight 0 takes nothing new, unless all of them have weight 0: then all are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(pub u32);

/// An endpoint's priority; 0, the default, is used first.
///
/// Endpoints of a higher number are used only while those of every lower number have nothing
/// usable (as in RFC 2782 and gRFC A56).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(pub u32);

/// Where an endpoint runs. Empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The region, such as `eu-west-1`.
    pub region: Option<Arc<str>>,
    /// The zone inside the region, such as `eu-west-1a`.
    pub zone: Option<Arc<str>>,
    /// The node (machine) inside the zone.
    pub node: Option<Arc<str>>,
    /// For whom the endpoint is meant, where its source says so.
    pub hints: Option<Arc<Hints>>,
}

/// For whom an endpoint is meant: those who run in one of the zones, or on one of the nodes. An
/// empty part says nothing. Kubernetes calls this topology hints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// The zones whose clients should use the endpoint.
    pub zones: Vec<Arc<str>>,
    /// The nodes (machines) whose clients should use the endpoint.
    pub nodes: Vec<Arc<str>>,
}

/// Free key-value pairs that a source attaches to an endpoint.
pub type Metadata = BTreeMap<Arc<str>, Arc<str>>;

/// One server. Cheap to clone: clones share one allocation.
///
/// Its identity is its first address, server name and protocol; everything else is value, which
/// may change without a new connection.
///
/// ```
/// use evenkeel::{Endpoint, Weight};
/// use std::net::SocketAddr;
///
/// let endpoint = Endpoint::new(SocketAddr::from(([10, 0, 0, 1], 8080))).with_weight(Weight(3));
/// assert_eq!(endpoint.weight(), Weight(3));
/// assert_eq!(endpoint.to_string(), "10.0.0.1:8080");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Arc<Parts>);

/// What makes two endpoints the same server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    address: Address,
    server_name: Option<Arc<str>>,
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    identity: Identity,
    more_addresses: Vec<Address>,
    weight: Weight,
    priority: Priority,
    locality: Locality,
    metadata: Metadata,
}

// === impl Address ===

impl Address {
    /// A name that whoever dials resolves, and a port.
    pub fn name(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self::Name { host: host.into(), port }
    }

    /// The path of a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into().into())
    }

    /// The IP address and port, if this is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            _ => None,
        }
    }

    /// The port, if the address has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Name { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(pair: (I, u16)) -> Self {
        Self::Socket(SocketAddr::from(pair))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Weight ===

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

// === impl Locality ===

impl Locality {
    /// What the environment says: `EVENKEEL_REGION`, `EVENKEEL_ZONE` and `EVENKEEL_NODE`, as far as
    /// they are set.
    pub fn from_env() -> Self {
        let part = |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| value.into())
        };
        Self {
            region: part("EVENKEEL_REGION"),
            zone: part("EVENKEEL_ZONE"),
            node: part("EVENKEEL_NODE"),
            hints: None,
        }
    }

    /// This place, with what it does not say taken from `other`; the hints stay.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            region: self.region.or_else(|| other.region.clone()),
            zone: self.zone.or_else(|| other.zone.clone()),
            node: self.node.or_else(|| other.node.clone()),
            hints: self.hints,
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint at `address`, with weight 1, priority 0 and nothing else known.
    pub fn new(address: impl Into<Address>) -> Self {
        Self(Arc::new(Parts {
            identity: Identity {
                address: address.into(),
                server_name: None,
                protocol: Protocol::Unspecified,
            },
            more_addresses: Vec::new(),
            weight: Weight::default(),
            priority: Priority::default(),
            locality: Locality::default(),
            metadata: Metadata::new(),
        }))
    }

    /// Further addresses of the same server, such as its other address family.
    #[must_use]
    pub fn with_more_addresses(self, addresses: impl IntoIterator<Item = Address>) -> Self {
        self.with(|parts| parts.more_addresses = addresses.into_iter().collect())
    }

    /// The name that the server goes by: for the `Host` of a request that names none, and for TLS.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<Arc<str>>) -> Self {
        self.with(|parts| parts.identity.server_name = Some(name.into()))
    }

    /// The protocol that the server is known to speak.
    #[must_use]
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        self.with(|parts| parts.identity.protocol = protocol)
    }

    /// The endpoint's share relative to others.
    #[must_use]
    pub fn with_weight(self, weight: Weight) -> Self {
        self.with(|parts| parts.weight = weight)
    }

    /// The endpoint's priority; lower numbers are used first.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        self.with(|parts| parts.priority = priority)
    }

    /// Where the endpoint runs.
    #[must_use]
    pub fn with_locality(self, locality: Locality) -> Self {
        self.with(|parts| parts.locality = locality)
    }

    /// Adds one key-value pair; the last value of a key stands.
    #[must_use]
    pub fn with_metadata(self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.with(|parts| {
            parts.metadata.insert(key.into(), value.into());
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The first address: the one that identifies the endpoint.
    pub fn addr(&self) -> &Address {
        &self.0.identity.address
    }

    /// All addresses, the identifying one first.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.0.identity.address).chain(&self.0.more_addresses)
    }

    /// The name that the server goes by, where one is known.
    pub fn server_name(&self) -> Option<&str> {
        self.0.identity.server_name.as_deref()
    }

    /// The protocol that the server is known to speak.
    pub fn protocol(&self) -> Protocol {
        self.0.identity.protocol
    }

    /// The endpoint's share relative to others.
    pub fn weight(&self) -> Weight {
        self.0.weight
    }

    /// The endpoint's priority.
    pub fn priority(&self) -> Priority {
        self.0.priority
    }

    /// Where the endpoint runs.
    pub fn locality(&self) -> &Locality {
        &self.0.locality
    }

    /// What the source attached.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.0
    }

    pub(crate) fn from_parts(parts: Arc<Parts>) -> Self {
        Self(parts)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr().fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &*self.0;
        f.debug_struct("Endpoint")
            .field("address", &parts.identity.address)
            .field("server_name", &parts.identity.server_name)
            .field("protocol", &parts.identity.protocol)
            .field("more_addresses", &parts.more_addresses)
            .field("weight", &parts.weight.0)
            .field("priority", &parts.priority.0)
            .field("locality", &parts.locality)
            .field("metadata", &parts.metadata)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_address_name_and_protocol_and_nothing_else() {
        let base = Endpoint::new(([10, 0, 0, 1], 80));
        let same = base
            .clone()
            .with_weight(Weight(7))
            .with_priority(Priority(1))
            .with_metadata("version", "2")
            .with_more_addresses([Address::from(([10, 0, 0, 2], 80))]);
        assert_eq!(base.identity(), same.identity());
        assert_ne!(base, same);
        for other in [
            Endpoint::new(([10, 0, 0, 1], 81)),
            base.clone().with_server_name("a.example"),
            base.clone().with_protocol(Protocol::Http2),
        ] {
            assert_ne!(base.identity(), other.identity());
        }
    }
}
