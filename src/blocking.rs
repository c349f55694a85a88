//! Calls that block and cannot be ended, such as `getaddrinfo`, on few threads.
//!
//! One whose caller has given up runs on, with dead nameservers for many seconds. If each who asks anew
//! began another, they would fill the runtime's blocking threads, which files and the program's own work
//! need, too.

use std::{io, sync::Arc};

use tokio::sync::Semaphore;

use crate::error::BoxError;

/// Places for so many calls at once; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Makes the call on a blocking thread once there is a place, which is free again when the call has
    /// ended, whether or not anybody still waits for it.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let place = Arc::clone(&self.0).acquire_owned().await?;
        let done = tokio::task::spawn_blocking(move || {
            let done = call();
            drop(place);
            done
        });
        Ok(done.await??)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::mpsc,
        task::{Context, Waker},
    };

    use super::*;

    /// R13: what hangs is no more than a thread a place, however often it is given up and asked anew.
    #[tokio::test]
    async fn r13_a_call_that_hangs_keeps_its_place_when_it_is_given_up() {
        let places = Places::new(2);
        let mut cx = Context::from_waker(Waker::noop());
        let (began, begins) = mpsc::channel();
        let hanging = |name: &'static str| {
            let ((end, ends), began) = (mpsc::channel::<()>(), began.clone());
            let places = places.clone();
            let call = async move {
                let call = move || {
                    began.send(name).map_err(io::Error::other)?;
                    let _ = ends.recv();
                    Ok(name)
                };
                places.call(call).await
            };
            (end, Box::pin(call))
        };
        let (end_one, mut one) = hanging("one");
        let (_end_two, mut two) = hanging("two");
        assert!(one.as_mut().poll(&mut cx).is_pending() && two.as_mut().poll(&mut cx).is_pending());
        let mut both = [begins.recv().unwrap(), begins.recv().unwrap()];
        both.sort_unstable();
        assert_eq!(both, ["one", "two"]);
        // Who asked gives up, and the calls go on.
        drop((one, two));

        let mut three = pin!(places.call(|| Ok("three")));
        assert!(three.as_mut().poll(&mut cx).is_pending());
        assert_eq!(places.0.available_permits(), 0);
        drop(end_one);
        assert_eq!(three.await.unwrap(), "three");
    }
}
