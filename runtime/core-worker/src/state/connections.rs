//! Connections to other processes and the requests that are under way on them.

use bytes::Bytes;
use prost::Message;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, LeaseId, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId,
};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Agreement, Endpoint, FRAME_HEADER_LEN, Frame, FrameHeader, Target};
use tracing::debug;

use super::timers::Timer;
use super::{Effect, SlotResult, State};
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};
use crate::reactor::{ConnId, RAYLET_CONN};

/// A connection that nobody has answered for this long is given up, in microseconds.
const ANSWER_TIME: u64 = 10_000_000;
/// Once the head is lost, who is called has this long to answer, in microseconds.
pub(super) const LAST_ANSWER_TIME: u64 = 2_000_000;
/// An empty buffer of a connection keeps at most this much memory.
const KEPT_BUFFER: usize = 64 * 1024;

/// A process that this one talks to.
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
    Read(IdSet<ObjectId>),
    Create {
        slot: u64,
        object: ObjectId,
    },
    Head(u64),
    /// RegisterActor, for which no thread waits.
    Creation(ActorId),
    /// A slot that only waits for Empty.
    Done(u64),
    /// AddBorrower to an owner.
    Borrow {
        settles: Vec<ObjectId>,
        owner: WorkerId,
        registration: u64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct ConnState {
    pub(super) peer: Option<PeerKey>,
    /// Who is at the other end: who was called, or who said hello.
    pub(super) remote: Option<WorkerAddress>,
    pub(super) pending: IdMap<u64, Pending>,
    /// Functions whose code this connection has carried.
    pub(super) functions_sent: IdSet<FunctionId>,
    /// The lease whose worker is at the other end.
    pub(super) lease: Option<LeaseId>,
    /// The greatest correlation id of a function whose results came; for workers of other nodes only.
    pub(super) answered: u64,
    /// The other side has said something.
    pub(super) greeted: bool,
    /// Encoded frames that have not been handed on.
    out: Vec<u8>,
    /// One of them should leave at once.
    urgent: bool,
}

impl ConnState {
    pub(super) fn new(peer: Option<PeerKey>) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.lease.is_none() && self.out.is_empty()
    }

    /// The worker at the other end.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match self.peer {
            Some(PeerKey::Worker(worker)) => Some(worker),
            _ => None,
        }
    }
}

/// Appends a whole frame whose message begins with fields that are encoded already.
pub(super) fn encode_frame<M: Message>(
    out: &mut Vec<u8>,
    kind: FrameKind,
    correlation: u64,
    prefix: &[u8],
    message: &M,
    payload: &[&[u8]],
) {
    let meta_len = prefix.len() + message.encoded_len();
    let payload_len = payload.iter().map(|part| part.len()).sum();
    let header = FrameHeader {
        kind,
        has_descriptor: false,
        meta_len,
        payload_len,
        correlation,
    };
    out.reserve(FRAME_HEADER_LEN + meta_len + payload_len);
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(prefix);
    message.encode(out).expect("a Vec grows as needed");
    for part in payload {
        out.extend_from_slice(part);
    }
}

impl State {
    // ---- sending -------------------------------------------------------------------------------------------

    /// The buffer of frames for a connection; `None`: it is closed.
    fn outgoing(&mut self, conn: ConnId, urgent: bool) -> Option<&mut Vec<u8>> {
        let state = self.conns.get_mut(&conn)?;
        if state.out.is_empty() {
            self.touched.push(conn);
        }
        state.urgent |= urgent;
        Some(&mut state.out)
    }

    /// Queues a frame for a connection.
    pub(super) fn send<M: Message>(
        &mut self,
        conn: ConnId,
        kind: FrameKind,
        correlation: u64,
        message: &M,
        payload: &[&[u8]],
        urgent: bool,
    ) {
        if let Some(out) = self.outgoing(conn, urgent) {
            encode_frame(out, kind, correlation, &[], message, payload);
        }
    }

    /// Queues a frame that is encoded already.
    pub(super) fn send_encoded(&mut self, conn: ConnId, frame: &[u8], urgent: bool) {
        if let Some(out) = self.outgoing(conn, urgent) {
            out.extend_from_slice(frame);
        }
    }

    /// Queues a request and remembers what its reply is for.
    pub(super) fn request<M: Message>(
        &mut self,
        conn: ConnId,
        pending: Pending,
        kind: FrameKind,
        message: &M,
    ) {
        self.request_with(conn, pending, kind, &[], message, &[]);
    }

