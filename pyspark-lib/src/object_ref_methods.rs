//! What Python calls on an `ObjectRef`: Ray's methods, futures, and its way into pickles and out of them.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use sparkray_common::{ClusterId, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_core_worker::HandedOver;

use crate::convert::{Attribute, bad_id, check_signals, wait_exception};
use crate::doors::{self, Visitor};
use crate::notices;
use crate::object_ref::{ObjectRef, collect, note_unknown_to_owner};
use crate::objects::read;
use crate::runtime::{Runtime, current_runtime};

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

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.binary(py)
    }

    /// Whether it refers to nothing (Ray: ObjectRef.is_nil).
    fn is_nil(&self) -> bool {
        self.id.is_nil()
    }

    /// A reference that refers to nothing (Ray: ObjectRef.nil).
    ///
    /// Raises:
    ///     RuntimeError: sparkray is not running in this process.
    #[staticmethod]
    fn nil() -> PyResult<Self> {
        let runtime = current_runtime().ok_or_else(|| {
            PyRuntimeError::new_err("a reference belongs to a cluster: call init() before this")
        })?;
        Ok(Self::new(ObjectId::NIL, &runtime.core))
    }

    /// The id of the task that makes the object, in hexadecimal, with `hex()` and `binary()` (Ray: ObjectRef.task_id).
    fn task_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static HEX_ID: Attribute = Attribute::new("sparkray._private.ids", "HexId");
        HEX_ID.get(py)?.call1((self.id.task_id().to_string(),))
    }

    /// The same reference: it cannot change.
    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// The same reference: it cannot change.
    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    /// Not there yet.
    #[staticmethod]
    fn job_id() -> PyResult<()> {
        Err(missing(
            "job_id",
            "get_runtime_context().get_job_id() tells this process's job",
        ))
    }

    /// Not there yet.
    #[staticmethod]
    fn call_site() -> PyResult<()> {
        Err(missing("call_site", "nobody records where references are made"))
    }

    /// Not there yet.
    #[staticmethod]
    fn from_binary(_id: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(missing("from_binary", "a reference travels whole, by pickle"))
    }

    /// Not there yet.
    #[staticmethod]
    fn from_hex(_id: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(missing("from_hex", "a reference travels whole, by pickle"))
    }

    /// Not there yet.
    #[staticmethod]
    fn from_random() -> PyResult<()> {
        Err(missing("from_random", "put() makes a reference with a value"))
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

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        static REBUILD: Attribute = Attribute::new("sparkray._native", "_rebuild_object_ref");
        let py = slf.py();
        let this = slf.get();
        let runtime = doors::runtime_of(Visitor::Object(this.id), &this.worker)?;
        let mut id = this.id;
        let mut owner = this
            .worker
            .owner_of(id)
            .ok_or_else(|| PyRuntimeError::new_err(format!("object {id} was freed")))?;
        // Pickled by somebody else: who will read it is not known, so it stays until its owner's shutdown.
        if !collect(slf) {
            match hand_over(py, &runtime, id)? {
                Some((copy, driver)) => (id, owner) = (copy, Arc::new(driver)),
                None => this.worker.add_reference(id),
            }
        }
        let rebuild = REBUILD.get(py)?.clone();
        let arguments = (
            PyBytes::new(py, id.as_bytes()),
            describe_owner(py, &runtime, &owner),
        );
        Ok((rebuild, arguments.into_pyobject(py)?))
    }

    /// A `concurrent.futures.Future` that gets the value, or the task's exception (Ray: ObjectRef.future).
    ///
    /// Raises:
    ///     ValueError: the reference belongs to a cluster that this process has left.
    fn future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        notices::future_of(slf)
    }

    /// An `asyncio.Future` of the running event loop that gets the value, or the task's exception (Ray:
    /// ObjectRef.as_future).
    ///
    /// Raises:
    ///     RuntimeError: no event loop runs in this thread.
    ///     ValueError: the reference belongs to a cluster that this process has left.
    fn as_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let asyncio = slf.py().import("asyncio")?;
        // First, so that nothing is left waiting when there is none.
        asyncio.call_method0("get_running_loop")?;
        asyncio.call_method1("wrap_future", (notices::future_of(slf)?,))
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

/// A method that Ray's references have.
fn missing(name: &str, instead: &str) -> PyErr {
    PyNotImplementedError::new_err(format!("ObjectRef.{name}() is not there yet: {instead}"))
}

/// An owner in a pickle: the ids of its cluster, node and worker, and the address of the node's raylet.
struct KnownOwner {
    cluster_id: ClusterId,
    address: Arc<WorkerAddress>,
    bytes: Py<PyBytes>,
}

