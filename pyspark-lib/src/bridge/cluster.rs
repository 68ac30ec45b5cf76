//! What `RayContext` asks of the driver's manager, and what it answers.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sparkray_proto::bridge::{ClusterNode, InitRequest, InitResult, RayletAccess, Status, StopResult};

use super::{decode, encode};

/// An `InitRequest`. What is `None` comes from Spark's settings.
#[pyfunction]
#[pyo3(signature = (
    *,
    cluster_id,
    expected_nodes,
    node_cpus,
    node_resources,
    object_store_bytes,
    driver_cpus,
    worker_env,
    python,
    driver_python,
    python_version,
    sparkray_version,
    deadline_seconds = None,
    encryption = None,
))]
#[expect(
    clippy::too_many_arguments,
    reason = "they are keywords in Python, one for each field"
)]
pub(crate) fn encode_init_request(
    py: Python<'_>,
    cluster_id: String,
    expected_nodes: u32,
    node_cpus: f64,
    node_resources: HashMap<String, f64>,
    object_store_bytes: u64,
    driver_cpus: f64,
    worker_env: HashMap<String, String>,
    python: String,
    driver_python: String,
    python_version: String,
    sparkray_version: String,
    deadline_seconds: Option<f64>,
    encryption: Option<bool>,
) -> Bound<'_, PyBytes> {
    let request = InitRequest {
        cluster_id,
        expected_nodes,
        deadline_seconds,
        node_cpus,
        node_resources,
        object_store_bytes,
        driver_cpus,
        worker_env,
        encryption,
        python,
        driver_python,
        python_version,
        sparkray_version,
        ..InitRequest::default()
    };
    encode(py, &request)
}

/// An `InitResult` as a dict.
#[pyfunction]
pub(crate) fn decode_init_result<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let result: InitResult = decode(data)?;
    let dict = PyDict::new(py);
    dict.set_item("cluster_id", result.cluster_id)?;
    dict.set_item("token", result.token)?;
    dict.set_item("head_epoch", result.head_epoch)?;
    dict.set_item("socket_name", result.socket_name)?;
    dict.set_item("head_address", result.head_address)?;
    dict.set_item("head_executor_id", result.head_executor_id)?;
    dict.set_item("head_pid", result.head_pid)?;
    dict.set_item("nodes", node_dicts(py, result.nodes)?)?;
    dict.set_item(
        "driver_node",
        node_dict(py, result.driver_node.unwrap_or_default())?,
    )?;
    Ok(dict)
}

/// A `RayletAccess` as a dict.
#[pyfunction]
pub(crate) fn decode_raylet_access<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let access: RayletAccess = decode(data)?;
    let dict = PyDict::new(py);
    dict.set_item("failure", access.failure)?;
    dict.set_item("cluster_id", access.cluster_id)?;
    dict.set_item("token", access.token)?;
    dict.set_item("head_epoch", access.head_epoch)?;
    dict.set_item("node_id", access.node_id)?;
    dict.set_item("socket_name", access.socket_name)?;
    Ok(dict)
}

/// A `Status` as a dict.
#[pyfunction]
pub(crate) fn decode_status<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let status: Status = decode(data)?;
    let driver_node = status.driver_node.map(|node| node_dict(py, node)).transpose()?;
    let dict = PyDict::new(py);
    dict.set_item("state", status.state)?;
    dict.set_item("failure", status.failure)?;
    dict.set_item("cluster_id", status.cluster_id)?;
    dict.set_item("nodes", node_dicts(py, status.nodes)?)?;
    dict.set_item("driver_node", driver_node)?;
    Ok(dict)
}

/// Who, of a `StopResult`, has not answered.
#[pyfunction]
pub(crate) fn decode_stop_result(data: &[u8]) -> PyResult<Vec<String>> {
    let result: StopResult = decode(data)?;
    Ok(result.unanswered)
}

fn node_dicts(py: Python<'_>, nodes: Vec<ClusterNode>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    nodes.into_iter().map(|node| node_dict(py, node)).collect()
}

fn node_dict(py: Python<'_>, node: ClusterNode) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("executor_id", node.executor_id)?;
    dict.set_item("node_id", node.node_id)?;
    dict.set_item("address", node.address)?;
    dict.set_item("socket_name", node.socket_name)?;
    dict.set_item("hostname", node.hostname)?;
    dict.set_item("container_id", node.container_id)?;
    dict.set_item("pid", node.pid)?;
    dict.set_item("executor_pid", node.executor_pid)?;
    dict.set_item("cpus", node.cpus)?;
    dict.set_item("memory_budget_bytes", node.memory_budget_bytes)?;
    dict.set_item("object_store_bytes", node.object_store_bytes)?;
    dict.set_item("start_count", node.start_count)?;
    dict.set_item("state", node.state)?;
    dict.set_item("message", node.message)?;
    Ok(dict)
}
