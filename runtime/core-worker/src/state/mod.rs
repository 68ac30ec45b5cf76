//! What a core worker knows and decides: a state machine without sockets, clocks or threads. Its methods take
//! what happened and leave [`Effect`]s in the outbox; `worker.rs` carries them out under the same lock, so that
//! frames leave in the order of the decisions.
//!
//! Invariants:
//! 1. A value, once resolved, never changes; every waiter of it is told exactly once.
//! 2. An owned object stays while a local reference, a borrower, or a value that contains it does.
//! 3. A reference in a message stays pinned by its sender until the receiver has registered as a borrower.
//! 4. Calls of one caller to one incarnation of an actor start in the order of their sequence numbers, once each.
//! 5. A task is in exactly one place: waiting for arguments, in its class's or actor's queue, or pushed.

mod actors;
mod execution;
mod objects;
mod peers;
mod tasks;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use sparkray_common::{
    ActorId, ErrorCode, JobId, LeaseId, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId,
};
use sparkray_proto::{self as proto, Failure, FrameKind};
use sparkray_rpc::{Endpoint, Frame, Target, encode_frame_head};
use tracing::{debug, warn};

use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

pub(crate) use actors::ActorClient;
pub(crate) use execution::{ArgumentValue, ExecutionState, Work};
pub use execution::{CreateActorWork, IncomingTask};
pub(crate) use objects::{Object, Value};
pub(crate) use peers::{ConnState, PeerKey, Pending};
pub use tasks::TaskTemplate;
pub(crate) use tasks::{CallKind, NewTask, SchedulingClass, Task};
use tasks::{ClassKey, Lease};

/// What the state wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    Open {
        conn: ConnId,
        endpoint: Endpoint,
        target: Target,
    },
    Send {
        conn: ConnId,
        bytes: Vec<u8>,
        urgent: bool,
    },
    Close {
        conn: ConnId,
    },
    /// A socket that the raylet accepted for this process.
    Adopt {
        conn: ConnId,
        socket: std::os::fd::OwnedFd,
    },
    /// Work for the code that embeds the core worker.
    Notify(Notice),
}

/// Something that the embedding code wants to know.
#[derive(Debug)]
pub enum Notice {
    /// Output of workers.
    Log(Vec<proto::LogLine>),
    /// Objects whose resolution was watched.
    Resolved(Vec<u64>),
    /// Calls arrived, or this worker is to end; only after `announce_work`.
    Work,
}

/// Result of a request that one thread waits for.
#[derive(Debug)]
pub(crate) enum SlotResult {
    Head(proto::HeadReply),
    Created(proto::CreateObjectReply, Option<std::os::fd::OwnedFd>),
    Done,
    Failed(CoreError),
}

pub(crate) struct State {
    pub(crate) me: WorkerAddress,
    pub(crate) me_message: proto::WorkerAddress,
    pub(crate) job_id: JobId,
    pub(crate) python_version: String,
    /// Name of the local raylet's abstract socket.
    pub(crate) raylet_socket: String,
    /// Microseconds since the worker began.
    pub(crate) now: u64,
    pub(crate) outbox: Vec<Effect>,
    conns: HashMap<ConnId, ConnState>,
    peers: HashMap<PeerKey, ConnId>,
    next_conn: ConnId,
    next_correlation: u64,
    next_slot: u64,
    pub(crate) slots: HashMap<u64, Option<SlotResult>>,
    pub(crate) objects: HashMap<ObjectId, Object>,
    /// AddBorrower messages that are not acknowledged.
    pub(crate) unacknowledged_borrows: HashSet<ObjectId>,
    tasks: HashMap<TaskId, Task>,
    class_index: HashMap<ClassKey, usize>,
    classes: Vec<SchedulingClass>,
    leases: HashMap<LeaseId, Lease>,
    pub(crate) actors: HashMap<ActorId, ActorClient>,
    pub(crate) execution: ExecutionState,
    /// References of a returned value that its receiver has not taken over yet.
    return_pins: HashMap<TaskId, (ConnId, Vec<ObjectId>)>,
    /// A task's results whose inner references are being registered: the executor is told when all are.
    pin_releases: Vec<(TaskId, ConnId, HashSet<ObjectId>)>,
    watchers: HashMap<ObjectId, Vec<u64>>,
    resolved_watchers: Vec<u64>,
    dead_workers: HashSet<WorkerId>,
    /// Why nothing works any more: the local raylet is gone.
    pub(crate) broken: Option<CoreError>,
    /// Why nothing that needs the head works.
    pub(crate) head_lost: Option<String>,
    /// Objects whose store ranges are to be released.
    pub(crate) registered: Option<Result<proto::RegisterClientReply, CoreError>>,
    ready_reads: Vec<(ObjectId, proto::ObjectReady, Option<std::os::fd::OwnedFd>)>,
}

