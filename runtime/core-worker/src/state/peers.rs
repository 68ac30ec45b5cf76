//! Connections to other processes and the requests that are under way on them.

use std::collections::{HashMap, HashSet};

use sparkray_common::{
    ErrorCode, FunctionId, LeaseId, NodeId, ObjectId, TaskId, VERSION, WorkerAddress, WorkerId,
};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Endpoint, Frame, Target};
use tracing::debug;

use super::{Effect, SlotResult, State};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

/// A process that this one calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    LocalRaylet,
    Raylet(NodeId),
    Worker(WorkerId),
}

/// What a reply is for.
#[derive(Debug)]
pub(crate) enum Pending {
    Register,
    Lease(LeaseId),
    Push(TaskId),
    /// GetObject to an owner.
    Fetch(ObjectId),
    /// GetObjects to the local raylet; answered once for each of the objects.
    Read(HashSet<ObjectId>),
    StoreCreate(u64),
    Head(u64),
    /// A slot that only waits for Empty.
    Done(u64),
    /// AddBorrower to an owner.
    Borrow(Vec<ObjectId>),
}

#[derive(Debug, Default)]
pub(crate) struct ConnState {
    pub(crate) peer: Option<PeerKey>,
    pub(crate) pending: HashMap<u64, Pending>,
    /// Functions whose code this connection has carried.
    pub(crate) functions_sent: HashSet<FunctionId>,
    /// Who speaks on an incoming connection.
    pub(crate) from: Option<WorkerAddress>,
    /// The other side has said something.
    pub(crate) greeted: bool,
}

impl ConnState {
    pub(crate) fn new(peer: Option<PeerKey>) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }
}

impl State {
    pub(super) fn new_conn(&mut self, peer: Option<PeerKey>) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(conn, ConnState::new(peer));
        if let Some(peer) = peer {
            self.peers.insert(peer, conn);
        }
        conn
    }

    /// The connection to a worker, opened when there is none.
    pub(super) fn conn_to_worker(&mut self, address: &WorkerAddress) -> ConnId {
        let key = PeerKey::Worker(address.worker_id);
        if let Some(conn) = self.peers.get(&key) {
            return *conn;
        }
        let conn = self.new_conn(Some(key));
        let endpoint = if address.node_id == self.me.node_id {
            Endpoint::Abstract(self.raylet_socket.clone())
        } else {
            Endpoint::Tcp(address.node_address.clone())
        };
        let target = Target::Worker(address.node_id, address.worker_id);
        self.outbox.push(Effect::Open {
            conn,
            endpoint,
            target,
        });
        self.say_hello(conn);
        conn
    }

    /// The connection to a raylet, opened when there is none.
    pub(super) fn conn_to_raylet(&mut self, node_id: NodeId, node_address: &str) -> ConnId {
        if node_id == self.me.node_id {
            return RAYLET_CONN;
        }
        let key = PeerKey::Raylet(node_id);
        if let Some(conn) = self.peers.get(&key) {
            return *conn;
        }
        let conn = self.new_conn(Some(key));
        let endpoint = Endpoint::Tcp(node_address.to_owned());
        self.outbox.push(Effect::Open {
            conn,
            endpoint,
            target: Target::Raylet(node_id),
        });
        let message = proto::RegisterClient {
            worker_id: self.me.worker_id.to_vec().into(),
            kind: proto::ClientKind::Remote.into(),
            pid: std::process::id(),
            job_id: self.job_id.to_vec().into(),
            sparkray_version: VERSION.to_owned(),
            python_version: self.python_version.clone(),
            node_id: self.me.node_id.to_vec().into(),
            ..Default::default()
        };
        self.request(conn, Pending::Register, FrameKind::RegisterClient, &message, &[]);
        conn
    }

    pub(super) fn say_hello(&mut self, conn: ConnId) {
        let hello = proto::WorkerHello {
            address: Some(self.me_message.clone()),
            job_id: self.job_id.to_vec().into(),
        };
        self.send(conn, FrameKind::WorkerHello, 0, &hello, &[], true);
    }

    pub(super) fn on_hello(&mut self, conn: ConnId, message: &proto::WorkerHello) -> Result<(), CoreError> {
        let address = message
            .address
            .as_ref()
            .ok_or(proto::MessageError::Missing("address"))?;
        let address = WorkerAddress::try_from(address)?;
        let key = PeerKey::Worker(address.worker_id);
        if let Some(state) = self.conns.get_mut(&conn) {
            state.greeted = true;
            if state.peer.is_none() {
                state.peer = Some(key);
                self.peers.entry(key).or_insert(conn);
            }
            state.from = Some(address);
        }
        Ok(())
    }

    pub(super) fn take_pending(&mut self, conn: ConnId, correlation: u64) -> Option<Pending> {
        let state = self.conns.get_mut(&conn)?;
        state.greeted = true;
        let pending = state.pending.remove(&correlation);
        if pending.is_none() && correlation != 0 {
            debug!(conn, correlation, "a reply to nothing that was asked");
        }
        pending
    }

    pub(super) fn on_registered(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        self.take_pending(conn, frame.correlation);
        let reply: proto::RegisterClientReply = frame.decode()?;
        let outcome = match &reply.failure {
            Some(failure) => Err(CoreError::from(failure)),
            None => Ok(reply),
        };
        if conn == RAYLET_CONN {
            self.registered = Some(outcome);
        } else if let Err(error) = outcome {
            debug!(%error, "a raylet of another node refused this process");
        }
        Ok(())
    }

    pub(super) fn on_empty(&mut self, conn: ConnId, correlation: u64) {
        match self.take_pending(conn, correlation) {
            Some(Pending::Done(slot)) => self.fill_slot(slot, SlotResult::Done),
            Some(Pending::Borrow(objects)) => self.borrow_acknowledged(&objects),
            _ => {}
        }
    }

    /// The answer to a request will not come. Pushed tasks and fetches are handled by `on_closed`.
    pub(super) fn fail_pending(&mut self, pending: Pending, cause: &str) {
        let error = || {
            CoreError::new(
                ErrorCode::Unavailable,
                format!("the connection was lost: {cause}"),
            )
        };
        match pending {
            Pending::Register => {
                if self.registered.is_none() {
                    self.registered = Some(Err(error()));
                }
            }
            Pending::Lease(lease) => self.lease_request_lost(lease),
            Pending::Push(task) => self.push_lost(task, cause),
            Pending::Fetch(object) => self.fetch_failed(object, false),
            Pending::Read(objects) => {
                for object in objects {
                    self.read_failed(object, &error());
                }
            }
            Pending::StoreCreate(slot) | Pending::Head(slot) | Pending::Done(slot) => {
                self.fill_slot(slot, SlotResult::Failed(error()));
            }
            Pending::Borrow(objects) => self.borrow_acknowledged(&objects),
        }
    }
}
