//! R10: slices to endpoints, the exact union.

use super::*;

/// R10: three slices, one address in two of them, one that moves, one slice deleted, 250 endpoints.
#[tokio::test]
async fn r10_three_slices_are_their_exact_union() {
    let api = ApiServer::start().await;
    let of = |range: std::ops::Range<usize>| slice("cart", range.map(|index| ready(&ip(index))));
    api.put("shop", "cart-a", of(0..100));
    api.put("shop", "cart-b", of(99..200)); // 99 is in both
    api.put("shop", "cart-c", of(200..250));
    api.put("shop", "other", slice("users", [ready("10.9.9.9")]));
    api.put("bank", "cart-z", slice("cart", [ready("10.9.9.8")]));
    let expected = |range: std::ops::Range<usize>| {
        names(&range.map(|index| format!("{}:8080", ip(index))).collect::<Vec<_>>())
    };
    fn names(all: &[String]) -> Vec<String> {
        let mut all = all.to_vec();
        all.sort();
        all
    }
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, expected(0..250));

    // One address moves, in two steps: for a moment it is in both slices, or in neither.
    api.put("shop", "cart-b", of(100..200));
    api.put("shop", "cart-a", of(0..99));
    let moved = (200..251).chain([99]).map(|index| ready(&ip(index)));
    api.put("shop", "cart-c", slice("cart", moved));
    loop {
        let set = updates.set().await;
        assert!(set.len() >= 249, "nothing but the one that moves may be missing");
        if set.len() == 251 {
            assert_eq!(set, expected(0..251));
            break;
        }
    }
    api.delete("shop", "cart-b");
    let left: Vec<String> =
        (0..100).chain(200..251).map(|index| format!("{}:8080", ip(index))).collect();
    assert_eq!(updates.set().await, names(&left));
}

/// R10: the ports of the slices, by name and by number.
#[tokio::test]
async fn r10_ports_are_found_by_name_and_number() {
    let api = ApiServer::start().await;
    let ports = |grpc: u16| {
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "grpc", "port": grpc},
            {"name": "dns", "port": 53, "protocol": "UDP"}])
    };
    // A named target port may be another number in other pods.
    api.put("shop", "cart-a", slice_with("cart", ports(9090), [ready("10.0.0.1")]));
    api.put("shop", "cart-b", slice_with("cart", ports(9091), [ready("10.0.0.2")]));
    let cart = cluster(&api).service("shop", "cart");
    let set = |source: KubernetesService| async { Updates::of(source).set().await };
    assert_eq!(set(cart.clone().port("http")).await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(set(cart.clone().port("grpc")).await, ["10.0.0.1:9090", "10.0.0.2:9091"]);
    assert_eq!(set(cart.clone().port(8080)).await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(set(cart.clone().port(9091)).await, ["10.0.0.2:9091"]);
    let several = Updates::of(cart.clone()).failed().await;
    assert_eq!(
        several,
        "Service `shop/cart` has several ports, name one of them: its pods have `grpc` 9090, \
         `grpc` 9091, `http` 8080"
    );
    let reason = Updates::of(cart.clone().port(80)).empty().await;
    assert!(reason.contains("no TCP port 80: its pods have `grpc` 9090"), "{reason}");
    assert!(reason.contains("the pods' port, not the Service's"), "{reason}");
    let reason = Updates::of(cart.port("dns")).empty().await;
    assert!(reason.contains("no TCP port named `dns`: its pods have"), "{reason}");

    api.put("shop", "one", slice("one", [ready("10.0.0.3")]));
    let one = cluster(&api).service("shop", "one");
    assert_eq!(set(one).await, ["10.0.0.3:8080"], "the only port need not be named");
    // A headless Service need not declare any: then a number is taken at its word.
    api.put("shop", "bare", slice_with("bare", Value::Null, [ready("10.0.0.4")]));
    let bare = cluster(&api).service("shop", "bare");
    assert_eq!(set(bare.clone().port(7000)).await, ["10.0.0.4:7000"]);
    let reason = Updates::of(bare.port("http")).empty().await;
    assert!(reason.contains("its slices list no TCP port"), "{reason}");
}

/// A second port makes it a mistake that none was named, and no reason to lose pods, nor to keep those
/// that are gone: the port that there was goes on to be used, by its name, or by its number where it had
/// no name.
#[tokio::test]
async fn a_service_that_gets_a_second_port_goes_on_with_the_one_it_had() {
    for (name, number, then) in [("web", 8081, "10.0.0.3:8081"), ("", 8080, "10.0.0.3:8080")] {
        let one = || json!([{"name": name, "port": 8080}]);
        let two = || json!([{"name": "metrics", "port": 9090}, {"name": "web", "port": number}]);
        let api = ApiServer::start().await;
        api.put("shop", "cart-a", slice_with("cart", one(), [ready("10.0.0.1")]));
        api.put("shop", "cart-b", slice_with("cart", one(), [ready("10.0.0.2")]));
        let mut updates = Updates::of(cluster(&api).service("shop", "cart"));
        assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
        until("the watch", || api.open_watches() == 1).await;

        api.put("shop", "cart-a", slice_with("cart", two(), [ready("10.0.0.3")]));
        let (set, error) = updates.partial().await;
        assert_eq!(set, ["10.0.0.2:8080", then]);
        assert!(error.contains("has several ports, name one of them: its pods have"), "{error}");
        api.put("shop", "cart-b", slice_with("cart", two(), [ready("10.0.0.4")]));
        let (set, _) = updates.partial().await;
        assert_eq!(set, [then.to_owned(), then.replace(".3", ".4")]);

        api.delete("shop", "cart-b");
        api.put("shop", "cart-a", slice_with("cart", one(), [ready("10.0.0.5")]));
        updates.until_set(&["10.0.0.5:8080"]).await;
    }
}

fn pod(mut endpoint: Value, name: &str) -> Value {
    endpoint["targetRef"] =
        json!({"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid {name}")});
    endpoint
}

