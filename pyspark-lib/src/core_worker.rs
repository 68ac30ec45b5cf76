//! `CoreWorker`: this process in its cluster.

use std::collections::HashSet;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use sparkray_common::{
    ActorId, ClusterId, ClusterToken, ErrorCode, FunctionId, JobId, NodeId, ObjectId, WorkerId,
};
use sparkray_core_worker::{ConnectOptions, CoreError, CoreWorker, Fetched, Notice};
use sparkray_proto::{self as proto, ClientKind, head_reply, head_request};
use sparkray_rpc::Identity;

use crate::actor::ActorRef;
use crate::arguments::{PyTaskTemplate, encode, resource_set};
use crate::convert::{bad_id, check_signals, deadline_after, exception, wait_exception};
use crate::execution::{self, EventSignal, PyIncomingTask};
use crate::feed;
use crate::notices::{self, Futures};
use crate::object_ref::ObjectRef;
use crate::values::{Loaded, Serialized, load, serialize};

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
    CURRENT.lock().clone()
}

/// The runtime of a reference; an error when it was stopped.
pub(crate) fn runtime_of_worker(worker: &Arc<CoreWorker>) -> PyResult<Arc<Runtime>> {
    match current_runtime() {
        Some(runtime) if Arc::ptr_eq(&runtime.core, worker) => Ok(runtime),
        _ => Err(PyRuntimeError::new_err(
            "the reference belongs to a cluster that was stopped",
        )),
    }
}

impl Runtime {
    /// Puts a serialized value; gives the object with one reference.
    pub(crate) fn put_serialized(&self, py: Python<'_>, value: &Serialized) -> PyResult<ObjectId> {
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
        outcome.map_err(|error| wait_exception(py, error, "the value was not stored"))
    }
}

/// Borrowed bytes are `Send`; this names them for `detach`.
struct SendParts<'a>(sparkray_core_worker::NewValue<'a>);

/// This process in its cluster: driver or worker.
#[pyclass(frozen, name = "CoreWorker", module = "sparkray._native")]
pub(crate) struct PyCoreWorker {
    pub(crate) runtime: Arc<Runtime>,
}

/// Reads an entry of a configuration.
fn required<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let value = config
        .get_item(key)?
        .ok_or_else(|| PyValueError::new_err(format!("the configuration lacks {key}")))?;
    value.extract()
}

fn optional<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    match config.get_item(key)? {
        Some(value) if !value.is_none() => value.extract().map(Some),
        _ => Ok(None),
    }
}

fn identity_of(config: &Bound<'_, PyDict>) -> PyResult<Identity> {
    let token: String = required(config, "token")?;
    Ok(Identity {
        cluster_id: ClusterId::from_hex(&required::<String>(config, "cluster_id")?).map_err(bad_id)?,
        token: ClusterToken::from_hex(&token)
            .ok_or_else(|| PyValueError::new_err("the token is not 64 hexadecimal digits"))?,
        head_epoch: required(config, "head_epoch")?,
    })
}

fn connect(
    py: Python<'_>,
    config: &Bound<'_, PyDict>,
    kind: ClientKind,
    inherited: Option<OwnedFd>,
    worker_id: WorkerId,
) -> PyResult<PyCoreWorker> {
    let identity = identity_of(config)?;
    let cluster_id = identity.cluster_id;
    let is_driver = kind == ClientKind::Driver;
    let node_id = optional::<String>(config, "node_id")?.unwrap_or_default();
    let node_id = if node_id.is_empty() {
        NodeId::NIL
    } else {
        NodeId::from_hex(&node_id).map_err(bad_id)?
    };
    let log_callback: Option<Py<PyAny>> = config
        .get_item("log_callback")?
        .filter(|callback| !callback.is_none())
        .map(Bound::unbind);
    let (sender, receiver) = mpsc::channel();
    let futures = Arc::new(Futures::default());
    let event = Arc::new(EventSignal::default());
    let for_handler = (Mutex::new(sender), Arc::clone(&event));
    let options = ConnectOptions {
        identity,
        raylet_socket: required(config, "socket_name")?,
        node_id,
        inherited,
        worker_id,
        job_id: if is_driver { JobId::random() } else { JobId::NIL },
        kind,
        python_version: optional(config, "python_version")?.unwrap_or_default(),
        namespace: optional(config, "namespace")?.unwrap_or_default(),
        log_to_driver: optional(config, "log_to_driver")?.unwrap_or(false),
        on_notice: Box::new(move |notice| {
            if matches!(notice, Notice::Work) {
                for_handler.1.raise();
            } else {
                // The thread is gone only when the runtime is.
                let _ = for_handler.0.lock().send(notice);
            }
        }),
    };
    let core = py
        .detach(|| CoreWorker::connect(options))
        .map_err(|error| exception(py, &error))?;
    let for_thread = Arc::clone(&futures);
    std::thread::Builder::new()
        .name("sparkray-notices".to_owned())
        .spawn(move || notices::run(&receiver, &for_thread, log_callback.as_ref()))
        .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread: {error}")))?;
    let runtime = Arc::new(Runtime {
        core,
        futures,
        cluster_id,
        is_driver,
        event,
    });
    *CURRENT.lock() = Some(Arc::clone(&runtime));
    Ok(PyCoreWorker { runtime })
}

