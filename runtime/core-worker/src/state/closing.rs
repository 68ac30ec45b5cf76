//! Ends of connections.
//!
//! A connection may break while both processes live: what it was used for goes on over another one (see `unreachable`).
//! Only a death ends it.

use super::timers::Timer;
use super::{Effect, PeerKey, Pending, State};
use crate::reactor::{CloseCause, ConnId, RAYLET_CONN};
use sparkray_common::WorkerId;

/// What a process that died has sent is read for this long, in microseconds.
const DRAIN_TIME: u64 = 200_000;

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
        if let Some(worker) = state.worker() {
            // Without a head nobody will say whether it died: the broken connection must do.
            if cause.gone || self.head_lost.is_some() {
                self.deaths.workers.add(worker);
            }
        }
        let gone = state.remote.as_ref().is_some_and(|remote| self.is_dead(remote));
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
        if let Some(PeerKey::Raylet(node)) = state.peer {
            self.raylet_connection_lost(node, cause);
        }
        self.worker_connection_lost(state.lease, pushed, cause.unused, gone, message);
        if let Some(remote) = state.remote.filter(|remote| !remote.worker_id.is_nil()) {
            if !gone {
                self.peer_connection_lost(&remote);
            } else if !self.is_connected(remote.worker_id) {
                self.worker_gone(remote.worker_id, message);
            }
        }
        self.actor_connection_lost(conn);
    }

    /// Whether there is a connection to a process, one that is being made included.
    pub(super) fn is_connected(&self, worker: WorkerId) -> bool {
        let mut remotes = self.conns.values().filter_map(|state| state.remote.as_ref());
        remotes.any(|remote| remote.worker_id == worker)
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
        self.on_closed(conn, &CloseCause::new("the other side did not answer in time"));
    }
}
