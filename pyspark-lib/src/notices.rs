//! A thread that tells Python what the core worker reports: output of workers, and objects that are ready. The core
//! worker reports from whichever thread reads the sockets, which must not wait for the interpreter's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use sparkray_common::ValueHeader;
use sparkray_common::sync::Mutex;
use sparkray_core_worker::{CoreError, Fetched, Notice, fork_generation};
use sparkray_proto::{InfeasibleDemand, LogLine, Resources};

use crate::convert::{Attribute, exception};
use crate::doors::{Visitor, runtime_of};
use crate::futures::Futures;
use crate::object_ref::ObjectRef;
use crate::objects::read;

/// Lines to be printed that wait for Python at most; those that come when as many wait are counted, and lost.
const MAX_WAITING_LINES: usize = 100_000;

/// What the two ends of the queue know of lines to be printed. Values are bounded by the futures that wait for them.
#[derive(Default)]
struct Lines {
    waiting: AtomicUsize,
    lost: AtomicUsize,
}

/// The core worker's end.
pub(crate) struct NoticeSender {
    sender: Mutex<Sender<Notice>>,
    lines: Arc<Lines>,
}

/// The thread's end.
pub(crate) struct NoticeReceiver {
    receiver: Receiver<Notice>,
    lines: Arc<Lines>,
}

/// The way of notices to the thread.
pub(crate) fn queue() -> (NoticeSender, NoticeReceiver) {
    let (sender, receiver) = mpsc::channel();
    let lines = Arc::new(Lines::default());
    let sender = NoticeSender {
        sender: Mutex::new(sender),
        lines: Arc::clone(&lines),
    };
    (sender, NoticeReceiver { receiver, lines })
}

impl NoticeSender {
    /// Never blocks.
    pub(crate) fn send(&self, notice: Notice) {
        let lines = lines_of(&notice);
        if lines > 0 {
            if self.lines.waiting.load(Ordering::Relaxed) >= MAX_WAITING_LINES {
                self.lines.lost.fetch_add(lines, Ordering::Relaxed);
                return;
            }
            self.lines.waiting.fetch_add(lines, Ordering::Relaxed);
        }
        // The thread is gone only when the interpreter ends.
        let _ = self.sender.lock().send(notice);
    }
}

impl NoticeReceiver {
    /// The next notice; `None`: the core worker is gone.
    fn next(&self) -> Option<Notice> {
        let mut notice = self.receiver.recv().ok()?;
        self.lines.waiting.fetch_sub(lines_of(&notice), Ordering::Relaxed);
        if let Notice::Log(lines) = &mut notice {
            let lost = self.lines.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                lines.push(LogLine {
                    name: "sparkray".to_owned(),
                    pid: std::process::id(),
                    text: format!(
                        "{lost} lines of workers' output came faster than they were printed: not shown"
                    ),
                    is_stderr: true,
                    ..LogLine::default()
                });
            }
        }
        Some(notice)
    }
}

/// How many lines a notice prints, or at least.
fn lines_of(notice: &Notice) -> usize {
    match notice {
        Notice::Log(lines) => lines.len(),
        Notice::UnhandledError { .. } | Notice::InfeasibleDemand(_) => 1,
        Notice::Fetched(..)
        | Notice::Left
        | Notice::Work
        | Notice::Interrupt(_)
        | Notice::CancelMethod(_)
        | Notice::ForceExit => 0,
    }
}

/// What Python wants to be told.
pub(crate) struct Callbacks {
    /// Of output of workers: a list of (name, pid, ip, text, is_stderr).
    pub(crate) log: Option<Py<PyAny>>,
    /// That this process takes no more part in the cluster, without arguments.
    pub(crate) left: Option<Py<PyAny>>,
}

