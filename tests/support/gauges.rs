//! A recorder of gauges that can be read, again and again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The gauges of the balancers that are made while [`Gauges::with`] runs.
#[derive(Clone, Default)]
pub(crate) struct Gauges(Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>);

impl Gauges {
    /// Is the recorder of this thread while `make` runs.
    pub(crate) fn with<T>(&self, make: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(self, make)
    }

    /// The value of a gauge with one label, `target`; `None` if there is no such gauge.
    pub(crate) fn read(&self, name: &'static str, target: &str) -> Option<f64> {
        let key = Key::from_parts(name, vec![metrics::Label::new("target", target.to_owned())]);
        let gauges = self.0.lock().unwrap();
        gauges.get(&key).map(|gauge| f64::from_bits(gauge.load(Ordering::SeqCst)))
    }

    /// `evenkeel_discovery_failing` and `evenkeel_endpoints`.
    pub(crate) fn of(&self, target: &str) -> Option<(f64, f64)> {
        let failing = self.read("evenkeel_discovery_failing", target)?;
        Some((failing, self.read("evenkeel_endpoints", target)?))
    }

    /// How many series there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = self.0.lock().unwrap();
        Gauge::from_arc(Arc::clone(gauges.entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
