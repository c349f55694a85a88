//! R11, R12, T15: relists, refusals, watches that freeze, break or end, servers that restart.

use super::{
    api_server::{Fault, Verb},
    *,
};

/// A server with one ready pod, and a source that watches it.
async fn watched() -> (ApiServer, Updates) {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    (api, updates)
}

/// R11: what happened unseen comes as one change, at the end of the relist and not page by page.
#[tokio::test]
async fn r11_a_relist_swaps_once() {
    let api = ApiServer::start().await;
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
#[tokio::test]
async fn r11_a_relist_of_the_same_says_nothing() {
    let api = ApiServer::start().await;
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
    let (mut api, mut updates) = watched().await;
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
#[tokio::test]
async fn r12_a_forbidden_list_says_what_is_missing() {
    let logged = logged::Logged::start();
    let api = ApiServer::start().await;
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
#[tokio::test]
async fn r12_a_watch_that_is_forbidden_keeps_what_was_seen() {
    let (api, mut updates) = watched().await;
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
#[tokio::test]
async fn r5_no_answer_of_the_server_takes_away_what_was_seen() {
    for code in [404, 500, 503] {
        let (api, mut updates) = watched().await;
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

/// R12: a watch that says nothing any more is found by the bookmarks that do not come.
#[tokio::test]
async fn r12_a_frozen_watch_is_found_and_begun_anew() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let cluster = cluster(&api).silence_limit(Duration::from_millis(300));
    let mut updates = Updates::of(cluster.service("shop", "cart"));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    api.bookmark();
    // The bookmark must be seen before the freeze, and a change behind it shows that it was.
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    api.freeze_open_watches();
    api.put("shop", "cart-c", slice("cart", [ready("10.0.0.3")]));
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]).await;
    assert_eq!(api.count(Verb::List), 1, "it goes on from where it was");
}

/// R12: where no bookmark has come yet, an endpoint that cannot be reached raises the doubt.
#[tokio::test]
async fn r12_a_failing_endpoint_has_the_watch_begun_anew() {
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let cluster = cluster(&api).silence_limit(Duration::from_millis(200));
    let mut updates = Updates::of(cluster.service("shop", "cart"));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("the watch", || api.open_watches() == 1).await;
    api.freeze_open_watches();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    for _ in 0..1_000 {
        updates.refresh.request();
    }
    updates.until_set(&["10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 1);
    assert!(api.count(Verb::Watch) <= 3, "a thousand requests are one");
}

/// R12: a list, or the head of a watch, that never comes.
#[tokio::test]
async fn r12_a_server_that_does_not_answer_is_asked_again() {
    for verb in [Verb::List, Verb::Watch] {
        let api = ApiServer::start().await;
        api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
        api.fail(verb, Fault::Hang);
        let cluster = cluster(&api).silence_limit(Duration::from_millis(200));
        let mut updates = Updates::of(cluster.service("shop", "cart"));
        if verb == Verb::Watch {
            assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
        }
        let error = updates.failed().await;
        assert!(error.ends_with("no answer within 200ms"), "{error}");
        api.heal();
        updates.until_set(&["10.0.0.1:8080"]).await;
    }
}

/// A server that is killed and comes back: what happened meanwhile is seen, without a list.
#[tokio::test]
async fn r12_a_restarted_server_is_watched_on_without_a_list() {
    let (mut api, mut updates) = watched().await;
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
#[tokio::test]
async fn r11_a_server_of_another_life_is_listed_anew() {
    let (api, mut updates) = watched().await;
    api.restore_from_backup();
    api.cut_watches();
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 2);
}

/// T15: watches that end as soon as they begin. The waits between them only ever grow: of the first
/// ten the shortest possible sum is far above what a loop without waits would take.
#[tokio::test]
async fn t15_a_watch_that_ends_at_once_does_not_spin() {
    let clock = evenkeel::node::Clock::default();
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::Watch, Fault::EndAtOnce);
    let begin = clock.now();
    let mut updates = Updates::of(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    until("five watches", || api.count(Verb::Watch) >= 5).await;
    // 250 ms x (1 + 1.6 + 1.6^2 + 1.6^3), each at its shortest.
    assert!(clock.now() - begin >= Duration::from_millis(2_300));
    let (lists, watches) = (api.count(Verb::List), api.count(Verb::Watch));
    assert!(lists <= 2 && watches <= 6, "{lists} lists, {watches} watches");
}

/// An expired token: refused with 401, and read again from where it came.
#[tokio::test]
async fn r12_an_expired_token_is_read_again() {
    api_server::install_provider();
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let directory = std::env::temp_dir().join(format!("evenkeel-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("kubeconfig");
    let configure = |token: &str| {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": api.url()}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
    };
    let cluster = Kubernetes::kubeconfig(Some(file.clone()), Some("test"));
    let mut updates = Updates::of(cluster.service("shop", "cart"));
    let error = updates.failed().await;
    assert!(error.contains("no way to a Kubernetes API server from the kubeconfig"), "{error}");

    configure("first");
    api.require_token("first");
    updates.until_set(&["10.0.0.1:8080"]).await;
    until("the watch", || api.open_watches() == 1).await;
    api.require_token("second");
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    api.cut_watches();
    loop {
        match updates.next().await {
            Update::Failed(error) if error.to_string().contains("401") => {
                assert!(
                    error.to_string().contains("the credentials are expired or wrong"),
                    "{error}"
                );
                break;
            }
            Update::Failed(_) | Update::Set(_) => {}
            other => panic!("{other:?}"),
        }
    }
    configure("second");
    updates.until_set(&["10.0.0.2:8080"]).await;
    std::fs::remove_dir_all(directory).unwrap();
}
