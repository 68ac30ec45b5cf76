//! `ObjectRef`, and the references that a value contains while it is being pickled.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use sparkray_common::{NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_core_worker::CoreWorker;

use crate::convert::bad_id;
use crate::core_worker::current_runtime;
use crate::notices;

thread_local! {
    /// References of the value that this thread pickles; `None`: it pickles nothing of ours.
    static CONTAINED: RefCell<Option<Vec<ObjectId>>> = const { RefCell::new(None) };
}

/// Runs `pickle`; gives its result and the references that it met.
pub(crate) fn collecting<T>(pickle: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Vec<ObjectId>)> {
    let outer = CONTAINED.replace(Some(Vec::new()));
    let outcome = pickle();
    let met = CONTAINED.replace(outer).unwrap_or_default();
    Ok((outcome?, met))
}

/// A reference to the value of a task, an actor call or `put` (Ray: ray.ObjectRef).
#[pyclass(frozen, module = "sparkray._native")]
pub(crate) struct ObjectRef {
    pub(crate) id: ObjectId,
    pub(crate) worker: Arc<CoreWorker>,
}

impl ObjectRef {
    /// Takes over one reference that the core worker counts.
    pub(crate) fn new(id: ObjectId, worker: &Arc<CoreWorker>) -> Self {
        Self {
            id,
            worker: Arc::clone(worker),
        }
    }
}

impl Drop for ObjectRef {
    fn drop(&mut self) {
        self.worker.drop_reference(self.id);
    }
}

#[pymethods]
impl ObjectRef {
    /// The id as bytes.
    fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.id.as_bytes())
    }

    /// The id in hexadecimal.
    fn hex(&self) -> String {
        self.id.to_string()
    }

    /// The id of the task that makes the object, as bytes.
    fn task_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.id.task_id().as_bytes())
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.id.hash(&mut hasher);
        hasher.finish()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast_exact::<Self>()
            .is_ok_and(|other| other.get().id == self.id)
    }

    fn __repr__(&self) -> String {
        format!("ObjectRef({})", self.id)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let owner = self.worker.owner_of(self.id).ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "object {} belongs to a cluster that was stopped",
                self.id
            ))
        })?;
        let collected = CONTAINED.with_borrow_mut(|contained| {
            contained
                .as_mut()
                .map(|contained| contained.push(self.id))
                .is_some()
        });
        if !collected {
            // Pickled by somebody else: who will read it is not known, so it stays until shutdown.
            self.worker.add_reference(self.id);
        }
        let rebuild = py.import("sparkray._native")?.getattr("_rebuild_object_ref")?;
        let arguments = (
            PyBytes::new(py, self.id.as_bytes()),
            PyBytes::new(py, owner.node_id.as_bytes()),
            PyBytes::new(py, owner.worker_id.as_bytes()),
            owner.node_address,
        )
            .into_pyobject(py)?;
        Ok((rebuild, arguments))
    }

    /// A `concurrent.futures.Future` that gets the value, or the task's exception.
    fn future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        notices::future_of(slf)
    }

    fn __await__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let future = notices::future_of(slf)?;
        slf.py()
            .import("asyncio")?
            .call_method1("wrap_future", (future,))?
            .call_method0("__await__")
    }

    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, _item: &Bound<'py, PyAny>) -> Bound<'py, PyType> {
        class.clone()
    }
}

/// Makes a reference that came out of a pickle.
#[pyfunction]
#[pyo3(name = "_rebuild_object_ref")]
pub(crate) fn rebuild_object_ref(
    py: Python<'_>,
    id: &[u8],
    node_id: &[u8],
    worker_id: &[u8],
    node_address: String,
) -> PyResult<ObjectRef> {
    let runtime = current_runtime().ok_or_else(|| {
        PyRuntimeError::new_err(
            "a reference can be read only in a process that takes part in a cluster: call init()",
        )
    })?;
    let id = ObjectId::from_slice(id).map_err(bad_id)?;
    let owner = WorkerAddress {
        node_id: NodeId::from_slice(node_id).map_err(bad_id)?,
        worker_id: WorkerId::from_slice(worker_id).map_err(bad_id)?,
        node_address,
    };
    let core = Arc::clone(&runtime.core);
    py.detach(|| core.add_foreign_reference(id, &owner));
    Ok(ObjectRef::new(id, &core))
}
