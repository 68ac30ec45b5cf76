//! `CoreWorker`: this process in its cluster, as Python sees it.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use sparkray_common::{ActorId, FunctionId, ObjectId, TaskId, WorkerId};
use sparkray_core_worker::{Cancellation, HandleKind};
use sparkray_proto::{self as proto, ClientKind};

use crate::actor::ActorRef;
use crate::arguments::{Purpose, PyTaskTemplate, encode, resource_set};
use crate::convert::{bad_id, check_signals, exception, wait_exception};
use crate::doors::{self, Visitor};
use crate::incoming::{self, PyIncomingTask};
use crate::joining::{connect, optional, required};
use crate::object_ref::ObjectRef;
use crate::placement_groups::NewGroup;
use crate::runtime::Runtime;
use crate::strategy::{PyStrategy, worker_key};
use crate::values::serialize;
use crate::{execution, feed, head, metrics, objects, placement_groups};

/// The owner of an object has heard within this time that its call is to end, or is stopped.
const CANCEL_DEADLINE: Duration = Duration::from_secs(30);

/// This process in its cluster: driver or worker.
#[pyclass(frozen, name = "CoreWorker", module = "sparkray._native")]
pub(crate) struct PyCoreWorker {
    pub(crate) runtime: Arc<Runtime>,
}

#[pymethods]
impl PyCoreWorker {
    /// Joins a cluster through the raylet of this node.
    #[staticmethod]
    fn connect_driver(py: Python<'_>, config: &Bound<'_, PyDict>) -> PyResult<Self> {
        let runtime = connect(py, config, ClientKind::Driver, None, WorkerId::random())?;
        Ok(Self { runtime })
    }

    /// Joins through the raylet of this node, as a process that takes part in the job of a driver elsewhere.
    #[staticmethod]
    fn connect_participant(py: Python<'_>, config: &Bound<'_, PyDict>) -> PyResult<Self> {
        let runtime = connect(py, config, ClientKind::Participant, None, WorkerId::random())?;
        Ok(Self { runtime })
    }

    /// Joins as a worker that the zygote forked.
    #[staticmethod]
    fn connect_worker(py: Python<'_>, fd: i32, config: &Bound<'_, PyDict>) -> PyResult<Self> {
        if fd < 0 {
            return Err(PyValueError::new_err(format!("{fd} is not a descriptor")));
        }
        // SAFETY: the zygote hands its child this descriptor for the child alone, and Python does not use it again.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let worker_id = WorkerId::from_hex(&required::<String>(config, "worker_id")?).map_err(bad_id)?;
        let runtime = connect(py, config, ClientKind::Worker, Some(socket), worker_id)?;
        Ok(Self { runtime })
    }

    fn shutdown(&self, py: Python<'_>) {
        self.runtime.shutdown(py);
    }

    fn put(&self, value: &Bound<'_, PyAny>) -> PyResult<ObjectRef> {
        if value.is_exact_instance_of::<ObjectRef>() {
            return Err(PyTypeError::new_err(
                "put() takes a value, not an ObjectRef: the value of the reference is in the store already",
            ));
        }
        self.runtime.put_serialized(value.py(), &serialize(value)?)
    }

