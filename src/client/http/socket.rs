//! A socket that can be looked at while a connection owns it.
//!
//! Before an idle HTTP/1.1 connection is used again, one non-blocking peek tells whether the peer
//! has closed it: the runtime may not have noticed yet, and a request written to a closed socket
//! is lost for good. So the stream is shared, and the check holds it weakly.

use std::{
    io,
    mem::MaybeUninit,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::{UnixStream, unix};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, tcp},
};

/// The half that is read is owned: tokio then knows from a short read that there is no more, and need
/// not ask the system in vain before it waits.
pub(super) struct Socket {
    read: Read,
    shared: Arc<Write>,
}

pub(super) struct Check(Weak<Write>);

enum Read {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
}

enum Write {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
}

/// The same expression over whichever stream it is.
macro_rules! each {
    ($of:ident, $half:expr, $stream:ident => $body:expr) => {
        match $half {
            $of::Tcp($stream) => $body,
            #[cfg(unix)]
            $of::Unix($stream) => $body,
        }
    };
}

// === impl Socket ===

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read: Read::Tcp(read), shared: Arc::new(Write::Tcp(write)) }
    }

    #[cfg(unix)]
    pub(super) fn unix(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read: Read::Unix(read), shared: Arc::new(Write::Unix(write)) }
    }

    pub(super) fn downgrade(&self) -> Check {
        Check(Arc::downgrade(&self.shared))
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn as_sock_ref(&self) -> SockRef<'_> {
        each!(Write, &*self.shared, half => SockRef::from(half.as_ref()))
    }

    /// Tries `operation` whenever the socket is ready for writing.
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(&Write) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(each!(Write, &*self.shared, half => half.as_ref().poll_write_ready(cx)))?;
            match operation(&self.shared) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(Read, &mut self.read, half => Pin::new(half).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |write| each!(Write, write, half => half.try_write(buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |write| each!(Write, write, half => half.try_write_vectored(bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = each!(
            Write, &*self.shared, half => SockRef::from(half.as_ref()).shutdown(Shutdown::Write)
        );
        Poll::Ready(match done {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }
}

// === impl Check ===

impl Check {
    /// Whether the socket is open, and silent as an idle HTTP/1.1 connection must be.
    pub(super) fn is_open(&self) -> bool {
        let Some(write) = self.0.upgrade() else { return false };
        let mut byte = [MaybeUninit::uninit()];
        let peeked = each!(Write, &*write, half => SockRef::from(half.as_ref()).peek(&mut byte));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_close_is_seen_before_the_runtime_tells() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let mut socket = Socket::tcp(ours);
        let check = socket.downgrade();
        assert!(check.is_open());
        socket.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        theirs.read_exact(&mut bytes).await.unwrap();
        theirs.write_all(&bytes).await.unwrap();
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert!(check.is_open());
        drop(theirs);
        // No await in between: on loopback the peer's close is in the socket at once.
        assert!(!check.is_open());
        drop(socket);
        assert!(!check.is_open());
    }
}
