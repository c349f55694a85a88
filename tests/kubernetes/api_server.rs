//! An API server in the process: lists and watches EndpointSlices over real HTTP, and fails in the
//! ways that a real one does. Its answers to errors are those recorded of a real one.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a server for tests")]

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full, channel::Sender, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

const FORBIDDEN: &str = include_str!("recorded/forbidden.txt");
const GONE_LIST: &str = include_str!("recorded/list410.txt");
const GONE_WATCH: &str = include_str!("recorded/watch410.txt");
const UNAUTHORIZED: &str = include_str!("recorded/unauth.txt");
const INTERNAL: &str = include_str!("recorded/watchbad.txt");

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
    /// A watch that ends as soon as it has begun.
    EndAtOnce,
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
    seen: Vec<(Verb, String)>,
    open_watches: usize,
    /// How often it was killed.
    lives: u64,
}

/// A watch that a client holds open.
struct OpenWatch {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// The server; stops when it is dropped.
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    address: SocketAddr,
    connections: Option<tokio::task::JoinHandle<()>>,
}

// === impl ApiServer ===

impl ApiServer {
    pub(crate) async fn start() -> Self {
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
            lives: 0,
        };
        let mut server = Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            connections: None,
        };
        server.listen().await;
        server
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
        let handler = Handler {
            state: self.state.clone(),
            changed: self.changed.clone(),
            cut: self.cut.clone(),
        };
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

    /// As with SIGKILL: the listener and all connections are gone at once.
    pub(crate) async fn kill(&mut self) {
        let connections = self.connections.take().unwrap();
        connections.abort();
        let _ = connections.await;
        let mut state = self.state();
        state.lives += 1;
        state.open_watches = 0;
    }

    /// Listens again where it did.
    pub(crate) async fn restart(&mut self) {
        self.listen().await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of this server, with `token` if there is one.
    pub(crate) fn client(&self, token: Option<&str>) -> kube::Client {
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

    /// Accepts only this token from now on.
    pub(crate) fn require_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    // --- what was asked ---

    pub(crate) fn count(&self, verb: Verb) -> usize {
        self.state().seen.iter().filter(|(seen, _)| *seen == verb).count()
    }

    pub(crate) fn queries(&self, verb: Verb) -> Vec<String> {
        let state = self.state();
        let of_verb = state.seen.iter().filter(|(seen, _)| *seen == verb);
        of_verb.map(|(_, query)| query.clone()).collect()
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.state().open_watches
    }
}

const EXPIRE: u64 = 1 << 16;
const FREEZE: u64 = 1 << 32;

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

type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
struct Handler {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
}

/// What is asked for.
struct Query {
    namespace: String,
    service: Option<String>,
    parameters: HashMap<String, String>,
}

// === impl Handler ===

impl Handler {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let Some(query) = Query::parse(request.uri()) else {
            return Ok(answer(404, json!({"kind": "Status", "code": 404}).to_string()));
        };
        let watching =
            query.parameters.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
        let verb = if watching { Verb::Watch } else { Verb::List };
        let (fault, authorised, frozen) = {
            let mut state = self.state.lock().unwrap();
            state.seen.push((verb, request.uri().query().unwrap_or_default().to_owned()));
            let given =
                request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
            let authorised = wanted.is_none() || wanted.as_deref() == given;
            (state.faults.get(&verb).copied(), authorised, state.frozen)
        };
        if frozen {
            std::future::pending::<()>().await;
        }
        if !authorised {
            return Ok(answer(401, json_of(UNAUTHORIZED).to_string()));
        }
        Ok(match fault {
            Some(Fault::Status(code)) => answer(code, status(code).to_string()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Half) if verb == Verb::List => self.half_list(&query).await,
            Some(Fault::EndAtOnce) if verb == Verb::Watch => answer(200, String::new()),
            _ if verb == Verb::List => self.list(&query),
            _ => self.watch(query),
        })
    }

    fn list(&self, query: &Query) -> Response<Body> {
        let state = self.state.lock().unwrap();
        let skip: usize = query.parameters.get("continue").map_or(0, |at| at.parse().unwrap());
        if skip > 0 && state.expire_pages {
            return answer(410, json_of(GONE_LIST).to_string());
        }
        let limit =
            query.parameters.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let page = if limit == usize::MAX { limit } else { limit.min(state.page) };
        let of_query = state.slices.values().filter(|slice| query.matches(slice));
        let all: Vec<Value> = of_query.cloned().collect();
        let items: Vec<_> = all.iter().skip(skip).take(page).cloned().collect();
        let mut metadata = json!({"resourceVersion": state.version.to_string()});
        if all.len() - skip > items.len() {
            metadata["continue"] = json!((skip + items.len()).to_string());
        }
        let list = json!({
            "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata, "items": items,
        });
        answer(200, list.to_string())
    }

    /// The first half of the list, and then the connection breaks.
    async fn half_list(&self, query: &Query) -> Response<Body> {
        let whole = self.list(query).into_body().collect().await.unwrap().to_bytes();
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(4);
        tokio::spawn(async move {
            let _ = sender.send_data(whole.slice(..whole.len() / 2)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            sender.abort(std::io::Error::other("cut"));
        });
        Response::new(BodyExt::boxed(body))
    }

    fn watch(&self, query: Query) -> Response<Body> {
        let from = query.parameters.get("resourceVersion").cloned().unwrap_or_default();
        let Ok(from) = from.parse::<u64>() else {
            return answer(500, json_of(INTERNAL).to_string());
        };
        let (version, forgotten) = {
            let state = self.state.lock().unwrap();
            (state.version, state.forgotten)
        };
        if from < forgotten {
            return answer(200, format!("{}\n", json_of(GONE_WATCH)));
        }
        if from > version {
            // As recorded: a version of the future gives an empty stream.
            return answer(200, String::new());
        }
        let (sender, body) = Channel::<Bytes, std::io::Error>::new(64);
        // Subscribed before the state is looked at, so that nothing falls in between.
        let (changed, cut) = (self.changed.subscribe(), self.cut.subscribe());
        let open = OpenWatch::new(&self.state);
        tokio::spawn(send_events(open, query, from, changed, cut, sender));
        Response::new(BodyExt::boxed(body))
    }
}

// === impl OpenWatch ===

impl OpenWatch {
    fn new(state: &Arc<Mutex<State>>) -> Self {
        let life = {
            let mut state = state.lock().unwrap();
            state.open_watches += 1;
            state.lives
        };
        Self { state: state.clone(), life }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        if state.lives == self.life {
            state.open_watches -= 1;
        }
    }
}

async fn send_events(
    open: OpenWatch,
    query: Query,
    mut from: u64,
    mut changed: watch::Receiver<u64>,
    mut cut: watch::Receiver<u64>,
    mut sender: Sender<Bytes, std::io::Error>,
) {
    let cuts = *cut.borrow();
    loop {
        let (lines, frozen) = {
            let state = open.state.lock().unwrap();
            let lines = if state.deaf { Vec::new() } else { lines(&state, &query, &mut from) };
            (lines, state.frozen)
        };
        if frozen {
            std::future::pending::<()>().await;
        }
        for line in lines {
            if sender.send_data(Bytes::from(line)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            _ = cut.changed() => {
                let cut = *cut.borrow() - cuts;
                if cut >= FREEZE {
                    std::future::pending::<()>().await;
                }
                if cut >= EXPIRE {
                    let _ = sender.send_data(Bytes::from(format!("{}\n", json_of(GONE_WATCH)))).await;
                    return;
                }
                let _ = sender.send_data(Bytes::from_static(b"{\"type\":\"MODI")).await;
                return sender.abort(std::io::Error::other("cut"));
            }
        }
    }
}

fn lines(state: &State, query: &Query, from: &mut u64) -> Vec<String> {
    let mut lines = Vec::new();
    let known = *from;
    for (version, kind, object) in state.log.iter().filter(|(version, ..)| *version > known) {
        if *kind == "BOOKMARK" || query.matches(object) {
            lines.push(format!("{}\n", json!({"type": kind, "object": object})));
        }
        *from = *version;
    }
    lines
}

// === impl Query ===

impl Query {
    fn parse(uri: &http::Uri) -> Option<Self> {
        let rest = uri.path().strip_prefix("/apis/discovery.k8s.io/v1/namespaces/")?;
        let namespace = rest.strip_suffix("/endpointslices")?.to_owned();
        let parameters: HashMap<_, _> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decode(value)))
            .collect();
        let selector = parameters.get("labelSelector").cloned().unwrap_or_default();
        let service = selector.split_once('=').map(|(_, service)| service.to_owned());
        Some(Self { namespace, service, parameters })
    }

    fn matches(&self, slice: &Value) -> bool {
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
        slice["metadata"]["namespace"] == self.namespace.as_str()
            && service
                .is_some_and(|service| self.service.as_deref().is_none_or(|own| own == service))
    }
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).unwrap()
}

/// The JSON in a recording, without what was noted beside it.
fn json_of(recorded: &str) -> Value {
    let mut values = serde_json::Deserializer::from_str(recorded).into_iter::<Value>();
    values.next().unwrap().unwrap()
}

fn status(code: u16) -> Value {
    match code {
        403 => json_of(FORBIDDEN),
        410 => json_of(GONE_LIST),
        401 => json_of(UNAUTHORIZED),
        500 => json_of(INTERNAL),
        _ => json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "message": StatusCode::from_u16(code).unwrap().to_string()}),
    }
}

fn answer(code: u16, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
    let mut response = Response::new(BodyExt::boxed(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
