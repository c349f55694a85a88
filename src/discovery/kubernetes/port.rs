//! Which port of a Service's endpoints is meant.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::slice::Slice;
use crate::{
    discovery::{Reason, Update},
    endpoint::Protocol,
    error::DiscoverError,
};

/// Which port of the pods behind a Service is meant.
///
/// Slices know the ports of the *pods*, under the names that the Service gives its own ports. So a
/// name is what is meant; a number is that of the pods (`targetPort`), and not the Service's `port`.
///
/// ```
/// use evenkeel::discovery::kubernetes::ServicePort;
///
/// assert_eq!(ServicePort::from("grpc"), ServicePort::Name("grpc".into()));
/// assert_eq!(ServicePort::from(8080), ServicePort::Number(8080));
/// assert_eq!(ServicePort::default(), ServicePort::Only);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServicePort {
    /// The only one that the Service has, whatever its name; the default.
    #[default]
    Only,
    /// The one that the Service calls so.
    Name(Arc<str>),
    /// A port of the pods: one that the slices list, or any if they list none at all.
    Number(u16),
}

// === impl ServicePort ===

impl ServicePort {
    /// The number of this port in `slice`, and what it speaks.
    pub(super) fn of(&self, slice: &Slice) -> Option<(u16, Protocol)> {
        let Some(ports) = &slice.ports else {
            return match self {
                Self::Number(number) => Some((*number, Protocol::Unspecified)),
                Self::Only | Self::Name(_) => None,
            };
        };
        let found = match self {
            Self::Only => ports.first().filter(|_| ports.len() == 1),
            Self::Name(name) => ports.iter().find(|port| port.name == *name),
            Self::Number(number) => {
                ports.iter().find(|port| port.number.is_none_or(|this| this == *number))
            }
        };
        let found = found?;
        let number = match self {
            Self::Number(number) => Some(*number),
            Self::Only | Self::Name(_) => found.number,
        };
        Some((number?, found.protocol))
    }

    /// What to say when no slice has this port.
    pub(super) fn unresolved<'a>(
        &self,
        service: &str,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> Update {
        let ports: BTreeSet<String> = slices
            .flat_map(|slice| slice.ports.iter().flatten())
            .map(|port| match port.number {
                Some(number) if port.name.is_empty() => number.to_string(),
                Some(number) => format!("`{}` {number}", port.name),
                None => format!("`{}`", port.name),
            })
            .collect();
        let several = ports.len() > 1;
        let there_are = match ports.len() {
            0 => "its slices list no TCP port".to_owned(),
            _ => format!("its pods have {}", ports.into_iter().collect::<Vec<_>>().join(", ")),
        };
        match self {
            // Nobody can tell which is meant, so this is a mistake and no emptiness.
            Self::Only if several => Update::Failed(DiscoverError::new(format!(
                "{service} has several ports, name one of them: {there_are}"
            ))),
            Self::Number(_) => Update::Empty(Reason::says(format!(
                "{service} has no {self}: {there_are} (a number is the pods' port, not the Service's)"
            ))),
            Self::Only | Self::Name(_) => {
                Update::Empty(Reason::says(format!("{service} has no {self}: {there_are}")))
            }
        }
    }
}

impl From<&str> for ServicePort {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

impl From<String> for ServicePort {
    fn from(name: String) -> Self {
        Self::Name(name.into())
    }
}

impl From<u16> for ServicePort {
    fn from(number: u16) -> Self {
        Self::Number(number)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("port"),
            Self::Name(name) => write!(f, "TCP port named `{name}`"),
            Self::Number(number) => write!(f, "TCP port {number}"),
        }
    }
}
