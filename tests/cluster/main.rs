//! The Kubernetes source against a real API server with etcd and the EndpointSlice controller.
//!
//! Where the binaries are, see `control_plane::binaries`; where they are not, each test says so in one
//! line and passes. The one with traffic needs addresses that the API server takes for endpoints, which
//! those of 127.0.0.0/8 are not: run it as root in a network namespace of its own, as `.ci/run` does.
#![cfg(all(feature = "kubernetes", feature = "http"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod churn;
mod control_plane;
mod observer;
mod proxy;
#[path = "../support/skip.rs"]
mod skip;
mod traffic;

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    time::Duration,
};

use control_plane::{ADMIN, ControlPlane, NAMESPACE, VIEWER, binaries, object, say};
use evenkeel::{
    Balance,
    discovery::{
        Discover, RefreshHandle, Update,
        kubernetes::{Kubernetes, KubernetesService},
        refresh,
    },
    policy::RoundRobin,
};
use futures::{Stream, StreamExt};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use observer::{Observer, Seen};
use proxy::Proxy;
use serde_json::json;
use tokio::sync::Mutex;
use traffic::{Clients, Server};

/// One control plane at a time: each takes some 600 MB.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

type Set = BTreeSet<String>;

/// What a source says, over real time: guards against hanging, and no bounds.
struct Updates(Pin<Box<dyn Stream<Item = Update> + Send>>, RefreshHandle);

impl Updates {
    fn of(source: KubernetesService) -> Self {
        let (refresh, requests) = refresh::channel();
        Self(Box::pin(source.watch(requests)), refresh)
    }

    async fn next(&mut self) -> Update {
        let next = tokio::time::timeout(Duration::from_secs(60), self.0.next());
        next.await.expect("hangs").expect("the stream never ends")
    }

    /// Goes on until the set is `expected`; the updates that it took.
    async fn until(&mut self, expected: &Set) -> Vec<Update> {
        let mut seen = Vec::new();
        loop {
            let update = self.next().await;
            let found = matches!(&update, Update::Set(set) if names(set) == *expected);
            seen.push(update);
            if found {
                return seen;
            }
        }
    }

    async fn until_failed(&mut self, text: &str) -> String {
        loop {
            match self.next().await {
                Update::Failed(error) if error.to_string().contains(text) => {
                    return error.to_string();
                }
                _ => {}
            }
        }
    }
}

fn names<'a>(set: impl IntoIterator<Item = &'a evenkeel::Endpoint>) -> Set {
    set.into_iter().map(ToString::to_string).collect()
}

fn pods(range: std::ops::Range<usize>) -> Set {
    range.map(|index| format!("10.77.5.{index}:8080")).collect()
}

/// A rolling update, and the deletion and re-creation of the pods: what the real controller writes is
/// followed, a pod that terminates is out while another is ready, and is the last resort else. With a
/// server in each pod, closed at the end of its time of grace, no request fails in the course of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_a_rolling_update_of_a_real_service_is_followed() {
    let Some(binaries) = binaries() else { return };
    let _one = ONE_AT_A_TIME.lock().await;
    let plane = ControlPlane::start(&binaries, true).await;
    let mut updates =
        Updates::of(Kubernetes::new(plane.client(ADMIN)).service(NAMESPACE, "cart").port("http"));
    let Update::Empty(reason) = updates.next().await else { panic!("there is no such Service") };
    assert!(reason.to_string().contains("no EndpointSlice"), "{reason}");

    plane.create_service("cart").await;
    for index in 1..9 {
        plane.create_pod("cart", &format!("old-{index}"), &format!("10.77.5.{index}")).await;
    }
    updates.until(&pods(1..9)).await;
    let traffic = traffic::is_possible();
    if !traffic {
        skip::skipped(
            "its traffic: run it where `ip route add local 10.77.5.0/24 dev lo` was done",
        );
    }
    let (mut old, mut new, mut clients) = (VecDeque::new(), Vec::new(), None);
    if traffic {
        for index in 1..9 {
            old.push_back(Server::start(&format!("10.77.5.{index}:8080")).await);
        }
        let source = Kubernetes::new(plane.client(ADMIN)).service(NAMESPACE, "cart").port("http");
        let balance = Balance::builder(source).policy(RoundRobin::new()).http().unwrap();
        balance.ready().await.unwrap();
        clients = Some(Clients::start(&balance, 4));
    }
    for index in 1..9 {
        let address = format!("10.77.5.{}", index + 100);
        if traffic {
            new.push(Server::start(&format!("{address}:8080")).await);
        }
        plane.create_pod("cart", &format!("new-{index}"), &address).await;
        plane.terminate_pod(&format!("old-{index}")).await;
        let mut rolled = pods(101..101 + index);
        rolled.extend(pods(index + 1..9));
        updates.until(&rolled).await;
        // Its time of grace is over.
        if let Some(server) = old.pop_front() {
            server.close().await;
        }
        plane.remove_pod(&format!("old-{index}")).await;
    }
    if let Some(clients) = &clients {
        // All that is left serves.
        let all_new = || pods(101..109).iter().all(|pod| clients.answered().contains_key(pod));
        let wait = async {
            while !all_new() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("all new pods serve");
    }
    for index in 2..9 {
        plane.terminate_pod(&format!("new-{index}")).await;
    }
    updates.until(&pods(101..102)).await;
    plane.terminate_pod("new-1").await;
    updates.until(&pods(101..109)).await;
    if let Some(clients) = clients {
        let (answered, failures) = clients.stop().await;
        let count: usize = answered.values().sum();
        say(&format!("a roll of 8 pods: {count} requests answered, {} failed", failures.len()));
        assert!(failures.is_empty(), "{} of {count}, first {:?}", failures.len(), failures.first());
        for pod in pods(1..9).union(&pods(101..109)) {
            assert!(answered.contains_key(pod), "{pod} answered none: {answered:?}");
        }
    }
    for index in 1..9 {
        plane.remove_pod(&format!("new-{index}")).await;
    }
    while !matches!(updates.next().await, Update::Empty(_)) {}
    plane.create_pod("cart", "again", "10.77.5.1").await;
    updates.until(&pods(1..2)).await;
}