/// Runs until the core worker is gone.
pub(crate) fn run(notices: &NoticeReceiver, futures: &Futures, callbacks: &Callbacks) {
    let generation = fork_generation();
    while let Some(notice) = notices.next() {
        // `None`: the interpreter ends.
        let attached = Python::try_attach(|py| match notice {
            Notice::Log(lines) => {
                let Some(callback) = &callbacks.log else { return };
                let lines: Vec<_> = lines
                    .into_iter()
                    .map(|line| (line.name, line.pid, line.ip, line.text, line.is_stderr))
                    .collect();
                if let Err(error) = callback.call1(py, (lines,)) {
                    error.write_unraisable(py, None);
                }
            }
            Notice::Fetched(key, value) => complete(py, futures, key, value),
            Notice::UnhandledError { error, left_out } => {
                if let Err(problem) = tell_unhandled(py, &error, left_out) {
                    problem.write_unraisable(py, None);
                }
            }
            Notice::InfeasibleDemand(demand) => {
                if let Err(problem) = tell_infeasible(py, demand) {
                    problem.write_unraisable(py, None);
                }
            }
            Notice::Left => {
                let told = callbacks.left.as_ref().map(|callback| callback.call0(py));
                if let Some(Err(error)) = told {
                    error.write_unraisable(py, None);
                }
            }
            // Others have taken them.
            Notice::Work | Notice::Interrupt(_) | Notice::CancelMethod(_) | Notice::ForceExit => {}
        });
        // A child that a callback forked has come back: the thread is the parent's.
        if attached.is_none() || fork_generation() != generation {
            return;
        }
    }
}

/// Prints an error that nobody asked for.
fn tell_unhandled(py: Python<'_>, value: &[u8], left_out: u64) -> PyResult<()> {
    static REPORT: Attribute = Attribute::new("sparkray._private.unhandled", "report");
    let report = REPORT.get(py)?;
    let header = ValueHeader::read(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    report.call1((PyBytes::new(py, header.body(value)), left_out))?;
    Ok(())
}

/// Prints what no node of the cluster can meet.
fn tell_infeasible(py: Python<'_>, demand: InfeasibleDemand) -> PyResult<()> {
    static REPORT: Attribute = Attribute::new("sparkray._private.infeasible", "report");
    let report = REPORT.get(py)?;
    let units = |resources: Option<Resources>| resources.unwrap_or_default().units;
    let shapes: Vec<_> = demand
        .shapes
        .into_iter()
        .map(|shape| {
            let waiters: Vec<_> = shape
                .waiters
                .into_iter()
                .map(|waiters| (waiters.kind, waiters.name, waiters.count))
                .collect();
            (
                units(shape.resources),
                shape.label_selector,
                waiters,
                shape.others,
                shape.cause,
            )
        })
        .collect();
    let nodes = (units(demand.total), units(demand.largest), demand.labels);
    report.call1((shapes, demand.left_out, nodes))?;
    Ok(())
}

/// Gives a future its object's value.
fn complete(py: Python<'_>, futures: &Futures, key: u64, value: Result<Fetched, CoreError>) {
    let Some((future, reference)) = futures.take(key) else {
        return;
    };
    let outcome = value
        .map_err(|error| exception(py, &error))
        .and_then(|value| read(py, &reference.get().worker, reference.get().id, &value));
    let told = match outcome {
        Ok(value) => future.call_method1(py, "set_result", (value,)),
        Err(error) => {
            let error = for_awaiting(py, error);
            future.call_method1(py, "set_exception", (error.into_value(py),))
        }
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

/// The error as a coroutine can raise it: one that ends iterations would end the coroutine's own instead, and no future of
/// asyncio takes it.
fn for_awaiting(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) && !error.is_instance_of::<PyStopAsyncIteration>(py) {
        return error;
    }
    let name = error.get_type(py).name().map_or_else(
        |_| "an exception that ends iterations".to_owned(),
        |name| name.to_string(),
    );
    let wrapped = PyRuntimeError::new_err(format!(
        "the awaited task raised {name}, which a coroutine cannot pass on"
    ));
    wrapped.set_cause(py, Some(error));
    wrapped
}

/// A `concurrent.futures.Future` of an object.
pub(crate) fn future_of<'py>(reference: &Bound<'py, ObjectRef>) -> PyResult<Bound<'py, PyAny>> {
    static FUTURE: Attribute = Attribute::new("concurrent.futures", "Future");
    let py = reference.py();
    let this = reference.get();
    let runtime = runtime_of(Visitor::Object(this.id), &this.worker)?;
    let future = FUTURE.get(py)?.call0()?;
    let key = runtime
        .futures
        .add(future.clone().unbind(), reference.clone().unbind());
    let core = Arc::clone(&runtime.core);
    let id = reference.get().id;
    py.detach(|| core.fetch_later(id, key));
    Ok(future)
}
