//! TLS by rustls, between connect and HTTP.
//!
//! The name that is asked for (SNI) and that the certificate must bear is the logical one, though we
//! dial an address: [the endpoint's own](Endpoint::server_name), else the one [set here](Tls::server_name),
//! else the target's (with [`Builder::https`]), else the host or IP address that is dialled. ALPN tells
//! which HTTP it is. Cryptography is not chosen here: two choices in one program would make rustls
//! panic, so it is the process's or one that is handed in.

mod name;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio_rustls::TlsConnector;

pub use self::name::ServerNameError;
use super::{
    Http, HttpService,
    connect::Connected,
    error::ProtocolError,
    secure::{Offer, Secure, Secured, Securing, Spoken},
};
use crate::{
    balance::{Balance, Builder},
    discovery::Discover,
    endpoint::Endpoint,
    error::{BoxError, BuildError},
};

/// How connections are encrypted, and whom they trust; for [`Http::tls`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
/// use evenkeel::{Balance, client::{Http, Tls}};
///
/// // Once in the program, by its `main`; rustls has others besides ring.
/// let _ = rustls::crypto::ring::default_provider().install_default();
///
/// let http = Http::default().tls(Tls::webpki().server_name("users.example.com"))?;
/// let users = Balance::to("static://10.0.0.1:443,10.0.0.2:443")?.make(http)?;
/// # let _ = users;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Tls {
    trust: Trust,
    provider: Option<Arc<CryptoProvider>>,
    identity: Option<Identity>,
    server_name: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Trust {
    Platform,
    Webpki,
    Roots(Arc<RootCertStore>),
    Config(Arc<ClientConfig>),
}

#[derive(Clone, Debug)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// Makes the handshakes. One configuration for each offer, which share their sessions.
struct Handshakes {
    http1: TlsConnector,
    http2: TlsConnector,
    either: TlsConnector,
    server_name: Option<Arc<str>>,
}

/// How a server says that it speaks nothing of what is offered.
const NO_PROTOCOL: rustls::Error =
    rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

// === impl Tls ===

impl Tls {
    fn trusting(trust: Trust) -> Self {
        Self { trust, provider: None, identity: None, server_name: None }
    }

    /// Trusts what the platform trusts (by `rustls-native-certs`, so `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` have their say).
    ///
    /// It is read once in a process, by the first that is given to [`Http::tls`]: some milliseconds on
    /// the thread of the caller. A program that serves already when it makes its first balancer may
    /// want to do that in `spawn_blocking`. Whoever trusts what changes meanwhile hands in
    /// [roots](Self::roots) of their own.
    pub fn platform() -> Self {
        Self::trusting(Trust::Platform)
    }

    /// Trusts what Mozilla trusts, as compiled into the program by `webpki-roots`.
    pub fn webpki() -> Self {
        Self::trusting(Trust::Webpki)
    }

    /// Trusts `roots` alone, such as the certificate authority of one's own cluster.
    pub fn roots(roots: impl Into<Arc<RootCertStore>>) -> Self {
        Self::trusting(Trust::Roots(roots.into()))
    }

