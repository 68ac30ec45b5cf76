//! What processes have counted.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::convert::{check_signals, wait_exception};
use crate::runtime::Runtime;

/// The text that Prometheus reads: of this process, of the raylet of this node, or of the head.
pub(crate) fn metrics(py: Python<'_>, runtime: &Runtime, process: &str) -> PyResult<String> {
    let core = &runtime.core;
    let outcome = match process {
        "worker" => return Ok(py.detach(|| core.metrics())),
        "raylet" => py.detach(|| core.raylet_metrics(&check_signals)),
        "head" => py.detach(|| core.head_metrics(&check_signals)),
        other => {
            return Err(PyValueError::new_err(format!(
                "there is no process '{other}': name 'worker', 'raylet' or 'head'"
            )));
        }
    };
    outcome.map_err(|error| wait_exception(py, error, "the process was not heard"))
}
