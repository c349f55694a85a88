//! Search lists, as glibc has them (`res_search`; resolv.conf(5)).

use hickory_resolver::proto::rr::Name;

/// The domains in which names are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    domains: Vec<Name>,
    ndots: usize,
}

/// glibc's own cap.
const MOST_DOTS: usize = 15;

// === impl Search ===

impl Search {
    pub(super) fn new(domains: Vec<Name>, ndots: usize) -> Self {
        Self { domains, ndots: ndots.min(MOST_DOTS) }
    }

    /// The full names that `name` may stand for, in the order in which to ask.
    ///
    /// One with a trailing dot stands for itself. One with fewer dots than `ndots` is looked for in
    /// the domains first and as it is last, any other the other way round.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        // RFC 6761 6.3: of localhost nobody is asked.
        if name.is_fqdn() || name.is_localhost() {
            return vec![as_it_is];
        }
        let dots = name.iter().count().saturating_sub(1);
        let in_domains = self.domains.iter().filter_map(|domain| {
            // Too long together: there is no such name.
            name.clone().append_domain(domain).ok()
        });
        let mut candidates: Vec<Name> = in_domains.collect();
        if dots >= self.ndots {
            candidates.insert(0, as_it_is);
        } else {
            candidates.push(as_it_is);
        }
        // A search domain of "." says the same again.
        let mut seen = std::collections::HashSet::new();
        candidates.retain(|candidate| seen.insert(candidate.clone()));
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R13.
    #[test]
    fn r13_search_lists_as_glibc_does_them() {
        let shop = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
        for (ndots, domains, name, expected) in [
            (
                5,
                &shop[..],
                "users",
                &[
                    "users.shop.svc.cluster.local.",
                    "users.svc.cluster.local.",
                    "users.cluster.local.",
                    "users.",
                ][..],
            ),
            (
                5,
                &shop[..1],
                "users.shop.svc.cluster.local",
                &[
                    "users.shop.svc.cluster.local.shop.svc.cluster.local.",
                    "users.shop.svc.cluster.local.",
                ],
            ),
            // A trailing dot asks one name.
            (5, &shop[..], "users.shop.svc.cluster.local.", &["users.shop.svc.cluster.local."]),
            (5, &shop[..], "users.", &["users."]),
            (
                1,
                &shop[..1],
                "api.example",
                &["api.example.", "api.example.shop.svc.cluster.local."],
            ),
            (1, &shop[..1], "api", &["api.shop.svc.cluster.local.", "api."]),
            (0, &shop[..1], "api", &["api.", "api.shop.svc.cluster.local."]),
            (1, &[], "api", &["api."]),
            (1, &["."], "api", &["api."]),
            (1, &["a.", "A"], "api", &["api.a.", "api."]),
            (5, &shop[..], "localhost", &["localhost."]),
            (
                99,
                &["a"],
                "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16",
                &[
                    "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.",
                    "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.a.",
                ],
            ),
        ] {
            let domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
            let candidates = Search::new(domains, ndots).candidates(&name.parse().unwrap());
            let candidates: Vec<_> = candidates.iter().map(Name::to_ascii).collect();
            assert_eq!(candidates, expected, "{ndots} {name}");
        }
        // 252 bytes on the wire: no room for another two labels.
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(58)].join(".");
        let search = Search::new(vec![long.parse().unwrap()], 5);
        let name: Name = "x.y".parse().unwrap();
        assert_eq!(search.candidates(&name).len(), 1, "what is too long is left out");
    }
}
