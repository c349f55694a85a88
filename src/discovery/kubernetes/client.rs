//! The way to the API server: found when it is first needed, and anew when it stops being good.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

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
use crate::{error::DiscoverError, node::Clock};

/// A client younger than that is kept though nothing gets through: that is hardly its fault, and for a
/// new one a program may be run that gives the credentials.
const YOUNG: Duration = Duration::from_secs(60);

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
    loan: Option<Arc<Loan>>,
    /// The one that is on its way. It goes on while nobody waits: there shall not be a second.
    loading: Option<JoinHandle<Result<Loan, DiscoverError>>>,
}

/// A client, and how long it has been there.
pub(super) struct Loan {
    pub(super) client: Client,
    throttle: Throttle,
    made_at: Instant,
    /// Gone with the runtime that the client works on.
    works: Weak<()>,
}

// === impl Clients ===

impl Clients {
    pub(super) fn new(origin: Origin) -> Arc<Self> {
        Arc::new(Self { origin, loaded: Mutex::default() })
    }

    /// The client; reads the configuration if there is none yet, which may take as long as `limit`: a
    /// kubeconfig may name a program that gives the credentials.
    pub(super) async fn get(&self, limit: Duration) -> Result<Arc<Loan>, DiscoverError> {
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

    async fn loaded(&self) -> Result<Arc<Loan>, DiscoverError> {
        let mut loaded = self.loaded.lock().await;
        if let Some(loan) = &loaded.loan {
            return Ok(Arc::clone(loan));
        }
        let loan = match &self.origin {
            Origin::Given(client) => Loan::given(client.clone()),
            origin => loaded.load(origin).await?,
        };
        Ok(Arc::clone(loaded.loan.insert(Arc::new(loan))))
    }

    /// Nothing gets through with `loan`, or it was `refused`: the next client is made from what the
    /// configuration says then, such as a renewed token.
    pub(super) async fn give_up(&self, loan: &Arc<Loan>, refused: bool) {
        if !refused && loan.may_recover() {
            return;
        }
        // Of many who find one bad only the first drops it.
        let mut loaded = self.loaded.lock().await;
        if loaded.loan.as_ref().is_some_and(|known| Arc::ptr_eq(known, loan)) {
            loaded.loan = None;
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
    async fn load(&mut self, origin: &Origin) -> Result<Loan, DiscoverError> {
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
    fn given(client: Client) -> Self {
        Self {
            client,
            throttle: Throttle::default(),
            made_at: Clock::default().now(),
            works: Weak::new(),
        }
    }

    /// Whether the client may yet get through as it is.
    fn may_recover(&self) -> bool {
        let age = Clock::default().now().saturating_duration_since(self.made_at);
        age < YOUNG && self.works.strong_count() > 0
    }

    /// How much longer the server wishes to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.throttle.rest()
    }
}

// === impl Origin ===

impl Origin {
    async fn load(&self) -> Result<Loan, DiscoverError> {
        let mut config = match self {
            Self::Given(client) => return Ok(Loan::given(client.clone())),
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
        let (throttle, alive) = (Throttle::default(), Arc::new(()));
        let works = Arc::downgrade(&alive);
        let builder = ClientBuilder::try_from(config).map_err(|error| unusable(self, error))?;
        let looked_at = |inner| {
            let (throttle, _alive) = (throttle.clone(), Arc::clone(&alive));
            Throttled { inner, throttle, _alive }
        };
        let client = builder.with_layer(&layer_fn(looked_at)).build();
        Ok(Loan { client, throttle, made_at: Clock::default().now(), works })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that is refused is given up at once; one with which nothing gets through, after a
    /// while.
    #[tokio::test(start_paused = true)]
    async fn r12_a_client_is_given_up_when_it_is_refused_or_old() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let path = std::env::temp_dir().join(format!("evenkeel-{}-client", std::process::id()));
        let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}"#;
        std::fs::write(&path, text).unwrap();
        let origin = Origin::Kubeconfig { path: Some(path.clone()), context: None };
        let clients = Clients::new(origin);
        let first = clients.loaded().await.unwrap();
        clients.give_up(&first, false).await;
        let kept = clients.loaded().await.unwrap();
        assert!(Arc::ptr_eq(&first, &kept));
        clients.give_up(&first, true).await;
        let second = clients.loaded().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        // Who finds out later that the first was bad says nothing of the second.
        clients.give_up(&first, true).await;
        assert!(Arc::ptr_eq(&second, &clients.loaded().await.unwrap()));
        tokio::time::advance(YOUNG).await;
        clients.give_up(&second, false).await;
        assert!(!Arc::ptr_eq(&second, &clients.loaded().await.unwrap()));
        std::fs::remove_file(path).unwrap();
    }
}
