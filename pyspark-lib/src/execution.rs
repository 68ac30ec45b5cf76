//! The worker's main loop: takes a call, runs it, answers it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use sparkray_common::sync::Mutex;
use sparkray_common::{ActorId, BundleChoice, FunctionId, JobId, TaskId};
use sparkray_core_worker::{CoreError, CreateActorWork, Fetched, IdMap, IncomingTask, WorkItem};
use sparkray_proto::SchedulingStrategy;
use tracing::{Span, debug_span};

use crate::cancelling::Interruptible;
use crate::convert::{bad_id, check_signals, exception, wait_exception};
use crate::object_ref::reading;
use crate::objects::wait_for_borrows;
use crate::process::end_forked_child;
use crate::results::{answer_of, make_error, send_error};
use crate::runtime::Runtime;
use crate::values::{Loaded, internal, load};

/// What runs on a thread.
struct Current {
    task_id: TaskId,
    name: Rc<str>,
    actor_id: Option<ActorId>,
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
        entry.set_item("task_id", PyBytes::new(py, current.task_id.as_bytes()))?;
        entry.set_item("name", &*current.name)?;
        let actor_id = current.actor_id.map(|id| PyBytes::new(py, id.as_bytes()));
        entry.set_item("actor_id", actor_id)?;
        entry.set_item("attempt", current.attempt)?;
        Ok(Some(entry))
    })
}

/// The id of the task that the native loop runs on this thread.
pub(crate) fn current_task_id() -> Option<TaskId> {
    CURRENT.with_borrow(|current| current.as_ref().map(|current| current.task_id))
}

/// The hooks, for calls that Python drives.
static HOOKS: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// The hooks of this worker.
pub(crate) fn hooks(py: Python<'_>) -> Option<Py<PyAny>> {
    HOOKS.lock().as_ref().map(|hooks| hooks.clone_ref(py))
}

/// The worker's state between calls.
struct Loop<'py> {
    py: Python<'py>,
    runtime: Arc<Runtime>,
    hooks: Bound<'py, PyAny>,
    functions: IdMap<FunctionId, Bound<'py, PyAny>>,
    /// The actor that this worker is, and those of its methods that were called.
    instance: Option<Bound<'py, PyAny>>,
    actor_id: Option<ActorId>,
    /// What the last call was named.
    name: Rc<str>,
    label: String,
    job_id: JobId,
    /// What libraries may use, as the last push of a function said it.
    threads: u32,
    /// Where the last function ran, or the actor is.
    bundle: Option<BundleChoice>,
}

