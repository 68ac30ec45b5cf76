//! The helper thread: reads the sockets while no other thread does.

use std::sync::Weak;

use crate::worker::CoreWorker;

/// Runs until the core worker stops or is dropped.
pub(crate) fn run(worker: &Weak<CoreWorker>) {
    loop {
        let Some(worker) = worker.upgrade() else { return };
        if worker.is_stopping() {
            return;
        }
        worker.help();
    }
}
