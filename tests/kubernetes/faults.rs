//! R11, R12: relists, refusals, watches that freeze, break or end, servers that restart.

use super::{
    api_server::{Fault, Verb},
    *,
};

/// R11: what happened unseen comes as one change, at the end of the relist and not page by page.
#[tokio::test(start_paused = true)]
async fn r11_a_relist_swaps_once() {
    let api = ApiServer::in_memory();
    api.page(2);
    for index in 0..7 {
        api.put("shop", &format!("cart-{index}"), slice("cart", [ready(&ip(index))]));
    }
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await.len(), 7);
    until("the watch", || api.open_watches() == 1).await;
    api.deafen();
    for index in 0..6 {
        api.delete("shop", &format!("cart-{index}"));
    }
    for index in 10..15 {
        api.put("shop", &format!("cart-{index}"), slice("cart", [ready(&ip(index))]));
    }
    api.compact();
    api.expire_watches();
    let mut expected: Vec<_> =
        [6, 10, 11, 12, 13, 14].map(|index| format!("{}:8080", ip(index))).into();
    expected.sort();
    assert_eq!(updates.set().await, expected, "the first word after the relist is the whole of it");
    assert_eq!(api.count(Verb::List), 4 + 3, "pages of the two lists");
}

/// R11: a relist that finds what was known says nothing.
#[tokio::test(start_paused = true)]
async fn r11_a_relist_of_the_same_says_nothing() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    for round in 1..=3 {
        until("the watch", || api.open_watches() == 1).await;
        api.compact();
        api.expire_watches();
        until("the relist", || api.count(Verb::List) == 1 + round).await;
    }
    until("the watch", || api.open_watches() == 1).await;
    assert!(updates.says_nothing());
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

