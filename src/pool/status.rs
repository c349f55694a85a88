//! What observers read: the endpoints and how they do, and what discovery last said.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    discovery::Reason,
    endpoint::Endpoint,
    error::{DiscoverError, chain},
    node::{LatencyModel, LinkState, Node},
};

/// A balancer at one moment. Printed, it is a table:
///
/// ```text
/// static://10.0.0.1:80,10.0.0.2:80: 2 endpoints, 0 calls waiting, discovered 8.1s ago
///   10.0.0.1:80                  Serving       up              1 in flight  latency   11.2ms  success 1.000
///   10.0.0.2:80                  Serving       failed          0 in flight  latency        -  success     -
///       next dial in 1.2s, the last: connection refused
/// ```
///
/// The second column is the [`EndpointState`], what discovery wants of the endpoint; the third the
/// [`LinkState`], how its connection is. So an endpoint that is listed and cannot be reached is
/// `Serving` and `failed`. A dash stands for what is not known: the latency is measured where the
/// policy needs it, or with `measure_latency(true)`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The name of what is balanced, as in its errors.
    pub target: Arc<str>,
    /// What discovery last said.
    pub discovery: DiscoveryStatus,
    /// The endpoints that discovery lists, in the order of tiers; then those that are left out or
    /// outside of the subset, and then those that drain.
    pub endpoints: Vec<EndpointStatus>,
    /// Calls that wait for an endpoint.
    pub waiting: usize,
    /// Whether the balancer is gone.
    pub closed: bool,
}

/// What discovery last said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiscoveryStatus {
    /// Time since it last said anything; `None` before it has.
    pub heard: Option<Duration>,
    /// Time since it last gave a set, or said that there is none. The age of what is in use.
    pub answered: Option<Duration>,
    /// Why the set is known to be empty, if it is.
    pub empty: Option<Reason>,
    /// Its last error, until an answer without one.
    pub error: Option<DiscoverError>,
}

/// An endpoint at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// The endpoint, as discovery describes it now.
    pub endpoint: Endpoint,
    /// Whether it is used, left out, or on its way out.
    pub state: EndpointState,
    /// Its connection.
    pub link: LinkState,
    /// Why its connection last failed, if it ever did.
    pub last_failure: Option<String>,
    /// Time until it is dialled again, while its connection has failed.
    pub next_dial: Option<Duration>,
    /// Requests in flight.
    pub in_flight: u32,
    /// The latency to expect up to the response head, or the age of the oldest request that waits for
    /// one, if that is more. What was measured fades towards the average of the pool's latest answers within
    /// some seconds, so this is no record of the endpoint's own. Measured where the policy needs it, or with
    /// `measure_latency(true)`.
    pub latency: Option<Duration>,
    /// The share of requests that succeed, 0.001 to 1: of those that were sent. What could not be
    /// sent shows in the connection, and does not lower it.
    pub success: f64,
}

/// Whether an endpoint is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointState {
    /// It takes requests.
    Serving,
    /// It is listed with weight 0 beside others of its priority that have one, and takes nothing new.
    LeftOut,
    /// It is not of the [`Subset`](crate::pool::Subset) that the balancer uses: it has no connection, and
    /// nothing is known of it.
    OutsideSubset,
    /// Discovery no longer lists it; the requests that it has may end.
    Draining,
}

/// What the driver knows of discovery.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiscoveryView {
    pub(crate) heard_at: Option<Instant>,
    pub(crate) answered_at: Option<Instant>,
    pub(crate) empty: Option<Reason>,
    pub(crate) error: Option<DiscoverError>,
}

// === impl DiscoveryView ===

impl DiscoveryView {
    /// What discovery last said, where that is why there is no endpoint.
    pub(crate) fn last_word(&self) -> Option<DiscoverError> {
        let nothing_yet = || self.heard_at.is_none().then(|| DiscoverError::new("nothing yet"));
        let empty = || self.empty.as_ref().map(|reason| DiscoverError::new(reason.to_string()));
        self.error.clone().or_else(empty).or_else(nothing_yet)
    }

    pub(crate) fn status(&self, now: Instant) -> DiscoveryStatus {
        let age = |at: Instant| now.saturating_duration_since(at);
        DiscoveryStatus {
            heard: self.heard_at.map(age),
            answered: self.answered_at.map(age),
            empty: self.empty.clone(),
            error: self.error.clone(),
        }
    }
}

// === impl EndpointStatus ===

impl EndpointStatus {
    pub(crate) fn of(node: &Node, model: LatencyModel, now: Instant) -> Self {
        let draining = node.is_retired();
        let link = node.link_state();
        let next_dial = match link {
            LinkState::Failed { until } => Some(until.saturating_duration_since(now)),
            _ => None,
        };
        Self {
            endpoint: node.endpoint(),
            state: if draining { EndpointState::Draining } else { EndpointState::Serving },
            link,
            next_dial,
            last_failure: node.link.cause().map(|cause| chain(&cause)),
            in_flight: node.in_flight(),
            latency: (model != LatencyModel::None).then(|| node.latency(model, now)).flatten(),
            success: node.success(now),
        }
    }

    /// Of one that has no node.
    pub(crate) fn outside(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.clone(),
            state: EndpointState::OutsideSubset,
            link: LinkState::Idle,
            next_dial: None,
            last_failure: None,
            in_flight: 0,
            latency: None,
            success: 1.0,
        }
    }

    pub(crate) fn left_out(mut self) -> Self {
        if self.state == EndpointState::Serving {
            self.state = EndpointState::LeftOut;
        }
        self
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}, {} waiting",
            self.target,
            counted(self.endpoints.len(), "endpoint"),
            counted(self.waiting, "call"),
        )?;
        match self.discovery.answered {
            Some(age) => write!(f, ", discovered {age:.1?} ago")?,
            None => f.write_str(", not discovered yet")?,
        }
        if let Some(reason) = &self.discovery.empty {
            write!(f, ", empty: {reason}")?;
        }
        if self.closed {
            f.write_str(", closed")?;
        }
        if let Some(error) = &self.discovery.error {
            write!(f, "\n  discovery error: {error}")?;
        }
        for status in &self.endpoints {
            let latency = status.latency.map_or("-".to_owned(), |latency| format!("{latency:.1?}"));
            let success = match status.next_dial {
                None => format!("{:.3}", status.success),
                Some(_) => "-".to_owned(),
            };
            write!(
                f,
                "\n  {:<28} {:<13} {:<11} {:>5} in flight  latency {latency:>8}  success {success:>5}",
                status.endpoint.to_string(),
                format!("{:?}", status.state),
                status.link.name(),
                status.in_flight,
            )?;
            if let Some(next_dial) = status.next_dial {
                write!(f, "\n      next dial in {next_dial:.1?}")?;
                if let Some(failure) = &status.last_failure {
                    write!(f, ", the last: {failure}")?;
                }
            }
        }
        Ok(())
    }
}
