//! This process's part in a cluster: the core worker and what Python needs beside it.

use std::ffi::CStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;
use sparkray_common::sync::Mutex;
use sparkray_common::{ClusterId, ObjectId};
use sparkray_core_worker::{CoreWorker, NewValue, WaitError};

use crate::cancelling::CancelledMethods;
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
    pub(crate) cancelled_methods: Arc<CancelledMethods>,
}

static CURRENT: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// Whoever waits for room for another call is told so after this time.
const TELLS_OF_WAITING: Duration = Duration::from_secs(5);
const WAITS_FOR_ROOM: &CStr =
    c"remote() waits for earlier calls to finish: their arguments are all that this process may hold (get() results \
      before submitting more, or pass large values by put())";

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
        self.put_by(py, value, |parts| self.core.put(parts, &check_signals))
    }

    /// Puts a long argument of the call that is submitted next.
    pub(crate) fn put_argument(&self, py: Python<'_>, value: &Serialized) -> PyResult<ObjectRef> {
        self.put_by(py, value, |parts| self.core.put_argument(parts, &check_signals))
    }

    fn put_by(
        &self,
        py: Python<'_>,
        value: &Serialized,
        put: impl Fn(NewValue<'_>) -> Result<ObjectId, WaitError<PyErr>> + Sync,
    ) -> PyResult<ObjectRef> {
        // The buffers are lent by Python objects that `value` keeps; only the copy runs without the lock.
        let outcome = value.with_value(py, |parts| {
            let parts = SendParts(NewValue {
                format: parts.format,
                body: parts.body,
                buffers: parts.buffers,
                contained: parts.contained.clone(),
            });
            let put = &put;
            py.detach(move || {
                let SendParts(parts) = parts;
                put(parts)
            })
        })?;
        let id = outcome.map_err(|error| wait_exception(py, error, "the value was not stored"))?;
        Ok(ObjectRef::new(id, &self.core))
    }

    /// Waits, without the interpreter's lock, until another call may be submitted.
    pub(crate) fn make_room(&self, py: Python<'_>) -> PyResult<()> {
        if self.core.has_room() {
            return Ok(());
        }
        let soon = Instant::now() + TELLS_OF_WAITING;
        let mut outcome = py.detach(|| self.core.wait_for_room(Some(soon), &check_signals));
        if matches!(outcome, Err(WaitError::Deadline)) {
            let warning = py.get_type::<PyRuntimeWarning>();
            PyErr::warn(py, &warning, WAITS_FOR_ROOM, 1)?;
            outcome = py.detach(|| self.core.wait_for_room(None, &check_signals));
        }
        outcome.map_err(|error| wait_exception(py, error, "the call was not submitted"))
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
struct SendParts<'a>(NewValue<'a>);
