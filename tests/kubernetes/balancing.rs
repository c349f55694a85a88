//! Balancers over the source: sharing, and requests.

use super::{api_server::Verb, *};

/// R8: balancers share one watch of a Service, ports and all, and it ends with the last of them.
#[tokio::test]
async fn r8_balancers_share_a_watch_and_end_it() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let cart = cluster(&api).service("shop", "cart");
    let mut all: Vec<_> = (0..20).map(|_| Updates::of(cart.clone())).collect();
    for updates in &mut all {
        assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    }
    let mut by_number = Updates::of(cart.clone().port(8080));
    assert_eq!(by_number.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    assert_eq!((api.count(Verb::List), api.count(Verb::Watch)), (1, 1));
    drop(all);
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(by_number.set().await, ["10.0.0.2:8080"]);
    drop(by_number);
    until("the end of the watch", || {
        api.bookmark();
        api.open_watches() == 0
    })
    .await;
    // Whoever comes later begins anew.
    let mut later = Updates::of(cart);
    assert_eq!(later.set().await, ["10.0.0.2:8080"]);
    assert_eq!(api.count(Verb::List), 2);
}

/// Several Services, one watch, if so wished.
#[tokio::test]
async fn services_of_a_namespace_may_share_one_watch() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.put("shop", "users-a", slice("users", [ready("10.0.0.2")]));
    let cluster = cluster(&api).watch_whole_namespaces();
    let mut cart = Updates::of(cluster.service("shop", "cart"));
    let mut users = Updates::of(cluster.service("shop", "users"));
    assert_eq!(cart.set().await, ["10.0.0.1:8080"]);
    assert_eq!(users.set().await, ["10.0.0.2:8080"]);
    api.put("shop", "users-a", slice("users", [ready("10.0.0.3")]));
    assert_eq!(users.set().await, ["10.0.0.3:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    assert_eq!((api.count(Verb::List), api.count(Verb::Watch)), (1, 1));
    assert!(cart.says_nothing(), "a change of one Service is none of the other's concern");
    let selectors = api.queries(Verb::Watch);
    assert!(selectors[0].contains("labelSelector=kubernetes.io%2Fservice-name&"), "{selectors:?}");
}

/// R8, R11: only the slices of the Service are asked for, and so only they cost memory.
#[tokio::test]
async fn r11_only_the_slices_of_the_service_are_asked_for() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut updates = Updates::of(source(&api));
    updates.set().await;
    until("the watch", || api.open_watches() == 1).await;
    for query in [api.queries(Verb::List), api.queries(Verb::Watch)].concat() {
        assert!(query.contains("labelSelector=kubernetes.io%2Fservice-name%3Dcart"), "{query}");
    }
    assert!(api.queries(Verb::Watch)[0].contains("allowWatchBookmarks=true"));
}

/// R8: a source that nobody looks at piles up nothing: after ten thousand changes it has one update,
/// the last.
#[tokio::test]
async fn r8_ten_thousand_changes_are_one_update() {
    let api = ApiServer::start().await;
    let mut updates = Updates::of(source(&api));
    updates.empty().await;
    until("the watch", || api.open_watches() == 1).await;
    let mut other = Updates::of(source(&api));
    for index in 0..10_000 {
        api.put("shop", "cart-a", slice("cart", [ready(&ip(index))]));
        if index % 500 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let last = format!("{}:8080", ip(9_999));
    other.until_set(&[&last]).await;
    loop {
        // In at most two: what was seen first, and what had come by then.
        if updates.set().await == [last.as_str()] {
            break;
        }
    }
    assert!(updates.says_nothing());
}

/// The own zone and node are found in the slices of the own Service, and hints are heeded from then.
#[tokio::test]
async fn the_own_place_is_found_in_the_own_slices() {
    let api = ApiServer::start().await;
    let placed = |address: &str, zone: &str| {
        let mut endpoint = ready(address);
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        endpoint
    };
    api.put("shop", "cart-a", slice("cart", [placed("10.0.0.1", "a"), placed("10.0.0.2", "b")]));
    let cluster = cluster(&api).own_service("web", "frontend").own_pod("frontend-1");
    let source = cluster.service("shop", "cart");
    let here = evenkeel::discovery::Discover::here(&source);
    let mut updates = Updates::of(source);
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(*here.get(), evenkeel::Locality::default());
    let mut own = ready("10.0.1.1");
    own["targetRef"] = json!({"kind": "Pod", "name": "frontend-1", "uid": "1"});
    own["zone"] = json!("b");
    own["nodeName"] = json!("n7");
    api.put("web", "frontend-a", slice("frontend", [ready("10.0.1.2"), own]));
    assert_eq!(
        updates.set().await,
        ["10.0.0.1:8080", "10.0.0.2:8080"],
        "said again, for who heeds it"
    );
    let here = here.get();
    assert_eq!((here.zone.as_deref(), here.node.as_deref()), (Some("b"), Some("n7")));
    until("the end of the search", || {
        api.bookmark();
        api.open_watches() == 1
    })
    .await;
}

/// R4: pods that are added get their share as soon as the slice says so.
#[tokio::test(start_paused = true)]
async fn r4_new_pods_get_their_share() {
    let api = ApiServer::in_memory();
    let of = |pods: usize| slice("cart", (0..pods).map(|index| ready(&ip(index))));
    api.put("shop", "cart-a", of(4));
    let balance = requests::naming(evenkeel::Balance::builder(source(&api)));
    let ask = async || within(tower::ServiceExt::oneshot(balance.clone(), ())).await.unwrap();
    ask().await;
    api.put("shop", "cart-a", of(128));
    let newest = format!("{}:8080", ip(127));
    while ask().await != newest {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut shares = std::collections::HashMap::new();
    for _ in 0..1_280 {
        *shares.entry(ask().await).or_insert(0) += 1;
    }
    assert_eq!(shares.len(), 128);
    // Round robin over 128: ten each, give or take the one where it began.
    assert!(shares.values().all(|&requests| requests >= 8), "{shares:?}");
}

/// T9: the watches of many clients do not end together, or a server would have them all again in the
/// same second, for ever.
#[tokio::test(start_paused = true)]
async fn t9_watches_last_differently_long() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut all: Vec<_> = (0..30).map(|_| Updates::of(source(&api))).collect();
    for updates in &mut all {
        updates.set().await;
    }
    until("all watches", || api.open_watches() == 30).await;
    let queries = api.queries(Verb::Watch);
    let lengths: std::collections::HashSet<_> = queries
        .iter()
        .flat_map(|query| query.split('&'))
        .filter(|part| part.starts_with("timeoutSeconds="))
        .collect();
    // Fewer than 12 of 60 lengths in 30 draws have a chance of at most C(60,11) x (11/60)^30, which is
    // 3 in 10^11.
    assert!(lengths.len() >= 12, "{lengths:?}");
}
