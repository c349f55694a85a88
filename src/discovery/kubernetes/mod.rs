//! Kubernetes: the EndpointSlices of a Service, watched (feature `kubernetes`).
//!
//! ```text
//!  API server ──list, watch──▶ list_watch ──slices──▶ world ──changes──▶ merge ──Update──▶ balancer
//!                              one task a watch,      latest            one a balancer
//!                              shared by balancers    wins              and port
//! ```
//! A balancer here knows the pods themselves, readiness and all, as kube-proxy does. What the cluster
//! has to allow for that, and how this compares with a headless Service over DNS, is in
//! [`docs/kubernetes.md`](https://docs.rs/crate/evenkeel/latest/source/docs/kubernetes.md).

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_core::Stream;
use tokio::sync::Notify;

pub use self::port::ServicePort;
use self::{
    client::{Clients, Origin},
    list_watch::{ListWatch, Scope},
    own_place::Own,
    pace::{Pace, Patience},
    subscriber::Subscriber,
    world::World,
};
use super::{Discover, Here, RefreshRequests, Update, unfold::unfold};

mod client;
mod failure;
mod list_watch;
mod merge;
mod name;
mod own_place;
mod pace;
mod port;
mod slice;
mod subscriber;
pub(in crate::discovery) mod target;
mod throttle;
mod world;

/// A Kubernetes cluster, whose Services can be balanced over. Cheap to clone.
///
/// All sources made from one of these (or its clones) share one API client, and those of one Service
/// share one watch. Nothing is read or connected before the first balancer starts; credentials that
/// are refused later are read again.
///
/// ```no_run
/// use evenkeel::{Balance, discovery::kubernetes::Kubernetes};
///
/// # async fn run() -> Result<(), evenkeel::BuildError> {
/// let cluster = Kubernetes::infer();
/// let cart = Balance::builder(cluster.service("shop", "cart").port("grpc")).layer()?;
/// let users = Balance::builder(cluster.service("shop", "users").port(8080)).layer()?;
/// # let _: (evenkeel::BalanceLayer<_>, evenkeel::BalanceLayer<_>) = (cart, users);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Kubernetes {
    clients: Arc<Clients>,
    feeds: Arc<Mutex<HashMap<Scope, Weak<Feed>>>>,
    patience: Patience,
    whole_namespaces: bool,
    own: Option<Own>,
    own_pod: Option<Arc<str>>,
}

/// The endpoints of one port of one Service: a source.
///
/// Endpoints that are ready are used; where none is, those that still serve while they terminate. A
/// pod's IPv4 and IPv6 address are one endpoint. When the last endpoint goes, requests fail rather
/// than go to addresses that may be another's by now ([`OnEmpty::Clear`](super::OnEmpty::Clear)).
#[derive(Clone)]
pub struct KubernetesService {
    cluster: Kubernetes,
    namespace: Arc<str>,
    service: Arc<str>,
    port: ServicePort,
    here: Here,
}

/// A watch that is under way, and ends with the last who is interested in it.
#[derive(Debug)]
struct Feed {
    world: Arc<World>,
    doubts: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

// === impl Kubernetes ===

impl Kubernetes {
    fn over(origin: Origin) -> Self {
        Self {
            clients: Clients::new(origin),
            feeds: Arc::default(),
            patience: Patience::default(),
            whole_namespaces: false,
            own: None,
            own_pod: None,
        }
    }

    /// The cluster that `client` talks to. The client stays as it is, whatever becomes of its
    /// credentials. By default kube's clients try again by themselves where the server says 429, 503
    /// or 504, and nothing is seen of it meanwhile: `Config::default_retry = false` leaves that to this
    /// source, as its own clients do.
    pub fn new(client: kube::Client) -> Self {
        Self::over(Origin::Given(client))
    }

    /// The cluster of the kubeconfig (`KUBECONFIG`, else `~/.kube/config`), and where there is none,
    /// the one that this process runs in as a pod.
    pub fn infer() -> Self {
        Self::over(Origin::Infer)
    }

    /// The cluster that this process runs in as a pod, as its service account.
    pub fn in_cluster() -> Self {
        Self::over(Origin::InCluster)
    }

    /// The cluster of a kubeconfig: of the one at `path`, or of the usual one; and of a `context` in
    /// it, or of its current one.
    pub fn kubeconfig(path: Option<PathBuf>, context: Option<&str>) -> Self {
        Self::over(Origin::Kubeconfig { path, context: context.map(Into::into) })
    }

