//! Calls of this worker that are to end early, and how their code is told.
//!
//! A function is interrupted as a program is by Ctrl-C: SIGINT ends the system call that the main thread waits in, and its
//! handler (`sparkray._private.process`) raises KeyboardInterrupt when [`take_interrupt`] says that the function that runs
//! is meant. One that has returned meanwhile is not disturbed, nor is the next one. What ends the coroutines of an async
//! actor is the loop that runs them; methods on threads are only told when they ask.
//!
//! Invariants:
//! 1. What is due names a function that the core worker has handed out and that was not answered when it was named.
//! 2. `RUNNING` is set while code of a function runs, by the thread that runs it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use rustix::process::{Signal, getpid, kill_process};
use sparkray_common::TaskId;
use sparkray_common::sync::Mutex;
use sparkray_core_worker::Notice;
use tracing::warn;

use crate::event::EventSignal;

/// The function that is to be interrupted.
static DUE: Mutex<Option<TaskId>> = Mutex::new(None);
/// There is one, for those who would not lock for nothing.
static IS_DUE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The function whose code this thread runs.
    static RUNNING: Cell<Option<TaskId>> = const { Cell::new(None) };
}

/// Calls of an actor that are to end, and of which its loop has not heard.
#[derive(Default)]
pub(crate) struct CancelledMethods {
    news: Mutex<Vec<TaskId>>,
    /// There was one ever.
    any: AtomicBool,
}

impl CancelledMethods {
    /// Those that came since the last time.
    pub(crate) fn take(&self) -> Vec<TaskId> {
        std::mem::take(&mut *self.news.lock())
    }

    /// False: no call of this actor was ever cancelled.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
}

/// What the core worker wants ended. May be called by any thread, and does not wait for the interpreter. Gives other notices
/// back.
pub(crate) fn on_notice(
    notice: Notice,
    methods: &CancelledMethods,
    event: &Arc<EventSignal>,
) -> Option<Notice> {
    match notice {
        Notice::Interrupt(task_id) => {
            let mut due = DUE.lock();
            *due = Some(task_id);
            IS_DUE.store(true, Ordering::SeqCst);
            drop(due);
            // The kernel gives a process's signal to its main thread, unless that blocks it.
            signal_self(Signal::INT);
        }
        Notice::CancelMethod(task_id) => {
            methods.any.store(true, Ordering::Release);
            if event.is_started() {
                methods.news.lock().push(task_id);
                event.raise();
            }
        }
        Notice::ForceExit => signal_self(Signal::KILL),
        other => return Some(other),
    }
    None
}

fn signal_self(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        warn!(?signal, %error, "cannot signal this process: a call that was cancelled goes on");
    }
}

/// While it lives, the code of a function runs and may be interrupted.
pub(crate) struct Interruptible;

impl Interruptible {
    /// Raises KeyboardInterrupt when the function was cancelled before.
    pub(crate) fn begin(task_id: TaskId) -> PyResult<Self> {
        RUNNING.set(Some(task_id));
        let this = Self;
        if IS_DUE.load(Ordering::SeqCst) {
            if take_due() {
                return Err(PyKeyboardInterrupt::new_err(()));
            }
            forget_due();
        }
        Ok(this)
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}

/// Whether the function that this thread runs is to be interrupted now; once.
fn take_due() -> bool {
    if !IS_DUE.load(Ordering::SeqCst) {
        return false;
    }
    let running = RUNNING.get();
    let mut due = DUE.lock();
    if due.is_none() || *due != running {
        return false;
    }
    *due = None;
    IS_DUE.store(false, Ordering::SeqCst);
    true
}

/// What is due is over: it is not what begins now.
fn forget_due() {
    let mut due = DUE.lock();
    if *due != RUNNING.get() {
        *due = None;
        IS_DUE.store(false, Ordering::SeqCst);
    }
}

/// What the handler of SIGINT asks: whether the function that runs was cancelled. Once for each time that it was.
#[pyfunction]
pub(crate) fn take_interrupt() -> bool {
    take_due()
}