thread_local! {
    /// The owner of the last reference: the next one often has the same.
    static LAST_OWNER: RefCell<Option<KnownOwner>> = const { RefCell::new(None) };
}

/// The same object for the same owner, so that a pickle holds it once.
fn describe_owner<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    owner: &Arc<WorkerAddress>,
) -> Bound<'py, PyBytes> {
    let cluster_id = runtime.cluster_id;
    let last = LAST_OWNER.with_borrow(|last| {
        let last = last.as_ref()?;
        (last.cluster_id == cluster_id && *last.address == **owner).then(|| last.bytes.clone_ref(py))
    });
    if let Some(bytes) = last {
        return bytes.into_bound(py);
    }
    let mut bytes = Vec::with_capacity(48 + owner.node_address.len());
    bytes.extend_from_slice(cluster_id.as_bytes());
    bytes.extend_from_slice(owner.node_id.as_bytes());
    bytes.extend_from_slice(owner.worker_id.as_bytes());
    bytes.extend_from_slice(owner.node_address.as_bytes());
    let bytes = PyBytes::new(py, &bytes);
    remember_owner(cluster_id, owner, &bytes);
    bytes
}

fn remember_owner(cluster_id: ClusterId, owner: &Arc<WorkerAddress>, bytes: &Bound<'_, PyBytes>) {
    let known = KnownOwner {
        cluster_id,
        address: Arc::clone(owner),
        bytes: bytes.clone().unbind(),
    };
    // The former one is dropped outside of the borrow.
    let former = LAST_OWNER.replace(Some(known));
    drop(former);
}

/// The owner of an object that came out of a pickle. It is of this process's cluster.
fn read_owner(runtime: &Runtime, id: ObjectId, bytes: &Bound<'_, PyBytes>) -> PyResult<Arc<WorkerAddress>> {
    let py = bytes.py();
    let last = LAST_OWNER.with_borrow(|last| {
        let last = last.as_ref()?;
        let same = last.bytes.is(bytes) || last.bytes.as_bytes(py) == bytes.as_bytes();
        (same && last.cluster_id == runtime.cluster_id).then(|| Arc::clone(&last.address))
    });
    if let Some(owner) = last {
        return Ok(owner);
    }
    let (cluster_id, rest) = bytes
        .as_bytes()
        .split_at_checked(ClusterId::LEN)
        .unwrap_or_default();
    let (node_id, rest) = rest.split_at_checked(NodeId::LEN).unwrap_or_default();
    let (worker_id, address) = rest.split_at_checked(WorkerId::LEN).unwrap_or_default();
    doors::check_origin(Visitor::Object(id), cluster_id, runtime)?;
    let owner = Arc::new(WorkerAddress {
        node_id: NodeId::from_slice(node_id).map_err(bad_id)?,
        worker_id: WorkerId::from_slice(worker_id).map_err(bad_id)?,
        node_address: String::from_utf8(address.to_vec())?,
    });
    remember_owner(runtime.cluster_id, &owner, bytes);
    Ok(owner)
}

/// In a process that may end soon, a participant: the driver's copy of an object, and the driver. Raises the error that is
/// the object's value.
fn hand_over(py: Python<'_>, runtime: &Runtime, id: ObjectId) -> PyResult<Option<(ObjectId, WorkerAddress)>> {
    let core = &runtime.core;
    let outcome = py
        .detach(|| core.hand_over(id, &check_signals))
        .map_err(|error| wait_exception(py, error, "the object was not handed over to the driver"))?;
    match outcome {
        HandedOver::Copy(copy, driver) => Ok(Some((copy, driver))),
        HandedOver::Stays => Ok(None),
        HandedOver::Raised(value) => read(py, core, id, &value).map(|_| None),
    }
}

/// Makes a reference that came out of a pickle.
#[pyfunction]
#[pyo3(name = "_rebuild_object_ref")]
pub(crate) fn rebuild_object_ref(id: &[u8], owner: &Bound<'_, PyBytes>) -> PyResult<ObjectRef> {
    let id = ObjectId::from_slice(id).map_err(bad_id)?;
    let runtime = doors::runtime_for_reading(owner.py(), Visitor::Object(id))?;
    let core = &runtime.core;
    let owner = read_owner(&runtime, id, owner)?;
    if core.add_foreign_reference(id, &owner) {
        note_unknown_to_owner(id);
    }
    let mut reference = ObjectRef::new(id, core);
    reference.is_copy = true;
    Ok(reference)
}