impl State {
    pub(crate) fn new(
        me: WorkerAddress,
        job_id: JobId,
        python_version: String,
        raylet_socket: String,
    ) -> Self {
        let me_message = (&me).into();
        let mut state = Self {
            me,
            me_message,
            job_id,
            python_version,
            raylet_socket,
            now: 0,
            outbox: Vec::new(),
            conns: HashMap::new(),
            peers: HashMap::new(),
            next_conn: RAYLET_CONN + 1,
            next_correlation: 1,
            next_slot: 1,
            slots: HashMap::new(),
            objects: HashMap::new(),
            unacknowledged_borrows: HashSet::new(),
            tasks: HashMap::new(),
            class_index: HashMap::new(),
            classes: Vec::new(),
            leases: HashMap::new(),
            actors: HashMap::new(),
            execution: ExecutionState::default(),
            return_pins: HashMap::new(),
            pin_releases: Vec::new(),
            watchers: HashMap::new(),
            resolved_watchers: Vec::new(),
            dead_workers: HashSet::new(),
            broken: None,
            head_lost: None,
            registered: None,
            ready_reads: Vec::new(),
        };
        state
            .conns
            .insert(RAYLET_CONN, ConnState::new(Some(PeerKey::LocalRaylet)));
        state.peers.insert(PeerKey::LocalRaylet, RAYLET_CONN);
        state
    }

    /// The identity of this process once the raylet has told it.
    pub(crate) fn set_address(&mut self, node_id: NodeId, node_address: String) {
        self.me.node_id = node_id;
        self.me.node_address = node_address;
        self.me_message = (&self.me).into();
    }

    // ---- sending -------------------------------------------------------------------------------------------

    /// Queues a frame for a connection.
    fn send<M: Message>(
        &mut self,
        conn: ConnId,
        kind: FrameKind,
        correlation: u64,
        message: &M,
        payload: &[&[u8]],
        urgent: bool,
    ) {
        let payload_len = payload.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::new();
        encode_frame_head(&mut bytes, kind, correlation, message, payload_len);
        for part in payload {
            bytes.extend_from_slice(part);
        }
        self.outbox.push(Effect::Send { conn, bytes, urgent });
    }

    /// Queues a request and remembers what its reply is for.
    fn request<M: Message>(
        &mut self,
        conn: ConnId,
        pending: Pending,
        kind: FrameKind,
        message: &M,
        payload: &[&[u8]],
    ) {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let Some(state) = self.conns.get_mut(&conn) else {
            // The connection closed between the decision and this call.
            self.fail_pending(pending, "the connection is closed");
            return;
        };
        // With nothing else under way the other side waits for this frame; else it may travel with others.
        let urgent = state.pending.len() < 2;
        state.pending.insert(correlation, pending);
        self.send(conn, kind, correlation, message, payload, urgent);
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
        let slot = self.new_slot();
        self.request(RAYLET_CONN, pending(slot), kind, message, &[]);
        slot
    }

    pub(crate) fn new_slot(&mut self) -> u64 {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(slot, None);
        slot
    }

