//! Running calls: the worker's main loop, and the pieces that async and threaded actors drive from Python.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use rustix::event::{EventfdFlags, eventfd};
use sparkray_common::{FunctionId, JobId, ObjectId};
use sparkray_core_worker::{CoreWorker, CreateActorWork, Fetched, IncomingTask, WaitError, WorkItem};
use sparkray_proto as proto;

use crate::convert::{check_signals, exception, wait_exception};
use crate::core_worker::{Runtime, wait_for_borrows};
use crate::values::{Loaded, Serialized, internal, load, serialize};

/// Wakes an event loop when calls arrive.
#[derive(Default)]
pub(crate) struct EventSignal {
    descriptor: OnceLock<OwnedFd>,
}

impl EventSignal {
    /// Makes the descriptor readable.
    pub(crate) fn raise(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            // A full counter means that it is readable already.
            let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
        }
    }

    fn clear(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            let mut counter = [0; 8];
            // Nothing to read means that it is clear.
            let _ = rustix::io::read(descriptor, &mut counter);
        }
    }

    /// The descriptor; from the first call on, arrivals are announced.
    pub(crate) fn start(&self, core: &Arc<CoreWorker>) -> std::io::Result<i32> {
        if let Some(descriptor) = self.descriptor.get() {
            return Ok(descriptor.as_raw_fd());
        }
        let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let descriptor = self.descriptor.get_or_init(|| made).as_raw_fd();
        core.announce_work();
        Ok(descriptor)
    }
}

/// What runs on a thread.
struct Current {
    task_id: Vec<u8>,
    name: String,
    actor_id: Option<Vec<u8>>,
    attempt: u32,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The task that the native loop runs on this thread.
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    CURRENT.with_borrow(|current| {
        let Some(current) = current else { return Ok(None) };
        let entry = PyDict::new(py);
        entry.set_item("task_id", PyBytes::new(py, &current.task_id))?;
        entry.set_item("name", &current.name)?;
        entry.set_item(
            "actor_id",
            current.actor_id.as_ref().map(|id| PyBytes::new(py, id)),
        )?;
        entry.set_item("attempt", current.attempt)?;
        Ok(Some(entry))
    })
}

/// The worker's state between calls.
struct Loop<'py> {
    py: Python<'py>,
    runtime: Arc<Runtime>,
    hooks: Bound<'py, PyAny>,
    functions: HashMap<FunctionId, Bound<'py, PyAny>>,
    /// The actor that this worker is.
    instance: Option<Bound<'py, PyAny>>,
    actor_id: Option<Vec<u8>>,
    label: String,
    job_id: JobId,
}

