//! Raylets of other nodes, which lease their workers to this process.
//!
//! A connection that broke is no end of a lease: the raylet keeps the workers for this process until it registers again.
//! It then says which leases it knows; a grant that was lost on the way, or a return, is undone thereby.
//!
//! Invariants:
//! 1. A raylet is here from the first call on until it is known to be gone: at most one entry for each node.
//! 2. After a connection that was lost it is called again until it answers, whether or not this process knows of leases:
//!    it may have granted some.

use bytes::Bytes;
use sparkray_common::{NodeId, VERSION};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Endpoint, Target};

use super::Leases;
use crate::state::base::Base;
use crate::state::links::{ConnId, Links, PeerKey, Pending, RAYLET_CONN, Timer, delay_before, id_bytes};

/// A raylet that was called.
#[derive(Debug)]
pub(super) struct OtherRaylet {
    address: String,
    /// Calls since it answered.
    attempts: u32,
    /// A timer will call it again.
    timed: bool,
}

impl Leases {
    /// The connection to a raylet, opened when there is none.
    pub(super) fn conn_to_raylet(&mut self, base: &mut Base, node_id: NodeId, node_address: &str) -> ConnId {
        if node_id == base.links.process.me.node_id {
            return RAYLET_CONN;
        }
        let key = PeerKey::Raylet(node_id);
        if let Some(conn) = base.links.conn_of(key) {
            return conn;
        }
        let endpoint = Endpoint::Tcp(node_address.to_owned());
        let conn = base.links.open(key, endpoint, Target::Raylet(node_id));
        self.raylets.entry(node_id).or_insert_with(|| OtherRaylet {
            address: node_address.to_owned(),
            attempts: 0,
            timed: false,
        });
        let process = &base.links.process;
        let message = proto::RegisterClient {
            worker_id: process.me.worker_id.to_vec().into(),
            kind: proto::ClientKind::Remote.into(),
            pid: std::process::id(),
            sparkray_version: VERSION.to_owned(),
            python_version: process.python_version.clone(),
            node_id: process.me.node_id.to_vec().into(),
            lease_ids: self.take_leases_along(node_id, conn),
            // Connections are numbered in the order in which they are made.
            registration: conn,
            ..Default::default()
        };
        let sent = base
            .links
            .request(conn, Pending::Register, FrameKind::RegisterClient, &message);
        debug_assert!(sent.is_ok(), "the connection was just opened");
        conn
    }

    /// The leases of a node's workers, which go on over a new connection to its raylet.
    fn take_leases_along(&mut self, node: NodeId, conn: ConnId) -> Vec<Bytes> {
        let leases = self.leases.iter_mut();
        leases
            .filter(|(_, lease)| {
                let worker = lease.worker.as_ref();
                worker.is_some_and(|worker| worker.address.node_id == node)
            })
            .map(|(lease_id, lease)| {
                lease.raylet = conn;
                id_bytes(lease_id.as_bytes())
            })
            .collect()
    }

    /// A raylet of another node took this process in, or refused it.
    pub(in crate::state) fn raylet_answered(&mut self, links: &Links, conn: ConnId, is_refused: bool) {
        let Some(PeerKey::Raylet(node)) = links.peer_of(conn) else {
            return;
        };
        if is_refused {
            // It would do so again.
            self.raylets.remove(&node);
        } else if let Some(raylet) = self.raylets.get_mut(&node) {
            raylet.attempts = 0;
        }
    }

    /// The connection to a raylet of another node is lost. `gone`: the raylet is.
    pub(in crate::state) fn raylet_lost(&mut self, links: &mut Links, node: NodeId, gone: bool) {
        if gone || links.deaths.is_node_dead(node) || links.process.is_without_verdicts() {
            self.raylets.remove(&node);
            return;
        }
        let Some(raylet) = self.raylets.get_mut(&node) else {
            return;
        };
        if !raylet.timed {
            raylet.timed = true;
            let at = links.process.now + delay_before(raylet.attempts);
            links.timers.set(at, Timer::CallRaylet(node));
            raylet.attempts += 1;
        }
    }

    /// Calls a raylet again.
    pub(in crate::state) fn call_raylet_again(&mut self, base: &mut Base, node: NodeId) {
        if base.links.deaths.is_node_dead(node) || base.links.process.is_without_verdicts() {
            // Without a head nobody gives verdicts any more: the raylet has ended the leases.
            self.raylets.remove(&node);
        }
        let Some(raylet) = self.raylets.get_mut(&node) else {
            return;
        };
        raylet.timed = false;
        let address = raylet.address.clone();
        self.conn_to_raylet(base, node, &address);
    }
}