/// R10: a pod of two families is one endpoint with two addresses, whichever slice comes first.
#[tokio::test]
async fn r10_two_families_are_one_endpoint() {
    let four = || slice("cart", [pod(ready("10.0.0.1"), "a"), pod(ready("10.0.0.2"), "b")]);
    let six = || slice("cart", [pod(ready("fd00::1"), "a"), pod(ready("fd00::3"), "c")]);
    for six_first in [true, false] {
        let api = ApiServer::start().await;
        let (first, second) = if six_first { (six(), four()) } else { (four(), six()) };
        api.put("shop", "cart-1", first);
        api.put("shop", "cart-2", second);
        let mut updates = Updates::of(source(&api));
        let Update::Set(set) = updates.next().await else { panic!("a set") };
        let mut all: Vec<Vec<String>> = set
            .iter()
            .map(|endpoint| endpoint.addresses().map(ToString::to_string).collect())
            .collect();
        all.sort();
        assert_eq!(
            all,
            [
                vec!["10.0.0.1:8080", "[fd00::1]:8080"],
                vec!["10.0.0.2:8080"],
                vec!["[fd00::3]:8080"],
            ]
        );
        // One family ends: the endpoint stays, with what is left of it.
        api.delete("shop", if six_first { "cart-1" } else { "cart-2" });
        assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    }
}

/// R10: slices that name no pod (a Service without a selector, filled by hand) do not tell which
/// addresses belong together, so there each is an endpoint of its own.
#[tokio::test(start_paused = true)]
async fn r10_addresses_without_a_pod_each_count() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-4", slice("cart", [ready("10.0.0.1"), pod(ready("10.0.0.2"), "b")]));
    api.put("shop", "cart-6", slice("cart", [ready("fd00::1"), pod(ready("fd00::2"), "b")]));
    let mut updates = Updates::patient(source(&api));
    let Update::Set(set) = updates.next().await else { panic!("a set") };
    let mut counts: Vec<_> = set.iter().map(|endpoint| endpoint.addresses().count()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 2]);
    assert_eq!(names(&set), ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"]);
}