/// A version that is compacted away while nothing was watched: 410 as an event, then a list.
#[tokio::test]
async fn r11_a_version_too_old_is_listed_anew() {
    let (mut api, mut updates) = watched_by(ApiServer::start().await).await;
    api.kill().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    api.compact();
    api.restart().await;
    updates.until_set(&["10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 2);
}

/// Half a list is no list, and a list that expires between its pages is begun anew.
#[tokio::test]
async fn r11_nothing_is_taken_from_half_a_list() {
    let api = ApiServer::start().await;
    for index in 0..5 {
        api.put("shop", &format!("cart-{index}"), slice("cart", [ready(&ip(index))]));
    }
    api.fail(Verb::List, Fault::Half);
    let mut updates = Updates::of(source(&api));
    let error = updates.failed().await;
    assert!(error.starts_with("cannot list endpointslices.discovery.k8s.io"), "{error}");
    api.heal();
    assert_eq!(updates.set().await.len(), 5);
    drop(updates);

    api.page(2);
    api.expire_pages();
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await.len(), 5, "all in one, when the pages expire");
}

/// R12: a refusal is logged with verb, resource and namespace, once; and it heals.
#[tokio::test(start_paused = true)]
async fn r12_a_forbidden_list_says_what_is_missing() {
    let logged = logged::Logged::start();
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::List, Fault::Status(403));
    let mut updates = Updates::of(source(&api));
    let error = updates.failed().await;
    for part in [
        "cannot list endpointslices.discovery.k8s.io in namespace `shop`: 403: ",
        "User \"system:serviceaccount:default:noauth\" cannot list resource",
        "needs a Role with the verbs `list` and `watch`",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    until("a second try", || api.count(Verb::List) >= 2).await;
    let warnings = logged.warnings("no watch of EndpointSlices");
    let [warning] = &warnings[..] else { panic!("once, not every time: {warnings:?}") };
    for part in [
        "verb=\"list\"",
        "resource=\"endpointslices.discovery.k8s.io\"",
        "namespace=shop",
        "service=\"cart\"",
        "403",
    ] {
        assert!(warning.contains(part), "{part} in {warning}");
    }
    api.heal();
    updates.until_set(&["10.0.0.1:8080"]).await;
}

/// R12, R5: the right is withdrawn while the watch runs. What was seen stands, is said to be stale,
/// and is kept up by lists if those are still allowed.
#[tokio::test(start_paused = true)]
async fn r12_a_watch_that_is_forbidden_keeps_what_was_seen() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    api.fail(Verb::Watch, Fault::Status(403));
    api.cut_watches();
    let error = loop {
        match updates.next().await {
            Update::Failed(error) if error.to_string().contains("403") => break error.to_string(),
            Update::Failed(_) => {}
            Update::Partial(set, error) => {
                assert_eq!(names(&set), ["10.0.0.1:8080"]);
                if error.to_string().contains("403") {
                    break error.to_string();
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(error.starts_with("cannot watch endpointslices"), "{error}");
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    loop {
        if let Update::Partial(set, _) = updates.next().await {
            if names(&set) == ["10.0.0.1:8080", "10.0.0.2:8080"] {
                break;
            }
        }
    }
    api.heal();
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
}

/// 404 (an old server), 500, 503: the last set stands, and the error says what was answered.
#[tokio::test(start_paused = true)]
async fn r5_no_answer_of_the_server_takes_away_what_was_seen() {
    for code in [404, 500, 503] {
        let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
        api.fail(Verb::List, Fault::Status(code));
        api.fail(Verb::Watch, Fault::Status(code));
        api.cut_watches();
        loop {
            match updates.next().await {
                Update::Failed(error) if error.to_string().contains(&code.to_string()) => break,
                Update::Failed(_) => {}
                other => panic!("{code}: {other:?}"),
            }
        }
        api.heal();
        updates.until_set(&["10.0.0.1:8080"]).await;
    }
}

/// A server that is killed and comes back: what happened meanwhile is seen, without a list.
#[tokio::test]
async fn r12_a_restarted_server_is_watched_on_without_a_list() {
    let (mut api, mut updates) = watched_by(ApiServer::start().await).await;
    api.kill().await;
    let error = updates.failed().await;
    assert!(error.starts_with("cannot watch endpointslices"), "{error}");
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    api.restart().await;
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 1);
}

/// A server restored from a backup counts from an earlier version: watches from the future it ends
/// at once, and only a list helps.
#[tokio::test(start_paused = true)]
async fn r11_a_server_of_another_life_is_listed_anew() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    api.restore_from_backup();
    api.cut_watches();
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 2);
}

/// R11: a list of many pages that expires in the middle is asked for in one; twelve hundred slices are
/// one change, and nothing of the pages that were thrown away is counted twice.
#[tokio::test(start_paused = true)]
async fn r11_a_long_list_that_expires_between_its_pages_is_one_change() {
    let api = ApiServer::in_memory();
    let many = |range: std::ops::Range<usize>| {
        for index in range {
            api.put("shop", &format!("cart-{index}"), slice("cart", [ready(&ip(index))]));
        }
    };
    many(0..1_200);
    let mut updates = Updates::patient(source(&api));
    assert_eq!(updates.set().await.len(), 1_200);
    let limits = |api: &ApiServer| {
        let lists = api.queries(Verb::List);
        lists.iter().map(|query| query.contains("limit=500")).collect::<Vec<_>>()
    };
    assert_eq!(limits(&api), [true, true, true]);
    until("the watch", || api.open_watches() == 1).await;
    api.deafen();
    many(1_200..1_300);
    api.compact();
    api.expire_pages();
    api.expire_watches();
    assert_eq!(updates.set().await.len(), 1_300);
    assert_eq!(limits(&api)[3..], [true, true, false], "a page, one that expired, and all in one");
}

/// Names that cannot be are an error that says so, and no panic; nothing is asked of other namespaces.
#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_an_error() {
    let api = ApiServer::in_memory();
    for namespace in ["", "a b", "a/b", "..", "shop?watch=true", "\n"] {
        let source = cluster(&api).service(namespace, "cart").port("http");
        let error = Updates::patient(source).failed().await;
        assert!(error.contains(&format!("namespace `{namespace}`")), "{namespace:?}: {error}");
    }
    for service in ["", "a b", "cart,other=x", "a&watch=true"] {
        let source = cluster(&api).service("shop", service).port("http");
        let error = Updates::patient(source).failed().await;
        assert!(error.contains(&format!("Service `{service}`")), "{service:?}: {error}");
    }
    assert_eq!(api.count(Verb::List), 0, "{:?}", api.queries(Verb::List));
}
