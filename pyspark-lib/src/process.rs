//! Processes of a local cluster, and what a forked worker does first.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use sparkray_common::sync::Mutex;
use sparkray_core_worker::CoreWorker;
use sparkray_supervisor::{Child, ChildHost, Role, start_local};

/// Children of this process: `sparkrayd head` and `sparkrayd raylet`. They end when this process does.
#[pyclass(frozen, module = "sparkray._native")]
pub(crate) struct LocalProcesses {
    host: ChildHost,
    children: Mutex<HashMap<u32, Child>>,
}

#[pymethods]
impl LocalProcesses {
    #[new]
    fn new() -> PyResult<Self> {
        let host = ChildHost::start().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        Ok(Self {
            host,
            children: Mutex::new(HashMap::new()),
        })
    }

    /// Starts a head; returns its ready line.
    fn start_head(
        &self,
        py: Python<'_>,
        binary: PathBuf,
        config_json: String,
        log_path: PathBuf,
    ) -> PyResult<String> {
        self.start(py, Role::Head, binary, config_json, log_path)
    }

    /// Starts a raylet; returns its ready line.
    fn start_raylet(
        &self,
        py: Python<'_>,
        binary: PathBuf,
        config_json: String,
        log_path: PathBuf,
    ) -> PyResult<String> {
        self.start(py, Role::Node, binary, config_json, log_path)
    }

    /// Ends a child; one that is not known has ended.
    fn stop(&self, py: Python<'_>, pid: u32, grace: f64) -> PyResult<()> {
        let grace =
            Duration::try_from_secs_f64(grace).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let child = self.children.lock().remove(&pid);
        if let Some(child) = child {
            py.detach(|| child.stop(grace));
        }
        Ok(())
    }
}

impl LocalProcesses {
    fn start(
        &self,
        py: Python<'_>,
        role: Role,
        binary: PathBuf,
        config_json: String,
        log_path: PathBuf,
    ) -> PyResult<String> {
        let (child, pid) = py
            .detach(|| start_local(&self.host, role, binary, config_json, log_path))
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        let ready = child.ready_line().to_owned();
        self.children.lock().insert(pid, child);
        Ok(ready)
    }
}

/// Asks the kernel for `signal` when the parent of this process ends (prctl PR_SET_PDEATHSIG).
#[pyfunction]
pub(crate) fn set_parent_death_signal(signal: i32) -> PyResult<()> {
    let signal = rustix::process::Signal::from_named_raw(signal)
        .ok_or_else(|| PyValueError::new_err(format!("{signal} is not a signal")))?;
    rustix::process::set_parent_process_death_signal(Some(signal)).map_err(|error| {
        PyRuntimeError::new_err(format!("cannot set the signal of the parent's death: {error}"))
    })
}

/// Ends this process when it is a child that user code forked from a worker and that came back from that code: it would go
/// on as a second worker on the same sockets. `error`: what the code raised.
pub(crate) fn end_forked_child(py: Python<'_>, core: &CoreWorker, error: Option<&PyErr>) {
    if !core.is_forked() {
        return;
    }
    let error = error.map(|error| error.clone_ref(py).into_value(py));
    let outcome = py
        .import("sparkray._private.process")
        .and_then(|module| module.call_method1("end_forked_child", (error,)));
    // It does not return.
    if let Err(problem) = outcome {
        problem.print(py);
    }
    std::process::abort();
}

/// In a child that user code forked: what it inherited from this module is not its own.
#[pyfunction]
pub(crate) fn note_fork() {
    sparkray_core_worker::note_fork();
}

/// Makes the ids of a forked worker differ from those of its siblings.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    sparkray_common::reseed_after_fork();
}
