//! What a real API server answers a client, seen between the two of them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use kube::client::{Body, DynBody};
use serde_json::Value;
use tower::BoxError;

use super::control_plane::ControlPlane;

/// One request, and what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) watch: bool,
    /// The status of the answer.
    pub(crate) code: u16,
    /// Of a watch: the codes of those of its events that are errors.
    pub(crate) errors: Vec<u64>,
}

/// Notes what it sees, in order.
#[derive(Clone, Default)]
pub(crate) struct Observer(Arc<Mutex<Vec<Seen>>>);

// === impl Observer ===

impl Observer {
    /// A client that goes to `plane` by way of `at`, and is looked at.
    pub(crate) fn client(&self, plane: &ControlPlane, token: &str, at: SocketAddr) -> kube::Client {
        let inner = kube::Client::try_from(plane.config(token, at)).unwrap();
        let observer = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, observer) = (inner.clone(), observer.clone());
            async move { observer.send(inner, request).await }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    async fn send(
        self,
        client: kube::Client,
        request: Request<Body>,
    ) -> Result<Response<Box<DynBody>>, BoxError> {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let response = client.send(request).await?;
        let at = {
            let mut all = self.0.lock().unwrap();
            all.push(Seen { watch, code: response.status().as_u16(), errors: Vec::new() });
            all.len() - 1
        };
        let mut line = Vec::new();
        Ok(response.map(|body| {
            let observed = body.map_frame(move |frame: Frame<Bytes>| {
                let data = frame.data_ref().filter(|_| watch);
                for byte in data.into_iter().flatten() {
                    if *byte == b'\n' {
                        self.look(at, &std::mem::take(&mut line));
                    } else {
                        line.push(*byte);
                    }
                }
                frame
            });
            let boxed: Box<DynBody> = Box::new(observed.map_err(BoxError::from));
            boxed
        }))
    }

    /// At a line of the watch that is number `at` of the answers.
    fn look(&self, at: usize, line: &[u8]) {
        let event: Value = serde_json::from_slice(line).unwrap();
        if event["type"] == "ERROR" {
            let code = event["object"]["code"].as_u64().unwrap();
            self.0.lock().unwrap()[at].errors.push(code);
        }
    }
}
