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
use sparkray_proto::{self as proto, FrameKind};
use tracing::warn;

use super::State;
use super::timers::Timer;

/// The first call comes after this time, in microseconds; each further one after twice as long.
const FIRST_DELAY: u64 = 100_000;
/// But never later than this after the last one failed.
const LONGEST_DELAY: u64 = 1_600_000;

/// How long to wait before a call, after so many that were not answered.
pub(super) fn delay_before(attempts: u32) -> u64 {
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

impl State {
    /// Whether a process has to be called again before anything is sent to it.
    pub(super) fn is_unreachable(&self, worker: WorkerId) -> bool {
        self.unreachable.get(&worker).is_some_and(|peer| peer.timed)
    }

    /// Whether this process keeps something for another one, or has something from it.
    fn has_ties(&self, worker: WorkerId) -> bool {
        self.borrowing.owners.contains_key(&worker) || self.keeps_for(worker) || self.is_suspended(worker)
    }

    fn keeps_for(&self, worker: WorkerId) -> bool {
        self.borrowers.contains_key(&worker) || self.return_pins.values().any(|pins| pins.caller == worker)
    }

    /// The connection to a process is lost; its death is not known.
    pub(super) fn peer_connection_lost(&mut self, remote: &WorkerAddress) {
        let worker = remote.worker_id;
        if let Some(owner) = self.borrowing.owners.get_mut(&worker) {
            owner.unsettle();
        }
        if self.broken.is_some() || !self.has_ties(worker) {
            self.unreachable.remove(&worker);
            return;
        }
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
        self.timers.set(self.now + delay, Timer::CallAgain(worker));
    }

    /// Calls a process again, and puts both sides right.
    pub(super) fn call_again(&mut self, worker: WorkerId) {
        let Some(peer) = self.unreachable.get_mut(&worker) else {
            return;
        };
        peer.timed = false;
        let address = Arc::clone(&peer.address);
        if !self.has_ties(worker) {
            self.unreachable.remove(&worker);
            return;
        }
        let conn = self.conn_to_worker(&address);
        if self.conns.get(&conn).is_some_and(|state| state.greeted) {
            // It came back by itself.
            self.unreachable.remove(&worker);
        }
        if self.borrowing.owners.contains_key(&worker) {
            self.register_again(worker);
        }
        self.resume_leases(worker, conn);
        if self.keeps_for(worker) {
            let tasks = self.return_pins_of(worker);
            let message = proto::RegisterAgain {
                task_ids: tasks.iter().map(|task| Self::id_bytes(task.as_bytes())).collect(),
            };
            self.send(conn, FrameKind::RegisterAgain, 0, &message, &[], true);
        }
    }

    /// A process said hello.
    pub(super) fn peer_answered(&mut self, worker: WorkerId) {
        if self.unreachable.get(&worker).is_some_and(|peer| !peer.timed) {
            self.unreachable.remove(&worker);
        }
    }
}