    /// All as `config` says, but for its ALPN protocols: those are what the endpoint may speak.
    pub fn config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self::trusting(Trust::Config(config.into()))
    }

    /// The cryptography to use; by default that which the program has installed for its process.
    pub fn provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// The certificate to show to servers that ask for one: its chain, the own one first, and its key.
    pub fn client_certificate(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        self.identity = Some(Identity { chain, key: Arc::new(key) });
        self
    }

    /// The name that servers go by, for those whose endpoint has no
    /// [name of its own](Endpoint::server_name). A port after it is left out.
    pub fn server_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// With the name that servers of `target` go by, unless one is set.
    pub(in crate::client) fn named_by(mut self, target: &str) -> Self {
        self.server_name = self.server_name.or_else(|| name::of_target(target));
        self
    }

    fn handshakes(self) -> Result<Handshakes, BuildError> {
        if let Some(name) = &self.server_name {
            name::parse(name).map_err(|error| failed("the server name is of no use", error))?;
        }
        let config = match self.trust {
            Trust::Config(config) => {
                if self.provider.is_some() || self.identity.is_some() {
                    return Err(BuildError::Tls {
                        problem: "a provider and a client certificate belong into the rustls \
                                  configuration, where one is handed in",
                        source: None,
                    });
                }
                Arc::unwrap_or_clone(config)
            }
            Trust::Platform => configure(platform_roots()?, self.provider, self.identity)?,
            Trust::Webpki => {
                let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
                configure(roots.into(), self.provider, self.identity)?
            }
            Trust::Roots(roots) => configure(roots, self.provider, self.identity)?,
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Handshakes {
            http1: offering(&[HTTP1]),
            http2: offering(&[HTTP2]),
            either: offering(&[HTTP2, HTTP1]),
            server_name: self.server_name,
        })
    }
}

impl Default for Tls {
    /// Trusts what the platform trusts.
    fn default() -> Self {
        Self::platform()
    }
}

fn failed(problem: &'static str, source: impl Into<BoxError>) -> BuildError {
    BuildError::Tls { problem, source: Some(source.into()) }
}

fn configure(
    roots: Arc<RootCertStore>,
    provider: Option<Arc<CryptoProvider>>,
    identity: Option<Identity>,
) -> Result<ClientConfig, BuildError> {
    if roots.is_empty() {
        return Err(BuildError::Tls { problem: "no root certificate is trusted", source: None });
    }
    let provider =
        provider.or_else(|| CryptoProvider::get_default().cloned()).ok_or(BuildError::Tls {
            problem: "there is no cryptography: install a rustls `CryptoProvider` for the process, \
                      or hand one in by `Tls::provider`",
            source: None,
        })?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("the cryptography serves no version of TLS", error))?
        .with_root_certificates(roots);
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some(Identity { chain, key }) => config
            .with_client_auth_cert(chain, key.clone_key())
            .map_err(|error| failed("the client certificate and its key are of no use", error)),
    }
}

/// Read once: it takes longer than a worker of a runtime should be held for each balancer. What failed is
/// tried again.
fn platform_roots() -> Result<Arc<RootCertStore>, BuildError> {
    static READ: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = READ.get() {
        return Ok(Arc::clone(roots));
    }
    let mut found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let source = found.errors.pop().map(BoxError::from);
        return Err(BuildError::Tls { problem: "the platform has no root certificate", source });
    }
    Ok(Arc::clone(READ.get_or_init(|| roots.into())))
}

// === impl Http ===

impl Http {
    /// Encrypts all connections. ALPN decides the protocol of endpoints whose own is unknown, unless
    /// HTTP/2 is [wanted in any case](Self::http2_prior_knowledge). The handshake has its time
    /// within the [connect timeout](Self::connect_timeout).
    ///
    /// # Errors
    /// No cryptography is installed or handed in, no root certificate is there to trust, or the
    /// client certificate is of no use.
    pub fn tls(self, tls: Tls) -> Result<Self, BuildError> {
        let handshakes = tls.handshakes()?;
        Ok(self.with(|settings| settings.secure = Some(Arc::new(handshakes))))
    }
}

// === impl Builder ===

