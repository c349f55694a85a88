//! An API server in the process: lists and watches EndpointSlices, over real HTTP or in memory, where
//! time can be paused; and fails in the ways that a real one does. Its answers to errors are those
//! recorded of a real one.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a server for tests")]

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use handler::{CLOSE, EXPIRE, FREEZE, Handler};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

mod handler;

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    List,
    Watch,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status, with the body recorded for it.
    Status(u16),
    /// A body that ends in the middle.
    Half,
    /// The request is taken and never answered.
    Hang,
    /// The request is answered after so many seconds.
    Late(u64),
    /// A watch that ends as soon as it has begun.
    EndAtOnce,
    /// This status and this many seconds: as its priority levels answer, in a header and plain text.
    Throttled(u16, u32),
    /// The same, as its storage answers: in the body.
    Busy(u16, u32),
    /// A line that is no event.
    Nonsense,
}

#[derive(Debug)]
struct State {
    version: u64,
    /// What happened up to here is forgotten.
    forgotten: u64,
    slices: BTreeMap<(String, String), Value>,
    log: Vec<(u64, &'static str, Value)>,
    faults: HashMap<Verb, Fault>,
    page: usize,
    expire_pages: bool,
    frozen: bool,
    deaf: bool,
    token: Option<String>,
    seen: Vec<(Verb, String, Instant)>,
    open_watches: usize,
    /// Killed, in memory: over HTTP nobody listens then.
    down: bool,
    /// How often it was killed.
    lives: u64,
}

/// The server; stops when it is dropped.
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    address: SocketAddr,
    pub(crate) in_memory: bool,
    connections: Option<tokio::task::JoinHandle<()>>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Over HTTP.
    pub(crate) async fn start() -> Self {
        let mut server = Self::in_memory();
        server.in_memory = false;
        server.listen().await;
        server
    }

    /// Without a network, so that time may be paused.
    pub(crate) fn in_memory() -> Self {
        let state = State {
            version: 100,
            forgotten: 0,
            slices: BTreeMap::new(),
            log: Vec::new(),
            faults: HashMap::new(),
            page: usize::MAX,
            expire_pages: false,
            frozen: false,
            deaf: false,
            token: None,
            seen: Vec::new(),
            open_watches: 0,
            down: false,
            lives: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            in_memory: true,
            connections: None,
        }
    }

    async fn listen(&mut self) {
        let listener = loop {
            // After a stop, the kernel may need a moment for the same port.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.address = listener.local_addr().unwrap();
        let handler = self.handler();
        self.connections = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let handler = handler.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| handler.clone().answer(request));
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    fn handler(&self) -> Handler {
        Handler { state: self.state.clone(), changed: self.changed.clone(), cut: self.cut.clone() }
    }

    /// As with SIGKILL: the listener and all connections are gone at once.
    pub(crate) async fn kill(&mut self) {
        if let Some(connections) = self.connections.take() {
            connections.abort();
            let _ = connections.await;
        }
        self.cut_watches();
        let mut state = self.state();
        state.down = true;
        state.lives += 1;
        state.open_watches = 0;
    }

    /// Listens again where it did.
    pub(crate) async fn restart(&mut self) {
        self.state().down = false;
        if !self.in_memory {
            self.listen().await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of this server, with `token` if there is one.
    pub(crate) fn client(&self, token: Option<&str>) -> kube::Client {
        if self.in_memory {
            let handler = self.handler();
            let service =
                tower::service_fn(move |request| handler.clone().answer_in_memory(request));
            return kube::Client::new(service, "default");
        }
        install_provider();
        let mut config = kube::Config::new(self.url().parse().unwrap());
        config.default_retry = false;
        config.auth_info.token = token.map(|token| token.to_owned().into());
        kube::Client::try_from(config).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    // --- objects ---

    /// Adds or changes the slice `name`.
    pub(crate) fn put(&self, namespace: &str, name: &str, mut slice: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        slice["metadata"]["name"] = json!(name);
        slice["metadata"]["namespace"] = json!(namespace);
        slice["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = (namespace.to_owned(), name.to_owned());
        let kind = if state.slices.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.slices.insert(key, slice.clone());
        state.log.push((version, kind, slice));
        drop(state);
        self.changed.send_replace(version);
    }

    pub(crate) fn delete(&self, namespace: &str, name: &str) {
        let mut state = self.state();
        let key = (namespace.to_owned(), name.to_owned());
        let mut slice = state.slices.remove(&key).expect("there is such a slice");
        state.version += 1;
        let version = state.version;
        slice["metadata"]["resourceVersion"] = json!(version.to_string());
        state.log.push((version, "DELETED", slice));
        drop(state);
        self.changed.send_replace(version);
    }

    /// Sends every watch a bookmark.
    pub(crate) fn bookmark(&self) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let object = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": version.to_string()},
            "addressType": "", "endpoints": null, "ports": null,
        });
        state.log.push((version, "BOOKMARK", object));
        drop(state);
        self.changed.send_replace(version);
    }

    /// Forgets what happened so far, as a compaction of etcd does.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.forgotten = state.version;
        state.log.clear();
    }

    /// Another life: versions begin anew, below those that clients know.
    pub(crate) fn restore_from_backup(&self) {
        let mut state = self.state();
        state.version = 10;
        state.forgotten = 0;
        state.log.clear();
    }

    // --- faults ---

    pub(crate) fn fail(&self, verb: Verb, fault: Fault) {
        self.state().faults.insert(verb, fault);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.expire_pages = false;
        state.frozen = false;
        drop(state);
        self.changed.send_modify(|_| ());
    }

    /// Lists at most so many slices in one page.
    pub(crate) fn page(&self, slices: usize) {
        self.state().page = slices;
    }

    /// Every further page of a list has expired.
    pub(crate) fn expire_pages(&self) {
        self.state().expire_pages = true;
    }

    /// Open watches hear nothing more, and say nothing either.
    pub(crate) fn freeze(&self) {
        self.state().frozen = true;
    }

    /// Watches are told of nothing from now on, until they are expired.
    pub(crate) fn deafen(&self) {
        self.state().deaf = true;
    }

    /// Tells all open watches that their version is too old, and hears again.
    pub(crate) fn expire_watches(&self) {
        self.state().deaf = false;
        self.cut.send_modify(|cut| *cut += EXPIRE);
    }

    /// Open watches freeze; new ones do not.
    pub(crate) fn freeze_open_watches(&self) {
        self.cut.send_modify(|cut| *cut += FREEZE);
    }

    /// Ends all watches, in the middle of a line.
    pub(crate) fn cut_watches(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    /// Ends all watches, as a server does in good order.
    pub(crate) fn close_watches(&self) {
        self.cut.send_modify(|cut| *cut += CLOSE);
    }

    /// Accepts only this token from now on.
    pub(crate) fn require_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    // --- what was asked ---

    pub(crate) fn count(&self, verb: Verb) -> usize {
        self.times(verb).len()
    }

    pub(crate) fn queries(&self, verb: Verb) -> Vec<String> {
        let state = self.state();
        let of_verb = state.seen.iter().filter(|(seen, ..)| *seen == verb);
        of_verb.map(|(_, query, _)| query.clone()).collect()
    }

    /// When it was asked.
    pub(crate) fn times(&self, verb: Verb) -> Vec<Instant> {
        let state = self.state();
        let of_verb = state.seen.iter().filter(|(seen, ..)| *seen == verb);
        of_verb.map(|(.., at)| *at).collect()
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.state().open_watches
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(connections) = self.connections.take() {
            connections.abort();
        }
    }
}

/// rustls needs one to build a client, even for plain HTTP.
pub(crate) fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
