//! Joining a cluster: reads the configuration that Python hands over, and starts what the runtime consists of.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sparkray_common::{ClusterId, ClusterToken, NodeId, WorkerId};
use sparkray_core_worker::{ConnectOptions, CoreWorker, Notice, UnhandledErrors};
use sparkray_proto::ClientKind;
use sparkray_rpc::Identity;

use crate::cancelling::{self, CancelledMethods};
use crate::convert::{bad_id, exception};
use crate::event::EventSignal;
use crate::futures::Futures;
use crate::notices::{self, Callbacks};
use crate::runtime::{Runtime, set_current};

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

/// Of which errors that nobody asked for Python wants to hear: those that were forgotten, and those that were kept.
fn unhandled_errors(config: &Bound<'_, PyDict>) -> PyResult<UnhandledErrors> {
    let asked = |key| Ok::<bool, PyErr>(optional(config, key)?.unwrap_or(false));
    Ok(if asked("report_kept_errors")? {
        UnhandledErrors::Kept
    } else if asked("report_unhandled_errors")? {
        UnhandledErrors::Forgotten
    } else {
        UnhandledErrors::None
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
    sparkray_common::init_tracing_if_asked();
    let identity = identity_of(config)?;
    let cluster_id = identity.cluster_id;
    let is_driver = kind == ClientKind::Driver;
    let node_id = optional::<String>(config, "node_id")?.unwrap_or_default();
    let node_id = if node_id.is_empty() {
        NodeId::NIL
    } else {
        NodeId::from_hex(&node_id).map_err(bad_id)?
    };
    let callback = |key: &str| -> PyResult<Option<Py<PyAny>>> {
        let found = config.get_item(key)?.filter(|callback| !callback.is_none());
        Ok(found.map(Bound::unbind))
    };
    let callbacks = Callbacks {
        log: callback("log_callback")?,
        left: callback("left_callback")?,
    };
    let (sender, receiver) = notices::queue();
    let futures = Arc::new(Futures::default());
    let event = Arc::new(EventSignal::default());
    let cancelled_methods = Arc::new(CancelledMethods::default());
    let for_handler = (Arc::clone(&event), Arc::clone(&cancelled_methods));
    let options = ConnectOptions {
        identity,
        raylet_socket: required(config, "socket_name")?,
        node_id,
        inherited,
        worker_id,
        kind,
        python_version: optional(config, "python_version")?.unwrap_or_default(),
        namespace: optional(config, "namespace")?.unwrap_or_default(),
        log_to_driver: optional(config, "log_to_driver")?.unwrap_or(false),
        report_unhandled_errors: unhandled_errors(config)?,
        on_notice: Box::new(move |notice| {
            let (event, methods) = &for_handler;
            if matches!(notice, Notice::Work) {
                event.raise();
            } else if let Some(notice) = cancelling::on_notice(notice, methods, event) {
                sender.send(notice);
            }
        }),
    };
    let core = py
        .detach(|| CoreWorker::connect(options))
        .map_err(|error| exception(py, &error))?;
    let for_thread = Arc::clone(&futures);
    std::thread::Builder::new()
        .name("sparkray-notices".to_owned())
        .spawn(move || notices::run(&receiver, &for_thread, &callbacks))
        .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread: {error}")))?;
    let runtime = Arc::new(Runtime {
        core,
        futures,
        cluster_id,
        is_driver,
        event,
        cancelled_methods,
    });
    set_current(Some(Arc::clone(&runtime)));
    Ok(runtime)
}
