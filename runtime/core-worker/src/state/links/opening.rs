//! Connections that begin: this process calls, or is called, and both say who they are.

use sparkray_common::{ErrorCode, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Agreement, Endpoint, Frame, Target};

use super::{ConnId, Link, Links, PeerKey, Timer, id_bytes};
use crate::error::CoreError;
use crate::state::outbox::Effect;

/// A connection that nobody has answered for this long is given up, in microseconds.
const ANSWER_TIME: u64 = 10_000_000;
/// Once the head is lost, who is called has this long to answer, in microseconds.
const LAST_ANSWER_TIME: u64 = 2_000_000;

impl Links {
    fn add(&mut self, peer: Option<PeerKey>) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.links.insert(conn, Link::new(peer));
        if let Some(peer) = peer {
            self.peers.insert(peer, conn);
        }
        conn
    }

    /// Calls a process.
    pub(in crate::state) fn open(&mut self, key: PeerKey, endpoint: Endpoint, target: Target) -> ConnId {
        self.metrics.opened();
        let conn = self.add(Some(key));
        self.out.effect(Effect::Open {
            conn,
            endpoint,
            target,
        });
        let patience = match self.process.head_lost {
            None => ANSWER_TIME,
            Some(_) => LAST_ANSWER_TIME,
        };
        self.timers
            .set(self.process.now + patience, Timer::Unanswered(conn));
        conn
    }

    /// Whoever was called and has not answered has little time left: nobody will say that it is dead.
    pub(in crate::state) fn hurry_unanswered(&mut self) {
        for conn in self.unanswered_conns() {
            self.timers
                .set(self.process.now + LAST_ANSWER_TIME, Timer::Unanswered(conn));
        }
    }

    /// The connection to a worker, opened when there is none.
    pub(in crate::state) fn conn_to_worker(&mut self, address: &WorkerAddress) -> ConnId {
        let key = PeerKey::Worker(address.worker_id);
        if let Some(conn) = self.peers.get(&key) {
            return *conn;
        }
        let endpoint = if address.node_id == self.process.me.node_id {
            Endpoint::Abstract(self.raylet_socket.clone())
        } else {
            Endpoint::Tcp(address.node_address.clone())
        };
        let target = Target::Worker(address.node_id, address.worker_id);
        let conn = self.open(key, endpoint, target);
        if let Some(link) = self.links.get_mut(&conn) {
            link.remote = Some(address.clone());
        }
        self.say_hello(conn);
        conn
    }

    fn say_hello(&mut self, conn: ConnId) {
        let hello = proto::WorkerHello {
            address: Some(self.process.me_message.clone()),
            job_id: id_bytes(self.process.job_id.as_bytes()),
        };
        self.send(conn, FrameKind::WorkerHello, 0, &hello, &[], true);
    }

    /// A socket that the raylet accepted for this process.
    pub(in crate::state) fn on_incoming(&mut self, mut frame: Frame) -> Result<(), CoreError> {
        let socket = frame.descriptor.take().ok_or_else(|| {
            CoreError::new(
                ErrorCode::Internal,
                "the raylet announced a connection without its socket",
            )
        })?;
        let message: proto::IncomingConnection = frame.decode()?;
        let agreement = Agreement::decode(&message.agreement)?;
        self.metrics.accepted();
        let conn = self.add(None);
        self.out.effect(Effect::Adopt {
            conn,
            socket,
            agreement,
        });
        self.say_hello(conn);
        Ok(())
    }

    /// The other side said who it is.
    pub(in crate::state) fn on_hello(
        &mut self,
        conn: ConnId,
        message: &proto::WorkerHello,
    ) -> Result<(), CoreError> {
        let address = message
            .address
            .as_ref()
            .ok_or(proto::MessageError::Missing("address"))?;
        let address = WorkerAddress::try_from(address)?;
        let worker = address.worker_id;
        if let Some(link) = self.links.get_mut(&conn) {
            link.registered = true;
            if link.peer.is_none() && !worker.is_nil() {
                let key = PeerKey::Worker(worker);
                link.peer = Some(key);
                self.peers.entry(key).or_insert(conn);
            }
            link.remote = Some(address);
        }
        self.peer_answered(worker);
        Ok(())
    }

    /// The other side may have lost the connection that this one still believes in: this is the one to use.
    pub(in crate::state) fn prefer(&mut self, conn: ConnId, address: &WorkerAddress) {
        if self.links.contains_key(&conn) {
            self.peers.insert(PeerKey::Worker(address.worker_id), conn);
        }
    }

    /// Who speaks on a connection.
    pub(in crate::state) fn sender_of(&self, conn: ConnId) -> Result<WorkerAddress, CoreError> {
        self.remote_of(conn).cloned().ok_or_else(|| {
            CoreError::new(
                ErrorCode::Internal,
                "a message came before its sender said who it is",
            )
        })
    }
}