/// Runs calls until the worker is to end.
pub(crate) fn run(runtime: &Arc<Runtime>, hooks: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = hooks.py();
    let former = HOOKS.lock().replace(hooks.clone().unbind());
    drop(former);
    let mut this = Loop {
        py,
        runtime: Arc::clone(runtime),
        hooks: hooks.clone(),
        functions: IdMap::default(),
        instance: None,
        actor_id: None,
        name: Rc::from(""),
        label: String::new(),
        job_id: JobId::NIL,
        threads: 0,
        bundle: None,
    };
    let core = &runtime.core;
    loop {
        // Calls that are here already are taken without letting go of the interpreter.
        let work = match core.try_next_work() {
            Some(work) => Some(work),
            None => py.detach(|| core.next_work(&check_signals)).map_err(|error| {
                wait_exception(py, error, "the worker waits for calls without a deadline")
            })?,
        };
        match work {
            None => return Ok(()),
            Some(WorkItem::Task(task)) => this.run_task(&task),
            Some(WorkItem::CreateActor(work)) => {
                if this.create_actor(*work)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The span of a call that this worker runs. `actor_id`: looked up only when spans are wanted.
pub(crate) fn span_of(task: &IncomingTask, actor_id: impl Fn() -> Option<ActorId>) -> Span {
    debug_span!(
        "execute_task",
        task_id = %task.task_id,
        actor_id = actor_id().map(tracing::field::display),
        name = task.name,
        attempt = task.attempt
    )
}

impl<'py> Loop<'py> {
    fn take_job(&mut self, job_id: JobId) {
        if job_id != self.job_id {
            self.job_id = job_id;
            self.runtime.core.set_job_id(job_id);
            if let Err(error) = self.hooks.call_method1("set_job", (job_id.to_string(),)) {
                error.write_unraisable(self.py, None);
            }
        }
    }

    fn take_label(&mut self, label: &str) {
        if self.label != label {
            label.clone_into(&mut self.label);
            self.runtime.core.set_label(label);
        }
    }

    fn take_threads(&mut self, threads: u32) {
        if self.threads != threads {
            self.threads = threads;
            // What it cannot change stays as it is: the task runs all the same.
            if let Err(error) = self.hooks.call_method1("set_threads", (threads.max(1),)) {
                error.write_unraisable(self.py, None);
            }
        }
    }

    fn take_bundle(&mut self, bundle: Option<BundleChoice>) {
        if self.bundle == bundle {
            return;
        }
        let group = bundle.map(|choice| PyBytes::new(self.py, choice.group.as_bytes()));
        let captures = bundle.is_some_and(|choice| choice.captures_child_tasks);
        match self.hooks.call_method1("set_placement_group", (group, captures)) {
            Ok(_) => self.bundle = bundle,
            Err(error) => error.write_unraisable(self.py, None),
        }
    }

    fn run_task(&mut self, task: &IncomingTask) {
        let _span = span_of(task, || self.actor_id).entered();
        self.take_job(task.job_id);
        if self.instance.is_none() {
            // An actor keeps the label, the threads and the bundle that it was created with.
            self.take_label(&task.name);
            self.take_threads(task.num_threads);
            self.take_bundle(task.bundle);
        }
        if *self.name != *task.name {
            self.name = Rc::from(task.name.as_str());
        }
        CURRENT.set(Some(Current {
            task_id: task.task_id,
            name: Rc::clone(&self.name),
            actor_id: self.actor_id,
            attempt: task.attempt,
        }));
        let outcome = self
            .call(task)
            .and_then(|value| answer_of(&self.runtime, task, &value));
        match outcome {
            Ok(answer) => {
                CURRENT.set(None);
                answer.send(self.py, &self.runtime, task, false);
            }
            Err(error) => {
                // What makes the error looks at the current task.
                send_error(Some(&self.hooks), &self.runtime, task, &error, self.py);
                CURRENT.set(None);
            }
        }
    }

    fn call(&mut self, task: &IncomingTask) -> PyResult<Bound<'py, PyAny>> {
        let _interruptible = match self.instance {
            // A method that runs is not touched.
            Some(_) => None,
            None => Some(Interruptible::begin(task.task_id)?),
        };
        let function = match &self.instance {
            Some(instance) => instance.getattr(task.method.as_str())?,
            None => self.function(task)?,
        };
        if task.arguments.is_empty() {
            return function.call0();
        }
        match arguments_of(self.py, &self.runtime, task)? {
            (args, None) => function.call1(args),
            (args, Some(kwargs)) => function.call(args, Some(&kwargs)),
        }
    }

    fn function(&mut self, task: &IncomingTask) -> PyResult<Bound<'py, PyAny>> {
        if let Some(function) = self.functions.get(&task.function_id) {
            return Ok(function.clone());
        }
        let core = &self.runtime.core;
        let blob = core.function_blob(task.function_id).ok_or_else(|| {
            let message = format!("the code of {} did not come with its first call", task.name);
            exception(self.py, &internal(message))
        })?;
        let function = self
            .hooks
            .call_method1("load_function", (PyBytes::new(self.py, &blob),))?;
        core.function_loaded(task.function_id);
        self.functions.insert(task.function_id, function.clone());
        Ok(function)
    }

    // ---- becoming an actor ---------------------------------------------------------------------------------

    /// Becomes an actor; `true`: it ran until the worker was to end.
    fn create_actor(&mut self, work: CreateActorWork) -> PyResult<bool> {
        let py = self.py;
        let job_id = JobId::from_slice(&work.spec.job_id).map_err(bad_id)?;
        let actor_id = ActorId::from_slice(&work.spec.actor_id).map_err(bad_id)?;
        let span =
            debug_span!("create_actor", actor_id = %actor_id, incarnation = work.incarnation).entered();
        self.take_job(job_id);
        self.take_label(&work.spec.class_name);
        let name = format!("{}.__init__", work.spec.class_name);
        self.actor_id = Some(actor_id);
        CURRENT.set(Some(Current {
            task_id: TaskId::NIL,
            name: Rc::from(name.as_str()),
            actor_id: self.actor_id,
            attempt: 0,
        }));
        let class_blob = PyBytes::new(py, &work.spec.class_blob);
        let cpus = work
            .spec
            .resources
            .as_ref()
            .and_then(|held| held.units.get("CPU"));
        self.take_threads(cpus.map_or(0, |cpus| if *cpus < 2.0 { 0 } else { *cpus as u32 }));
        let strategy = SchedulingStrategy::read(work.spec.strategy.as_ref())
            .map_err(|error| exception(py, &CoreError::from(error)))?;
        self.take_bundle(strategy.bundle());
        let found = self.hooks.call_method1("before_actor", (class_blob,));
        let made = found.and_then(|_| self.actor_spec(&work)).and_then(|spec| {
            let instance = self.hooks.call_method1("create_actor", (&spec,))?;
            let label: Option<String> = self.hooks.call_method0("actor_label")?.extract()?;
            Ok((spec, instance, label))
        });
        CURRENT.set(None);
        // An actor that Python drives runs below.
        drop(span);
        let core = Arc::clone(&self.runtime.core);
        end_forked_child(py, &core, made.as_ref().err());
        match made {
            Ok((spec, instance, label)) => {
                self.instance = Some(instance.clone());
                if let Some(label) = label {
                    self.take_label(&label);
                }
                let driven = work.spec.is_async || work.spec.max_concurrency > 1;
                core.finish_create_actor(&work, None, None)
                    .map_err(|error| exception(py, &error))?;
                if driven {
                    self.hooks.call_method1("run_actor", (instance, spec))?;
                }
                Ok(driven)
            }
            Err(error) => {
                let (body, failure) = match make_error(&self.hooks, &self.runtime, &error, &name) {
                    Ok(body) => (Some(Bytes::copy_from_slice(body.as_bytes())), None),
                    Err(problem) => {
                        let message = format!("{name} failed, and its exception cannot be sent: {problem}");
                        (None, Some(internal(message)))
                    }
                };
                core.finish_create_actor(&work, body, failure)
                    .map_err(|error| exception(py, &error))?;
                Ok(false)
            }
        }
    }

    fn actor_spec(&self, work: &CreateActorWork) -> PyResult<Bound<'py, PyDict>> {
        let py = self.py;
        let core = &self.runtime.core;
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
        entry.set_item("kwargs", kwargs.unwrap_or_else(|| PyDict::new(py)))?;
        Ok(entry)
    }
}

// ---- arguments ---------------------------------------------------------------------------------------------

/// Positional and keyword arguments; `None`: no keywords.
pub(crate) type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);
/// An argument that is a reference: index in the flat list, and its value.
pub(crate) type LoadedArgument = (u32, Result<Fetched, CoreError>);

