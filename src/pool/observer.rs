//! What the task of a balancer tells of itself, to whoever keeps account of it.
//!
//! The pool knows what there is to tell, and nothing of where it goes: metrics, of whatever kind,
//! implement [`Observer`], and stand behind the balancer.

use std::sync::Arc;

/// Keeps account of one balancer.
///
/// Made with the balancer, on the thread that makes it, and dropped with its task, however that
/// ends. It is called by that task, and must neither block nor panic.
pub(crate) trait Observer: Send {
    /// Something of `now` is different from the last one, or from nothing at all.
    fn discovered(&mut self, now: Discovered);
}

/// Makes the observer of a balancer of the target that it is given.
pub(crate) type ObserverFactory = Arc<dyn Fn(&Arc<str>) -> Box<dyn Observer> + Send + Sync>;

/// How discovery does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Its last word was an error.
    pub(crate) failing: bool,
    /// How many endpoints are in use or outside of the subset: those that errors call known.
    pub(crate) endpoints: usize,
}

/// Tells an observer, if there is one, what is new to it.
pub(crate) struct Telling {
    observer: Option<Box<dyn Observer>>,
    told: Discovered,
}

// === impl Telling ===

impl Telling {
    pub(crate) fn to(observer: Option<Box<dyn Observer>>) -> Self {
        Self { observer, told: Discovered::default() }
    }

    pub(crate) fn tell(&mut self, now: Discovered) {
        if let Some(observer) = self.observer.as_mut().filter(|_| self.told != now) {
            self.told = now;
            observer.discovered(now);
        }
    }
}