/// R10: an address that stands twice in one slice, once ready and once not, is ready once.
#[tokio::test(start_paused = true)]
async fn r10_an_address_twice_in_one_slice_is_one_endpoint() {
    let api = ApiServer::in_memory();
    let both = |twice: [Value; 2]| slice("cart", twice.into_iter().chain([ready("10.0.0.2")]));
    api.put("shop", "cart-a", both([ready("10.0.0.1"), unready("10.0.0.1")]));
    let mut updates = Updates::patient(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    api.put("shop", "cart-a", both([terminating("10.0.0.1"), unready("10.0.0.1")]));
    assert_eq!(updates.set().await, ["10.0.0.2:8080"]);
    api.put("shop", "cart-a", both([unready("10.0.0.1"), ready("10.0.0.1")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

/// R10: an address that one slice says is ready is, whatever a stale entry elsewhere says; and an
/// address that passed from one pod to the next is the next one's.
#[tokio::test]
async fn r10_of_two_claims_the_usable_one_counts() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [pod(unready("10.0.0.1"), "old"), ready("10.0.0.2")]));
    api.put("shop", "cart-b", slice("cart", [pod(ready("10.0.0.1"), "new")]));
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    api.put("shop", "cart-b", slice("cart", [pod(unready("10.0.0.1"), "new")]));
    assert_eq!(updates.set().await, ["10.0.0.2:8080"]);
    api.put("shop", "cart-a", slice("cart", [pod(ready("10.0.0.1"), "old"), ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[tokio::test]
async fn zone_node_hints_and_protocol_reach_the_endpoint() {
    let api = ApiServer::start().await;
    let mut one = ready("10.0.0.1");
    one["zone"] = json!("z1");
    one["nodeName"] = json!("n1");
    one["hints"] =
        json!({"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "n1"}]});
    let ports = json!([{"name": "http", "port": 8080, "appProtocol": "kubernetes.io/h2c"}]);
    api.put("shop", "cart-a", slice_with("cart", ports, [one]));
    let mut updates = Updates::of(source(&api));
    let Update::Set(set) = updates.next().await else { panic!("a set") };
    let endpoint = set.iter().next().unwrap();
    let locality = endpoint.locality();
    assert_eq!((locality.zone.as_deref(), locality.node.as_deref()), (Some("z1"), Some("n1")));
    let hints = locality.hints.as_ref().unwrap();
    let names = |of: &[std::sync::Arc<str>]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (names(&hints.zones), names(&hints.nodes)),
        (vec!["z1".into(), "z2".into()], vec!["n1".into()])
    );
    assert_eq!(endpoint.protocol(), evenkeel::Protocol::Http2);
}

/// What a real EndpointSlice controller wrote (1.36.2), replayed: after each event the set is that of
/// a plain reading of the slices.
#[tokio::test]
async fn r10_a_recorded_rollout_is_followed_exactly() {
    let api = ApiServer::start().await;
    let mut updates = Updates::of(cluster(&api).service("default", "big").port("http"));
    assert!(updates.empty().await.contains("no EndpointSlice"));
    let mut slices: std::collections::BTreeMap<String, Value> = Default::default();
    let (mut seen, mut largest) = (Vec::new(), 0);
    for line in include_str!("recorded/controller.jsonl").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let object = event["object"].clone();
        let Some(name) = object["metadata"]["name"].as_str() else {
            api.bookmark();
            continue;
        };
        slices.insert(name.to_owned(), object.clone());
        let all = slices.values().flat_map(|slice| slice["endpoints"].as_array().unwrap());
        let is = |one: &Value, what: &str| one["conditions"][what] == json!(true);
        let address = |one: &Value| format!("{}:8080", one["addresses"][0].as_str().unwrap());
        let mut expected: Vec<_> =
            all.clone().filter(|one| is(one, "ready")).map(address).collect();
        if expected.is_empty() {
            let last_resort = all.filter(|one| is(one, "serving") && is(one, "terminating"));
            expected = last_resort.map(address).collect();
        }
        expected.sort();
        expected.dedup();
        largest = largest.max(expected.len());
        api.put("default", name, object.clone());
        while seen != expected {
            seen = updates.set().await;
        }
    }
    assert!(largest > 100, "two slices: {largest}");
}

/// The recorded watch: added, changed, deleted.
#[tokio::test]
async fn a_recorded_watch_is_understood() {
    let api = ApiServer::start().await;
    let mut updates = Updates::of(cluster(&api).service("default", "api").port("http"));
    updates.empty().await;
    let mut kinds = Vec::new();
    for line in include_str!("recorded/watch.jsonl").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        match event["type"].as_str().unwrap() {
            "BOOKMARK" => api.bookmark(),
            "DELETED" => {
                api.delete("default", name);
                assert!(updates.empty().await.contains("no EndpointSlice"));
            }
            kind => {
                api.put("default", name, event["object"].clone());
                // What terminates here still serves, and nothing else does: so it stays.
                if kind == "ADDED" {
                    assert_eq!(updates.set().await, ["10.77.0.31:8080"]);
                }
            }
        }
        kinds.push(event["type"].as_str().unwrap().to_owned());
    }
    assert!(
        ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
            .iter()
            .all(|kind| kinds.iter().any(|seen| seen == kind))
    );
}
