//! Actors as handles hold them.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_common::ActorId;
use sparkray_core_worker::CoreWorker;

/// An actor as the runtime knows it; counts as one handle of this process.
#[pyclass(frozen, module = "sparkray._native")]
pub(crate) struct ActorRef {
    pub(crate) id: ActorId,
    pub(crate) class_name: String,
    pub(crate) worker: Arc<CoreWorker>,
}

#[pymethods]
impl ActorRef {
    /// The id as bytes.
    fn actor_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.id.as_bytes())
    }

    /// A handle is about to leave this process: the actor does not end with the handles that are here.
    fn escape(&self) {
        self.worker.actor_escapes(self.id);
    }
}

impl Drop for ActorRef {
    fn drop(&mut self) {
        self.worker.drop_actor_handle(self.id);
    }
}
