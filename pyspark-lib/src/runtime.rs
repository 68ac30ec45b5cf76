//! This process's part in a cluster: joining, leaving, and what Python needs beside the core worker.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sparkray_common::sync::Mutex;
use sparkray_common::{ClusterId, ClusterToken, JobId, NodeId, WorkerId};
use sparkray_core_worker::{ConnectOptions, CoreWorker, Notice};
use sparkray_proto::ClientKind;
use sparkray_rpc::Identity;

use crate::convert::{bad_id, check_signals, exception, wait_exception};
use crate::event::EventSignal;
use crate::notices::{self, Futures};
use crate::object_ref::ObjectRef;
use crate::values::Serialized;

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
    let runtime = CURRENT.lock().clone()?;
    (!runtime.core.is_forked()).then_some(runtime)
}

/// Replaces the runtime of this process. The former one is dropped outside of the lock: what it holds may be Python's.
fn set_current(runtime: Option<Arc<Runtime>>) {
    let former = std::mem::replace(&mut *CURRENT.lock(), runtime);
    drop(former);
}

impl Runtime {
    /// Puts a serialized value.
    pub(crate) fn put_serialized(&self, py: Python<'_>, value: &Serialized) -> PyResult<ObjectRef> {
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
        let id = outcome.map_err(|error| wait_exception(py, error, "the value was not stored"))?;
        Ok(ObjectRef::new(id, &self.core))
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
struct SendParts<'a>(sparkray_core_worker::NewValue<'a>);

/// Reads an entry of a configuration.
pub(crate) fn required<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let value = config
        .get_item(key)?
        .ok_or_else(|| PyValueError::new_err(format!("the configuration lacks {key}")))?;
    value.extract()
}

pub(crate) fn optional<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<T>>
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

/// Joins a cluster.
pub(crate) fn connect(
    py: Python<'_>,
    config: &Bound<'_, PyDict>,
    kind: ClientKind,
    inherited: Option<OwnedFd>,
    worker_id: WorkerId,
) -> PyResult<Arc<Runtime>> {
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
    let (sender, receiver) = notices::queue();
    let futures = Arc::new(Futures::default());
    let event = Arc::new(EventSignal::default());
    let for_handler = (sender, Arc::clone(&event));
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
        report_unhandled_errors: optional(config, "report_unhandled_errors")?.unwrap_or(false),
        on_notice: Box::new(move |notice| {
            if matches!(notice, Notice::Work) {
                for_handler.1.raise();
            } else {
                for_handler.0.send(notice);
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
    set_current(Some(Arc::clone(&runtime)));
    Ok(runtime)
}
