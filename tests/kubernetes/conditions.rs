//! R10, T10: ready, serving, terminating; empty, unknown and failed.

use super::*;

/// R10: an endpoint that terminates is out, but serves as the last resort when no other in the whole
/// set is ready.
#[tokio::test]
async fn r10_terminating_endpoints_are_the_last_resort_of_the_whole_set() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1"), terminating("10.0.0.2")]));
    api.put("shop", "cart-b", slice("cart", [terminating("10.0.0.3"), unready("10.0.0.4")]));
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    api.put("shop", "cart-a", slice("cart", [unready("10.0.0.1"), terminating("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.2:8080", "10.0.0.3:8080"]);
    // The one that is ready may be in any slice.
    api.put("shop", "cart-b", slice("cart", [terminating("10.0.0.3"), ready("10.0.0.4")]));
    assert_eq!(updates.set().await, ["10.0.0.4:8080"]);
    api.put("shop", "cart-b", slice("cart", [unready("10.0.0.4")]));
    assert_eq!(updates.set().await, ["10.0.0.2:8080"]);
    api.put("shop", "cart-a", slice("cart", [unready("10.0.0.1")]));
    let reason = updates.empty().await;
    assert_eq!(reason, "Service `shop/cart` has no endpoint that is ready, of 2 that are known");
}

/// R10: conditions that are not there mean ready; a Service that publishes addresses that are not
/// ready says `ready` of them, whatever else holds.
#[tokio::test]
async fn r10_unknown_is_ready_and_published_is_ready() {
    let api = ApiServer::start().await;
    let bare = json!({"addresses": ["10.0.0.1"]});
    let null = json!({"addresses": ["10.0.0.2"], "conditions": {}});
    let published = json!({"addresses": ["10.0.0.3"],
        "conditions": {"ready": true, "serving": false, "terminating": true}});
    api.put("shop", "cart-a", slice("cart", [bare, null, published]));
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]);
}

/// R10: what a server leaves out it may also send as null, in a list as well as in a watch.
#[tokio::test(start_paused = true)]
async fn r10_null_is_as_good_as_absent() {
    let nulls = |address: &str| {
        json!({"addresses": [address], "conditions": null, "hints": null, "nodeName": null,
            "targetRef": null, "zone": null, "deprecatedTopology": null})
    };
    let some = |address: &str| {
        json!({"addresses": [address],
            "conditions": {"ready": null, "serving": null, "terminating": null}})
    };
    let port = json!([{"name": null, "port": 8080, "protocol": null, "appProtocol": null}]);
    let api = ApiServer::in_memory();
    let mut empty = slice_with("cart", Value::Null, []);
    empty["endpoints"] = Value::Null;
    api.put("shop", "cart-empty", empty.clone());
    api.put("shop", "cart-a", slice_with("cart", port.clone(), [nulls("10.0.0.1")]));
    let cart = cluster(&api).service("shop", "cart");
    let mut updates = Updates::patient(cart);
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    empty["metadata"]["annotations"] = Value::Null;
    api.put("shop", "cart-empty-too", empty);
    api.put("shop", "cart-b", slice_with("cart", port, [some("10.0.0.2"), nulls("10.0.0.3")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]);
}

/// T10: that there is nothing is known and says why, each reason its own; the Service may come back.
#[tokio::test]
async fn t10_deletion_re_creation_and_the_reasons_of_emptiness() {
    let api = ApiServer::start().await;
    let mut updates = Updates::of(source(&api));
    let nothing =
        "Service `shop/cart` has no EndpointSlice: there is no such Service, or it selects nothing";
    assert_eq!(updates.empty().await, nothing);
    // The controller makes an empty slice for a Service that selects no pod.
    api.put("shop", "cart-a", slice_with("cart", Value::Null, []));
    let reason = updates.empty().await;
    assert_eq!(reason, "Service `shop/cart` has no endpoint that is ready, of 0 that are known");
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    api.delete("shop", "cart-a");
    assert_eq!(updates.empty().await, nothing);
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.1")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
}

/// R10: slices of names have no meaning in the API; they are left out, with a word.
#[tokio::test]
async fn r10_slices_of_names_are_left_out_with_a_warning() {
    let logged = logged::Logged::start();
    let api = ApiServer::start().await;
    let mut names = slice("cart", [ready("db.example.com")]);
    names["addressType"] = json!("FQDN");
    api.put("shop", "cart-names", names.clone());
    let mut updates = Updates::of(source(&api));
    assert!(updates.empty().await.contains("names instead of addresses"));
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    api.put("shop", "cart-names", names);
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(logged.warnings("FQDN").len(), 1, "once a slice, not once an event");
}

/// A slice that is relabelled goes out of sight, whichever way the server says so.
#[tokio::test]
async fn a_relabelled_slice_leaves_its_service() {
    for whole_namespaces in [false, true] {
        let api = ApiServer::start().await;
        let mut cluster = cluster(&api);
        if whole_namespaces {
            cluster = cluster.watch_whole_namespaces();
        }
        api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
        api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
        let mut cart = Updates::of(cluster.service("shop", "cart"));
        assert_eq!(cart.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
        if !whole_namespaces {
            // A watch by label is told that it was deleted.
            api.delete("shop", "cart-b");
        }
        api.put("shop", "cart-b", slice("users", [ready("10.0.0.2")]));
        assert_eq!(cart.set().await, ["10.0.0.1:8080"]);
        let mut users = Updates::of(cluster.service("shop", "users"));
        assert_eq!(users.set().await, ["10.0.0.2:8080"]);
        assert_eq!(api.count(api_server::Verb::List), if whole_namespaces { 1 } else { 2 });
    }
}
