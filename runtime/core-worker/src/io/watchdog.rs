//! A worker ends itself when its node's lease has run out: the head may have given its actor to another node, and the
//! raylet that should have ended it does not run.
//!
//! The thread sleeps by the clock of the lease and needs nobody: no raylet, no lock, no interpreter. On a machine that was
//! suspended meanwhile it looks as soon as that goes on.

use std::os::fd::OwnedFd;

use rustix::process::{Signal, getpid, kill_process};
use sparkray_rpc::{MomentReader, clock_now, sleep_until};
use tracing::error;

/// Watches the lease until this process ends.
pub(crate) fn start(lease: OwnedFd) -> std::io::Result<()> {
    let lease = MomentReader::new(lease);
    std::thread::Builder::new()
        .name("sparkray-lease".to_owned())
        .spawn(move || watch(&lease))
        .map(drop)
}

fn watch(lease: &MomentReader) {
    // The raylet wrote it before it shared it.
    while let Some(end) = lease.read() {
        if clock_now(end.clock) >= end.at {
            error!(
                "this worker's node was cut off from its cluster: the worker ends, because others may take its place"
            );
            break;
        }
        sleep_until(end);
    }
    // At once, and whatever the interpreter does.
    let _ = kill_process(getpid(), Signal::KILL);
}
