//! A real control plane for one test: etcd, the API server and the EndpointSlice controller.
//!
//! There are no machines in it: whoever makes a pod also says that it is ready.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::skip::skipped;

pub(crate) const NAMESPACE: &str = "shop";
/// May do everything.
pub(crate) const ADMIN: &str = "admin-token";
/// May do what a test gives it.
pub(crate) const VIEWER: &str = "viewer-token";

/// The processes; killed when it is dropped.
pub(crate) struct ControlPlane {
    binaries: PathBuf,
    directory: PathBuf,
    api_port: u16,
    etcd_port: u16,
    etcd: Child,
    api_server: Child,
    controllers: Option<Child>,
}

/// Where the binaries are, as envtest looks for them; says so where they are not.
pub(crate) fn binaries() -> Option<PathBuf> {
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let usual = PathBuf::from("/usr/local/kubebuilder/bin");
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let versions = data.and_then(|data| fs::read_dir(data.join("kubebuilder-envtest/k8s")).ok());
    let mut versions: Vec<_> =
        versions.into_iter().flatten().flatten().map(|at| at.path()).collect();
    versions.sort();
    let mut all = named.into_iter().chain([usual]).chain(versions.into_iter().rev());
    let found = all.find(|at| {
        ["etcd", "kube-apiserver", "kube-controller-manager"]
            .iter()
            .all(|name| at.join(name).is_file())
    });
    if found.is_none() {
        skipped(
            "no etcd, kube-apiserver and kube-controller-manager in KUBEBUILDER_ASSETS or envtest's folders",
        );
    }
    found
}

/// To the terminal, past what cargo keeps of a test that passes.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "cluster: {line}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

// === impl ControlPlane ===

impl ControlPlane {
    /// With the namespace made; and with the EndpointSlice controller, if so wished.
    pub(crate) async fn start(binaries: &Path, controllers: bool) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("evenkeel-cluster-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(directory.join("sa.key"), key.serialize_pem()).unwrap();
        fs::write(directory.join("sa.pub"), key.public_key_pem()).unwrap();
        let tokens = format!("{ADMIN},admin,1,\"system:masters\"\n{VIEWER},viewer,2\n");
        fs::write(directory.join("tokens.csv"), tokens).unwrap();
        let (api_port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        let client_url = format!("http://127.0.0.1:{etcd_port}");
        let etcd = Command::new(binaries.join("etcd"))
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer_port}")])
            .arg("--unsafe-no-fsync")
            .stdout(log(&directory, "etcd"))
            .stderr(log(&directory, "etcd"))
            .spawn()
            .unwrap();
        let api_server = spawn_api_server(binaries, &directory, api_port, etcd_port);
        let mut plane = Self {
            binaries: binaries.to_owned(),
            directory,
            api_port,
            etcd_port,
            etcd,
            api_server,
            controllers: None,
        };
        plane.until_ready().await;
        let namespaces: Api<Namespace> = Api::all(plane.client(ADMIN));
        let namespace = object(json!({"metadata": {"name": NAMESPACE}}));
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        // The controller passes over pods whose node it does not know.
        let nodes: Api<Node> = Api::all(plane.client(ADMIN));
        let labels = json!({"topology.kubernetes.io/zone": "z1"});
        let node = object(json!({"metadata": {"name": "n1", "labels": labels}}));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        if controllers {
            plane.start_controllers();
        }
        plane
    }

    fn start_controllers(&mut self) {
        let kubeconfig = self.directory.join("kubeconfig");
        fs::write(&kubeconfig, self.kubeconfig(ADMIN, self.api_address())).unwrap();
        let controllers = Command::new(self.binaries.join("kube-controller-manager"))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args([
                "--controllers=endpointslice-controller",
                "--leader-elect=false",
                "--secure-port=0",
            ])
            .stdout(log(&self.directory, "controllers"))
            .stderr(log(&self.directory, "controllers"))
            .spawn();
        self.controllers = Some(controllers.unwrap());
    }

