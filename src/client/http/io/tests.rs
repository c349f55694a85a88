use std::{sync::atomic::AtomicU32, task::Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn a_cut_wakes_readers_and_lets_go_of_the_stream() {
    let (ours, mut theirs) = tokio::io::duplex(64);
    let (mut wire, monitor) = Wire::new(Box::new(TokioIo::new(ours)), false, &Clock::default());
    let reader = tokio::spawn(async move {
        let result = wire.read_u8().await;
        (result, wire)
    });
    tokio::task::yield_now().await;
    monitor.cut();
    let (result, _wire) = reader.await.unwrap();
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    // The wire lives, yet the peer sees the end.
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(theirs.write_all(b"x").await.is_err());
    assert!(!monitor.is_broken());
    monitor.was_cut().await;
}

/// Takes nothing, and has something to say now and then.
struct Hangs {
    says: bool,
}

impl AsyncRead for Hangs {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        if !self.says {
            return Poll::Pending;
        }
        coop.made_progress();
        buf.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Hangs {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn hangs(says: bool, http2: bool) -> (Wire, Arc<Monitor>) {
    Wire::new(Box::new(TokioIo::new(Hangs { says })), http2, &Clock::default())
}

/// Its writer may be a task of its own, on any runtime or none.
#[test]
fn a_stream_that_was_given_away_tells_at_once_that_it_cannot_be_written() {
    let (mut wire, monitor) = hangs(false, false);
    monitor.give_away();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        let Poll::Ready(Err(error)) = Pin::new(&mut wire).poll_write(&mut cx, b"x") else {
            panic!("it is not told");
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut byte = [0];
        let read = Pin::new(&mut wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        assert!(read.is_pending(), "the peer may have more to say");
    }
    assert!(monitor.is_deaf() && !monitor.is_broken());
}

#[tokio::test]
async fn a_task_that_has_used_up_its_budget_has_not_read_all() {
    let (mut wire, _) = hangs(true, false);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut wire).poll_write(&mut cx, b"x").is_pending());
    let mut budget = 0;
    loop {
        let mut byte = [0];
        let read = Pin::new(&mut wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        let Poll::Ready(read) = read else { break };
        read.unwrap();
        budget += 1;
        assert!(budget < 1_000_000, "it has no end");
    }
    tokio::task::yield_now().await;
    assert_eq!(wire.read_u8().await.unwrap(), b'x');
}

/// Told that all is well, it would else not look before the next frame comes.
#[tokio::test(start_paused = true)]
async fn http2_is_woken_to_hear_that_it_cannot_be_written() {
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
    let (mut wire, _) = hangs(false, true);
    let count = Arc::new(Count(AtomicU32::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut wire).poll_write(&mut cx, b"x").is_ready());
    assert_eq!(count.0.load(Ordering::Acquire), 1);
    assert!(wire.read_u8().await.is_err());
}
