//! The way to the API server: found when it is first needed, and anew when it stops being good.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    runtime::Handle,
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tower_layer::layer_fn;

use super::throttle::{Throttle, Throttled};
use crate::error::DiscoverError;

/// Where the client comes from.
#[derive(Clone)]
pub(super) enum Origin {
    /// Handed in; its owner looks after it.
    Given(Client),
    /// A kubeconfig if there is one, else the pod's service account.
    Infer,
    /// The pod's service account.
    InCluster,
    Kubeconfig {
        path: Option<PathBuf>,
        context: Option<String>,
    },
}

/// One client for all that watch through one [`Kubernetes`](super::Kubernetes).
pub(super) struct Clients {
    origin: Origin,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// Counts the clients, so that of many who find one bad only the first drops it.
    generation: u64,
    client: Option<(Client, Throttle)>,
    /// The one that is on its way. It goes on while nobody waits: there shall not be a second.
    loading: Option<JoinHandle<Result<(Client, Throttle), DiscoverError>>>,
}

/// A client, and which it is.
#[derive(Clone)]
pub(super) struct Loan {
    pub(super) client: Client,
    throttle: Throttle,
    generation: u64,
}

// === impl Clients ===

impl Clients {
    pub(super) fn new(origin: Origin) -> Arc<Self> {
        Arc::new(Self { origin, loaded: Mutex::default() })
    }

    /// The client; reads the configuration if there is none yet, which may take as long as `limit`: a
    /// kubeconfig may name a program that gives the credentials.
    pub(super) async fn get(&self, limit: Duration) -> Result<Loan, DiscoverError> {
        // All who wait for it wait in the same time, and not one after another.
        match timeout(limit, self.loaded()).await {
            Ok(loan) => loan,
            Err(_elapsed) => {
                let origin = &self.origin;
                let text = format!(
                    "no way to a Kubernetes API server from {origin}: not within {limit:?}"
                );
                Err(DiscoverError::new(text))
            }
        }
    }

    async fn loaded(&self) -> Result<Loan, DiscoverError> {
        let mut loaded = self.loaded.lock().await;
        let (client, throttle) = match (&self.origin, &loaded.client) {
            (Origin::Given(client), _) => (client.clone(), Throttle::default()),
            (_, Some(client)) => client.clone(),
            (origin, None) => {
                let client = loaded.load(origin).await?;
                loaded.generation += 1;
                loaded.client.insert(client).clone()
            }
        };
        Ok(Loan { client, throttle, generation: loaded.generation })
    }

    /// The client of `loan` was refused, or its runtime is gone: the next is made from what the
    /// configuration says then, such as a renewed token.
    pub(super) async fn give_up(&self, loan: &Loan) {
        let mut loaded = self.loaded.lock().await;
        if loaded.generation == loan.generation {
            loaded.client = None;
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("origin", &self.origin).finish_non_exhaustive()
    }
}

// === impl Loaded ===

impl Loaded {
    /// Goes on where it was if it is dropped and called again.
    async fn load(&mut self, origin: &Origin) -> Result<(Client, Throttle), DiscoverError> {
        let loading = self.loading.get_or_insert_with(|| {
            // Files are read, and a program may be run and waited for: not on the runtime's workers.
            let (origin, runtime) = (origin.clone(), Handle::current());
            spawn_blocking(move || runtime.block_on(origin.load()))
        });
        let loaded = loading.await;
        self.loading = None;
        // Its runtime is gone, or it panicked.
        loaded.unwrap_or_else(|error| Err(unusable(origin, error)))
    }
}

// === impl Loan ===

impl Loan {
    /// How much longer the server wishes to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.throttle.rest()
    }
}

// === impl Origin ===

impl Origin {
    async fn load(&self) -> Result<(Client, Throttle), DiscoverError> {
        let mut config = match self {
            Self::Given(client) => return Ok((client.clone(), Throttle::default())),
            Self::Infer => Config::infer().await.map_err(|error| unusable(self, error))?,
            Self::InCluster => Config::incluster().map_err(|error| unusable(self, error))?,
            Self::Kubeconfig { path, context } => {
                let options =
                    KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let config = match path {
                    None => Config::from_kubeconfig(&options).await,
                    Some(path) => match Kubeconfig::read_from(path) {
                        Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                        Err(error) => Err(error),
                    },
                };
                config.map_err(|error| unusable(self, error))?
            }
        };
        // Without one, rustls panics where there is none to choose or more than one.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(DiscoverError::new(
                "rustls, with which the API server is reached, has no crypto provider: install one at \
                 the start of `main`, such as `rustls::crypto::ring::default_provider().install_default()`",
            ));
        }
        // kube would try again by itself, up to fifteen times, and nobody would hear of it for so long.
        config.default_retry = false;
        let throttle = Throttle::default();
        let builder = ClientBuilder::try_from(config).map_err(|error| unusable(self, error))?;
        let looked_at = |inner| Throttled { inner, throttle: throttle.clone() };
        let client = builder.with_layer(&layer_fn(looked_at)).build();
        Ok((client, throttle))
    }
}

fn unusable(
    origin: &Origin,
    error: impl std::error::Error + Send + Sync + 'static,
) -> DiscoverError {
    DiscoverError::caused(
        format!("no way to a Kubernetes API server from {origin}: {error}"),
        error,
    )
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("the client that was given"),
            Self::Infer => f.write_str("a kubeconfig or a pod's service account"),
            Self::InCluster => f.write_str("a pod's service account"),
            Self::Kubeconfig { path, context } => {
                match path {
                    Some(path) => write!(f, "the kubeconfig {}", path.display())?,
                    None => f.write_str("the kubeconfig")?,
                }
                match context {
                    Some(context) => write!(f, ", context `{context}`"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
