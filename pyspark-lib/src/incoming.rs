//! Calls of an actor that Python itself drives: async actors, and those with several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use sparkray_common::sync::Mutex;
use sparkray_common::{ErrorCode, ObjectId, TaskId};
use sparkray_core_worker::{CoreError, IncomingTask, WorkItem};
use tracing::Span;

use crate::convert::Attribute;
use crate::execution::{
    LoadedArgument, arguments_of, current_task_id, decode_arguments, fetch_references, hooks, span_of,
};
use crate::object_ref::reading;
use crate::objects::wait_for_borrows;
use crate::results::{answer_of, send_error};
use crate::runtime::Runtime;

/// A call. One that is dropped without an answer fails.
#[pyclass(frozen, name = "IncomingTask", module = "sparkray._native")]
pub(crate) struct PyIncomingTask {
    task: IncomingTask,
    runtime: Arc<Runtime>,
    answered: AtomicBool,
    /// What `fetch_args` has brought.
    fetched: Mutex<Option<Vec<LoadedArgument>>>,
    /// References in the arguments whose owners do not know this process yet.
    unknown_to_owners: Mutex<Vec<ObjectId>>,
    /// Ends with this.
    _span: Span,
}

#[pymethods]
impl PyIncomingTask {
    #[getter]
    fn task_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.task.task_id.as_bytes())
    }

    #[getter]
    fn method(&self) -> &str {
        &self.task.method
    }

    #[getter]
    fn name(&self) -> &str {
        &self.task.name
    }

    /// Whether it is to end.
    fn is_cancelled(&self) -> bool {
        self.runtime.cancelled_methods.any() && self.runtime.core.is_cancelled(self.task.task_id)
    }

    /// Positional and keyword arguments, references replaced by their values.
    fn load_args<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let (args, kwargs) = arguments_of(py, &self.runtime, &self.task)?;
        Ok((args, kwargs.unwrap_or_else(|| PyDict::new(py))))
    }

    /// Whether arguments are in a store, perhaps another node's: `fetch_args` is to be called first, by a thread that may
    /// wait.
    fn has_stored_args(&self) -> bool {
        self.task.has_stored_references()
    }

    /// Brings the arguments that are references to this process, for `build_args`.
    fn fetch_args(&self, py: Python<'_>) -> PyResult<()> {
        let fetched = fetch_references(py, &self.runtime, &self.task)?;
        *self.fetched.lock() = Some(fetched);
        Ok(())
    }

    /// As `load_args`, without waiting for anybody. The third: owners of references inside do not know this process yet,
    /// and `wait_for_owners` is to be called before the call runs, by a thread that may wait.
    fn build_args<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>, bool)> {
        let fetched = self.fetched.lock().take();
        let references = match fetched {
            Some(references) => references,
            None => fetch_references(py, &self.runtime, &self.task)?,
        };
        let (value, names) = (&self.task.arguments, &self.task.keyword_names);
        let (arguments, inside) = reading(|| decode_arguments(py, value, names, references));
        let waits = !inside.is_empty();
        *self.unknown_to_owners.lock() = inside;
        let (args, kwargs) = arguments?;
        Ok((args, kwargs.unwrap_or_else(|| PyDict::new(py)), waits))
    }

    /// Waits until the owners of references in the arguments know this process.
    fn wait_for_owners(&self, py: Python<'_>) -> PyResult<()> {
        let inside = std::mem::take(&mut *self.unknown_to_owners.lock());
        wait_for_borrows(py, &self.runtime.core, &inside)
    }
}

impl PyIncomingTask {
    /// False: it was answered before.
    fn begin_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }

    /// Answers with a value. When that cannot be sent, the call is still open.
    pub(crate) fn finish(&self, value: &Bound<'_, PyAny>, more: bool) -> PyResult<()> {
        let answer = answer_of(&self.runtime, &self.task, value)?;
        if self.begin_answer() {
            answer.send(value.py(), &self.runtime, &self.task, more);
        }
        Ok(())
    }

    /// Answers that it was cancelled before it ran.
    pub(crate) fn give_up(&self) {
        if self.begin_answer() {
            let message = format!("{} was cancelled", self.task.name);
            self.runtime
                .core
                .fail_task(&self.task, &CoreError::new(ErrorCode::Cancelled, message));
        }
    }

    /// Answers with an error.
    pub(crate) fn fail(&self, error: &Bound<'_, PyAny>) {
        if self.begin_answer() {
            let py = error.py();
            let hooks = hooks(py);
            let error = PyErr::from_value(error.clone());
            send_error(
                hooks.as_ref().map(|hooks| hooks.bind(py)),
                &self.runtime,
                &self.task,
                &error,
                py,
            );
        }
    }
}

impl Drop for PyIncomingTask {
    fn drop(&mut self) {
        if self.begin_answer() && !self.runtime.core.is_forked() {
            let message = format!("{} was not run to its end: the actor gave it up", self.task.name);
            self.runtime
                .core
                .fail_task(&self.task, &CoreError::new(ErrorCode::Cancelled, message));
        }
    }
}

/// The call that runs on this thread or in this coroutine.
pub(crate) fn current_call(py: Python<'_>, runtime: &Runtime) -> Option<TaskId> {
    static OF_COROUTINE: Attribute = Attribute::new("sparkray._private.concurrent_actor", "current");
    let current = current_task_id();
    if current.is_some() || !runtime.event.is_started() {
        return current;
    }
    let variable = OF_COROUTINE.get(py).ok()?;
    let task = variable.call_method0("get").ok()?;
    let task = task.cast_into::<PyIncomingTask>().ok()?;
    Some(task.get().task.task_id)
}

/// Calls that have arrived; `None`: the worker is to end.
pub(crate) fn poll_tasks(py: Python<'_>, runtime: &Arc<Runtime>) -> PyResult<Option<Vec<PyIncomingTask>>> {
    runtime.event.clear();
    let mut tasks = Vec::new();
    let core = Arc::clone(&runtime.core);
    while let Some(work) = py.detach(|| core.try_next_work()) {
        match work {
            WorkItem::Task(task) => tasks.push(PyIncomingTask {
                _span: span_of(&task, || core.current_actor().map(|(actor_id, _)| actor_id)),
                task,
                runtime: Arc::clone(runtime),
                answered: AtomicBool::new(false),
                fetched: Mutex::new(None),
                unknown_to_owners: Mutex::new(Vec::new()),
            }),
            WorkItem::CreateActor(_) => {
                return Err(PyRuntimeError::new_err(
                    "a worker that is an actor was told to become another",
                ));
            }
        }
    }
    if tasks.is_empty() && core.is_ending() {
        return Ok(None);
    }
    Ok(Some(tasks))
}
