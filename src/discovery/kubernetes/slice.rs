//! One EndpointSlice, reduced to what balancing needs.
//!
//! What the API server sends is many times larger (managed fields, owner references), and is let go
//! as soon as it is read. The rules for the conditions are kube-proxy's and those of the API's
//! documentation.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1 as api;

use crate::endpoint::{Hints, Locality, Protocol};

/// The label that says to which Service a slice belongs.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) service: Arc<str>,
    /// `None`: the slice has no list of ports, so that any number will do.
    pub(super) ports: Option<Vec<Port>>,
    pub(super) endpoints: Vec<Entry>,
    /// Names instead of addresses, which the API has no semantics for: it is left out.
    pub(super) of_names: bool,
}

/// A TCP port of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Empty where a Service has but one.
    pub(super) name: Arc<str>,
    /// That of the pods, not of the Service. `None`: any.
    pub(super) number: Option<u16>,
    pub(super) protocol: Protocol,
}

/// An endpoint of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) address: IpAddr,
    pub(super) class: Class,
    pub(super) pod: Option<Pod>,
    pub(super) locality: Locality,
}

/// What an endpoint's conditions make of it; the better, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Not used.
    Out,
    /// On its way out but serving: used where nothing is ready.
    LastResort,
    Ready,
}

/// What an endpoint stands for, as its slices tell it: the same in the slices of both families.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pod {
    pub(super) uid: Arc<str>,
    pub(super) name: Arc<str>,
}

// === impl Slice ===

impl Slice {
    /// The name of a slice, and the slice, if it belongs to a Service.
    pub(super) fn read(slice: api::EndpointSlice) -> (Arc<str>, Option<Self>) {
        let name: Arc<str> = slice.metadata.name.clone().unwrap_or_default().into();
        let of_service = Self::of_service(slice).filter(|_| !name.is_empty());
        (name, of_service)
    }

    fn of_service(slice: api::EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels?.remove(SERVICE_LABEL)?;
        let of_names = !matches!(&*slice.address_type, "IPv4" | "IPv6");
        let mut names = Names::default();
        let mut endpoints = Vec::new();
        if !of_names {
            endpoints.reserve_exact(slice.endpoints.len());
            endpoints
                .extend(slice.endpoints.into_iter().filter_map(|of| Entry::read(of, &mut names)));
        }
        // An empty list is as good as none: a headless Service need not name its ports.
        let ports = slice.ports.filter(|ports| !ports.is_empty());
        let ports = ports.map(|ports| ports.into_iter().filter_map(Port::read).collect());
        Some(Self { service: service.into(), ports, endpoints, of_names })
    }
}

// === impl Port ===

impl Port {
    fn read(port: api::EndpointPort) -> Option<Self> {
        if port.protocol.is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        let protocol = match port.app_protocol.as_deref() {
            Some("kubernetes.io/h2c" | "grpc") => Protocol::Http2,
            _ => Protocol::Unspecified,
        };
        let number = match port.port {
            Some(number) => Some(u16::try_from(number).ok().filter(|&number| number != 0)?),
            None => None,
        };
        Some(Self { name: port.name.unwrap_or_default().into(), number, protocol })
    }
}

// === impl Entry ===

impl Entry {
    fn read(endpoint: api::Endpoint, names: &mut Names) -> Option<Self> {
        // Further addresses are of no defined use; kube-proxy takes the first as well.
        let address = endpoint.addresses.first()?.parse().ok()?;
        let pod = endpoint.target_ref.and_then(|of| {
            let name = of.name.unwrap_or_default();
            let uid = of.uid.unwrap_or_else(|| format!("{} {name}", of.kind.unwrap_or_default()));
            (!name.is_empty()).then(|| Pod { uid: uid.into(), name: name.into() })
        });
        let locality = Locality {
            region: None,
            zone: endpoint.zone.map(|zone| names.share(zone)),
            node: endpoint.node_name.map(|node| names.share(node)),
            hints: endpoint.hints.and_then(|hints| names.hints(hints)),
        };
        Some(Self { address, class: Class::of(endpoint.conditions.as_ref()), pod, locality })
    }

    /// Where it runs, if it is used as `class`. Hints are for what is ready: a last resort serves
    /// whoever asks.
    pub(super) fn locality(&self, class: Class) -> Locality {
        let hints = self.locality.hints.clone().filter(|_| class == Class::Ready);
        Locality { hints, ..self.locality.clone() }
    }
}

// === impl Class ===

