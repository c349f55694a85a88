//! What stands between a client and a server, and passes bytes both ways.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Counts the connections, and can be cut.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    passing: JoinSet<()>,
}

#[allow(dead_code, reason = "not every test uses all of it")]
impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                passing.spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, accepted, passing }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn cut(&mut self) {
        self.passing.abort_all();
    }
}
