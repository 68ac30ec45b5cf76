//! Ends of connections.
//!
//! A connection may break while both processes live. Whatever was registered over it (borrowed objects, pinned
//! results, the place in an actor's order of calls) is therefore kept for [`RETURN_TIME`], in which the other side
//! comes back and registers it again. Only a death ends it at once.

use sparkray_common::{ObjectId, WorkerId};

use super::connections::ANSWER_TIME;
use super::timers::Timer;
use super::{Effect, PeerKey, Pending, State};
use crate::hash::IdSet;
use crate::reactor::{CloseCause, ConnId, RAYLET_CONN};

/// A process whose connection broke has this long to come back, in microseconds.
const RETURN_TIME: u64 = 2_000_000;
/// What a process that died has sent is read for this long, in microseconds.
const DRAIN_TIME: u64 = 200_000;

/// A connection that broke and whose other side may come back.
#[derive(Debug)]
pub(super) struct BrokenConnection {
    worker: Option<WorkerId>,
    borrowed: IdSet<ObjectId>,
}

impl State {
    /// A connection is gone.
    pub(crate) fn on_closed(&mut self, conn: ConnId, cause: &CloseCause) {
        let Some(state) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(peer) = state.peer {
            if self.peers.get(&peer) == Some(&conn) {
                self.peers.remove(&peer);
            }
        }
        // The raylet's words about a death say more than the end of a socket.
        let told = self.closing.remove(&conn);
        let message = told.as_deref().unwrap_or(&cause.message);
        if conn == RAYLET_CONN {
            self.raylet_lost(message);
        }
        let worker = state.worker();
        if let Some(worker) = worker {
            if cause.gone {
                self.deaths.workers.add(worker);
            }
        }
        let gone = state.remote.as_ref().is_some_and(|remote| self.is_dead(remote));
        let broken = BrokenConnection {
            worker,
            borrowed: state.borrowed,
        };
        if gone {
            self.drop_registrations(conn, &broken);
        } else {
            self.broken_conns.insert(conn, broken);
            self.timers
                .set(self.now + RETURN_TIME, Timer::ForgetConnection(conn));
        }
        self.execution.caller_gone(conn);
        // Tasks in the order of their pushes, because the first of a worker is the one that ran.
        let mut pending: Vec<(u64, Pending)> = state.pending.into_iter().collect();
        pending.sort_unstable_by_key(|(correlation, _)| *correlation);
        let mut pushed = Vec::new();
        for (_, pending) in pending {
            match pending {
                Pending::Push(task) => pushed.push(task),
                other => self.fail_pending(other, message),
            }
        }
        self.worker_connection_lost(state.lease, pushed, cause.unused, gone, message);
        if let Some(worker) = worker {
            if gone {
                self.owner_died(worker);
            } else {
                self.owner_connection_lost(worker);
            }
        }
        self.actor_connection_lost(conn);
    }

    /// Nobody came back for a connection that broke.
    pub(super) fn forget_connection(&mut self, conn: ConnId) {
        if let Some(broken) = self.broken_conns.remove(&conn) {
            self.drop_registrations(conn, &broken);
        }
    }

    fn drop_registrations(&mut self, conn: ConnId, broken: &BrokenConnection) {
        for id in &broken.borrowed {
            self.remove_borrower(*id, conn);
        }
        self.drop_return_pins_of(conn);
        let elsewhere = broken
            .worker
            .is_some_and(|worker| self.peers.contains_key(&PeerKey::Worker(worker)));
        if let (Some(worker), false) = (broken.worker, elsewhere) {
            self.execution.callers.forget_settled(worker);
        }
    }

    /// What connections to a process that died have registered is dropped at once.
    pub(super) fn drop_broken_of(&mut self, dead: impl Fn(WorkerId) -> bool) {
        let conns: Vec<ConnId> = self
            .broken_conns
            .iter()
            .filter(|(_, broken)| broken.worker.is_some_and(&dead))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            self.forget_connection(conn);
        }
    }

    /// Closes a connection to a process that died, once what it has sent can have been read. The end of the socket
    /// comes first, but for a child of the process that holds the socket open.
    pub(super) fn close_after_drain(&mut self, conn: ConnId, cause: &str) {
        if self.conns.contains_key(&conn) {
            self.closing.insert(conn, cause.to_owned());
            self.timers
                .set(self.now + DRAIN_TIME, Timer::CloseConnection(conn));
        }
    }

    /// Closes a connection to a process that died.
    pub(super) fn close_connection(&mut self, conn: ConnId) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        self.effects.push(Effect::Close { conn });
        let message = self.closing.get(&conn).cloned().unwrap_or_default();
        let cause = CloseCause {
            gone: true,
            ..CloseCause::new(message)
        };
        self.on_closed(conn, &cause);
    }

    pub(super) fn give_up_unanswered(&mut self, conn: ConnId) {
        if self.conns.get(&conn).is_none_or(|state| state.greeted) {
            return;
        }
        self.effects.push(Effect::Close { conn });
        let message = format!(
            "the other side did not answer within {} s",
            ANSWER_TIME / 1_000_000
        );
        self.on_closed(conn, &CloseCause::new(message));
    }
}
