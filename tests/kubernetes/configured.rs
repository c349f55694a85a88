//! R12, T15: clients that are made from a kubeconfig, over real HTTP.

use std::path::PathBuf;

use evenkeel::discovery::{Target, Targets, kubernetes::ServicePort};

use super::{
    api_server::{Fault, Verb},
    *,
};

/// A folder of its own for one test; gone at the end of it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        api_server::install_provider();
        let at = std::env::temp_dir().join(format!("evenkeel-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&at).unwrap();
        Self(at)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// A kubeconfig for `api` with these credentials.
    fn configure(&self, api: &ApiServer, user: &Value) {
        self.configure_at(&api.url(), user);
    }

    fn configure_at(&self, url: &str, user: &Value) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }

    fn source(&self) -> KubernetesService {
        let cluster = Kubernetes::kubeconfig(Some(self.kubeconfig()), Some("test"));
        cluster.service("shop", "cart").port("http")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The credentials of a program that does what `script` says and then gives the token `given`.
#[cfg(unix)]
fn program(script: &str) -> Value {
    let api_version = "client.authentication.k8s.io/v1";
    let credential = json!({"apiVersion": api_version, "kind": "ExecCredential",
        "status": {"token": "given"}});
    let script = format!("{script}; echo '{credential}'");
    json!({"exec": {"apiVersion": api_version, "command": "sh", "args": ["-c", script],
        "interactiveMode": "Never"}})
}

/// R12: what a server answers that is not ready is said at its first answer, and not after many tries
/// that nobody sees.
#[tokio::test]
async fn r12_an_unready_server_is_told_of_at_once() {
    for fault in [Fault::Status(503), Fault::Status(504), Fault::Throttled(429, 60)] {
        let folder = Folder::new("unready");
        let api = ApiServer::start().await;
        folder.configure(&api, &json!({}));
        api.fail(Verb::List, fault);
        let mut updates = Updates::of(folder.source());
        let error = updates.failed().await;
        let code = match fault {
            Fault::Status(code) | Fault::Throttled(code, _) => code.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(error.contains(&code), "{error}");
        assert_eq!(api.count(Verb::List), 1);
    }
}

/// A server that says in a header when it wishes to be asked again is not asked before.
#[tokio::test]
async fn a_throttled_client_waits_as_long_as_the_header_says() {
    let folder = Folder::new("throttled");
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    folder.configure(&api, &json!({}));
    api.fail(Verb::List, Fault::Throttled(429, 1));
    let mut updates = Updates::of(folder.source());
    updates.failed().await;
    api.heal();
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    let times = api.times(Verb::List);
    // Over a real socket, so a bound from below: without the header it is half a second at most.
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{times:?}");
}

/// Credentials that a program gives: it may take its time without holding up the runtime, which has
/// one thread here. Who waits for it says so in time, and it is not run a second time.
#[cfg(unix)]
#[tokio::test]
async fn r12_a_credential_program_that_hangs_holds_nobody_up() {
    let folder = Folder::new("program");
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.require_token("given");
    let go = folder.0.join("go");
    let started = folder.0.join("started");
    let script = format!(
        "echo begun >> {}; for i in $(seq 600); do [ -e {} ] && break; sleep 0.05; done",
        started.display(),
        go.display()
    );
    folder.configure(&api, &program(&script));
    let cluster = Kubernetes::kubeconfig(Some(folder.kubeconfig()), Some("test"))
        .silence_limit(Duration::from_millis(200));
    let mut all: Vec<_> = ["cart", "users", "orders"]
        .map(|service| Updates::of(cluster.service("shop", service)))
        .into();
    for updates in &mut all {
        let error = updates.failed().await;
        assert!(error.ends_with("not within 200ms"), "{error}");
    }
    let begun = || std::fs::read(&started).is_ok_and(|text| !text.is_empty());
    until("the program", begun).await;
    assert_eq!(std::fs::read_to_string(&started).unwrap(), "begun\n");
    std::fs::write(&go, "").unwrap();
    all[0].until_set(&["10.0.0.1:8080"]).await;
    for updates in &mut all[1..] {
        while !matches!(updates.next().await, Update::Empty(_)) {}
    }
}

/// The program that gives the credentials is not run at every try while the server is away.
#[cfg(unix)]
#[tokio::test]
async fn r12_a_server_that_is_away_has_no_credential_program_run_again() {
    let folder = Folder::new("away");
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let runs = folder.0.join("runs");
    folder.configure_at(&url, &program(&format!("echo run >> {}", runs.display())));
    let mut updates = Updates::of(folder.source());
    let count = || std::fs::read_to_string(&runs).unwrap().lines().count();
    let tries = async {
        drop(server.accept().await.unwrap());
        // kube itself runs it more than once for one client.
        let of_first = count();
        for _ in 0..3 {
            // Nothing gets through.
            drop(server.accept().await.unwrap());
        }
        assert_eq!(count(), of_first);
    };
    within(async { tokio::join!(tries, updates.failed()) }).await;
}

/// R12: an expired token is refused with 401, and read again from where it came; nothing is listed for
/// it.
#[tokio::test]
async fn r12_an_expired_token_is_read_again() {
    let folder = Folder::new("token");
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut updates = Updates::of(folder.source());
    let error = updates.failed().await;
    assert!(error.contains("no way to a Kubernetes API server from the kubeconfig"), "{error}");

    folder.configure(&api, &json!({"token": "first"}));
    api.require_token("first");
    updates.until_set(&["10.0.0.1:8080"]).await;
    until("the watch", || api.open_watches() == 1).await;
    api.require_token("second");
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    api.cut_watches();
    loop {
        match updates.next().await {
            Update::Failed(error) if error.to_string().contains("401") => {
                let error = error.to_string();
                assert!(error.contains("the credentials are expired or wrong"), "{error}");
                break;
            }
            Update::Failed(_) | Update::Set(_) => {}
            other => panic!("{other:?}"),
        }
    }
    folder.configure(&api, &json!({"token": "second"}));
    updates.until_set(&["10.0.0.2:8080"]).await;
    assert_eq!(api.count(Verb::List), 1);
}

/// Texts that one `Targets` parses share a client, and so a watch where they name one Service; those of
/// another configuration do not, nor does what is parsed without.
#[tokio::test]
async fn targets_of_one_configuration_share_a_client() {
    let folders = ["shared", "other"].map(Folder::new);
    let api = ApiServer::start().await;
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    folders.iter().for_each(|folder| folder.configure(&api, &json!({})));
    let text = |folder: &Folder, port: &str| {
        format!("k8s://shop/cart:{port}?kubeconfig={}", folder.kubeconfig().display())
    };
    let targets = Targets::new();
    let mut watching = Vec::new();
    for (target, lists) in [
        (targets.parse(&text(&folders[0], "http")), 1),
        (targets.clone().parse(&text(&folders[0], "8080")), 1),
        (targets.parse(&text(&folders[1], "http")), 2),
        (targets.parse(&format!("{}&context=test", text(&folders[0], "http"))), 3),
        (Target::parse(&text(&folders[0], "http")), 4),
    ] {
        let mut updates = Updates::of(target.unwrap());
        assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
        assert_eq!(api.count(Verb::List), lists);
        watching.push(updates);
    }
}

/// T15: a watch that ends with the runtime that it was begun on is begun anew on the one that asks. What
/// the only port of the Service was is known still.
#[test]
fn t15_a_watch_outlives_the_runtime_that_it_began_on() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let folder = Folder::new("runtime");
    let (of_server, first, second) = (runtime(), runtime(), runtime());
    let api = of_server.block_on(ApiServer::start());
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    folder.configure(&api, &json!({}));
    let source = folder.source();
    let of_first = first.block_on(async {
        let mut updates = Updates::of(source.clone());
        assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
        updates
    });
    let (mut of_second, mut of_only_port) = second.block_on(async {
        let mut updates = Updates::of(source.clone());
        let mut of_only_port = Updates::of(source.clone().port(ServicePort::Only));
        assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
        assert_eq!(of_only_port.set().await, ["10.0.0.1:8080"]);
        (updates, of_only_port)
    });
    drop(first);
    drop(of_first);
    let ports = json!([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}]);
    api.put("shop", "cart-a", slice_with("cart", ports, [ready("10.0.0.2")]));
    second.block_on(of_second.until_set(&["10.0.0.2:8080"]));
    let (set, error) = second.block_on(of_only_port.until_partial());
    assert_eq!(set, ["10.0.0.2:8080"]);
    assert!(error.contains("has several ports"), "{error}");
    let mut later = Updates::of(source);
    second.block_on(later.until_set(&["10.0.0.2:8080"]));
    drop(api);
}