    pub(crate) fn api_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.api_port))
    }

    fn kubeconfig(&self, token: &str, at: SocketAddr) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster":
                {"server": format!("https://{at}"), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// The file of [`kubeconfig`](Self::kubeconfig).
    pub(crate) fn kubeconfig_file(&self, token: &str, at: SocketAddr) -> PathBuf {
        let file = self.directory.join(format!("kubeconfig-{}-{token}", at.port()));
        fs::write(&file, self.kubeconfig(token, at)).unwrap();
        file
    }

    /// The way to this server by way of `at`.
    pub(crate) fn config(&self, token: &str, at: SocketAddr) -> Config {
        let mut config = Config::new(format!("https://{at}").parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        config.default_retry = false;
        config
    }

    pub(crate) fn client(&self, token: &str) -> Client {
        Client::try_from(self.config(token, self.api_address())).unwrap()
    }

    async fn until_ready(&mut self) {
        let asked = async {
            loop {
                let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
                if self.client(ADMIN).request_text(request).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(90), asked).await;
        if asked.is_err() {
            let log = fs::read_to_string(self.directory.join("api-server.log")).unwrap_or_default();
            panic!("the API server is not ready: {}", log.lines().last().unwrap_or_default());
        }
    }

    /// SIGKILL.
    pub(crate) fn kill_api_server(&mut self) {
        self.api_server.kill().unwrap();
        self.api_server.wait().unwrap();
    }

    pub(crate) async fn restart_api_server(&mut self) {
        self.api_server =
            spawn_api_server(&self.binaries, &self.directory, self.api_port, self.etcd_port);
        self.until_ready().await;
    }

    /// Has etcd forget everything before now.
    pub(crate) async fn compact(&self) {
        let pods: Api<Pod> = Api::all(self.client(ADMIN));
        let list = pods.list(&Default::default()).await.unwrap();
        let revision = list.metadata.resource_version.unwrap();
        let answer = reqwest::Client::new()
            .post(format!("http://127.0.0.1:{}/v3/kv/compaction", self.etcd_port))
            .body(json!({"revision": revision, "physical": true}).to_string())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    // --- objects ---

    pub(crate) async fn create_service(&self, name: &str) {
        let services: Api<Service> = Api::namespaced(self.client(ADMIN), NAMESPACE);
        let service = object(json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": "None", "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }));
        services.create(&PostParams::default(), &service).await.unwrap();
    }

    /// A pod that is ready at once.
    pub(crate) async fn create_pod(&self, service: &str, name: &str, address: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client(ADMIN), NAMESPACE);
        let pod = object(json!({
            "metadata": {"name": name, "labels": {"app": service}},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]},
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
        self.set_ready(name, Some(address), true).await;
    }

    pub(crate) async fn set_ready(&self, name: &str, address: Option<&str>, ready: bool) {
        let pods: Api<Pod> = Api::namespaced(self.client(ADMIN), NAMESPACE);
        let ready = if ready { "True" } else { "False" };
        let mut status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}]}});
        if let Some(address) = address {
            status["status"]["podIP"] = json!(address);
            status["status"]["podIPs"] = json!([{"ip": address}]);
        }
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// As a deletion is seen with a grace period: the pod terminates, and is there until it is gone.
    pub(crate) async fn terminate_pod(&self, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client(ADMIN), NAMESPACE);
        pods.delete(name, &DeleteParams::default().grace_period(30)).await.unwrap();
    }

    /// The kubelet's last word.
    pub(crate) async fn remove_pod(&self, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client(ADMIN), NAMESPACE);
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

fn spawn_api_server(binaries: &Path, directory: &Path, port: u16, etcd_port: u16) -> Child {
    let at = |name: &str| directory.join(name).display().to_string();
    Command::new(binaries.join("kube-apiserver"))
        .args([
            &format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            &format!("--secure-port={port}"),
            "--bind-address=127.0.0.1",
            // It looks for a default route otherwise, which a network namespace does not have.
            "--advertise-address=10.77.0.1",
            "--endpoint-reconciler-type=none",
            &format!("--cert-dir={}", at("certificates")),
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            &format!("--service-account-key-file={}", at("sa.pub")),
            &format!("--service-account-signing-key-file={}", at("sa.key")),
            &format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
        ])
        .stdout(log(directory, "api-server"))
        .stderr(log(directory, "api-server"))
        .spawn()
        .unwrap()
}

fn log(directory: &Path, name: &str) -> Stdio {
    let at = directory.join(format!("{name}.log"));
    fs::OpenOptions::new().create(true).append(true).open(at).unwrap().into()
}

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let all = [Some(&mut self.api_server), self.controllers.as_mut(), Some(&mut self.etcd)];
        for process in all.into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