    /// As [`State::request`], with fields that are encoded already and a payload.
    pub(super) fn request_with<M: Message>(
        &mut self,
        conn: ConnId,
        pending: Pending,
        kind: FrameKind,
        prefix: &[u8],
        message: &M,
        payload: &[&[u8]],
    ) {
        let correlation = self.next_correlation;
        let Some(state) = self.conns.get_mut(&conn) else {
            // The connection closed between the decision and this call.
            self.fail_pending(pending, "the connection is closed");
            return;
        };
        self.next_correlation += 1;
        // With nothing else under way the other side waits for this frame; else it may travel with others.
        let urgent = state.pending.len() < 2;
        state.pending.insert(correlation, pending);
        if let Some(out) = self.outgoing(conn, urgent) {
            encode_frame(out, kind, correlation, prefix, message, payload);
        }
    }

    pub(crate) fn tell_raylet<M: Message>(&mut self, kind: FrameKind, message: &M, urgent: bool) {
        self.send(RAYLET_CONN, kind, 0, message, &[], urgent);
    }

    /// A request to the local raylet for which a thread waits.
    pub(crate) fn ask_raylet<M: Message>(
        &mut self,
        pending: impl FnOnce(u64) -> Pending,
        kind: FrameKind,
        message: &M,
    ) -> u64 {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(slot, None);
        self.request(RAYLET_CONN, pending(slot), kind, message);
        slot
    }

    /// Hands every queued frame to `take`: connection, bytes, and whether they should leave at once.
    pub(crate) fn take_outgoing(&mut self, mut take: impl FnMut(ConnId, &[u8], bool)) {
        for conn in self.touched.drain(..) {
            let Some(state) = self.conns.get_mut(&conn) else {
                continue;
            };
            take(conn, &state.out, state.urgent);
            state.out.clear();
            state.out.shrink_to(KEPT_BUFFER);
            state.urgent = false;
        }
    }

    // ---- opening -------------------------------------------------------------------------------------------

