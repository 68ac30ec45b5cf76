//! Questions to the head: nodes, actors and the key-value table.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use sparkray_common::{ActorId, NodeId};
use sparkray_proto::{self as proto, head_reply, head_request};

use crate::convert::{bad_id, check_signals, wait_exception};
use crate::feed;
use crate::runtime::Runtime;

/// Asks the head.
pub(crate) fn ask(
    py: Python<'_>,
    runtime: &Runtime,
    request: head_request::Request,
) -> PyResult<head_reply::Reply> {
    py.detach(|| runtime.core.ask_head(request, &check_signals))
        .map_err(|error| wait_exception(py, error, "the head was not heard"))
}

/// Every node of the cluster as a dict.
pub(crate) fn nodes<'py>(py: Python<'py>, runtime: &Runtime) -> PyResult<Bound<'py, PyList>> {
    let nodes = match ask(py, runtime, head_request::Request::ListNodes(proto::ListNodes {}))? {
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
        entry.set_item("report_count", node.report_count)?;
        entry.set_item(
            "store",
            feed::describe_store(py, &node.store.unwrap_or_default())?,
        )?;
        list.append(entry)?;
    }
    Ok(list)
}

/// Every actor of the cluster as a dict.
pub(crate) fn actors<'py>(py: Python<'py>, runtime: &Runtime) -> PyResult<Bound<'py, PyList>> {
    let actors = match ask(
        py,
        runtime,
        head_request::Request::ListActors(proto::ListActors {}),
    )? {
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

/// Puts a value under a key; false: there was one, and it stays.
pub(crate) fn kv_put(
    py: Python<'_>,
    runtime: &Runtime,
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
    match ask(py, runtime, head_request::Request::KvPut(request))? {
        head_reply::Reply::Value(value) => Ok(!value.found),
        _ => Ok(true),
    }
}

/// The value of a key.
pub(crate) fn kv_get<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    key: &[u8],
    namespace: &str,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let request = proto::KvGet {
        key: key.to_vec().into(),
        namespace: namespace.to_owned(),
    };
    match ask(py, runtime, head_request::Request::KvGet(request))? {
        head_reply::Reply::Value(value) if value.found => Ok(Some(PyBytes::new(py, &value.value))),
        _ => Ok(None),
    }
}

/// Deletes a key; false: there was none.
pub(crate) fn kv_del(py: Python<'_>, runtime: &Runtime, key: &[u8], namespace: &str) -> PyResult<bool> {
    let request = proto::KvDelete {
        key: key.to_vec().into(),
        namespace: namespace.to_owned(),
    };
    match ask(py, runtime, head_request::Request::KvDelete(request))? {
        head_reply::Reply::Value(value) => Ok(value.found),
        _ => Ok(true),
    }
}

/// Keys that begin with `prefix`.
pub(crate) fn kv_keys<'py>(
    py: Python<'py>,
    runtime: &Runtime,
    prefix: &[u8],
    namespace: &str,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let request = proto::KvKeys {
        prefix: prefix.to_vec().into(),
        namespace: namespace.to_owned(),
    };
    match ask(py, runtime, head_request::Request::KvKeys(request))? {
        head_reply::Reply::Keys(list) => Ok(list.keys.iter().map(|key| PyBytes::new(py, key)).collect()),
        _ => Ok(Vec::new()),
    }
}
