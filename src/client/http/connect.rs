//! From an address to a byte stream; what TCP, Unix sockets and pipes in tests plug into.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use hyper::rt::{Read, Write};
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

/// TCP without delay, and Unix sockets. Names are resolved by the system (`getaddrinfo`): by the dial, which
/// tries their addresses as it does those of an endpoint.
pub(super) struct System;

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
        let address = address.clone();
        Box::pin(async move { Ok(Connected::socket(open(&address).await?)) })
    }
}

async fn open(address: &Address) -> Result<Socket, BoxError> {
    let stream = match address {
        Address::Socket(address) => TcpStream::connect(address).await?,
        // The dial has looked it up.
        Address::Name { .. } => {
            return Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into());
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            return Ok(Socket::unix(tokio::net::UnixStream::connect(path).await?));
        }
        #[cfg(not(unix))]
        Address::Unix(_) => {
            return Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into());
        }
    };
    stream.set_nodelay(true)?;
    Ok(Socket::tcp(stream))
}
