//! Futures of Python that wait for objects. Each keeps its reference, so that the object stays until its value is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use sparkray_common::sync::Mutex;

use crate::object_ref::ObjectRef;

/// A `concurrent.futures.Future` and the object whose value it gets.
type Waiting = (Py<PyAny>, Py<ObjectRef>);

/// Futures that wait for their objects, by the keys under which the core worker reports the values.
#[derive(Default)]
pub(crate) struct Futures {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

impl Futures {
    /// Adds a future; gives its key.
    pub(crate) fn add(&self, future: Py<PyAny>, reference: Py<ObjectRef>) -> u64 {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(key, (future, reference));
        key
    }

    /// The future of that key, which waits no more.
    pub(crate) fn take(&self, key: u64) -> Option<Waiting> {
        self.waiting.lock().remove(&key)
    }
}
