//! What a call answers: its results, or its error in place of each.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_common::ErrorCode;
use sparkray_core_worker::{CoreError, IncomingTask, WaitError};
use sparkray_proto as proto;

use crate::convert::{check_signals, exception, wait_exception};
use crate::object_ref::ObjectRef;
use crate::process::end_forked_child;
use crate::runtime::Runtime;
use crate::values::{Serialized, serialize};

/// An answer that is written, with the references in it, which are kept until it is sent.
#[derive(Default)]
pub(crate) struct Answer {
    results: Vec<(proto::ReturnValue, Bytes)>,
    contained: Vec<Py<ObjectRef>>,
}

impl Answer {
    /// Sends it. `more`: others follow, for which it may wait.
    pub(crate) fn send(self, py: Python<'_>, runtime: &Runtime, task: &IncomingTask, more: bool) {
        end_forked_child(py, &runtime.core, None);
        let pins = self
            .contained
            .iter()
            .map(|reference| reference.get().id)
            .collect();
        runtime.core.finish_task(task, self.results, pins, more);
    }

    fn add_value(
        &mut self,
        runtime: &Runtime,
        task: &IncomingTask,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = value.py();
        // What a child came back with is nobody's. Its code may fork while it is pickled, too.
        end_forked_child(py, &runtime.core, None);
        self.add(py, runtime, task, serialize(value)?)
    }

    fn add(
        &mut self,
        py: Python<'_>,
        runtime: &Runtime,
        task: &IncomingTask,
        mut value: Serialized,
    ) -> PyResult<()> {
        // Before anything of the core worker is used: its locks may be held by threads that are not here.
        end_forked_child(py, &runtime.core, None);
        let index = self.results.len() as u32;
        let written = value.with_value(py, |parts| {
            py.detach(|| runtime.core.write_result(task, index, parts, &check_signals))
        })?;
        self.results.push(written.map_err(|error| match error {
            WaitError::Failed(error) => exception(py, &error),
            other => wait_exception(py, other, "a result was not stored"),
        })?);
        self.contained.append(&mut value.contained);
        Ok(())
    }
}

/// Writes what a call returned. When one of several results cannot be written, those before it are freed.
pub(crate) fn answer_of(
    runtime: &Runtime,
    task: &IncomingTask,
    value: &Bound<'_, PyAny>,
) -> PyResult<Answer> {
    let mut answer = Answer::default();
    let outcome = write_results(&mut answer, runtime, task, value);
    match outcome {
        Ok(()) => Ok(answer),
        Err(error) => {
            end_forked_child(value.py(), &runtime.core, Some(&error));
            runtime.core.discard_results(task, &answer.results);
            Err(error)
        }
    }
}

fn write_results(
    answer: &mut Answer,
    runtime: &Runtime,
    task: &IncomingTask,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    match task.num_returns {
        0 => return Ok(()),
        1 => return answer.add_value(runtime, task, value),
        _ => {}
    }
    let wrong_count = |given: usize| {
        PyValueError::new_err(format!(
            "{} has num_returns={} but returned {given} values: return a tuple of that length",
            task.name, task.num_returns
        ))
    };
    // A generator may have more, which are not asked for; of other things the number must be right, as in Ray.
    let is_generator = value.hasattr("send")? && value.hasattr("throw")?;
    if !is_generator {
        let len = value.len()?;
        if len != task.num_returns as usize {
            return Err(wrong_count(len));
        }
    }
    let items = value.try_iter()?.take(task.num_returns as usize);
    let values: Vec<Bound<'_, PyAny>> = items.collect::<PyResult<_>>()?;
    if values.len() != task.num_returns as usize {
        return Err(wrong_count(values.len()));
    }
    for item in &values {
        answer.add_value(runtime, task, item)?;
    }
    Ok(())
}

/// The body of an Error value: what the hooks make of an exception.
pub(crate) fn make_error<'py>(
    hooks: &Bound<'py, PyAny>,
    runtime: &Runtime,
    error: &PyErr,
    name: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = hooks.py();
    let ip = runtime.core.registration().node_ip;
    // With its traceback.
    let value = error.clone_ref(py).into_value(py);
    Ok(hooks
        .call_method1("make_error", (value, name, std::process::id(), ip))?
        .cast_into::<PyBytes>()?)
}

/// Answers a call with its error, whatever happens: a call that is not answered would be waited for until the end.
pub(crate) fn send_error(
    hooks: Option<&Bound<'_, PyAny>>,
    runtime: &Arc<Runtime>,
    task: &IncomingTask,
    error: &PyErr,
    py: Python<'_>,
) {
    end_forked_child(py, &runtime.core, Some(error));
    let outcome = hooks
        .ok_or_else(|| PyValueError::new_err("only a worker can make the error of a task"))
        .and_then(|hooks| make_error(hooks, runtime, error, &task.name))
        .and_then(|body| {
            let body = body.unbind();
            let mut answer = Answer::default();
            for _ in 0..task.num_returns {
                answer.add(py, runtime, task, Serialized::error(body.clone_ref(py)))?;
            }
            Ok(answer)
        });
    match outcome {
        Ok(answer) => answer.send(py, runtime, task, false),
        Err(problem) => runtime.core.fail_task(task, &describe(py, task, error, &problem)),
    }
}

/// For an exception that cannot even be pickled.
fn describe(py: Python<'_>, task: &IncomingTask, error: &PyErr, problem: &PyErr) -> CoreError {
    let text = |error: &PyErr| {
        let kind = error.get_type(py);
        let kind = kind
            .name()
            .map_or_else(|_| "exception".to_owned(), |name| name.to_string());
        match error.value(py).str() {
            Ok(message) => format!("{kind}: {message}"),
            // The user's __str__.
            Err(_) => kind,
        }
    };
    CoreError::new(
        ErrorCode::Internal,
        format!(
            "{} failed with {}, which could not be sent ({})",
            task.name,
            text(error),
            text(problem)
        ),
    )
}
