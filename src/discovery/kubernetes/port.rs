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
    /// The only one that the Service has, whatever its name; the default. Where it has several from the
    /// beginning, the source fails; where it gets another later, the one that it had goes on to be used,
    /// and the error says that it should be named.
    #[default]
    Only,
    /// The one that the Service calls so.
    Name(Arc<str>),
    /// A port of the pods: one that the slices list, or any if they list none at all.
    Number(u16),
}

/// The port that is wanted, through what becomes of the Service.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    port: ServicePort,
    /// The name and number of the only port, when there was but one.
    former: Option<(Arc<str>, u16)>,
}

// === impl ServicePort ===

impl ServicePort {
    /// The number of this port in `slice`, and what it speaks.
    fn of(&self, slice: &Slice) -> Option<(u16, Protocol)> {
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

    fn unresolved<'a>(&self, service: &str, slices: impl Iterator<Item = &'a Slice>) -> Update {
        let (ports, there_are) = listed_in(slices);
        match self {
            // Nobody can tell which is meant, so this is a mistake and no emptiness.
            Self::Only if ports > 1 => Update::Failed(several(service, &there_are)),
            Self::Number(_) => Update::Empty(Reason::says(format!(
                "{service} has no {self}: {there_are} (a number is the pods' port, not the Service's)"
            ))),
            Self::Only | Self::Name(_) => {
                Update::Empty(Reason::says(format!("{service} has no {self}: {there_are}")))
            }
        }
    }
}

/// How many ports `slices` list, and which.
fn listed_in<'a>(slices: impl Iterator<Item = &'a Slice>) -> (usize, String) {
    let ports: BTreeSet<String> = slices
        .flat_map(|slice| slice.ports.iter().flatten())
        .map(|port| match port.number {
            Some(number) if port.name.is_empty() => number.to_string(),
            Some(number) => format!("`{}` {number}", port.name),
            None => format!("`{}`", port.name),
        })
        .collect();
    let there_are = match ports.len() {
        0 => "its slices list no TCP port".to_owned(),
        _ => format!("its pods have {}", Vec::from_iter(ports.iter().cloned()).join(", ")),
    };
    (ports.len(), there_are)
}

fn several(service: &str, there_are: &str) -> DiscoverError {
    DiscoverError::new(format!("{service} has several ports, name one of them: {there_are}"))
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

// === impl Wanted ===

impl Wanted {
    pub(super) fn new(port: ServicePort) -> Self {
        Self { port, former: None }
    }

    /// The number of the port in `slice`, and what it speaks.
    pub(super) fn of(&self, slice: &Slice) -> Option<(u16, Protocol)> {
        self.port.of(slice).or_else(|| {
            let (name, number) = self.former.as_ref().filter(|_| self.is_unclear_in(slice))?;
            // A port need have a name only once there is another.
            let by_name = ServicePort::Name(Arc::clone(name)).of(slice);
            by_name.or_else(|| ServicePort::Number(*number).of(slice))
        })
    }

    /// Whether the endpoints of `slice` have several ports, of which any may be meant.
    pub(super) fn is_unclear_in(&self, slice: &Slice) -> bool {
        matches!(self.port, ServicePort::Only)
            && slice.ports.as_ref().is_some_and(|ports| ports.len() > 1)
            && !slice.endpoints.is_empty()
    }

    /// Takes note of the only port, where `slices` are clear.
    pub(super) fn settle<'a>(&mut self, mut slices: impl Iterator<Item = &'a Slice>) {
        if !matches!(self.port, ServicePort::Only) {
            return;
        }
        let only = slices.find_map(|slice| match slice.ports.as_deref()? {
            [port] => Some((Arc::clone(&port.name), port.number?)),
            _ => None,
        });
        if only.is_some() {
            self.former = only;
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.former.is_some()
    }

    /// What is wrong where `slices` are unclear.
    pub(super) fn unclear<'a>(
        service: &str,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> DiscoverError {
        several(service, &listed_in(slices).1)
    }

    /// What to say when no slice has this port.
    pub(super) fn unresolved<'a>(
        &self,
        service: &str,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> Update {
        self.port.unresolved(service, slices)
    }
}