/// Runs calls until the worker is to end.
pub(crate) fn run(runtime: &Arc<Runtime>, hooks: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = hooks.py();
    *HOOKS.lock() = Some(hooks.clone().unbind());
    let mut this = Loop {
        py,
        runtime: Arc::clone(runtime),
        hooks: hooks.clone(),
        functions: HashMap::new(),
        instance: None,
        actor_id: None,
        label: String::new(),
        job_id: JobId::NIL,
    };
    loop {
        let core = Arc::clone(&this.runtime.core);
        let work = py
            .detach(|| core.next_work(&check_signals))
            .map_err(|error| wait_exception(py, error, "the worker waits for calls without a deadline"))?;
        match work {
            None => return Ok(()),
            Some(WorkItem::Task(task)) => this.run_task(task)?,
            Some(WorkItem::CreateActor(work)) => {
                if this.create_actor(*work)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The hooks, for calls that Python drives.
static HOOKS: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

impl<'py> Loop<'py> {
    fn take_job(&mut self, job_id: JobId, name: &str) {
        if job_id != self.job_id {
            self.job_id = job_id;
            self.runtime.core.set_job_id(job_id);
        }
        if self.label != name {
            name.clone_into(&mut self.label);
            self.runtime.core.set_label(name);
        }
    }

    fn run_task(&mut self, task: IncomingTask) -> PyResult<()> {
        let py = self.py;
        let label = match (&self.instance, task.name.split_once('.')) {
            (Some(_), Some((class, _))) => class.to_owned(),
            _ => task.name.clone(),
        };
        self.take_job(task.job_id, &label);
        let current = Current {
            task_id: task.task_id.to_vec(),
            name: task.name.clone(),
            actor_id: self.actor_id.clone(),
            attempt: task.attempt,
        };
        CURRENT.set(Some(current));
        // Kept until the call is answered: its references must not go before the answer pins them.
        let value = self.call(&task);
        let outcome = value
            .as_ref()
            .map_err(|error| error.clone_ref(py))
            .and_then(|value| results_of(&self.runtime, &task, value));
        let answer = match outcome {
            Ok(results) => Ok(results),
            Err(error) => error_results(
                &self.hooks,
                &self.runtime,
                &task,
                error.into_value(py).into_bound(py).as_any(),
            ),
        };
        CURRENT.set(None);
        let (results, pins) = answer?;
        let core = Arc::clone(&self.runtime.core);
        py.detach(move || core.finish_task(&task, results, pins));
        drop(value);
        Ok(())
    }

    fn call(&mut self, task: &IncomingTask) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let function = match &self.instance {
            Some(instance) => instance.getattr(task.method.as_str())?,
            None => self.function(task)?,
        };
        if task.arguments.is_empty() {
            return function.call0();
        }
        let (args, kwargs) = arguments_of(py, &self.runtime, task)?;
        function.call(args, Some(&kwargs))
    }

    fn function(&mut self, task: &IncomingTask) -> PyResult<Bound<'py, PyAny>> {
        if let Some(function) = self.functions.get(&task.function_id) {
            return Ok(function.clone());
        }
        let blob = self.runtime.core.function_blob(task.function_id).ok_or_else(|| {
            exception(
                self.py,
                &internal(format!(
                    "the code of {} did not come with its first call",
                    task.name
                )),
            )
        })?;
        let function = self
            .hooks
            .call_method1("load_function", (PyBytes::new(self.py, &blob),))?;
        self.runtime.core.function_loaded(task.function_id);
        self.functions.insert(task.function_id, function.clone());
        Ok(function)
    }

    /// Becomes an actor; `true`: it ran until the worker was to end.
    fn create_actor(&mut self, work: CreateActorWork) -> PyResult<bool> {
        let py = self.py;
        let job_id = JobId::from_slice(&work.spec.job_id).map_err(crate::convert::bad_id)?;
        self.take_job(job_id, &work.spec.class_name.clone());
        let name = format!("{}.__init__", work.spec.class_name);
        CURRENT.set(Some(Current {
            task_id: vec![0; 16],
            name: name.clone(),
            actor_id: Some(work.spec.actor_id.to_vec()),
            attempt: 0,
        }));
        self.actor_id = Some(work.spec.actor_id.to_vec());
        let made = self.actor_spec(&work).and_then(|spec| {
            let instance = self.hooks.call_method1("create_actor", (&spec,))?;
            Ok((spec, instance))
        });
        CURRENT.set(None);
        let core = Arc::clone(&self.runtime.core);
        match made {
            Ok((spec, instance)) => {
                self.instance = Some(instance.clone());
                let driven = work.spec.is_async || work.spec.max_concurrency > 1;
                core.finish_create_actor(&work, None, None)
                    .map_err(|error| exception(py, &error))?;
                if driven {
                    self.hooks.call_method1("run_actor", (instance, spec))?;
                }
                Ok(driven)
            }
            Err(error) => {
                let error = error.into_value(py).into_bound(py);
                let body = make_error(&self.hooks, &self.runtime, error.as_any(), &name)?;
                let body = Bytes::copy_from_slice(body.as_bytes());
                core.finish_create_actor(&work, Some(body), None)
                    .map_err(|error| exception(py, &error))?;
                Ok(false)
            }
        }
    }

    fn actor_spec(&self, work: &CreateActorWork) -> PyResult<Bound<'py, PyDict>> {
        let py = self.py;
        let core = Arc::clone(&self.runtime.core);
        let references = py
            .detach(|| core.load_creation_arguments(work, &check_signals))
            .map_err(|error| wait_exception(py, error, "an argument was not loaded"))?;
        let spec = &work.spec;
        let (args, kwargs) = build_arguments(
            py,
            &self.runtime,
            &spec.arguments_value,
            &spec.keyword_names,
            references,
        )?;
        let entry = PyDict::new(py);
        entry.set_item("actor_id", PyBytes::new(py, &spec.actor_id))?;
        entry.set_item("class_blob", PyBytes::new(py, &spec.class_blob))?;
        entry.set_item("class_name", &spec.class_name)?;
        entry.set_item("name", &spec.name)?;
        entry.set_item("namespace", &spec.namespace)?;
        entry.set_item("incarnation", work.incarnation)?;
        entry.set_item("max_concurrency", spec.max_concurrency)?;
        entry.set_item("is_async", spec.is_async)?;
        entry.set_item("resources", spec.resources.clone().unwrap_or_default().units)?;
        entry.set_item("handle_metadata", PyBytes::new(py, &spec.handle_metadata))?;
        entry.set_item("args", args)?;
        entry.set_item("kwargs", kwargs)?;
        Ok(entry)
    }
}

/// Positional and keyword arguments of a call.
fn arguments_of<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    task: &IncomingTask,
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    let references = if task.has_references() {
        py.detach(|| runtime.core.load_arguments(task, &check_signals))
            .map_err(|error| wait_exception(py, error, "an argument was not loaded"))?
    } else {
        Vec::new()
    };
    build_arguments(py, runtime, &task.arguments, &task.keyword_names, references)
}