/// The ids of references, all of this runtime.
pub(crate) fn ids_of(runtime: &Runtime, refs: &Bound<'_, PyAny>) -> PyResult<Vec<ObjectId>> {
    let mut ids = Vec::with_capacity(refs.len().unwrap_or(0));
    for item in refs.try_iter()? {
        let item = item?;
        let reference = item.cast_exact::<ObjectRef>().map_err(|_| {
            PyTypeError::new_err(format!(
                "expected an ObjectRef, got a {}: pass what remote() or put() returned",
                item.get_type()
                    .name()
                    .map_or_else(|_| "value".to_owned(), |name| name.to_string())
            ))
        })?;
        if !Arc::ptr_eq(&reference.get().worker, &runtime.core) {
            return Err(exception(
                item.py(),
                &CoreError::new(
                    ErrorCode::ObjectLost,
                    format!(
                        "object {} belongs to a cluster that was stopped: its value went with it",
                        reference.get().id
                    ),
                ),
            ));
        }
        ids.push(reference.get().id);
    }
    Ok(ids)
}

#[pymethods]
impl PyCoreWorker {
    /// Joins a cluster through the raylet of this node.
    #[staticmethod]
    fn connect_driver(py: Python<'_>, config: &Bound<'_, PyDict>) -> PyResult<Self> {
        connect(py, config, ClientKind::Driver, None, WorkerId::random())
    }

