//! Which endpoints are near, for a process that knows where it runs.

use std::sync::Arc;

use crate::{
    discovery::Here,
    endpoint::{Hints, Locality},
    node::Node,
};

/// Whether endpoints near this process are preferred, and which those are.
///
/// Those that are near form a tier of their own. The others stay in the set, and are used when no
/// near one can be. Where this process runs is said by [`Builder::here`](crate::Builder::here), by
/// the environment, or by the source itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LocalityPreference {
    /// Where an endpoint runs makes no difference.
    Off,
    /// As the endpoints' [`Hints`] say, by the rules of kube-proxy; the default. If all endpoints of a
    /// priority have hints for nodes and some of them name the own node, those are preferred; if all
    /// have hints for zones and some name the own zone, those are. Endpoints without hints are all
    /// the same.
    #[default]
    Hints,
    /// Those of the own node, then of the own zone, then of the own region, then the rest; whatever
    /// hints say. Mind that a zone with few endpoints and many clients overloads them.
    Nearest,
}

/// How near an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Distance {
    Node,
    Zone,
    Region,
    Far,
}

/// What is preferred, seen from here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standpoint {
    pub(crate) preference: LocalityPreference,
    pub(crate) here: Locality,
}

/// Where this process runs.
pub(crate) struct Place {
    /// As its configuration or environment says.
    known: Locality,
    /// As the source finds out, of what the former does not say.
    found: Here,
    /// As the last snapshot was made for.
    stood: Locality,
}

// === impl Standpoint ===

impl Standpoint {
    /// Learns the own zone and region from an endpoint on the own node, where only that is known.
    pub(crate) fn informed_by<'a>(mut self, nodes: impl Iterator<Item = &'a Arc<Node>>) -> Self {
        let wants = self.preference != LocalityPreference::Off && self.here.zone.is_none();
        if let (true, Some(own)) = (wants, self.here.node.clone()) {
            let mut endpoints = nodes.map(|node| node.endpoint());
            let neighbour = endpoints.find(|endpoint| {
                let place = endpoint.locality();
                place.node.as_ref() == Some(&own) && place.zone.is_some()
            });
            if let Some(neighbour) = neighbour {
                self.here = self.here.or(neighbour.locality());
            }
        }
        self
    }

    /// How near each of the endpoints of one priority is.
    pub(crate) fn distances(&self, localities: &[Locality]) -> Vec<Distance> {
        match self.preference {
            LocalityPreference::Off => vec![Distance::Far; localities.len()],
            LocalityPreference::Hints => self.hinted(localities),
            LocalityPreference::Nearest => {
                localities.iter().map(|locality| self.distance(locality)).collect()
            }
        }
    }

    fn hinted(&self, localities: &[Locality]) -> Vec<Distance> {
        let by_node = Hinted::all(localities, self.here.node.as_ref(), |hints| &hints.nodes);
        let by_zone = Hinted::all(localities, self.here.zone.as_ref(), |hints| &hints.zones);
        let distance = |locality: &Locality| {
            if by_node.as_ref().is_some_and(|hinted| hinted.names(locality)) {
                Distance::Node
            } else if by_zone.as_ref().is_some_and(|hinted| hinted.names(locality)) {
                Distance::Zone
            } else {
                Distance::Far
            }
        };
        localities.iter().map(distance).collect()
    }

    fn distance(&self, other: &Locality) -> Distance {
        let same = |own: &Option<Arc<str>>, other: &Option<Arc<str>>| own.is_some() && own == other;
        if same(&self.here.node, &other.node) {
            Distance::Node
        } else if same(&self.here.zone, &other.zone) {
            Distance::Zone
        } else if same(&self.here.region, &other.region) {
            Distance::Region
        } else {
            Distance::Far
        }
    }
}

// === impl Place ===

impl Place {
    pub(crate) fn new(known: Locality, found: Here) -> Self {
        Self { known, found, stood: Locality::default() }
    }

    fn now(&self) -> Locality {
        self.known.clone().or(&self.found.get())
    }

    /// Whether it is another than that of the last snapshot.
    pub(crate) fn has_moved(&self) -> bool {
        self.now() != self.stood
    }

    /// The place, as a snapshot is now made for it.
    pub(crate) fn settle(&mut self) -> Locality {
        self.stood = self.now();
        self.stood.clone()
    }
}