/// R12: the API server dies by SIGKILL and comes back; the set stands meanwhile. It is watched on, and
/// listed only if it says itself that it no longer knows what happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_killed_api_server_takes_nothing_away() {
    let Some(binaries) = binaries() else { return };
    let _one = ONE_AT_A_TIME.lock().await;
    let mut plane = ControlPlane::start(&binaries, true).await;
    plane.create_service("cart").await;
    for index in 1..5 {
        plane.create_pod("cart", &format!("pod-{index}"), &format!("10.77.5.{index}")).await;
    }
    let observer = Observer::default();
    let client = observer.client(&plane, ADMIN, plane.api_address());
    let mut updates = Updates::of(Kubernetes::new(client).service(NAMESPACE, "cart").port("http"));
    updates.until(&pods(1..5)).await;
    for round in 0..2 {
        plane.kill_api_server();
        let error = updates.until_failed("cannot").await;
        assert!(error.contains("endpointslices.discovery.k8s.io"), "{error}");
        plane.restart_api_server().await;
        let new = 5 + round;
        plane.create_pod("cart", &format!("pod-{new}"), &format!("10.77.5.{new}")).await;
        for update in updates.until(&pods(1..new + 1)).await {
            if let Update::Set(set) | Update::Partial(set, _) = update {
                assert!(set.len() >= 4, "nothing is lost in between");
            }
        }
    }
    let seen = observer.seen();
    let is_gone = |seen: &&Seen| seen.code == 410 || seen.errors == [410];
    let (lists, gone) =
        (seen.iter().filter(|seen| !seen.watch).count(), seen.iter().filter(is_gone).count());
    say(&format!("killed twice: {} answers, {lists} lists, {gone} times 410", seen.len()));
    assert_eq!(lists, 1 + gone, "{seen:?}");
}

/// R12: all connections to the server go silent, as behind a firewall that forgot them. An endpoint that
/// cannot be reached raises the doubt; the watch is begun anew, on a connection that is not one of those,
/// and goes on from where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_connections_that_go_silent_are_found_and_left() {
    let Some(binaries) = binaries() else { return };
    let _one = ONE_AT_A_TIME.lock().await;
    let plane = ControlPlane::start(&binaries, true).await;
    plane.create_service("cart").await;
    plane.create_pod("cart", "pod-1", "10.77.5.1").await;
    let proxy = Proxy::to(plane.api_address()).await;
    let file = plane.kubeconfig_file(ADMIN, proxy.address);
    // The limit is for a list as well, so it has to leave a loaded machine some time.
    let cluster = Kubernetes::kubeconfig(Some(file), None).silence_limit(Duration::from_secs(5));
    let mut updates = Updates::of(cluster.service(NAMESPACE, "cart").port("http"));
    updates.until(&pods(1..2)).await;
    let mut follower =
        Updates::of(Kubernetes::new(plane.client(ADMIN)).service(NAMESPACE, "cart").port("http"));
    for round in 2..4 {
        proxy.freeze();
        plane.create_pod("cart", &format!("pod-{round}"), &format!("10.77.5.{round}")).await;
        follower.until(&pods(1..round + 1)).await;
        updates.1.request();
        updates.until(&pods(1..round + 1)).await;
    }
}

