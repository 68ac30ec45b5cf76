//! Actors as handles hold them.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_common::ActorId;
use sparkray_common::sync::Mutex;
use sparkray_core_worker::{ActorMethod, CoreWorker, HandleKind};

use crate::convert::{check_signals, wait_exception};
use crate::doors::{Visitor, runtime_of};

/// Methods that are remembered: a program may name each call differently.
const KEPT_METHODS: usize = 256;

/// An actor as the runtime knows it; counts as one handle of this process.
#[pyclass(frozen, module = "sparkray._native")]
pub(crate) struct ActorRef {
    pub(crate) id: ActorId,
    pub(crate) class_name: String,
    pub(crate) worker: Arc<CoreWorker>,
    kind: HandleKind,
    methods: Mutex<HashMap<String, Arc<ActorMethod>>>,
}

impl ActorRef {
    /// Takes over one handle that the core worker counts.
    pub(crate) fn new(id: ActorId, class_name: String, worker: &Arc<CoreWorker>, kind: HandleKind) -> Self {
        Self {
            id,
            class_name,
            worker: Arc::clone(worker),
            kind,
            methods: Mutex::default(),
        }
    }

    /// What calls of a method share. `key`: the method's name; with a NUL and another name behind it, the calls are named
    /// so.
    pub(crate) fn method(&self, key: &str) -> Arc<ActorMethod> {
        let mut methods = self.methods.lock();
        if let Some(known) = methods.get(key) {
            return Arc::clone(known);
        }
        let (method, name) = match key.split_once('\0') {
            Some((method, name)) => (method, name.to_owned()),
            None if self.class_name.is_empty() => (key, key.to_owned()),
            None => (key, format!("{}.{key}", self.class_name)),
        };
        if methods.len() >= KEPT_METHODS {
            methods.clear();
        }
        let made = Arc::new(ActorMethod {
            method: method.to_owned(),
            name,
        });
        methods.insert(key.to_owned(), Arc::clone(&made));
        made
    }
}

#[pymethods]
impl ActorRef {
    /// The id as bytes.
    fn actor_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.id.as_bytes())
    }

    /// A handle is about to leave this process: the actor does not end with the handles that are here. A weak one leaves
    /// as such. The id of its cluster.
    fn escape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let runtime = runtime_of(Visitor::Actor(self.id), &self.worker)?;
        if self.kind == HandleKind::Counted {
            py.detach(|| self.worker.actor_escapes(self.id, &check_signals))
                .map_err(|error| wait_exception(py, error, "the head did not answer"))?;
        }
        Ok(PyBytes::new(py, runtime.cluster_id.as_bytes()))
    }

    /// The actor runs several calls at a time: those whose arguments are late do not hold up others.
    fn call_out_of_order(&self) {
        self.worker.call_out_of_order(self.id);
    }
}

impl Drop for ActorRef {
    fn drop(&mut self) {
        self.worker.drop_actor_handle(self.id, self.kind);
    }
}