    fn fill_slot(&mut self, slot: u64, result: SlotResult) {
        // A thread that gave up has removed its slot.
        if let Some(place) = self.slots.get_mut(&slot) {
            *place = Some(result);
        }
    }

    // ---- receiving -----------------------------------------------------------------------------------------

    /// Takes in one frame.
    pub(crate) fn on_frame(&mut self, conn: ConnId, frame: Frame) {
        let kind = frame.kind;
        if let Err(error) = self.dispatch(conn, frame) {
            warn!(conn, ?kind, %error, "closed a connection whose messages cannot be understood");
            self.outbox.push(Effect::Close { conn });
            self.on_closed(conn, &error.message);
        }
    }

    fn dispatch(&mut self, conn: ConnId, mut frame: Frame) -> Result<(), CoreError> {
        match frame.kind {
            FrameKind::PushTask => self.on_push_task(conn, &frame)?,
            FrameKind::PushTaskReply => self.on_push_reply(conn, &frame)?,
            FrameKind::GetObject => self.on_get_object(conn, frame.correlation, &frame.decode()?)?,
            FrameKind::GetObjectReply => self.on_get_object_reply(conn, &frame)?,
            FrameKind::AddBorrower => self.on_add_borrower(conn, frame.correlation, &frame.decode()?)?,
            FrameKind::RemoveBorrower => self.on_remove_borrower(conn, &frame.decode()?)?,
            FrameKind::ReleaseReturnPins => self.on_release_return_pins(&frame.decode()?)?,
            FrameKind::WorkerHello => self.on_hello(conn, &frame.decode()?)?,
            FrameKind::Empty => self.on_empty(conn, frame.correlation),
            FrameKind::LocationLost => self.on_location_lost(&frame.decode()?)?,
            FrameKind::RegisterClientReply => self.on_registered(conn, &frame)?,
            FrameKind::RequestWorkerLeaseReply => self.on_lease_reply(conn, &frame)?,
            FrameKind::LeaseWanted => self.on_lease_wanted(&frame.decode()?)?,
            FrameKind::LeaseBroken => self.on_lease_broken(&frame.decode()?)?,
            FrameKind::HeadReply => {
                if let Some(Pending::Head(slot)) = self.take_pending(conn, frame.correlation) {
                    let reply = frame.decode()?;
                    self.fill_slot(slot, SlotResult::Head(reply));
                }
            }
            FrameKind::ActorUpdate => self.on_actor_update(&frame.decode()?)?,
            FrameKind::CreateActor => self.on_create_actor(frame.correlation, frame.decode()?),
            FrameKind::IncomingConnection => {
                let socket = frame.descriptor.take().ok_or_else(|| {
                    CoreError::new(
                        ErrorCode::Internal,
                        "the raylet announced a connection without its socket",
                    )
                })?;
                let conn = self.new_conn(None);
                self.outbox.push(Effect::Adopt { conn, socket });
                self.say_hello(conn);
            }
            FrameKind::ExitWorker => {
                let message: proto::ExitWorker = frame.decode()?;
                debug!(reason = message.reason, "the raylet ends this worker");
                self.execution.exit = true;
            }
            FrameKind::NodeDied => self.on_node_died(&frame.decode()?)?,
            FrameKind::WorkerDied => self.on_worker_died(&frame.decode()?)?,
            FrameKind::HeadLost => {
                let message: proto::HeadLost = frame.decode()?;
                self.on_head_lost(message.cause);
            }
            FrameKind::LogBatch => {
                let batch: proto::LogBatch = frame.decode()?;
                self.outbox.push(Effect::Notify(Notice::Log(batch.lines)));
            }
            FrameKind::CreateObjectReply => {
                if let Some(Pending::StoreCreate(slot)) = self.take_pending(conn, frame.correlation) {
                    let reply = frame.decode()?;
                    self.fill_slot(slot, SlotResult::Created(reply, frame.descriptor.take()));
                }
            }
            FrameKind::ObjectReady => self.on_object_ready(conn, frame)?,
            other => {
                return Err(CoreError::new(
                    ErrorCode::Internal,
                    format!("a core worker takes no {other:?} message"),
                ));
            }
        }
        Ok(())
    }

