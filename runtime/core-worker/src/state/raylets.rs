//! Raylets of other nodes, which lease their workers to this process.
//!
//! A connection that broke is no end of a lease: the raylet keeps the workers for this process until it registers again.
//! It then says which leases it knows; a grant that was lost on the way, or a return, is undone thereby.
//!
//! Invariants:
//! 1. A raylet is here from the first call on until it is known to be gone: at most one entry for each node.
//! 2. After a connection that was lost it is called again until it answers, whether or not this process knows of leases:
//!    it may have granted some.

use sparkray_common::{NodeId, VERSION};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Endpoint, Target};

use super::timers::Timer;
use super::unreachable::delay_before;
use super::{PeerKey, Pending, State};
use crate::reactor::{CloseCause, ConnId, RAYLET_CONN};

/// A raylet that was called.
#[derive(Debug)]
pub(super) struct OtherRaylet {
    address: String,
    /// Calls since it answered.
    attempts: u32,
    /// A timer will call it again.
    timed: bool,
}

impl State {
    /// The connection to a raylet, opened when there is none.
    pub(super) fn conn_to_raylet(&mut self, node_id: NodeId, node_address: &str) -> ConnId {
        if node_id == self.me.node_id {
            return RAYLET_CONN;
        }
        let key = PeerKey::Raylet(node_id);
        if let Some(conn) = self.peers.get(&key) {
            return *conn;
        }
        let endpoint = Endpoint::Tcp(node_address.to_owned());
        let conn = self.open(key, endpoint, Target::Raylet(node_id));
        self.raylets.entry(node_id).or_insert_with(|| OtherRaylet {
            address: node_address.to_owned(),
            attempts: 0,
            timed: false,
        });
        let message = proto::RegisterClient {
            worker_id: self.me.worker_id.to_vec().into(),
            kind: proto::ClientKind::Remote.into(),
            pid: std::process::id(),
            job_id: self.job_id.to_vec().into(),
            sparkray_version: VERSION.to_owned(),
            python_version: self.python_version.clone(),
            node_id: self.me.node_id.to_vec().into(),
            lease_ids: self.take_leases_along(node_id, conn),
            // Connections are numbered in the order in which they are made.
            registration: conn,
            ..Default::default()
        };
        self.request(conn, Pending::Register, FrameKind::RegisterClient, &message);
        conn
    }

    /// The leases of a node's workers, which go on over a new connection to its raylet.
    fn take_leases_along(&mut self, node: NodeId, conn: ConnId) -> Vec<bytes::Bytes> {
        let leases = self.scheduling.leases.iter_mut();
        leases
            .filter(|(_, lease)| {
                let worker = lease.worker.as_ref();
                worker.is_some_and(|worker| worker.address.node_id == node)
            })
            .map(|(lease_id, lease)| {
                lease.raylet = conn;
                Self::id_bytes(lease_id.as_bytes())
            })
            .collect()
    }

    /// A raylet of another node took this process in, or refused it.
    pub(super) fn raylet_answered(&mut self, conn: ConnId, is_refused: bool) {
        let Some(PeerKey::Raylet(node)) = self.conns.get(&conn).and_then(|state| state.peer) else {
            return;
        };
        if is_refused {
            // It would do so again.
            self.raylets.remove(&node);
        } else if let Some(raylet) = self.raylets.get_mut(&node) {
            raylet.attempts = 0;
        }
    }

    /// The connection to a raylet of another node is lost.
    pub(super) fn raylet_connection_lost(&mut self, node: NodeId, cause: &CloseCause) {
        let is_over = cause.gone || self.deaths.nodes.contains(&node);
        if is_over || self.broken.is_some() || self.head_lost.is_some() {
            self.raylets.remove(&node);
            return;
        }
        let Some(raylet) = self.raylets.get_mut(&node) else {
            return;
        };
        if !raylet.timed {
            raylet.timed = true;
            self.timers
                .set(self.now + delay_before(raylet.attempts), Timer::CallRaylet(node));
            raylet.attempts += 1;
        }
    }

    /// Calls a raylet again.
    pub(super) fn call_raylet_again(&mut self, node: NodeId) {
        let is_dead = self.deaths.nodes.contains(&node);
        if is_dead || self.broken.is_some() || self.head_lost.is_some() {
            // Without a head nobody gives verdicts any more: the raylet has ended the leases.
            self.raylets.remove(&node);
        }
        let Some(raylet) = self.raylets.get_mut(&node) else {
            return;
        };
        raylet.timed = false;
        let address = raylet.address.clone();
        self.conn_to_raylet(node, &address);
    }
}
