//! Where this process runs, found in the slices of its own Service.

use std::{net::IpAddr, sync::Arc};

use super::{
    Feed, Kubernetes,
    name::{RULE, is_label},
    slice::Slice,
    world::Reader,
};
use crate::endpoint::Locality;

/// The Service that this process itself is an endpoint of.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) namespace: Arc<str>,
    pub(super) service: Arc<str>,
}

/// The search for the own place. A pod stays where it is, so it ends with what it finds.
pub(super) struct Search {
    pod: Option<Arc<str>>,
    address: Option<IpAddr>,
    reader: Reader,
    /// Keeps the watch going.
    _feed: Arc<Feed>,
}

// === impl Search ===

impl Search {
    /// `None` if nobody said what to look in.
    pub(super) fn begin(cluster: &Kubernetes) -> Option<Self> {
        let Own { namespace, service } = cluster.own.as_ref()?;
        if !is_label(namespace) || !is_label(service) {
            tracing::warn!(%namespace, %service, "the own Service has a name that cannot be: {RULE}");
            return None;
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let pod = cluster.own_pod.clone();
        let pod =
            pod.or_else(|| Some(variable("POD_NAME").or_else(|| variable("HOSTNAME"))?.into()));
        let address = variable("POD_IP").and_then(|address| address.parse().ok());
        let feed = cluster.feed(namespace, service);
        let reader = feed.world.read(service);
        Some(Self { pod, address, reader, _feed: feed })
    }

    /// The own place, once it is found; never if the watch cannot go on.
    pub(super) async fn found(&mut self) -> Locality {
        loop {
            let (_, changes) = self.reader.look();
            let slices = changes.iter().filter_map(|(_, slice)| slice.as_deref());
            if let Some(place) = self.look(slices) {
                tracing::info!(
                    zone = place.zone.as_deref().unwrap_or("unknown"),
                    node = place.node.as_deref().unwrap_or("unknown"),
                    "found the own place in the slices of the own Service"
                );
                return place;
            }
            if !self.reader.changed().await {
                std::future::pending::<()>().await;
            }
        }
    }

    fn look<'a>(&self, slices: impl Iterator<Item = &'a Slice>) -> Option<Locality> {
        let mut entries = slices.flat_map(|slice| &slice.endpoints);
        let own = entries.find(|entry| {
            let pod = entry.pod.as_ref().map(|pod| &pod.name);
            (pod.is_some() && pod == self.pod.as_ref()) || self.address == Some(entry.address)
        })?;
        let Locality { zone, node, .. } = own.locality.clone();
        (zone.is_some() || node.is_some()).then(|| Locality { zone, node, ..Locality::default() })
    }
}