    /// Joins as a worker that the zygote forked.
    #[staticmethod]
    fn connect_worker(
        py: Python<'_>,
        fd: i32,
        raylet_pid: i32,
        config: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let _ = raylet_pid;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("{fd} is not a descriptor")));
        }
        // SAFETY: the zygote hands its child this descriptor for the child alone, and Python does not use it again.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let worker_id = WorkerId::from_hex(&required::<String>(config, "worker_id")?).map_err(bad_id)?;
        connect(py, config, ClientKind::Worker, Some(socket), worker_id)
    }

    fn shutdown(&self, py: Python<'_>) {
        {
            let mut current = CURRENT.lock();
            if current
                .as_ref()
                .is_some_and(|runtime| Arc::ptr_eq(runtime, &self.runtime))
            {
                *current = None;
            }
        }
        py.detach(|| self.runtime.core.shutdown());
    }

    fn put(&self, value: &Bound<'_, PyAny>) -> PyResult<ObjectRef> {
        if value.is_exact_instance_of::<ObjectRef>() {
            return Err(PyTypeError::new_err(
                "put() takes a value, not an ObjectRef: the value of the reference is in the store already",
            ));
        }
        let py = value.py();
        let id = self.runtime.put_serialized(py, &serialize(value)?)?;
        Ok(ObjectRef::new(id, &self.runtime.core))
    }

    #[pyo3(signature = (refs, timeout))]
    fn get<'py>(&self, refs: &Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let py = refs.py();
        let ids = ids_of(&self.runtime, refs)?;
        let deadline = deadline_after(timeout)?;
        let core = &self.runtime.core;
        let fetched = py
            .detach(|| core.get(&ids, deadline, &check_signals))
            .map_err(|error| {
                let waited_for = match timeout {
                    Some(seconds) => format!(
                        "get() timed out after {seconds} s: not all of {} objects existed",
                        ids.len()
                    ),
                    None => "get() ended".to_owned(),
                };
                wait_exception(py, error, &waited_for)
            })?;
        let values = PyList::empty(py);
        for value in &fetched {
            let value = value.as_ref().map_err(|error| exception(py, error))?;
            values.append(self.read(py, value)?)?;
        }
        Ok(values)
    }

    fn wait<'py>(
        &self,
        refs: &Bound<'py, PyAny>,
        num_returns: usize,
        timeout: Option<f64>,
        fetch_local: bool,
    ) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        let _ = fetch_local;
        let py = refs.py();
        let ids = ids_of(&self.runtime, refs)?;
        let mut seen = HashSet::with_capacity(ids.len());
        if !ids.iter().all(|id| seen.insert(*id)) {
            return Err(PyValueError::new_err(
                "wait() needs a list of different references; some occur twice",
            ));
        }
        drop(seen);
        let deadline = deadline_after(timeout)?;
        let core = &self.runtime.core;
        let indices = py
            .detach(|| core.wait(&ids, num_returns, deadline, &check_signals))
            .map_err(|error| wait_exception(py, error, "wait() ended"))?;
        let (ready, rest) = (PyList::empty(py), PyList::empty(py));
        let mut next = indices.iter().copied().peekable();
        for (index, item) in refs.try_iter()?.enumerate() {
            if next.next_if_eq(&index).is_some() {
                ready.append(item?)?;
            } else {
                rest.append(item?)?;
            }
        }
        Ok((ready, rest))
    }

    fn submit<'py>(
        &self,
        py: Python<'py>,
        template: &PyTaskTemplate,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyList>> {
        let arguments = encode(&self.runtime, args, kwargs)?;
        let results = self
            .runtime
            .core
            .submit(&template.inner, arguments)
            .map_err(|error| exception(py, &error))?;
        self.references(py, &results)
    }

    fn submit_actor<'py>(
        &self,
        py: Python<'py>,
        actor: &ActorRef,
        method: &str,
        num_returns: u32,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyList>> {
        if !Arc::ptr_eq(&actor.worker, &self.runtime.core) {
            let message = format!(
                "actor {} belongs to a cluster that was stopped, and ended with it",
                actor.id
            );
            return Err(exception(py, &CoreError::new(ErrorCode::ActorDied, message)));
        }
        let arguments = encode(&self.runtime, args, kwargs)?;
        let results = self
            .runtime
            .core
            .submit_actor(actor.id, &actor.method(method), num_returns, arguments)
            .map_err(|error| exception(py, &error))?;
        self.references(py, &results)
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
        let arguments = encode(&self.runtime, args, kwargs)?;
        let resources = resource_set(optional(options, "resources")?.unwrap_or_default())?;
        let placement = resource_set(optional(options, "placement_resources")?.unwrap_or_default())?;
        let namespace: Option<String> = optional(options, "namespace")?;
        let spec = proto::ActorSpec {
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
            .detach(|| core.create_actor(spec, arguments, &check_signals))
            .map_err(|error| wait_exception(py, error, "the actor was not created"))?;
        Ok(ActorRef::new(id, class_name, core))
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
        py.detach(|| core.add_actor_handle(id));
        let actor = ActorRef::new(id, state.class_name, core);
        Ok((actor, PyBytes::new(py, &record.handle_metadata)))
    }

    #[pyo3(signature = (actor_id, class_name = ""))]
    fn actor_from_id(&self, py: Python<'_>, actor_id: &[u8], class_name: &str) -> PyResult<ActorRef> {
        let id = ActorId::from_slice(actor_id).map_err(bad_id)?;
        py.detach(|| self.runtime.core.add_actor_handle(id));
        Ok(ActorRef::new(id, class_name.to_owned(), &self.runtime.core))
    }

    fn kill_actor(&self, py: Python<'_>, actor: &ActorRef, no_restart: bool) -> PyResult<()> {
        let core = &self.runtime.core;
        py.detach(|| core.kill_actor(actor.id, no_restart, &check_signals))
            .map_err(|error| wait_exception(py, error, "the actor was not killed"))
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let nodes = match self.ask(py, head_request::Request::ListNodes(proto::ListNodes {}))? {
            head_reply::Reply::Nodes(list) => list.nodes,
            _ => Vec::new(),
        };
        let list = PyList::empty(py);
        for node in nodes {
            let entry = PyDict::new(py);
            entry.set_item(
                "node_id",
                NodeId::from_slice(&node.node_id).map_err(bad_id)?.to_string(),
            )?;
            entry.set_item("alive", node.alive)?;
            entry.set_item("address", node.address)?;
            entry.set_item("hostname", node.hostname)?;
            entry.set_item("total", node.total.unwrap_or_default().units)?;
            entry.set_item("available", node.available.unwrap_or_default().units)?;
            entry.set_item("labels", node.labels)?;
            entry.set_item("pid", node.pid)?;
            entry.set_item(
                "store",
                feed::describe_store(py, &node.store.unwrap_or_default())?,
            )?;
            list.append(entry)?;
        }
        Ok(list)
    }

    fn actors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let actors = match self.ask(py, head_request::Request::ListActors(proto::ListActors {}))? {
            head_reply::Reply::Actors(list) => list.actors,
            _ => Vec::new(),
        };
        let list = PyList::empty(py);
        for actor in actors {
            let state = actor.state.unwrap_or_default();
            let entry = PyDict::new(py);
            entry.set_item(
                "actor_id",
                ActorId::from_slice(&state.actor_id).map_err(bad_id)?.to_string(),
            )?;
            entry.set_item("name", actor.name)?;
            entry.set_item("namespace", actor.namespace)?;
            entry.set_item(
                "state",
                state.state().as_str_name().trim_start_matches("ACTOR_STATE_"),
            )?;
            entry.set_item("class_name", state.class_name)?;
            entry.set_item("pid", state.pid)?;
            list.append(entry)?;
        }
        Ok(list)
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
        let request = proto::KvPut {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            namespace: namespace.to_owned(),
            overwrite,
        };
        match self.ask(py, head_request::Request::KvPut(request))? {
            head_reply::Reply::Value(value) => Ok(!value.found),
            _ => Ok(true),
        }
    }

    #[pyo3(signature = (key, namespace = ""))]
    fn kv_get<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        namespace: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let request = proto::KvGet {
            key: key.to_vec().into(),
            namespace: namespace.to_owned(),
        };
        match self.ask(py, head_request::Request::KvGet(request))? {
            head_reply::Reply::Value(value) if value.found => Ok(Some(PyBytes::new(py, &value.value))),
            _ => Ok(None),
        }
    }

    #[pyo3(signature = (key, namespace = ""))]
    fn kv_del(&self, py: Python<'_>, key: &[u8], namespace: &str) -> PyResult<bool> {
        let request = proto::KvDelete {
            key: key.to_vec().into(),
            namespace: namespace.to_owned(),
        };
        match self.ask(py, head_request::Request::KvDelete(request))? {
            head_reply::Reply::Value(value) => Ok(value.found),
            _ => Ok(true),
        }
    }

    #[pyo3(signature = (prefix, namespace = ""))]
    fn kv_keys<'py>(
        &self,
        py: Python<'py>,
        prefix: &[u8],
        namespace: &str,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let request = proto::KvKeys {
            prefix: prefix.to_vec().into(),
            namespace: namespace.to_owned(),
        };
        match self.ask(py, head_request::Request::KvKeys(request))? {
            head_reply::Reply::Keys(list) => Ok(list.keys.iter().map(|key| PyBytes::new(py, key)).collect()),
            _ => Ok(Vec::new()),
        }
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
        execution::poll_tasks(py, &self.runtime)
    }

    fn finish_task(&self, py: Python<'_>, task: &PyIncomingTask, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = py;
        execution::finish(&self.runtime, task, value)
    }

    fn fail_task(&self, py: Python<'_>, task: &PyIncomingTask, error: &Bound<'_, PyAny>) -> PyResult<()> {
        execution::fail(py, &self.runtime, task, error)
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

    /// The object of a value; its exception when it is an error. References inside are known to their owners then.
    fn read<'py>(&self, py: Python<'py>, value: &Fetched) -> PyResult<Bound<'py, PyAny>> {
        let loaded = load(py, value)?;
        wait_for_borrows(py, &self.runtime.core)?;
        match loaded {
            Loaded::Value(object) => Ok(object),
            Loaded::Raised(error) => Err(error),
        }
    }

    fn ask(&self, py: Python<'_>, request: head_request::Request) -> PyResult<head_reply::Reply> {
        let core = &self.runtime.core;
        py.detach(|| core.ask_head(request, &check_signals))
            .map_err(|error| wait_exception(py, error, "the head was not heard"))
    }
}

/// Waits until the owners of references that were just read know this process.
pub(crate) fn wait_for_borrows(py: Python<'_>, core: &Arc<CoreWorker>) -> PyResult<()> {
    if !core.has_pending_borrows() {
        return Ok(());
    }
    py.detach(|| core.wait_for_borrows(&check_signals))
        .map_err(|error| wait_exception(py, error, "the owner of a reference did not answer"))
}