impl<D, K, C> Builder<D, K, C>
where
    D: Discover,
    K: Clone + Send + Sync + 'static,
{
    /// A balancer over the transport with TLS: trusts [what the platform trusts](Tls::platform), which
    /// the first of a process reads, and takes the name
    /// that servers go by from the target where endpoints have none of their own:
    /// `dns://users.example.com:443` stands for `users.example.com`, `k8s://shop/cart:https` for
    /// `cart.shop.svc`. Another configuration goes by [`Http::tls`] to [`make`](Builder::make).
    /// Feature `tls`.
    ///
    /// # Errors
    /// Those of [`Http::tls`] and of [`make`](Builder::make).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), evenkeel::BoxError> {
    /// use evenkeel::Balance;
    ///
    /// // Once in the program, by its `main`; rustls has others besides ring.
    /// let _ = rustls::crypto::ring::default_provider().install_default();
    ///
    /// # if rustls_native_certs::load_native_certs().certs.is_empty() { return Ok(()) }
    /// let users = Balance::to("static://10.0.0.1:443;name=users.example.com")?.https()?;
    /// # let _ = users;
    /// # Ok(()) }
    /// ```
    pub fn https(self) -> Result<Balance<HttpService, K, C>, BuildError> {
        let tls = Tls::platform().named_by(&self.target());
        self.make(Http::default().tls(tls)?)
    }
}

// === impl Handshakes ===

impl Secure for Handshakes {
    fn secure(&self, stream: Connected, endpoint: &Endpoint, offer: Offer) -> Securing {
        let connector = match offer {
            Offer::Http1 => self.http1.clone(),
            Offer::Http2 | Offer::Http2Only => self.http2.clone(),
            Offer::Either => self.either.clone(),
        };
        let server_name = self.server_name.clone();
        let asked = name::of_endpoint(endpoint, server_name.as_deref());
        Box::pin(async move {
            let secured = handshake(connector, stream, asked?, server_name).await;
            if offer == Offer::Http2Only { agreed_to_http2(secured) } else { secured }
        })
    }
}

async fn handshake(
    connector: TlsConnector,
    stream: Connected,
    asked: ServerName<'static>,
    server_name: Option<Arc<str>>,
) -> Result<Secured, BoxError> {
    let Connected { io, open } = stream;
    let io = connector.connect(asked, TokioIo::new(io)).await.map_err(what_tls_said)?;
    let spoken = match io.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Some(Spoken::Http2),
        Some(_) => Some(Spoken::Http1),
        None => None,
    };
    let io = Box::new(TokioIo::new(io));
    Ok(Secured { stream: Connected { io, open }, spoken, scheme: Scheme::HTTPS, server_name })
}

/// The same, of a server that agreed to HTTP/2 by word.
fn agreed_to_http2(secured: Result<Secured, BoxError>) -> Result<Secured, BoxError> {
    match secured {
        Ok(secured) if secured.spoken != Some(Spoken::Http2) => {
            Err(ProtocolError::NotAgreed.into())
        }
        Err(error) if error.downcast_ref() == Some(&NO_PROTOCOL) => {
            Err(ProtocolError::NotAgreed.into())
        }
        secured => secured,
    }
}

/// The error of rustls itself, which says more, where IO only carries it.
fn what_tls_said(error: io::Error) -> BoxError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> RootCertStore {
        webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
    }

    fn problem(tls: Tls) -> String {
        Http::default().tls(tls).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        let ring = || rustls::crypto::ring::default_provider();
        assert!(Http::default().tls(Tls::webpki().provider(ring())).is_ok());
        assert!(Http::default().tls(Tls::roots(roots()).provider(ring())).is_ok());
        assert_eq!(
            problem(Tls::roots(RootCertStore::empty()).provider(ring())),
            "TLS cannot be set up: no root certificate is trusted"
        );
        assert!(
            problem(Tls::webpki().provider(ring()).server_name("no name"))
                .contains("server name is of no use")
        );
        let key = PrivateKeyDer::try_from(vec![0x30, 0]).unwrap_or_else(|_| {
            PrivateKeyDer::Pkcs8(rustls::pki_types::PrivatePkcs8KeyDer::from(vec![1, 2, 3]))
        });
        let tls = Tls::webpki().provider(ring()).client_certificate(Vec::new(), key);
        assert!(problem(tls).contains("client certificate"));
        let config = configure(roots().into(), Some(ring().into()), None).unwrap();
        assert!(Http::default().tls(Tls::config(config.clone())).is_ok());
        assert!(problem(Tls::config(config).provider(ring())).contains("belong into the rustls"));
    }
}
