//! `ObjectRef` itself, and the references that a value contains while it is being pickled or read. What Python calls on
//! it is in `object_ref_methods`.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use sparkray_common::ObjectId;
use sparkray_core_worker::CoreWorker;

thread_local! {
    /// References of the value that this thread pickles; `None`: it pickles nothing of ours.
    static CONTAINED: RefCell<Option<Vec<Py<ObjectRef>>>> = const { RefCell::new(None) };
    /// References that came out of the values that this thread reads, and whose owners do not know this process yet;
    /// `None`: it reads none of ours.
    static UNKNOWN_TO_OWNERS: RefCell<Option<Vec<ObjectId>>> = const { RefCell::new(None) };
}

/// Runs `read`; gives its result and the references that came out of values and whose owners do not know this process
/// yet: what they came from must be kept until they do.
pub(crate) fn reading<T>(read: impl FnOnce() -> T) -> (T, Vec<ObjectId>) {
    let outer = UNKNOWN_TO_OWNERS.replace(Some(Vec::new()));
    let outcome = read();
    let met = UNKNOWN_TO_OWNERS.replace(outer).unwrap_or_default();
    (outcome, met)
}

/// Runs `pickle`; gives its result and the references that it met, which must be kept as long as the pickle.
pub(crate) fn collecting<T>(pickle: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Vec<Py<ObjectRef>>)> {
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
    /// It came out of a pickle: there may be others of the same object.
    pub(crate) is_copy: bool,
    mark: AtomicU64,
}

impl ObjectRef {
    /// Takes over one reference that the core worker counts.
    pub(crate) fn new(id: ObjectId, worker: &Arc<CoreWorker>) -> Self {
        Self {
            id,
            worker: Arc::clone(worker),
            is_copy: false,
            mark: AtomicU64::new(0),
        }
    }

    /// Marks it; whether it had this mark already.
    pub(crate) fn mark(&self, mark: u64) -> bool {
        self.mark.swap(mark, Ordering::Relaxed) == mark
    }
}

impl Drop for ObjectRef {
    fn drop(&mut self) {
        self.worker.drop_reference(self.id);
    }
}

/// Adds a reference to those of the value that this thread pickles; whether it pickles one of ours.
pub(crate) fn collect(reference: &Bound<'_, ObjectRef>) -> bool {
    CONTAINED.with_borrow_mut(|contained| match contained {
        Some(contained) => {
            contained.push(reference.clone().unbind());
            true
        }
        None => false,
    })
}

/// Adds a reference to those that came out of the values that this thread reads, if it reads ours.
pub(crate) fn note_unknown_to_owner(id: ObjectId) {
    UNKNOWN_TO_OWNERS.with_borrow_mut(|ids| ids.as_mut().map(|ids| ids.push(id)));
}