type LoadedReference = (u32, Result<Fetched, sparkray_core_worker::CoreError>);

fn build_arguments<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    value: &Bytes,
    keyword_names: &[String],
    references: Vec<LoadedReference>,
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    let kwargs = PyDict::new(py);
    if value.is_empty() {
        return Ok((PyTuple::empty(py), kwargs));
    }
    let flat = match load(py, &Fetched::Inline(value.clone()))? {
        Loaded::Value(flat) => flat.cast_into::<PyList>()?,
        Loaded::Raised(error) => return Err(error),
    };
    for (slot, fetched) in references {
        let fetched = fetched.map_err(|error| exception(py, &error))?;
        match load(py, &fetched)? {
            Loaded::Value(object) => flat.set_item(slot as usize, object)?,
            Loaded::Raised(error) => return Err(error),
        }
    }
    wait_for_borrows(py, &runtime.core)?;
    let positional = flat.len().saturating_sub(keyword_names.len());
    for (index, name) in keyword_names.iter().enumerate() {
        kwargs.set_item(name, flat.get_item(positional + index)?)?;
    }
    Ok((flat.get_slice(0, positional).to_tuple(), kwargs))
}

type Results = (Vec<(proto::ReturnValue, Bytes)>, Vec<ObjectId>);

/// Stores or encodes what a call returned.
fn results_of(runtime: &Runtime, task: &IncomingTask, value: &Bound<'_, PyAny>) -> PyResult<Results> {
    let mut results = Vec::with_capacity(task.num_returns as usize);
    let mut pins = Vec::new();
    if task.num_returns == 1 {
        results.push(write_result(runtime, task, 0, value, &mut pins)?);
        return Ok((results, pins));
    }
    if task.num_returns == 0 {
        return Ok((results, pins));
    }
    let values: Vec<Bound<'_, PyAny>> = match value.try_iter() {
        Ok(items) => items.collect::<PyResult<_>>()?,
        Err(_) => Vec::new(),
    };
    if values.len() != task.num_returns as usize {
        return Err(PyValueError::new_err(format!(
            "{} has num_returns={} but returned {} values: return a tuple of that length",
            task.name,
            task.num_returns,
            if values.is_empty() {
                "other than that many".to_owned()
            } else {
                values.len().to_string()
            }
        )));
    }
    for (index, item) in values.iter().enumerate() {
        results.push(write_result(runtime, task, index as u32, item, &mut pins)?);
    }
    Ok((results, pins))
}

