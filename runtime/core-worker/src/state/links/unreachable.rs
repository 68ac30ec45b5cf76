//! Processes that this one has ties to, without a connection and without news of their death.
//!
//! A connection that broke, timed out or was refused is no death: a network pauses, a raylet is busy. What this process
//! keeps for another one, or has from it, stays until there is a verdict: of a raylet, of the head, or of the other
//! process's own raylet, which refuses a caller because the process is not there. Until then it is called again, with
//! growing delays; and when it is there, each side registers again what it holds of the other.
//!
//! Invariants:
//! 1. Only processes are here to which this one has ties, at most one entry for each, and nobody who is known to be dead.
//! 2. While its timer runs, nothing is sent on behalf of those ties; then everything is, over one connection.
//! 3. Without a head nobody gives verdicts: then a lost connection counts as a death.

use std::sync::Arc;

use sparkray_common::{WorkerAddress, WorkerId};
use tracing::warn;

use super::{Links, Timer};

/// The first call comes after this time, in microseconds; each further one after twice as long.
const FIRST_DELAY: u64 = 100_000;
/// But never later than this after the last one failed.
const LONGEST_DELAY: u64 = 1_600_000;

/// How long to wait before a call, after so many that were not answered.
pub(in crate::state) fn delay_before(attempts: u32) -> u64 {
    (FIRST_DELAY << attempts.min(16)).min(LONGEST_DELAY)
}

/// A process without a connection.
#[derive(Debug)]
pub(super) struct Unreachable {
    address: Arc<WorkerAddress>,
    attempts: u32,
    /// A timer will call it; otherwise it was called and has not said anything.
    timed: bool,
}

impl Links {
    /// Whether a process has to be called again before anything is sent to it.
    pub(in crate::state) fn is_unreachable(&self, worker: WorkerId) -> bool {
        self.unreachable.get(&worker).is_some_and(|peer| peer.timed)
    }

    /// The connection to a process is lost to which this one has ties; its death is not known.
    pub(in crate::state) fn call_later(&mut self, remote: &WorkerAddress) {
        let worker = remote.worker_id;
        let peer = self.unreachable.entry(worker).or_insert_with(|| Unreachable {
            address: Arc::new(remote.clone()),
            attempts: 0,
            timed: false,
        });
        if peer.timed {
            return;
        }
        peer.timed = true;
        let delay = delay_before(peer.attempts);
        peer.attempts += 1;
        if peer.attempts == 2 {
            warn!(
                worker_id = %worker, node_id = %remote.node_id,
                "cannot reach a process; what it holds is kept until the head says that it is dead"
            );
        }
        self.timers
            .set(self.process.now + delay, Timer::CallAgain(worker));
    }

    /// The time to call a process has come: where it is, if it is still to be called.
    pub(in crate::state) fn is_to_be_called(&mut self, worker: WorkerId) -> Option<Arc<WorkerAddress>> {
        let peer = self.unreachable.get_mut(&worker)?;
        peer.timed = false;
        Some(Arc::clone(&peer.address))
    }

    /// A process is dead, is there, or means nothing to this one any more.
    pub(in crate::state) fn forget_unreachable(&mut self, worker: WorkerId) {
        self.unreachable.remove(&worker);
    }

    pub(in crate::state) fn unreachable_workers(&self) -> Vec<WorkerId> {
        self.unreachable.keys().copied().collect()
    }

    /// A process said hello.
    pub(super) fn peer_answered(&mut self, worker: WorkerId) {
        if self.unreachable.get(&worker).is_some_and(|peer| !peer.timed) {
            self.unreachable.remove(&worker);
        }
    }
}