    pub(super) fn new_conn(&mut self, peer: Option<PeerKey>) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(conn, ConnState::new(peer));
        if let Some(peer) = peer {
            self.peers.insert(peer, conn);
        }
        conn
    }

    pub(super) fn open(&mut self, key: PeerKey, endpoint: Endpoint, target: Target) -> ConnId {
        let conn = self.new_conn(Some(key));
        self.effects.push(Effect::Open {
            conn,
            endpoint,
            target,
        });
        let patience = match self.head_lost {
            None => ANSWER_TIME,
            Some(_) => LAST_ANSWER_TIME,
        };
        self.timers.set(self.now + patience, Timer::Unanswered(conn));
        conn
    }

    /// The connection to a worker, opened when there is none.
    pub(super) fn conn_to_worker(&mut self, address: &WorkerAddress) -> ConnId {
        let key = PeerKey::Worker(address.worker_id);
        if let Some(conn) = self.peers.get(&key) {
            return *conn;
        }
        let endpoint = if address.node_id == self.me.node_id {
            Endpoint::Abstract(self.raylet_socket.clone())
        } else {
            Endpoint::Tcp(address.node_address.clone())
        };
        let target = Target::Worker(address.node_id, address.worker_id);
        let conn = self.open(key, endpoint, target);
        if let Some(state) = self.conns.get_mut(&conn) {
            state.remote = Some(address.clone());
        }
        self.say_hello(conn);
        conn
    }

    fn say_hello(&mut self, conn: ConnId) {
        let hello = proto::WorkerHello {
            address: Some(self.me_message.clone()),
            job_id: self.job_id.to_vec().into(),
        };
        self.send(conn, FrameKind::WorkerHello, 0, &hello, &[], true);
    }

    /// A socket that the raylet accepted for this process.
    pub(super) fn on_incoming(&mut self, mut frame: Frame) -> Result<(), CoreError> {
        let socket = frame.descriptor.take().ok_or_else(|| {
            CoreError::new(
                ErrorCode::Internal,
                "the raylet announced a connection without its socket",
            )
        })?;
        let message: proto::IncomingConnection = frame.decode()?;
        let agreement = Agreement::decode(&message.agreement)?;
        let conn = self.new_conn(None);
        self.effects.push(Effect::Adopt {
            conn,
            socket,
            agreement,
        });
        self.say_hello(conn);
        Ok(())
    }

    pub(super) fn on_hello(&mut self, conn: ConnId, message: &proto::WorkerHello) -> Result<(), CoreError> {
        let address = message
            .address
            .as_ref()
            .ok_or(proto::MessageError::Missing("address"))?;
        let address = WorkerAddress::try_from(address)?;
        let worker = address.worker_id;
        if let Some(state) = self.conns.get_mut(&conn) {
            state.greeted = true;
            if state.peer.is_none() && !worker.is_nil() {
                let key = PeerKey::Worker(worker);
                state.peer = Some(key);
                self.peers.entry(key).or_insert(conn);
            }
            state.remote = Some(address);
        }
        self.peer_answered(worker);
        Ok(())
    }

    /// Who speaks on a connection.
    pub(super) fn sender_of(&self, conn: ConnId) -> Result<WorkerAddress, CoreError> {
        let remote = self.conns.get(&conn).and_then(|state| state.remote.clone());
        remote.ok_or_else(|| {
            CoreError::new(
                ErrorCode::Internal,
                "a message came before its sender said who it is",
            )
        })
    }

    pub(super) fn on_registered(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        self.take_pending(conn, frame.correlation);
        let reply: proto::RegisterClientReply = frame.decode()?;
        let outcome = match &reply.failure {
            Some(failure) => Err(CoreError::from(failure)),
            None => Ok(reply),
        };
        if conn == RAYLET_CONN {
            self.registered = Some(outcome);
            self.lease = frame.descriptor;
            self.news = true;
        } else {
            self.raylet_answered(conn, outcome.is_err());
            if let Err(error) = outcome {
                debug!(%error, "a raylet of another node refused this process");
            }
        }
        Ok(())
    }

    // ---- replies -------------------------------------------------------------------------------------------

    pub(super) fn take_pending(&mut self, conn: ConnId, correlation: u64) -> Option<Pending> {
        let state = self.conns.get_mut(&conn)?;
        state.greeted = true;
        let pending = state.pending.remove(&correlation);
        if pending.is_none() && correlation != 0 {
            debug!(conn, correlation, "a reply to nothing that was asked");
        }
        pending
    }

    pub(super) fn on_empty(&mut self, conn: ConnId, correlation: u64) {
        match self.take_pending(conn, correlation) {
            Some(Pending::Done(slot)) => self.fill_slot(slot, SlotResult::Done),
            Some(Pending::Borrow {
                settles,
                owner,
                registration,
            }) => {
                self.borrows_acknowledged(&settles);
                self.registered_with(owner, registration);
            }
            _ => {}
        }
    }

    pub(super) fn fill_slot(&mut self, slot: u64, result: SlotResult) {
        // A thread that gave up has removed its slot.
        if let Some(place) = self.slots.get_mut(&slot) {
            *place = Some(result);
            self.news = true;
        }
    }

    pub(super) fn on_head_reply(&mut self, conn: ConnId, frame: &Frame) {
        let reply = frame.decode::<proto::HeadReply>().map_err(CoreError::from);
        match self.take_pending(conn, frame.correlation) {
            Some(Pending::Head(slot)) => {
                let result = reply.map_or_else(SlotResult::Failed, SlotResult::Head);
                self.fill_slot(slot, result);
            }
            Some(Pending::Creation(actor)) => {
                let failure = reply.and_then(|reply| match &reply.failure {
                    Some(failure) => Err(failure.into()),
                    None => Ok(()),
                });
                match failure {
                    Ok(()) => self.actor_registered(actor),
                    Err(error) => {
                        let unsure = error.code == ErrorCode::Unavailable;
                        self.actor_refused(actor, error, unsure);
                    }
                }
            }
            _ => {}
        }
    }

    /// The answer to a request will not come. Pushed tasks, fetches and borrows are handled by
    /// [`State::on_closed`] when a whole connection broke.
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
                    self.news = true;
                }
            }
            Pending::Lease(lease) => self.lease_request_lost(lease),
            Pending::Push(task) => self.push_lost(task, cause),
            Pending::Fetch(object) => self.fetch_lost(object),
            Pending::Read(objects) => {
                for object in objects {
                    self.read_failed(object, &error());
                }
            }
            Pending::Create { slot, .. } | Pending::Head(slot) | Pending::Done(slot) => {
                self.fill_slot(slot, SlotResult::Failed(error()));
            }
            Pending::Creation(actor) => self.actor_refused(actor, error(), true),
            Pending::Borrow { settles, owner, .. } => self.borrows_lost(owner, settles),
        }
    }

    /// The id as a message carries it.
    pub(super) fn id_bytes(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }
}