fn write_result(
    runtime: &Runtime,
    task: &IncomingTask,
    index: u32,
    value: &Bound<'_, PyAny>,
    pins: &mut Vec<ObjectId>,
) -> PyResult<(proto::ReturnValue, Bytes)> {
    let serialized = serialize(value)?;
    pins.extend(&serialized.contained);
    write_serialized(value.py(), runtime, task, index, &serialized)
}

fn write_serialized(
    py: Python<'_>,
    runtime: &Runtime,
    task: &IncomingTask,
    index: u32,
    value: &Serialized,
) -> PyResult<(proto::ReturnValue, Bytes)> {
    let outcome = value.with_value(py, |parts| {
        py.detach(|| runtime.core.write_result(task, index, parts, &check_signals))
    })?;
    outcome.map_err(|error| match error {
        WaitError::Failed(error) => exception(py, &error),
        other => wait_exception(py, other, "a result was not stored"),
    })
}

fn make_error<'py>(
    hooks: &Bound<'py, PyAny>,
    runtime: &Runtime,
    error: &Bound<'py, PyAny>,
    name: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let ip = runtime.core.registration().node_ip;
    Ok(hooks
        .call_method1("make_error", (error, name, std::process::id(), ip))?
        .cast_into::<PyBytes>()?)
}

/// Every result of the call is its error.
fn error_results(
    hooks: &Bound<'_, PyAny>,
    runtime: &Runtime,
    task: &IncomingTask,
    error: &Bound<'_, PyAny>,
) -> PyResult<Results> {
    let py = hooks.py();
    let body = make_error(hooks, runtime, error, &task.name)?;
    let value = Serialized::error(body.unbind());
    let mut results = Vec::with_capacity(task.num_returns as usize);
    for index in 0..task.num_returns {
        results.push(write_serialized(py, runtime, task, index, &value)?);
    }
    Ok((results, Vec::new()))
}

/// A call of an actor that Python itself drives.
#[pyclass(frozen, name = "IncomingTask", module = "sparkray._native")]
pub(crate) struct PyIncomingTask {
    task: IncomingTask,
    runtime: Arc<Runtime>,
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

    /// Positional and keyword arguments, references replaced by their values.
    fn load_args<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        arguments_of(py, &self.runtime, &self.task)
    }
}

pub(crate) fn poll_tasks(py: Python<'_>, runtime: &Arc<Runtime>) -> PyResult<Option<Vec<PyIncomingTask>>> {
    runtime.event.clear();
    let mut tasks = Vec::new();
    let core = Arc::clone(&runtime.core);
    while let Some(work) = py.detach(|| core.try_next_work()) {
        match work {
            WorkItem::Task(task) => tasks.push(PyIncomingTask {
                task,
                runtime: Arc::clone(runtime),
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

pub(crate) fn finish(
    runtime: &Arc<Runtime>,
    task: &PyIncomingTask,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (results, pins) = results_of(runtime, &task.task, value)?;
    let core = Arc::clone(&runtime.core);
    value.py().detach(|| core.finish_task(&task.task, results, pins));
    Ok(())
}

pub(crate) fn fail(
    py: Python<'_>,
    runtime: &Arc<Runtime>,
    task: &PyIncomingTask,
    error: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let hooks = HOOKS.lock().as_ref().map(|hooks| hooks.clone_ref(py));
    let hooks = hooks.ok_or_else(|| PyRuntimeError::new_err("only a worker can fail a task"))?;
    let (results, pins) = error_results(hooks.bind(py), runtime, &task.task, error)?;
    let core = Arc::clone(&runtime.core);
    py.detach(|| core.finish_task(&task.task, results, pins));
    Ok(())
}
