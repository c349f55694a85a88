//! From an address to a byte stream; what TCP, Unix sockets and pipes in tests plug into.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use hyper::rt::{Read, Write};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::socket::Socket;
use crate::{endpoint::Address, error::BoxError};

/// Opens byte streams for [`Http`](super::Http).
///
/// Called from the task of a dial, which bounds it by the connect timeout and drops the future
/// when the time is up or the client is gone. It may not block or panic. Any
/// `Fn(&Address) -> impl Future<Output = Result<Connected, BoxError>>` is one:
///
/// ```
/// use evenkeel::{Address, BoxError, client::{Connected, Http}};
/// use hyper_util::rt::TokioIo;
///
/// // Every endpoint is a pipe in memory.
/// let http = Http::default().connector(|_: &Address| async {
///     let (ours, _theirs) = tokio::io::duplex(1024);
///     Ok::<_, BoxError>(Connected::new(TokioIo::new(ours)))
/// });
/// # let _ = http;
/// ```
pub trait Connect: Send + Sync + 'static {
    /// Opens a stream to `address`, one of the endpoint's. If the connection over it fails, or is not up
    /// after 250 ms, the dial tries the endpoint's next address; the first that is up wins, and the streams
    /// and futures of the others are dropped.
    fn connect(&self, address: &Address) -> BoxConnecting;
}

/// The future of [`Connect::connect`].
pub type BoxConnecting = Pin<Box<dyn Future<Output = Result<Connected, BoxError>> + Send>>;

/// A byte stream to an endpoint.
pub struct Connected {
    pub(super) io: Box<dyn Stream>,
    pub(super) open: Option<IsOpen>,
}

/// Whether an idle stream is still open, asked of the system just now.
pub(super) type IsOpen = Arc<dyn Fn() -> bool + Send + Sync>;

pub(super) trait Stream: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Stream for T {}

/// How the system finds out that a host is gone: without power, say, or behind a NAT that has forgotten the
/// connection. Over HTTP/1.1 nothing else does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// How long a host may be silent before the system asks whether it is there, and between two such
    /// questions.
    pub(super) keepalive: Option<Duration>,
    /// How long what was sent may remain unacknowledged, or find no room at the peer.
    pub(super) user_timeout: Option<Duration>,
}

/// TCP without delay, and Unix sockets. Names are resolved by the system (`getaddrinfo`): by the dial, which
/// tries their addresses as it does those of an endpoint.
pub(super) struct System(pub(super) Watch);

// === impl Connected ===

impl Connected {
    /// A stream that is ready to carry HTTP.
    pub fn new(io: impl Read + Write + Send + Unpin + 'static) -> Self {
        Self { io: Box::new(io), open: None }
    }

    /// Adds a check that an idle HTTP/1.1 connection must pass before its next request.
    ///
    /// It should look at the socket without waiting, and say `false` once the peer has closed it
    /// or anything unasked for has arrived. It must not keep the stream open. Without it a
    /// request may be written to a connection that the peer has closed already, and then nobody
    /// knows whether it was processed.
    #[must_use]
    pub fn with_open_check(mut self, open: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.open = Some(Arc::new(open));
        self
    }

    fn socket(socket: Socket) -> Self {
        let check = socket.downgrade();
        Self::new(hyper_util::rt::TokioIo::new(socket)).with_open_check(move || check.is_open())
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("has_open_check", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

// === impl Connect ===

impl<F, Fut> Connect for F
where
    F: Fn(&Address) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Connected, BoxError>> + Send + 'static,
{
    fn connect(&self, address: &Address) -> BoxConnecting {
        Box::pin(self(address))
    }
}

impl Connect for System {
    fn connect(&self, address: &Address) -> BoxConnecting {
        let (address, watch) = (address.clone(), self.0);
        Box::pin(async move { Ok(Connected::socket(open(&address, watch).await?)) })
    }
}

// === impl Watch ===

impl Watch {
    fn set_on(self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        if let Some(silence) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(silence);
            #[cfg(any(
                target_os = "android",
                target_os = "freebsd",
                target_os = "ios",
                target_os = "linux",
                target_os = "macos",
                target_os = "netbsd",
            ))]
            let keepalive = keepalive.with_interval(silence).with_retries(3);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(any(target_os = "android", target_os = "linux"))]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

impl Default for Watch {
    /// As in reqwest.
    fn default() -> Self {
        let keepalive = Some(Duration::from_secs(15));
        Self { keepalive, user_timeout: Some(Duration::from_secs(30)) }
    }
}

async fn open(address: &Address, watch: Watch) -> Result<Socket, BoxError> {
    let stream = match address {
        Address::Socket(address) => TcpStream::connect(address).await?,
        // The dial has looked it up.
        Address::Name { .. } => {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            return Ok(Socket::unix(tokio::net::UnixStream::connect(path).await?));
        }
        #[cfg(not(unix))]
        Address::Unix(_) => {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
    };
    stream.set_nodelay(true)?;
    if let Err(error) = watch.set_on(&stream) {
        // Every connection serves without it.
        tracing::trace!(%address, %error, "cannot have TCP watch the connection");
    }
    Ok(Socket::tcp(stream))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{super::Http, *};

    async fn opened(http: Http) -> Result<(Socket, tokio::net::TcpListener), BoxError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = Address::from(listener.local_addr()?);
        Ok((open(&address, http.settings.watch).await?, listener))
    }

    /// R2: the system itself asks a host that is silent whether it is still there.
    #[tokio::test]
    async fn r2_a_connection_is_watched_by_the_system() {
        let (socket, _listener) = opened(Http::default()).await.unwrap();
        let socket = socket.as_sock_ref();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn a_connection_is_watched_as_configured() {
        let slowly = Http::default()
            .tcp_keepalive(Some(Duration::from_secs(40)))
            .tcp_user_timeout(Some(Duration::from_secs(200)));
        let (socket, _listener) = opened(slowly).await.unwrap();
        let socket = socket.as_sock_ref();
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(40));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(40));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(200)));

        let not_at_all = Http::default().tcp_keepalive(None).tcp_user_timeout(None);
        let (socket, _listener) = opened(not_at_all).await.unwrap();
        let socket = socket.as_sock_ref();
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