/// Hints of one kind that may be followed: every endpoint has them, and some name the own place.
struct Hinted<'a> {
    own: &'a Arc<str>,
    kind: fn(&Hints) -> &Vec<Arc<str>>,
}

// === impl Hinted ===

impl<'a> Hinted<'a> {
    fn all(
        localities: &[Locality],
        own: Option<&'a Arc<str>>,
        kind: fn(&Hints) -> &Vec<Arc<str>>,
    ) -> Option<Self> {
        let hinted = Self { own: own?, kind };
        let have = |locality: &Locality| {
            locality.hints.as_ref().is_some_and(|hints| !kind(hints).is_empty())
        };
        let usable =
            localities.iter().all(have) && localities.iter().any(|locality| hinted.names(locality));
        usable.then_some(hinted)
    }

    fn names(&self, locality: &Locality) -> bool {
        locality.hints.as_ref().is_some_and(|hints| (self.kind)(hints).contains(self.own))
    }
}

#[cfg(test)]
mod tests {
    use super::{Distance::*, *};

    /// Written `node/zone/region`, an empty part being unknown.
    fn place(text: &str) -> Locality {
        let mut parts = text.split('/').map(|part| (!part.is_empty()).then(|| Arc::from(part)));
        let mut next = || parts.next().flatten();
        Locality { node: next(), zone: next(), region: next(), hints: None }
    }

    fn hinted(zones: &[&str], nodes: &[&str]) -> Locality {
        let names = |of: &[&str]| of.iter().map(|&name| Arc::from(name)).collect();
        let hints = Hints { zones: names(zones), nodes: names(nodes) };
        Locality { hints: Some(Arc::new(hints)), ..Locality::default() }
    }

    fn distances(
        preference: LocalityPreference,
        here: &str,
        localities: &[Locality],
    ) -> Vec<Distance> {
        Standpoint { preference, here: place(here) }.distances(localities)
    }

    /// The rules of kube-proxy, case by case (`CategorizeEndpoints` and its tests are the model).
    #[test]
    fn hints_count_when_all_have_them_and_one_is_for_here() {
        use LocalityPreference::Hints;
        let zones = [hinted(&["a"], &[]), hinted(&["b", "a"], &[]), hinted(&["b"], &[])];
        assert_eq!(distances(Hints, "/a/", &zones), [Zone, Zone, Far]);
        assert_eq!(distances(Hints, "/b/", &zones), [Far, Zone, Zone]);
        assert_eq!(distances(Hints, "/c/", &zones), [Far; 3], "none for here");
        assert_eq!(distances(Hints, "", &zones), [Far; 3], "here is unknown");
        let one_lacks = [hinted(&["a"], &[]), Locality::default()];
        assert_eq!(distances(Hints, "/a/", &one_lacks), [Far; 2], "not all have one");
        assert_eq!(distances(Hints, "n/a/r", &[place("n/a/r")]), [Far], "places are no hints");
        assert_eq!(distances(Hints, "/a/", &[]), []);
    }

    #[test]
    fn hints_for_the_node_go_before_those_for_the_zone() {
        use LocalityPreference::Hints;
        let both = [hinted(&["a"], &["n1"]), hinted(&["a"], &["n2"]), hinted(&["b"], &["n3"])];
        assert_eq!(distances(Hints, "n1/a/", &both), [Node, Zone, Far]);
        assert_eq!(distances(Hints, "n9/a/", &both), [Zone, Zone, Far], "none for the node");
        let one_lacks_a_node = [hinted(&["a"], &["n1"]), hinted(&["a"], &[])];
        assert_eq!(distances(Hints, "n1/a/", &one_lacks_a_node), [Zone, Zone]);
    }

    #[test]
    fn the_nearest_are_of_the_node_the_zone_the_region() {
        use LocalityPreference::{Nearest, Off};
        let all = [place("n1/a/r"), place("n2/a/r"), place("n3/b/r"), place("n4/c/s"), place("")];
        assert_eq!(distances(Nearest, "n1/a/r", &all), [Node, Zone, Region, Far, Far]);
        assert_eq!(distances(Nearest, "/a/", &all), [Zone, Zone, Far, Far, Far]);
        assert_eq!(distances(Nearest, "", &all), [Far; 5], "unknown is equal to nothing");
        assert_eq!(distances(Off, "n1/a/r", &all), [Far; 5]);
    }
}
