//! A way to the API server that can be cut, or go silent.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    to: SocketAddr,
    task: Option<JoinHandle<()>>,
    frozen: watch::Sender<()>,
}

impl Proxy {
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy = Self { address, to, task: None, frozen: watch::Sender::new(()) };
        proxy.mend().await;
        proxy
    }

    /// No connection survives, and none is made.
    pub(crate) async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// The connections that there are stay open, and nothing goes through them any more, as behind a
    /// firewall that forgot them. New ones are as good as ever.
    pub(crate) fn freeze(&self) {
        self.frozen.send_replace(());
    }

    pub(crate) async fn mend(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.address = listener.local_addr().unwrap();
        let (to, frozen) = (self.to, self.frozen.clone());
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut frozen = frozen.subscribe();
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = frozen.changed() => std::future::pending().await,
                    }
                });
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
