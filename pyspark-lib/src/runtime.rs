//! This process's part in a cluster: the core worker and what Python needs beside it.

use std::sync::Arc;

use pyo3::prelude::*;
use sparkray_common::ClusterId;
use sparkray_common::sync::Mutex;
use sparkray_core_worker::CoreWorker;

use crate::convert::{check_signals, wait_exception};
use crate::event::EventSignal;
use crate::futures::Futures;
use crate::object_ref::ObjectRef;
use crate::values::Serialized;

/// The core worker of this process and what Python needs beside it.
pub(crate) struct Runtime {
    pub(crate) core: Arc<CoreWorker>,
    pub(crate) futures: Arc<Futures>,
    pub(crate) cluster_id: ClusterId,
    pub(crate) is_driver: bool,
    pub(crate) event: Arc<EventSignal>,
}

static CURRENT: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// The runtime that this process takes part in.
pub(crate) fn current_runtime() -> Option<Arc<Runtime>> {
    let runtime = CURRENT.lock().clone()?;
    (!runtime.core.is_forked()).then_some(runtime)
}

/// Replaces the runtime of this process. The former one is dropped outside of the lock: what it holds may be Python's.
pub(crate) fn set_current(runtime: Option<Arc<Runtime>>) {
    let former = std::mem::replace(&mut *CURRENT.lock(), runtime);
    drop(former);
}

impl Runtime {
    /// Puts a serialized value.
    pub(crate) fn put_serialized(&self, py: Python<'_>, value: &Serialized) -> PyResult<ObjectRef> {
        // The buffers are lent by Python objects that `value` keeps; only the copy runs without the lock.
        let outcome = value.with_value(py, |parts| {
            let parts = SendParts(sparkray_core_worker::NewValue {
                format: parts.format,
                body: parts.body,
                buffers: parts.buffers,
                contained: parts.contained.clone(),
            });
            py.detach(move || {
                let SendParts(parts) = parts;
                self.core.put(parts, &check_signals)
            })
        })?;
        let id = outcome.map_err(|error| wait_exception(py, error, "the value was not stored"))?;
        Ok(ObjectRef::new(id, &self.core))
    }

    /// Leaves the cluster.
    pub(crate) fn shutdown(self: &Arc<Self>, py: Python<'_>) {
        if current_runtime().is_some_and(|current| Arc::ptr_eq(&current, self)) {
            set_current(None);
        }
        py.detach(|| self.core.shutdown());
    }
}

/// Borrowed bytes are `Send`; this names them for `detach`.
struct SendParts<'a>(sparkray_core_worker::NewValue<'a>);