    #[pyo3(signature = (refs, timeout))]
    fn get<'py>(&self, refs: &Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        objects::get(&self.runtime, refs, timeout)
    }

    fn wait<'py>(
        &self,
        refs: &Bound<'py, PyAny>,
        num_returns: usize,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        objects::wait(&self.runtime, refs, num_returns, timeout)
    }

    /// Calls a function: its reference, a list of them when it returns several, None when it returns none.
    fn submit<'py>(
        &self,
        py: Python<'py>,
        template: &PyTaskTemplate,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.runtime.make_room(py)?;
        let mut encoded = encode(&self.runtime, args, kwargs, Purpose::Call)?;
        let core = &self.runtime.core;
        encoded.arguments.parent = incoming::current_call(py, &self.runtime);
        let results = core
            .submit(&template.inner, encoded.arguments)
            .map_err(|error| exception(py, &error))?;
        self.results(py, &results)
    }

    /// Calls a method of an actor; the result is that of `submit`.
    fn submit_actor<'py>(
        &self,
        py: Python<'py>,
        actor: &ActorRef,
        method: &str,
        num_returns: u32,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = &self.runtime.core;
        doors::check(Visitor::Actor(actor.id), &actor.worker, core)?;
        self.runtime.make_room(py)?;
        let mut encoded = encode(&self.runtime, args, kwargs, Purpose::Call)?;
        encoded.arguments.parent = incoming::current_call(py, &self.runtime);
        let results = core
            .submit_actor(actor.id, &actor.method(method), num_returns, encoded.arguments)
            .map_err(|error| exception(py, &error))?;
        self.results(py, &results)
    }

    #[pyo3(signature = (options, class_id, class_blob, class_name, args, kwargs, handle_metadata))]
    fn create_actor<'py>(
        &self,
        options: &Bound<'py, PyDict>,
        class_id: &[u8],
        class_blob: &[u8],
        class_name: String,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
        handle_metadata: &[u8],
    ) -> PyResult<ActorRef> {
        let py = options.py();
        let encoded = encode(&self.runtime, args, kwargs, Purpose::Creation)?;
        let resources = resource_set(optional(options, "resources")?.unwrap_or_default())?;
        let placement = resource_set(optional(options, "placement_resources")?.unwrap_or_default())?;
        let namespace: Option<String> = optional(options, "namespace")?;
        let strategy: PyStrategy = optional(options, "strategy")?.unwrap_or_default();
        let spec = proto::ActorSpec {
            strategy: Some((&strategy.0).into()),
            worker: Some((&worker_key(optional(options, "env_vars")?)?).into()),
            class_name: class_name.clone(),
            function_id: FunctionId::from_slice(class_id).map_err(bad_id)?.to_vec().into(),
            class_blob: class_blob.to_vec().into(),
            resources: Some((&resources).into()),
            placement_resources: Some((&placement).into()),
            max_restarts: optional(options, "max_restarts")?.unwrap_or(0),
            name: optional(options, "name")?.unwrap_or_default(),
            namespace: namespace.unwrap_or_else(|| self.runtime.core.namespace().to_owned()),
            detached: optional(options, "detached")?.unwrap_or(false),
            max_concurrency: optional(options, "max_concurrency")?.unwrap_or(1),
            is_async: optional(options, "is_async")?.unwrap_or(false),
            handle_metadata: handle_metadata.to_vec().into(),
            ..Default::default()
        };
        let core = &self.runtime.core;
        let id = py
            .detach(|| core.create_actor(spec, encoded.arguments, &check_signals))
            .map_err(|error| wait_exception(py, error, "the actor was not created"))?;
        Ok(ActorRef::new(id, class_name, core, HandleKind::Counted))
    }

    fn get_actor<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        namespace: Option<&str>,
    ) -> PyResult<(ActorRef, Bound<'py, PyBytes>)> {
        let core = &self.runtime.core;
        let namespace = namespace.unwrap_or_else(|| core.namespace());
        let record = py
            .detach(|| core.get_actor(name, namespace, &check_signals))
            .map_err(|error| wait_exception(py, error, "the actor was not looked up"))?;
        let state = record.state.unwrap_or_default();
        let id = ActorId::from_slice(&state.actor_id).map_err(bad_id)?;
        py.detach(|| core.add_weak_actor_handle(id));
        let actor = ActorRef::new(id, state.class_name, core, HandleKind::Weak);
        Ok((actor, PyBytes::new(py, &record.handle_metadata)))
    }

    /// The actor of a handle. `origin`: the id of the cluster that the handle came from by a pickle.
    #[pyo3(signature = (actor_id, class_name = "", origin = None))]
    fn actor_from_id(
        &self,
        py: Python<'_>,
        actor_id: &[u8],
        class_name: &str,
        origin: Option<&[u8]>,
    ) -> PyResult<ActorRef> {
        let id = ActorId::from_slice(actor_id).map_err(bad_id)?;
        if let Some(origin) = origin {
            doors::check_origin(Visitor::Actor(id), origin, &self.runtime)?;
        }
        py.detach(|| self.runtime.core.add_actor_handle(id));
        let core = &self.runtime.core;
        Ok(ActorRef::new(
            id,
            class_name.to_owned(),
            core,
            HandleKind::Counted,
        ))
    }

    fn kill_actor(&self, py: Python<'_>, actor: &ActorRef, no_restart: bool) -> PyResult<()> {
        let core = &self.runtime.core;
        doors::check(Visitor::Actor(actor.id), &actor.worker, core)?;
        py.detach(|| core.kill_actor(actor.id, no_restart, &check_signals))
            .map_err(|error| wait_exception(py, error, "the actor was not killed"))
    }

    /// Has the call end that makes an object.
    fn cancel(&self, py: Python<'_>, reference: &ObjectRef, force: bool, recursive: bool) -> PyResult<()> {
        let core = &self.runtime.core;
        doors::check(Visitor::Object(reference.id), &reference.worker, core)?;
        let how = Cancellation { force, recursive };
        let deadline = Instant::now() + CANCEL_DEADLINE;
        py.detach(|| core.cancel(reference.id, how, deadline, &check_signals))
            .map_err(|error| wait_exception(py, error, "the owner of the object did not hear of it"))
    }

    /// Whether a call that this process runs is to end.
    fn is_cancelled(&self, task_id: &[u8]) -> PyResult<bool> {
        let task_id = TaskId::from_slice(task_id).map_err(bad_id)?;
        Ok(self.runtime.core.is_cancelled(task_id))
    }

    /// Calls of this actor that are to end, of which it was not told before.
    fn poll_cancelled<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let cancelled = self.runtime.cancelled_methods.take();
        let ids = cancelled.iter().map(|id| PyBytes::new(py, id.as_bytes()));
        ids.collect()
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        head::nodes(py, &self.runtime)
    }

    fn actors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        head::actors(py, &self.runtime)
    }

    /// Registers a placement group; its id.
    fn create_placement_group<'py>(
        &self,
        py: Python<'py>,
        bundles: Vec<BTreeMap<String, f64>>,
        strategy: &str,
        name: String,
        namespace: String,
        detached: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let group = NewGroup {
            bundles,
            strategy,
            name,
            namespace,
            detached,
        };
        placement_groups::create(py, &self.runtime, group)
    }

    fn remove_placement_group(&self, py: Python<'_>, group_id: &[u8]) -> PyResult<()> {
        placement_groups::remove(py, &self.runtime, group_id)
    }

    /// What the head knows of a group, removed ones too; `None`: it knows none with this id. `timeout`: waits so many
    /// seconds at most until it is created or removed.
    #[pyo3(signature = (group_id, timeout = 0.0))]
    fn placement_group<'py>(
        &self,
        py: Python<'py>,
        group_id: &[u8],
        timeout: f64,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        placement_groups::await_settled(py, &self.runtime, group_id, timeout)
    }

    /// As `placement_group`, by a name that was given to a group which is not removed.
    fn named_placement_group<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        namespace: &str,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        placement_groups::named(py, &self.runtime, name, namespace)
    }

    /// All groups that the head knows.
    fn placement_groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        placement_groups::list(py, &self.runtime)
    }

    /// What a process has counted: this "worker", or its "raylet", or the "head".
    fn metrics(&self, py: Python<'_>, process: &str) -> PyResult<String> {
        metrics::metrics(py, &self.runtime, process)
    }

    /// The task that the native loop runs on this thread.
    #[allow(clippy::unused_self)]
    fn current_task<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        execution::current_task(py)
    }

    #[pyo3(signature = (key, value, overwrite = true, namespace = ""))]
    fn kv_put(
        &self,
        py: Python<'_>,
        key: &[u8],
        value: &[u8],
        overwrite: bool,
        namespace: &str,
    ) -> PyResult<bool> {
        head::kv_put(py, &self.runtime, key, value, overwrite, namespace)
    }

    #[pyo3(signature = (key, namespace = ""))]
    fn kv_get<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        namespace: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        head::kv_get(py, &self.runtime, key, namespace)
    }

    #[pyo3(signature = (key, namespace = ""))]
    fn kv_del(&self, py: Python<'_>, key: &[u8], namespace: &str) -> PyResult<bool> {
        head::kv_del(py, &self.runtime, key, namespace)
    }

    #[pyo3(signature = (prefix, namespace = ""))]
    fn kv_keys<'py>(
        &self,
        py: Python<'py>,
        prefix: &[u8],
        namespace: &str,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        head::kv_keys(py, &self.runtime, prefix, namespace)
    }

    /// The worker's main loop; returns when the worker is to end.
    fn run_worker(&self, hooks: &Bound<'_, PyAny>) -> PyResult<()> {
        execution::run(&self.runtime, hooks)
    }

    /// A descriptor that is readable when `poll_tasks` has something.
    fn event_fd(&self, py: Python<'_>) -> PyResult<i32> {
        py.detach(|| self.runtime.event.start(&self.runtime.core))
            .map_err(|error| PyRuntimeError::new_err(format!("cannot make an event descriptor: {error}")))
    }

    /// Calls that arrived; `None`: the worker is to end.
    fn poll_tasks(&self, py: Python<'_>) -> PyResult<Option<Vec<PyIncomingTask>>> {
        incoming::poll_tasks(py, &self.runtime)
    }

    #[allow(clippy::unused_self, reason = "a method for Python")]
    #[pyo3(signature = (task, value, more = false))]
    fn finish_task(&self, task: &PyIncomingTask, value: &Bound<'_, PyAny>, more: bool) -> PyResult<()> {
        task.finish(value, more)
    }

    /// This actor's code wants it to end: it is not to be restarted when the process has ended.
    fn announce_exit(&self, py: Python<'_>) {
        py.detach(|| self.runtime.core.announce_exit());
    }

    /// Sends the answers that wait for others.
    fn flush(&self) {
        self.runtime.core.flush();
    }

    #[allow(clippy::unused_self, reason = "a method for Python")]
    fn fail_task(&self, task: &PyIncomingTask, error: &Bound<'_, PyAny>) {
        task.fail(error);
    }

    /// Answers a call that was cancelled before it ran.
    #[allow(clippy::unused_self, reason = "a method for Python")]
    fn give_up_task(&self, task: &PyIncomingTask) {
        task.give_up();
    }

    /// Becomes the owner of blocks that Spark tasks sealed: (object_id, size, node_id, node_address) each. Other blocks
    /// of the feed are dropped, on `nodes` (node_id, node_address) too.
    #[pyo3(signature = (feed_id, blocks, nodes = Vec::new()))]
    fn adopt_blocks<'py>(
        &self,
        py: Python<'py>,
        feed_id: &[u8],
        blocks: Vec<(Vec<u8>, u64, Vec<u8>, String)>,
        nodes: Vec<(Vec<u8>, String)>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = feed::adopt(py, &self.runtime, feed_id, blocks, nodes)?;
        self.references(py, &ids)
    }

    /// Where objects are: (object_id, size, [(node_id, node_address)], is_error) each.
    #[pyo3(signature = (refs, timeout = None))]
    fn object_locations<'py>(
        &self,
        refs: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        feed::object_locations(&self.runtime, refs, timeout)
    }

    /// (node_id, worker_id, node_address) of this process.
    fn worker_address<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>, String) {
        let address = self.runtime.core.address();
        (
            PyBytes::new(py, address.node_id.as_bytes()),
            PyBytes::new(py, address.worker_id.as_bytes()),
            address.node_address,
        )
    }

    #[getter]
    fn cluster_id(&self) -> String {
        self.runtime.cluster_id.to_string()
    }

    #[getter]
    fn node_id(&self) -> String {
        self.runtime.core.address().node_id.to_string()
    }

    #[getter]
    fn worker_id(&self) -> String {
        self.runtime.core.address().worker_id.to_string()
    }

    #[getter]
    fn job_id(&self) -> String {
        self.runtime.core.job_id().to_string()
    }

    #[getter]
    fn node_ip(&self) -> String {
        self.runtime.core.registration().node_ip
    }

    #[getter]
    fn node_address(&self) -> String {
        self.runtime.core.address().node_address
    }

    #[getter]
    fn is_driver(&self) -> bool {
        self.runtime.is_driver
    }
}

impl PyCoreWorker {
    fn references<'py>(&self, py: Python<'py>, ids: &[ObjectId]) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for id in ids {
            list.append(Bound::new(py, ObjectRef::new(*id, &self.runtime.core))?)?;
        }
        Ok(list)
    }

    /// What a call gives its caller.
    fn results<'py>(&self, py: Python<'py>, ids: &[ObjectId]) -> PyResult<Bound<'py, PyAny>> {
        match ids {
            [] => Ok(py.None().into_bound(py)),
            [id] => Ok(Bound::new(py, ObjectRef::new(*id, &self.runtime.core))?.into_any()),
            _ => Ok(self.references(py, ids)?.into_any()),
        }
    }
}
