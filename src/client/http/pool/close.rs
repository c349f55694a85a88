//! The end of an endpoint's connections: in good order where nothing runs on them, and never those that
//! are a caller's own.
//!
//! Let go of by the pool, a connection ends by itself once nothing runs on it: HTTP/2 says GOAWAY, TLS
//! close_notify, and then the socket is closed. A peer that reads no more could hold that up, so there is
//! a limit to it.

use std::{mem, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{super::io::Monitor, Pool};

/// How long a connection may take to close. Envoy's `delayed_close_timeout` is 1 s; here all is to be gone
/// 1 s after a balancer was dropped, and it may take 50 ms to notice that.
const MOST_TO_CLOSE: Duration = Duration::from_millis(900);

impl Pool {
    /// Lets go of all connections, and cancels the dials; those that are left.
    pub(super) fn let_go(&self) -> Vec<Arc<Monitor>> {
        let (idle, trunks, monitors) = {
            let mut state = self.state();
            state.closed = true;
            let trunks = mem::take(&mut state.trunks);
            state.open -= trunks.len();
            (mem::take(&mut state.idle), trunks, mem::take(&mut state.monitors))
        };
        self.cancel.send_replace(());
        drop((idle, trunks));
        monitors.iter().filter_map(|(_, monitor)| monitor.upgrade()).collect()
    }

    /// Closes all connections, and cuts those that take too long.
    pub(super) fn close_in_order(&self) {
        let left = self.let_go();
        if left.is_empty() {
            return;
        }
        let Some(runtime) = self.link.runtime().or_else(|| Handle::try_current().ok()) else {
            left.iter().for_each(|monitor| monitor.cut());
            return;
        };
        let clock = self.clock.clone();
        runtime.spawn(async move {
            let ended = async {
                for monitor in &left {
                    monitor.ended().await;
                }
            };
            tokio::select! {
                biased;
                () = ended => {}
                () = clock.sleep(MOST_TO_CLOSE) => left.iter().for_each(|monitor| monitor.cut()),
            }
        });
    }

    /// The connection has become its caller's, by an upgrade or CONNECT: whatever becomes of the endpoint,
    /// it is not cut.
    pub(in super::super) fn give_away(&self, id: u64) {
        self.state().forget(id);
    }
}