/// The arguments of a call, references replaced by their values.
pub(crate) fn arguments_of<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    task: &IncomingTask,
) -> PyResult<Arguments<'py>> {
    let references = fetch_references(py, runtime, task)?;
    build_arguments(py, runtime, &task.arguments, &task.keyword_names, references)
}

/// The values of the arguments that are references, brought to this process.
pub(crate) fn fetch_references(
    py: Python<'_>,
    runtime: &Runtime,
    task: &IncomingTask,
) -> PyResult<Vec<LoadedArgument>> {
    if !task.has_references() {
        return Ok(Vec::new());
    }
    py.detach(|| runtime.core.load_arguments(task, &check_signals))
        .map_err(|error| wait_exception(py, error, "an argument was not loaded"))
}

/// The arguments, once the owners of the references inside know this process.
fn build_arguments<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    value: &Bytes,
    keyword_names: &[String],
    references: Vec<LoadedArgument>,
) -> PyResult<Arguments<'py>> {
    let (arguments, inside) = reading(|| decode_arguments(py, value, keyword_names, references));
    wait_for_borrows(py, &runtime.core, &inside)?;
    arguments
}

/// What `encode` (arguments.rs) made: a tuple of positional arguments, or a list of all with places for references.
pub(crate) fn decode_arguments<'py>(
    py: Python<'py>,
    value: &Bytes,
    keyword_names: &[String],
    references: Vec<LoadedArgument>,
) -> PyResult<Arguments<'py>> {
    if value.is_empty() {
        return Ok((PyTuple::empty(py), None));
    }
    let made = match load(py, &Fetched::Inline(value.clone()))? {
        Loaded::Value(made) => made,
        Loaded::Raised(error) => return Err(error),
    };
    if let Ok(args) = made.cast_exact::<PyTuple>() {
        return Ok((args.clone(), None));
    }
    let flat = made.cast_into::<PyList>()?;
    for (slot, fetched) in references {
        let fetched = fetched.map_err(|error| exception(py, &error))?;
        match load(py, &fetched)? {
            Loaded::Value(object) => flat.set_item(slot as usize, object)?,
            Loaded::Raised(error) => return Err(error),
        }
    }
    let positional = flat.len().saturating_sub(keyword_names.len());
    let args = flat.get_slice(0, positional).to_tuple();
    if keyword_names.is_empty() {
        return Ok((args, None));
    }
    let kwargs = PyDict::new(py);
    for (index, name) in keyword_names.iter().enumerate() {
        kwargs.set_item(name, flat.get_item(positional + index)?)?;
    }
    Ok((args, Some(kwargs)))
}