/// R11: etcd is compacted while the watch is cut off, and the API server has forgotten as well. It is
/// seen on the way between the two that the server answers 410, and that one list and one change
/// follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_compaction_has_it_listed_anew_and_swapped_once() {
    let Some(binaries) = binaries() else { return };
    let _one = ONE_AT_A_TIME.lock().await;
    let mut plane = ControlPlane::start(&binaries, true).await;
    plane.create_service("cart").await;
    for index in 1..5 {
        plane.create_pod("cart", &format!("pod-{index}"), &format!("10.77.5.{index}")).await;
    }
    let mut follower =
        Updates::of(Kubernetes::new(plane.client(ADMIN)).service(NAMESPACE, "cart").port("http"));
    follower.until(&pods(1..5)).await;
    let mut proxy = Proxy::to(plane.api_address()).await;
    let observer = Observer::default();
    let client = observer.client(&plane, ADMIN, proxy.address);
    let mut updates = Updates::of(Kubernetes::new(client).service(NAMESPACE, "cart").port("http"));
    updates.until(&pods(1..5)).await;
    proxy.cut().await;
    updates.until_failed("cannot").await;
    let before = observer.seen();
    assert!(before.iter().all(|seen| seen.code == 200 && seen.errors.is_empty()), "{before:?}");
    assert_eq!(before.iter().filter(|seen| !seen.watch).count(), 1, "{before:?}");

    for index in 1..5 {
        plane.create_pod("cart", &format!("new-{index}"), &format!("10.77.5.{}", 10 + index)).await;
        plane.remove_pod(&format!("pod-{index}")).await;
    }
    follower.until(&pods(11..15)).await;
    plane.compact().await;
    plane.kill_api_server();
    plane.restart_api_server().await;
    proxy.mend().await;
    let seen = updates.until(&pods(11..15)).await;
    let sets = seen.iter().filter_map(|update| match update {
        Update::Set(set) | Update::Partial(set, _) => Some(names(set)),
        _ => None,
    });
    let between: Vec<_> = sets.filter(|set| *set != pods(1..5) && *set != pods(11..15)).collect();
    assert!(between.is_empty(), "only the old set and the new: {between:?}");

    let after = observer.seen().split_off(before.len());
    let is_gone = |seen: &Seen| seen.watch && (seen.code == 410 || seen.errors == [410]);
    let gone = after.iter().position(is_gone);
    let gone = gone.unwrap_or_else(|| panic!("no 410 for the resumed watch: {after:?}"));
    let lists: Vec<_> = (0..after.len()).filter(|at| !after[*at].watch).collect();
    assert_eq!(lists, [gone + 1], "one list, and it follows the 410: {after:?}");
    say(&format!(
        "compaction: the resumed watch was answered {:?}, and a list followed",
        after[gone]
    ));
}

/// R12: the right to watch is withdrawn, and given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_withdrawn_role_is_named_and_what_was_seen_stands() {
    let Some(binaries) = binaries() else { return };
    let _one = ONE_AT_A_TIME.lock().await;
    let plane = ControlPlane::start(&binaries, true).await;
    plane.create_service("cart").await;
    plane.create_pod("cart", "pod-1", "10.77.5.1").await;
    let mut proxy = Proxy::to(plane.api_address()).await;
    let file = plane.kubeconfig_file(VIEWER, proxy.address);
    let source = Kubernetes::kubeconfig(Some(file), None).service(NAMESPACE, "cart").port("http");
    let mut updates = Updates::of(source);
    let error = updates.until_failed("403").await;
    assert!(
        error.contains("cannot list endpointslices.discovery.k8s.io in namespace `shop`"),
        "{error}"
    );
    assert!(error.contains("User \"viewer\" cannot list resource \"endpointslices\""), "{error}");

    // The rules of the guide, to the letter.
    let guide = include_str!("../../docs/kubernetes.md");
    assert!(guide.contains("resources: [\"endpointslices\"]\n    verbs: [\"list\", \"watch\"]"));
    let roles: Api<Role> = Api::namespaced(plane.client(ADMIN), NAMESPACE);
    let role = object(json!({
        "metadata": {"name": "evenkeel-discovery"},
        "rules": [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
            "verbs": ["list", "watch"]}],
    }));
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(plane.client(ADMIN), NAMESPACE);
    let binding: RoleBinding = object(json!({
        "metadata": {"name": "evenkeel-discovery"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "evenkeel-discovery"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}],
    }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    updates.until(&pods(1..2)).await;

    // A watch that is open goes on; the next is refused.
    bindings.delete("evenkeel-discovery", &DeleteParams::default()).await.unwrap();
    proxy.cut().await;
    proxy.mend().await;
    let error = updates.until_failed("403").await;
    assert!(error.contains("User \"viewer\" cannot"), "{error}");
    plane.create_pod("cart", "pod-2", "10.77.5.2").await;
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    updates.until(&pods(1..3)).await;
}