    /// How long a watch may be silent before it is taken for frozen and begun anew; 90 s by default.
    ///
    /// It counts once the server has shown that it sends bookmarks, as it does about every minute;
    /// before that, a watch is given up some seconds after the server should have ended it (four to
    /// five minutes). A list, the head of a watch and the reading of the configuration have at most
    /// this long as well. Besides, a watch that has said nothing for 10 to 15 s is begun anew when an
    /// endpoint cannot be connected to; if nothing had been missed, not again for twice as long, up to
    /// this limit.
    #[must_use]
    pub fn silence_limit(mut self, silence: Duration) -> Self {
        self.patience.silence = silence;
        self
    }

    /// Watches whole namespaces, one watch for all Services of a namespace that are balanced over,
    /// rather than one a Service: fewer connections, for the memory of every slice in the namespace.
    #[must_use]
    pub fn watch_whole_namespaces(mut self) -> Self {
        self.whole_namespaces = true;
        self
    }

    /// The Service that this process itself is an endpoint of. Its slices tell in which zone and on
    /// which node this process runs, for endpoints that are preferred for being
    /// [near](crate::pool::LocalityPreference); they are watched until that is found.
    ///
    /// The own endpoint is the one of the pod that the environment variables `POD_NAME` or `HOSTNAME`
    /// name, or that has the address `POD_IP`. What [`Builder::here`](crate::Builder::here) or the
    /// environment say of the place goes before it.
    #[must_use]
    pub fn own_service(
        mut self,
        namespace: impl Into<Arc<str>>,
        service: impl Into<Arc<str>>,
    ) -> Self {
        self.own = Some(Own { namespace: namespace.into(), service: service.into() });
        self
    }

    /// The name of the pod that this process runs in, where the environment does not say.
    #[must_use]
    pub fn own_pod(mut self, name: impl Into<Arc<str>>) -> Self {
        self.own_pod = Some(name.into());
        self
    }

    /// A Service of this cluster; its only port, unless [`KubernetesService::port`] names one.
    ///
    /// A name that Kubernetes does not allow is no Service's: the source then fails, saying so, and
    /// asks nobody. In a target text it is an error of the builder.
    pub fn service(
        &self,
        namespace: impl Into<Arc<str>>,
        service: impl Into<Arc<str>>,
    ) -> KubernetesService {
        KubernetesService {
            cluster: self.clone(),
            namespace: namespace.into(),
            service: service.into(),
            port: ServicePort::Only,
            here: Here::default(),
        }
    }

    /// The watch for `service`: the one that is under way, or a new one.
    fn feed(&self, namespace: &Arc<str>, service: &Arc<str>) -> Arc<Feed> {
        let service = (!self.whole_namespaces).then(|| Arc::clone(service));
        let scope = Scope { namespace: Arc::clone(namespace), service };
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = feeds.get(&scope).and_then(Weak::upgrade);
        // Its task ends only with the runtime that it was started on.
        if let Some(feed) = known.filter(|feed| !feed.task.is_finished()) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let world = Arc::new(World::default());
        let doubts = Arc::new(Notify::new());
        let task = ListWatch {
            clients: Arc::clone(&self.clients),
            scope: scope.clone(),
            pace: Pace::new(self.patience),
            world: Arc::clone(&world),
            doubts: Arc::clone(&doubts),
            seen: Vec::new(),
            reports: 0,
            reported: None,
        };
        let feed = Arc::new(Feed { world, doubts, task: tokio::spawn(task.run()) });
        feeds.insert(scope, Arc::downgrade(&feed));
        feed
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("clients", &self.clients).finish_non_exhaustive()
    }
}

// === impl Feed ===

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl KubernetesService ===

impl KubernetesService {
    /// Which port of the Service: its name, or the number that the *pods* listen on.
    #[must_use]
    pub fn port(mut self, port: impl Into<ServicePort>) -> Self {
        self.port = port.into();
        self
    }
}

impl Discover for KubernetesService {
    fn watch(self, refresh: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        unfold(Subscriber::new(self, refresh), Subscriber::next)
    }

    fn target(&self) -> Arc<str> {
        self.to_string().into()
    }

    fn here(&self) -> Here {
        self.here.clone()
    }
}

impl fmt::Display for KubernetesService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k8s://{}/{}", self.namespace, self.service)?;
        match &self.port {
            ServicePort::Only => Ok(()),
            ServicePort::Name(name) => write!(f, ":{name}"),
            ServicePort::Number(number) => write!(f, ":{number}"),
        }
    }
}

impl fmt::Debug for KubernetesService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KubernetesService({self})")
    }
}
