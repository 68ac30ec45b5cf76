//! Errors and ids between Rust and Python.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use sparkray_common::{ErrorCode, IdError};
use sparkray_core_worker::{CoreError, WaitError};

/// An attribute of a module, looked up once.
///
/// Threads that are first at the same time all look it up, and nobody waits for another: a process that forks while a
/// thread looks it up leaves its child no lock that nobody opens. (PyO3's own cells let go of the GIL while they are
/// being filled.)
pub(crate) struct Attribute {
    module: &'static str,
    name: &'static str,
    found: OnceLock<Py<PyAny>>,
}

impl Attribute {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self {
            module,
            name,
            found: OnceLock::new(),
        }
    }

    /// The attribute. Raises what importing its module raises.
    pub(crate) fn get<'py>(&'static self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
        if let Some(found) = self.found.get() {
            return Ok(found.bind(py));
        }
        let object = py.import(self.module)?.getattr(self.name)?.unbind();
        Ok(self.found.get_or_init(|| object).bind(py))
    }
}

/// The exception for a failure of the runtime: `sparkray._private.failures.from_failure`.
pub(crate) fn exception(py: Python<'_>, error: &CoreError) -> PyErr {
    static FROM_FAILURE: Attribute = Attribute::new("sparkray._private.failures", "from_failure");
    let made = FROM_FAILURE.get(py).and_then(|from_failure| {
        let actor = error.actor.map(|actor| actor.to_string());
        let task = error.task.map(|task| task.to_string());
        from_failure.call1((error.code.number(), error.message.as_str(), actor, task))
    });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        // An interrupt, which a cancelled task gets: it comes wherever Python code runs.
        Err(interrupt) if !interrupt.is_instance_of::<PyException>(py) => interrupt,
        Err(problem) => {
            let fallback = PyRuntimeError::new_err(error.message.clone());
            fallback.set_cause(py, Some(problem));
            fallback
        }
    }
}

/// The exception for a wait that ended early; `waited_for` says what was waited for.
pub(crate) fn wait_exception(py: Python<'_>, error: WaitError<PyErr>, waited_for: &str) -> PyErr {
    match error {
        WaitError::Failed(error) => exception(py, &error),
        WaitError::Interrupted(signal) => signal,
        WaitError::Deadline => exception(
            py,
            &CoreError::new(
                ErrorCode::DeadlineExceeded,
                format!("{waited_for} before the deadline"),
            ),
        ),
    }
}

/// Lets a waiting thread notice signals, as Python's own waits do.
pub(crate) fn check_signals() -> PyResult<()> {
    // `None`: the interpreter ends, and with it what this thread waits for.
    Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))
}

/// The time at which a timeout in seconds ends; `None`: never.
pub(crate) fn deadline_after(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout must be at least 0 seconds, not {seconds}"
        )));
    }
    // A century is for ever, and an `Instant` can be that far away.
    let wait = Duration::from_secs_f64(seconds.min(3.0e9));
    Ok(Some(Instant::now() + wait))
}

pub(crate) fn bad_id(error: IdError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
