//! Connections that end. Everything that was under way on one is handed to the router as one value.

use sparkray_common::{LeaseId, WorkerAddress, WorkerId};

use super::{CloseCause, ConnId, Links, PeerKey, Pending, Timer};
use crate::state::outbox::Effect;

/// What a process that died has sent is read for this long, in microseconds.
const DRAIN_TIME: u64 = 200_000;

/// A connection that is gone, with all that was under way on it.
#[derive(Debug)]
pub(in crate::state) struct ClosedLink {
    pub(in crate::state) peer: Option<PeerKey>,
    pub(in crate::state) remote: Option<WorkerAddress>,
    pub(in crate::state) lease: Option<LeaseId>,
    /// Requests without replies, in the order in which they were sent.
    pub(in crate::state) pending: Vec<Pending>,
    /// Why, in the words of whoever knows most.
    pub(in crate::state) message: String,
}

impl ClosedLink {
    /// The worker at the other end.
    pub(in crate::state) fn worker(&self) -> Option<WorkerId> {
        match self.peer {
            Some(PeerKey::Worker(worker)) => Some(worker),
            _ => None,
        }
    }
}

impl Links {
    /// Forgets a connection; `None`: it was forgotten before.
    pub(in crate::state) fn close(&mut self, conn: ConnId, cause: &CloseCause) -> Option<ClosedLink> {
        let link = self.links.remove(&conn)?;
        self.metrics.closed();
        self.touched.retain(|touched| *touched != conn);
        if let Some(peer) = link.peer {
            if self.peers.get(&peer) == Some(&conn) {
                self.peers.remove(&peer);
            }
        }
        let mut pending: Vec<(u64, Pending)> = link.pending.into_iter().collect();
        pending.sort_unstable_by_key(|(correlation, _)| *correlation);
        Some(ClosedLink {
            peer: link.peer,
            remote: link.remote,
            lease: link.lease,
            pending: pending.into_iter().map(|(_, pending)| pending).collect(),
            // The raylet's words about a death say more than the end of a socket.
            message: self
                .closing
                .remove(&conn)
                .unwrap_or_else(|| cause.message.clone()),
        })
    }

    /// Has the socket closed, too, by whoever carries out what is decided.
    pub(in crate::state) fn hang_up(&mut self, conn: ConnId, cause: &CloseCause) -> Option<ClosedLink> {
        let closed = self.close(conn, cause)?;
        self.out.effect(Effect::Close { conn });
        Some(closed)
    }

    /// Closes a connection to a process that died, once what it has sent can have been read. The end of the socket
    /// comes first, but for a child of the process that holds the socket open.
    pub(in crate::state) fn close_after_drain(&mut self, conn: ConnId, cause: &str) {
        if self.is_open(conn) {
            self.closing.insert(conn, cause.to_owned());
            self.timers
                .set(self.process.now + DRAIN_TIME, Timer::CloseConnection(conn));
        }
    }
}
