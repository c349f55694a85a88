//! What a question to DNS comes to: records, the knowledge that there are none, or a failure.

use std::{fmt, future::Future, net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::Name;

use crate::error::DiscoverError;

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Families {
    /// IPv4 and IPv6, asked at once and merged. The default.
    #[default]
    Both,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

/// What one question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
    /// Whatever the system's own resolver says, which takes one question for all.
    All,
}

/// Records, and how long they are good for.
#[derive(Clone, Debug)]
pub(super) struct Records<T> {
    pub(super) records: Vec<T>,
    /// The least of all records on the way, those of aliases included.
    pub(super) ttl: Duration,
}

/// What an authority says.
#[derive(Clone, Debug)]
pub(super) enum Found<T> {
    Records(Records<T>),
    Nothing(Absent),
}

/// How a name has nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Absent {
    /// NODATA: the name exists, but not with records of this kind.
    NoRecords,
    /// NXDOMAIN: the name does not exist.
    NoName,
}

/// That nobody could say.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: DiscoverError,
    /// A server answered that it failed, or knows of nothing: the next name of a search list may have more
    /// luck.
    pub(super) answered: bool,
}

pub(super) type Answer<T> = Result<Found<T>, Failure>;

/// An SRV record, with what came along for its target.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) target: Name,
    pub(super) port: u16,
    pub(super) priority: u16,
    pub(super) weight: u16,
    /// From the additional section.
    pub(super) addresses: Vec<IpAddr>,
}

/// Whom a source asks. There are the real one and that of the tests.
pub(super) trait Lookup: Clone + Send + Sync + 'static {
    /// Before each look: reads anew what tells whom to ask.
    fn prepare(&mut self) -> impl Future<Output = Result<(), DiscoverError>> + Send;

    /// The full names to try for `name`, in this order.
    fn candidates(&self, name: &Name) -> Vec<Name>;

    /// Who is asked, as errors name them.
    fn whom(&self) -> String;

    /// The questions that it takes to get these addresses.
    fn questions(&self, families: Families) -> Vec<Family>;

    /// `known` is what had some the last time, of which it is not lightly believed that there is nothing.
    fn addresses(
        &self,
        name: Name,
        family: Family,
        known: bool,
    ) -> impl Future<Output = Answer<IpAddr>> + Send + 'static;

    fn services(
        &self,
        name: Name,
        known: bool,
    ) -> impl Future<Output = Answer<Service>> + Send + 'static;
}

// === impl Families ===

impl Families {
    pub(super) fn allow(self, address: IpAddr) -> bool {
        match self {
            Self::Both => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

// === impl Absent ===

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRecords => "has no such records (NODATA)",
            Self::NoName => "does not exist (NXDOMAIN)",
        })
    }
}

// === impl Family ===

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
            Self::All => "addresses",
        })
    }
}
