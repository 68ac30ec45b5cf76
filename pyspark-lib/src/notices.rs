//! A thread that tells Python what the core worker reports: output of workers, and objects that are ready. The core
//! worker reports from whichever thread reads the sockets, which must not wait for the interpreter's lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use sparkray_core_worker::{CoreError, Fetched, Notice};

use crate::convert::{cached, exception};

use crate::object_ref::ObjectRef;
use crate::objects::read;
use crate::runtime::runtime_of_worker;

/// A `concurrent.futures.Future` and the object whose value it gets.
type Waiting = (Py<PyAny>, Py<ObjectRef>);

/// Futures that wait for their objects.
#[derive(Default)]
pub(crate) struct Futures {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// Runs until the core worker is gone.
pub(crate) fn run(notices: &Receiver<Notice>, futures: &Futures, log_callback: Option<&Py<PyAny>>) {
    while let Ok(notice) = notices.recv() {
        // `None`: the interpreter ends.
        let attached = Python::try_attach(|py| match notice {
            Notice::Log(lines) => {
                let Some(callback) = log_callback else { return };
                let lines: Vec<_> = lines
                    .into_iter()
                    .map(|line| (line.name, line.pid, line.ip, line.text, line.is_stderr))
                    .collect();
                if let Err(error) = callback.call1(py, (lines,)) {
                    error.write_unraisable(py, None);
                }
            }
            Notice::Fetched(key, value) => complete(py, futures, key, value),
            Notice::Work => {}
        });
        if attached.is_none() {
            return;
        }
    }
}

/// Gives a future its object's value.
fn complete(py: Python<'_>, futures: &Futures, key: u64, value: Result<Fetched, CoreError>) {
    let Some((future, reference)) = futures.waiting.lock().remove(&key) else {
        return;
    };
    let outcome = value
        .map_err(|error| exception(py, &error))
        .and_then(|value| read(py, &reference.get().worker, &value));
    let told = match outcome {
        Ok(value) => future.call_method1(py, "set_result", (value,)),
        Err(error) => future.call_method1(py, "set_exception", (error.into_value(py),)),
    };
    if let Err(error) = told {
        // A future that was cancelled takes no result.
        let cancelled = future
            .call_method0(py, "cancelled")
            .and_then(|answer| answer.extract::<bool>(py));
        if !matches!(cancelled, Ok(true)) {
            error.write_unraisable(py, Some(future.bind(py)));
        }
    }
}

/// A `concurrent.futures.Future` of an object.
pub(crate) fn future_of<'py>(reference: &Bound<'py, ObjectRef>) -> PyResult<Bound<'py, PyAny>> {
    static FUTURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = reference.py();
    let runtime = runtime_of_worker(&reference.get().worker)?;
    let future = cached(py, &FUTURE, "concurrent.futures", "Future")?.call0()?;
    let futures = &runtime.futures;
    let key = futures.next.fetch_add(1, Ordering::Relaxed);
    futures
        .waiting
        .lock()
        .insert(key, (future.clone().unbind(), reference.clone().unbind()));
    let core = Arc::clone(&runtime.core);
    let id = reference.get().id;
    py.detach(|| core.fetch_later(id, key));
    Ok(future)
}
