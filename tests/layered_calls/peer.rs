//! A server at the other end of pipes, which does as the path says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Address, Balance, BoxError, Endpoint,
    client::{Connected, Http, HttpService, ReqwestClient},
    discovery::{Registration, Registry},
    node::Clock,
};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// What it was asked, each with the name that it was asked by.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

/// A balancer over one endpoint, which serves until it is deregistered.
pub(crate) struct Served {
    pub(crate) balance: Balance<HttpService>,
    pub(crate) registry: Registry,
    pub(crate) asked: Asked,
}

#[derive(Clone)]
struct Server {
    http2: bool,
    asked: Asked,
    registration: Arc<Mutex<Option<Registration>>>,
}

/// Where the server is.
pub(crate) fn serving() -> Endpoint {
    Endpoint::new(([10, 0, 0, 1], 80))
}

/// Where no dial ever ends.
pub(crate) fn silent() -> Endpoint {
    Endpoint::new(([10, 0, 0, 2], 80))
}

/// For as long as no test has patience.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);

/// When the caller's patience ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

// === impl Asked ===

impl Asked {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

// === impl Served ===

impl Served {
    pub(crate) fn new(http2: bool) -> Self {
        let (registry, asked) = (Registry::new(), Asked::default());
        let registration = Arc::new(Mutex::new(Some(registry.register(serving()).unwrap())));
        let server = Server { http2, asked: asked.clone(), registration };
        let connector = move |address: &Address| {
            let (served, server) = (serving().addr() == address, server.clone());
            async move {
                if !served {
                    return std::future::pending::<Result<Connected, BoxError>>().await;
                }
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                tokio::spawn(server.serve(theirs));
                Ok(Connected::new(TokioIo::new(ours)))
            }
        };
        let http = if http2 { Http::default().http2_prior_knowledge() } else { Http::default() };
        let http = http.connector(connector).connect_timeout(LONG);
        let builder = Balance::builder(registry.clone()).wait_for_endpoints(LONG);
        Self { balance: builder.make(http).unwrap(), registry, asked }
    }

    pub(crate) fn client(&self) -> ReqwestClient {
        // Its TLS is not used here, but it wants to have a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        ReqwestClient::over(reqwest::Client::new(), self.balance.clone()).timeout(LIMIT)
    }
}

// === impl Server ===

impl Server {
    async fn serve(self, pipe: tokio::io::DuplexStream) {
        let (io, http2) = (TokioIo::new(pipe), self.http2);
        let service = service_fn(move |request| self.clone().answer(request));
        let _ = if http2 {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.serve_connection(io, service).await
        } else {
            hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
        };
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
        let host = request.headers().get(header::HOST);
        let named = host.map_or_else(String::new, |host| host.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        self.asked.0.lock().unwrap().push(format!("{named}{path}"));
        let leads_to = request.uri().query().map(str::to_owned);
        request.into_body().collect().await?;
        if path == "/last" {
            drop(self.registration.lock().unwrap().take());
            // In paused time whoever is told has heard of it before this ends.
            Clock::default().sleep(Duration::from_secs(1)).await;
        }
        match (path.as_str(), leads_to) {
            ("/hangs", _) => std::future::pending().await,
            (_, Some(to)) => {
                let redirect = Response::builder().status(302).header(header::LOCATION, to);
                Ok(redirect.body(Full::default()).unwrap())
            }
            ("/there", _) => Ok(Response::new(Full::from("here"))),
            // In HTTP/1.1 that is the end of the connection, in HTTP/2 of the stream.
            _ => Err("that is all".into()),
        }
    }
}