    /// A connection is gone.
    pub(crate) fn on_closed(&mut self, conn: ConnId, cause: &str) {
        let Some(state) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(peer) = state.peer {
            if self.peers.get(&peer) == Some(&conn) {
                self.peers.remove(&peer);
            }
        }
        if conn == RAYLET_CONN {
            self.on_raylet_lost(cause);
        }
        self.drop_borrower_connection(conn);
        self.drop_return_pins_of(conn);
        self.execution.caller_gone(conn);
        // Tasks first, in the order of their pushes, because the first of a worker is the one that ran.
        let mut pending: Vec<(u64, Pending)> = state.pending.into_iter().collect();
        pending.sort_by_key(|(correlation, _)| *correlation);
        let mut pushed = Vec::new();
        for (_, pending) in pending {
            match pending {
                Pending::Push(task) => pushed.push(task),
                Pending::Fetch(object) => self.fetch_failed(object, state.greeted),
                other => self.fail_pending(other, cause),
            }
        }
        self.on_worker_connection_lost(conn, pushed, cause);
    }

    fn on_raylet_lost(&mut self, cause: &str) {
        if self.broken.is_some() {
            return;
        }
        let error = CoreError::new(
            ErrorCode::NotRunning,
            format!("the raylet of this node is gone ({cause}): call shutdown() and init() again"),
        );
        self.execution.exit = true;
        self.broken = Some(error.clone());
        let open: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, result)| result.is_none())
            .map(|(slot, _)| *slot)
            .collect();
        for slot in open {
            self.fill_slot(slot, SlotResult::Failed(error.clone()));
        }
    }

    fn on_head_lost(&mut self, cause: String) {
        if self.head_lost.is_some() {
            return;
        }
        warn!(cause, "the head is gone");
        self.fail_actors_without_head(&cause);
        self.head_lost = Some(cause);
    }

    /// The time passes; `now` in microseconds.
    pub(crate) fn on_tick(&mut self, now: u64) {
        self.now = now;
        self.return_idle_leases();
        self.reconnect_actors();
        self.give_back_if_slow();
    }

    /// When [`State::on_tick`] has something to do next, in microseconds from now.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let lease = self.next_lease_deadline();
        let actor = self.next_actor_deadline();
        let slow = self.next_slow_deadline();
        [lease, actor, slow]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_sub(self.now))
    }

    /// Moves finished watches to the outbox.
    pub(crate) fn collect_notices(&mut self) {
        if self.execution.announce && (self.execution.has_work() || self.execution.exit) {
            self.outbox.push(Effect::Notify(Notice::Work));
        }
        if !self.resolved_watchers.is_empty() {
            let resolved = std::mem::take(&mut self.resolved_watchers);
            self.outbox.push(Effect::Notify(Notice::Resolved(resolved)));
        }
    }

    pub(crate) fn take_ready_reads(
        &mut self,
    ) -> Vec<(ObjectId, proto::ObjectReady, Option<std::os::fd::OwnedFd>)> {
        std::mem::take(&mut self.ready_reads)
    }
}

/// Splits the inline parts of a payload.
pub(crate) struct PayloadReader {
    rest: Bytes,
}

impl PayloadReader {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self { rest: payload }
    }

    pub(crate) fn take(&mut self, length: u64) -> Result<Bytes, CoreError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.rest.len() {
            return Err(CoreError::new(
                ErrorCode::Internal,
                format!(
                    "a payload of {} bytes is shorter than its message says ({length})",
                    self.rest.len()
                ),
            ));
        }
        Ok(self.rest.split_to(length))
    }
}

impl From<sparkray_proto::MessageError> for CoreError {
    fn from(error: sparkray_proto::MessageError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

impl From<sparkray_common::IdError> for CoreError {
    fn from(error: sparkray_common::IdError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

pub(crate) fn failure_of(error: &CoreError) -> Failure {
    Failure::new(error.code, error.message.clone())
}