impl Class {
    fn of(conditions: Option<&api::EndpointConditions>) -> Self {
        let Some(conditions) = conditions else { return Self::Ready };
        let terminating = conditions.terminating == Some(true);
        // Unknown is ready. Known to be ready overrides the rest: a Service that publishes addresses
        // that are not ready says so of those that terminate, too.
        let ready = conditions.ready.unwrap_or(!terminating);
        let serving = conditions.serving.unwrap_or(conditions.ready.unwrap_or(true));
        match (ready, serving && terminating) {
            (true, _) => Self::Ready,
            (false, true) => Self::LastResort,
            (false, false) => Self::Out,
        }
    }
}

/// The names in a slice, each kept once.
#[derive(Default)]
struct Names {
    strings: HashSet<Arc<str>>,
    hints: HashSet<Arc<Hints>>,
}

// === impl Names ===

impl Names {
    fn share(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.strings.get(&*name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.strings.insert(Arc::clone(&name));
        name
    }

    fn hints(&mut self, hints: api::EndpointHints) -> Option<Arc<Hints>> {
        let zones = hints.for_zones.unwrap_or_default().into_iter();
        let nodes = hints.for_nodes.unwrap_or_default().into_iter();
        let hints = Hints {
            zones: zones.map(|zone| self.share(zone.name)).collect(),
            nodes: nodes.map(|node| self.share(node.name)).collect(),
        };
        if hints == Hints::default() {
            return None;
        }
        if let Some(known) = self.hints.get(&hints) {
            return Some(Arc::clone(known));
        }
        let hints = Arc::new(hints);
        self.hints.insert(Arc::clone(&hints));
        Some(hints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Class {
        Class::of(Some(&api::EndpointConditions { ready, serving, terminating }))
    }

    /// R10: every combination of the three conditions, each of which may be unknown.
    #[test]
    fn r10_conditions_decide_as_the_api_documents_them() {
        const T: Option<bool> = Some(true);
        const F: Option<bool> = Some(false);
        assert_eq!(Class::of(None), Class::Ready);
        for serving in [None, T, F] {
            for terminating in [None, T, F] {
                // A Service that publishes what is not ready says ready of it, whatever else holds.
                assert_eq!(class(T, serving, terminating), Class::Ready);
                let last_resort = serving == T && terminating == T;
                let expected = if last_resort { Class::LastResort } else { Class::Out };
                assert_eq!(class(F, serving, terminating), expected);
            }
            assert_eq!(class(None, serving, None), Class::Ready);
            assert_eq!(class(None, serving, F), Class::Ready);
        }
        assert_eq!(class(None, None, T), Class::LastResort);
        assert_eq!(class(None, T, T), Class::LastResort);
        assert_eq!(class(None, F, T), Class::Out);
    }

    /// The recorded list of a real API server (1.36.2).
    #[test]
    fn reads_what_a_real_server_lists() {
        let list = include_str!("../../../tests/kubernetes/recorded/list.json");
        let list: kube::core::ObjectList<api::EndpointSlice> = serde_json::from_str(list).unwrap();
        let (name, slice) = Slice::read(list.items[0].clone());
        let slice = slice.unwrap();
        assert_eq!((&*name, &*slice.service), ("api-1", "api"));
        assert!(!slice.of_names);
        let ports = slice.ports.unwrap();
        assert_eq!((&*ports[0].name, ports[0].number), ("http", Some(8080)));
        let [entry] = &slice.endpoints[..] else { panic!("{:?}", slice.endpoints) };
        assert_eq!(entry.address.to_string(), "10.77.0.2");
        assert_eq!(entry.class, Class::Ready);
        assert_eq!(entry.locality.zone.as_deref(), Some("z1"));
        assert_eq!(entry.locality.node.as_deref(), Some("n1"));
        assert_eq!(entry.locality.hints.as_ref().map(|hints| hints.zones.len()), Some(1));
        assert_eq!(entry.pod, None);
    }

    #[test]
    fn only_tcp_ports_with_a_possible_number_count() {
        let port = |protocol: Option<&str>, number, app: Option<&str>| {
            Port::read(api::EndpointPort {
                protocol: protocol.map(Into::into),
                port: number,
                app_protocol: app.map(Into::into),
                ..Default::default()
            })
        };
        assert!(port(Some("UDP"), Some(53), None).is_none());
        for number in [0, -1, 65_536] {
            assert!(port(None, Some(number), None).is_none());
        }
        assert_eq!(port(None, None, None).unwrap().number, None);
        let http2 = port(Some("TCP"), Some(80), Some("kubernetes.io/h2c")).unwrap();
        assert_eq!((http2.number, http2.protocol), (Some(80), Protocol::Http2));
    }
}
