//! The servers behind the balancer: each a real one on a port of its own.

use std::{error::Error, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use evenkeel::{
    Endpoint,
    discovery::{Registration, Registry},
};
use tokio::{net::TcpListener, sync::oneshot};

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Normal,
    Slow,
    Broken,
}

/// A running server and its place in the registry. Both end with it.
pub(crate) struct Server {
    registration: Registration,
    stop: oneshot::Sender<()>,
}

impl Server {
    pub(crate) async fn start(
        registry: &Registry,
        name: &str,
        kind: Kind,
    ) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = Endpoint::new(listener.local_addr()?).with_metadata("name", name);
        let (stop, stopped) = oneshot::channel::<()>();
        let app = Router::new().route("/", get(move || answer(kind)));
        let server = axum::serve(listener, app).with_graceful_shutdown(async move {
            // An error means that the sender is gone, which is how it is told.
            let _ = stopped.await;
        });
        tokio::spawn(async move { server.await });
        Ok(Self { registration: registry.register(endpoint)?, stop })
    }

    /// Leaves the registry first and stops a little later, as a graceful server does: whoever sent
    /// a request meanwhile did not know yet.
    pub(crate) fn stop(self) {
        tokio::spawn(async move {
            drop(self.registration);
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(self.stop);
        });
    }
}

async fn answer(kind: Kind) -> (StatusCode, &'static str) {
    let about = |millis: f64| {
        let spread = 0.5 + rand::random::<f64>();
        tokio::time::sleep(Duration::from_secs_f64(millis / 1e3 * spread))
    };
    match kind {
        Kind::Normal => about(10.0).await,
        Kind::Slow => about(100.0).await,
        Kind::Broken => return (StatusCode::INTERNAL_SERVER_ERROR, "broken"),
    }
    (StatusCode::OK, "hello")
}
