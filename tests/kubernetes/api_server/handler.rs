//! What the server in the process answers.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::node::Clock;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full, channel::Sender, combinators::BoxBody};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Fault, State, Verb};

const FORBIDDEN: &str = include_str!("../recorded/forbidden.txt");
const GONE_LIST: &str = include_str!("../recorded/list410.txt");
const GONE_WATCH: &str = include_str!("../recorded/watch410.txt");
const UNAUTHORIZED: &str = include_str!("../recorded/unauth.txt");
const INTERNAL: &str = include_str!("../recorded/watchbad.txt");

/// How watches are ended, as a number that grows.
pub(super) const CLOSE: u64 = 1 << 16;
pub(super) const EXPIRE: u64 = 1 << 32;
pub(super) const FREEZE: u64 = 1 << 48;

/// A watch that a client holds open.
struct OpenWatch {
    state: Arc<Mutex<State>>,
    life: u64,
}

type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
pub(super) struct Handler {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) cut: watch::Sender<u64>,
}

/// What is asked for.
struct Query {
    namespace: String,
    service: Option<String>,
    parameters: HashMap<String, String>,
}

// === impl Handler ===

impl Handler {
    pub(super) async fn answer_in_memory<B>(
        self,
        request: Request<B>,
    ) -> std::io::Result<Response<Body>> {
        if self.state.lock().unwrap().down {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        Ok(self.answer(request).await.unwrap())
    }

    pub(super) async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, Infallible> {
        let Some(query) = Query::parse(request.uri()) else {
            return Ok(answer(404, json!({"kind": "Status", "code": 404}).to_string()));
        };
        let watching =
            query.parameters.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
        let verb = if watching { Verb::Watch } else { Verb::List };
        let (fault, authorised, frozen) = {
            let mut state = self.state.lock().unwrap();
            let query = request.uri().query().unwrap_or_default().to_owned();
            state.seen.push((verb, query, Clock::default().now()));
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
        if let Some(Fault::Late(seconds)) = fault {
            tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
        }
        Ok(match fault {
            Some(Fault::Status(code)) => answer(code, status(code).to_string()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Half) if verb == Verb::List => self.half_list(&query).await,
            Some(Fault::Throttled(code, seconds)) => throttled(code, seconds),
            Some(Fault::Busy(code, seconds)) => {
                let mut status = status(code);
                status["details"] = json!({"retryAfterSeconds": seconds});
                answer(code, status.to_string())
            }
            Some(Fault::Nonsense) => answer(200, "{\"type\":\"ADDED\",\"object\":7}\n".to_owned()),
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
            tokio::task::yield_now().await;
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
    // As a real one, it ends a watch when the client asked it to.
    let lasts = query.parameters.get("timeoutSeconds").map_or(300, |text| text.parse().unwrap());
    let mut end = pin!(tokio::time::sleep(Duration::from_secs(lasts)));
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
            // What is cut or frozen hears of no change that came later.
            biased;
            _ = cut.changed() => {
                let cut = *cut.borrow() - cuts;
                if cut >= FREEZE {
                    std::future::pending::<()>().await;
                }
                if cut >= EXPIRE {
                    let _ = sender.send_data(Bytes::from(format!("{}\n", json_of(GONE_WATCH)))).await;
                    return;
                }
                if cut >= CLOSE {
                    return;
                }
                let _ = sender.send_data(Bytes::from_static(b"{\"type\":\"MODI")).await;
                return sender.abort(std::io::Error::other("cut"));
            }
            _ = changed.changed() => {}
            () = end.as_mut() => return,
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

fn throttled(code: u16, seconds: u32) -> Response<Body> {
    let mut response = answer(code, "Too many requests, please try again later.".to_owned());
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("retry-after", seconds.into());
    response
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
