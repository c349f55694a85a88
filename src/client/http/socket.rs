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
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub(super) struct Socket(Arc<Kind>);

pub(super) struct Check(Weak<Kind>);

enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// The same expression over whichever stream it is.
macro_rules! each {
    ($kind:expr, $stream:ident => $body:expr) => {
        match $kind {
            Kind::Tcp($stream) => $body,
            #[cfg(unix)]
            Kind::Unix($stream) => $body,
        }
    };
}

// === impl Socket ===

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self(Arc::new(Kind::Tcp(stream)))
    }

    #[cfg(unix)]
    pub(super) fn unix(stream: tokio::net::UnixStream) -> Self {
        Self(Arc::new(Kind::Unix(stream)))
    }

    pub(super) fn downgrade(&self) -> Check {
        Check(Arc::downgrade(&self.0))
    }

    /// Tries `operation` whenever the socket is ready for writing.
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(&Kind) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(each!(&*self.0, stream => stream.poll_write_ready(cx)))?;
            match operation(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(each!(&*self.0, stream => stream.poll_read_ready(cx)))?;
            match each!(&*self.0, stream => stream.try_read_buf(buf)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |kind| each!(kind, stream => stream.try_write(buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |kind| each!(kind, stream => stream.try_write_vectored(bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = each!(&*self.0, stream => SockRef::from(stream).shutdown(Shutdown::Write));
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
        let Some(kind) = self.0.upgrade() else { return false };
        let mut byte = [MaybeUninit::uninit()];
        let peeked = each!(&*kind, stream => SockRef::from(stream).peek(&mut byte));
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
