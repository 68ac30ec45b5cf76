//! What a core worker knows and decides: a state machine without sockets, clocks or threads. Its methods take
//! what happened and leave frames and [`Effect`]s behind; `worker.rs` carries them out under the same lock, so that
//! frames leave in the order of the decisions.
//!
//! Invariants:
//! 1. A value, once resolved, never changes, but for a loss; every waiter of it is told exactly once.
//! 2. An owned object stays while a local reference, a borrower, or a value that contains it does.
//! 3. A reference in a message stays pinned by its sender until the receiver has registered as a borrower.
//! 4. Calls of one caller to one incarnation of an actor start in the order of their sequence numbers, once each.
//! 5. A task is in exactly one place: waiting for arguments, in its class's or actor's queue, or pushed.

mod actor_calls;
mod actors;
mod answers;
mod borrowers;
mod borrowing;
mod callers;
mod closing;
mod connections;
mod deaths;
mod dependency_errors;
mod execution;
mod ids;
mod leases;
mod losses;
mod objects;
mod owners;
mod raylets;
mod reading;
mod replies;
mod scheduling;
mod submission;
mod timers;
mod unhandled;
mod unreachable;
mod waits;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, JobId, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, Failure, FrameKind};
use sparkray_rpc::{Agreement, Endpoint, Frame, Target};
use tracing::{debug, warn};

use crate::error::CoreError;
use crate::hash::IdMap;
use crate::reactor::{CloseCause, ConnId, RAYLET_CONN};
use crate::store::Dropped;

use actors::ActorClient;
pub(crate) use actors::Creation;
pub use actors::HandleKind;
use borrowers::Borrower;
use borrowing::{Borrowing, ReturnPins};
use connections::ConnState;
pub(crate) use connections::{PeerKey, Pending};
use deaths::Deaths;
pub(crate) use execution::{ArgumentValue, ExecutionState, Work, stored_argument};
pub use execution::{CreateActorWork, IncomingTask};
pub(crate) use ids::IdSource;
pub(crate) use objects::{Locations, Object, Value};
use raylets::OtherRaylet;
pub(crate) use reading::StoreAnswer;
use scheduling::Scheduling;
use submission::Task;
pub use submission::{ActorMethod, TaskTemplate};
pub(crate) use submission::{CallKind, NewTask};
use timers::Timers;
use unhandled::Unhandled;
use unreachable::Unreachable;
use waits::Wait;
use waits::WaitId;
pub(crate) use waits::{Begun, unknown_object};

/// What the state wants done, beside sending frames.
#[derive(Debug)]
pub(crate) enum Effect {
    Open {
        conn: ConnId,
        endpoint: Endpoint,
        target: Target,
    },
    Close {
        conn: ConnId,
    },
    /// A socket that the raylet accepted for this process.
    Adopt {
        conn: ConnId,
        socket: OwnedFd,
        agreement: Agreement,
    },
    /// Work for the code that embeds the core worker.
    Notify(Notice),
}

/// Something that the embedding code wants to know.
#[derive(Debug)]
pub enum Notice {
    /// Output of workers.
    Log(Vec<proto::LogLine>),
    /// The value of an object that was asked for by [`crate::CoreWorker::fetch_later`].
    Fetched(u64, Result<crate::Fetched, CoreError>),
    /// An error value that nobody asked for is gone, and this many before it of which nothing was said.
    UnhandledError {
        /// The whole value.
        error: Bytes,
        /// How many.
        left_out: u64,
    },
    /// Calls arrived, or this worker is to end; only after [`crate::CoreWorker::announce_work`].
    Work,
}

/// Result of a request that one thread waits for.
#[derive(Debug)]
pub(crate) enum SlotResult {
    Head(proto::HeadReply),
    Created(proto::CreateObjectReply, Option<OwnedFd>),
    Done,
    Failed(CoreError),
}

pub(crate) struct State {
    pub(crate) me: Arc<WorkerAddress>,
    pub(crate) me_message: proto::WorkerAddress,
    pub(crate) job_id: JobId,
    pub(crate) python_version: String,
    pub(crate) ids: IdSource,
    /// Name of the local raylet's abstract socket.
    raylet_socket: String,
    /// Microseconds since the worker began.
    pub(crate) now: u64,
    pub(crate) effects: Vec<Effect>,
    /// Connections with frames that have not been handed on.
    touched: Vec<ConnId>,
    /// Something happened for which a thread may wait.
    news: bool,
    conns: IdMap<ConnId, ConnState>,
    peers: HashMap<PeerKey, ConnId>,
    /// Processes that this one has ties to and no connection with.
    unreachable: IdMap<WorkerId, Unreachable>,
    /// Raylets of other nodes that were called.
    raylets: IdMap<NodeId, OtherRaylet>,
    /// Processes that hold references to objects of this one.
    borrowers: IdMap<WorkerId, Borrower>,
    /// Connections to processes that are said to be dead, and why they died.
    closing: IdMap<ConnId, String>,
    deaths: Deaths,
    timers: Timers,
    next_conn: ConnId,
    next_correlation: u64,
    next_slot: u64,
    next_wait: WaitId,
    pub(crate) slots: IdMap<u64, Option<SlotResult>>,
    waits: IdMap<WaitId, Wait>,
    pub(crate) objects: IdMap<ObjectId, Object>,
    /// Bytes of arguments of calls that are not finished, and of values that were put and are not in the store.
    pub(crate) inline_bytes: usize,
    /// Objects that the store is to be asked for.
    reads: Vec<ObjectId>,
    /// Tasks and actors that waited for objects and may go on.
    dependents: VecDeque<objects::Waiter>,
    telling_dependents: bool,
    /// What the store answered, in the order of its frames.
    store_answers: Vec<StoreAnswer>,
    /// Objects that the store is to free.
    frees: Vec<proto::FreeEntry>,
    borrowing: Borrowing,
    return_pins: IdMap<TaskId, ReturnPins>,
    tasks: IdMap<TaskId, Task>,
    scheduling: Scheduling,
    actors: IdMap<ActorId, ActorClient>,
    pub(crate) execution: ExecutionState,
    /// Why nothing works any more: the local raylet is gone, or this process has left.
    pub(crate) broken: Option<CoreError>,
    /// Why nothing that needs the head works.
    pub(crate) head_lost: Option<String>,
    /// Errors that nobody asked for.
    pub(crate) unhandled: Unhandled,
    /// What the raylet said when this process registered.
    pub(crate) registered: Option<Result<proto::RegisterClientReply, CoreError>>,
    /// A worker's: where its node's lease is to be read.
    pub(crate) lease: Option<OwnedFd>,
}

impl State {
    pub(crate) fn new(
        me: WorkerAddress,
        job_id: JobId,
        python_version: String,
        raylet_socket: String,
        ids: IdSource,
    ) -> Self {
        let me_message = (&me).into();
        let mut state = Self {
            me: Arc::new(me),
            me_message,
            job_id,
            python_version,
            ids,
            raylet_socket,
            now: 0,
            effects: Vec::new(),
            touched: Vec::new(),
            news: false,
            conns: IdMap::default(),
            peers: HashMap::new(),
            unreachable: IdMap::default(),
            raylets: IdMap::default(),
            borrowers: IdMap::default(),
            closing: IdMap::default(),
            deaths: Deaths::default(),
            timers: Timers::default(),
            next_conn: RAYLET_CONN + 1,
            next_correlation: 1,
            next_slot: 1,
            next_wait: 1,
            slots: IdMap::default(),
            waits: IdMap::default(),
            objects: IdMap::default(),
            inline_bytes: 0,
            reads: Vec::new(),
            dependents: VecDeque::new(),
            telling_dependents: false,
            store_answers: Vec::new(),
            frees: Vec::new(),
            borrowing: Borrowing::default(),
            return_pins: IdMap::default(),
            tasks: IdMap::default(),
            scheduling: Scheduling::default(),
            actors: IdMap::default(),
            execution: ExecutionState::default(),
            broken: None,
            head_lost: None,
            unhandled: Unhandled::default(),
            registered: None,
            lease: None,
        };
        let raylet = ConnState::new(Some(PeerKey::LocalRaylet));
        state.conns.insert(RAYLET_CONN, raylet);
        state.peers.insert(PeerKey::LocalRaylet, RAYLET_CONN);
        state
    }

    /// The identity of this process once the raylet has told it.
    pub(crate) fn set_address(&mut self, node_id: NodeId, node_address: String) {
        self.me = Arc::new(WorkerAddress {
            node_id,
            worker_id: self.me.worker_id,
            node_address,
        });
        self.me_message = (&*self.me).into();
    }

    // ---- receiving -----------------------------------------------------------------------------------------

    /// Takes in one frame.
    pub(crate) fn on_frame(&mut self, conn: ConnId, frame: Frame) {
        if !self.conns.contains_key(&conn) {
            // This side closed the connection before it read the frame.
            return;
        }
        let kind = frame.kind;
        if let Err(error) = self.dispatch(conn, frame) {
            warn!(conn, ?kind, %error, "closed a connection whose messages cannot be understood");
            self.effects.push(Effect::Close { conn });
            self.on_closed(conn, &CloseCause::new(error.message));
        }
    }

    fn dispatch(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        let correlation = frame.correlation;
        self.check_speaker(conn, frame.kind)?;
        match frame.kind {
            FrameKind::PushTask => self.on_push_task(conn, &frame),
            FrameKind::PushTaskReply => self.on_push_reply(conn, &frame),
            FrameKind::AcknowledgeReplies => self.on_acknowledge_replies(conn, &frame.decode()?),
            FrameKind::GetObject => self.on_get_object(conn, correlation, &frame.decode()?),
            FrameKind::GetObjectReply => self.on_get_object_reply(conn, &frame),
            FrameKind::AddBorrower => self.on_add_borrower(conn, correlation, &frame.decode()?),
            FrameKind::RemoveBorrower => self.on_remove_borrower(conn, &frame.decode()?),
            FrameKind::RegisterAgain => self.on_register_again(conn, &frame.decode()?),
            FrameKind::ReleaseReturnPins => self.on_release_return_pins(&frame.decode()?),
            FrameKind::LocationLost => self.on_location_lost(&frame.decode()?),
            FrameKind::WorkerHello => self.on_hello(conn, &frame.decode()?),
            FrameKind::Empty => {
                self.on_empty(conn, correlation);
                Ok(())
            }
            _ => self.dispatch_from_raylet(conn, frame),
        }
    }

    /// Whether the other end of a connection may say such a thing: workers speak for themselves, a raylet for its leases,
    /// and only the raylet of this node for the cluster.
    fn check_speaker(&self, conn: ConnId, kind: FrameKind) -> Result<(), CoreError> {
        let is_raylet = self.conns.get(&conn).is_some_and(|state| match state.peer {
            Some(PeerKey::LocalRaylet | PeerKey::Raylet(_)) => true,
            Some(PeerKey::Worker(_)) => false,
            // A raylet of another node that calls says so by an address without a worker.
            None => state
                .remote
                .as_ref()
                .is_some_and(|remote| remote.worker_id.is_nil()),
        });
        let allowed = match kind {
            FrameKind::Empty => true,
            FrameKind::WorkerHello
            | FrameKind::PushTask
            | FrameKind::PushTaskReply
            | FrameKind::AcknowledgeReplies
            | FrameKind::GetObject
            | FrameKind::GetObjectReply
            | FrameKind::AddBorrower
            | FrameKind::RemoveBorrower
            | FrameKind::RegisterAgain
            | FrameKind::ReleaseReturnPins => !is_raylet,
            FrameKind::RegisterClientReply
            | FrameKind::RequestWorkerLeaseReply
            | FrameKind::LeaseWanted
            | FrameKind::LeaseBroken
            | FrameKind::LocationLost => is_raylet,
            _ => conn == RAYLET_CONN,
        };
        if allowed {
            return Ok(());
        }
        let speaker = if is_raylet { "a raylet" } else { "a worker" };
        Err(CoreError::new(
            ErrorCode::Internal,
            format!("{speaker} may send no {kind:?} message"),
        ))
    }

    fn dispatch_from_raylet(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        match frame.kind {
            FrameKind::RegisterClientReply => self.on_registered(conn, frame),
            FrameKind::RequestWorkerLeaseReply => self.on_lease_reply(conn, &frame),
            FrameKind::LeaseWanted => self.on_lease_wanted(&frame.decode()?),
            FrameKind::LeaseBroken => self.on_lease_broken(&frame.decode()?),
            FrameKind::HeadReply => {
                self.on_head_reply(conn, &frame);
                Ok(())
            }
            FrameKind::ActorUpdate => self.on_actor_update(&frame.decode()?),
            FrameKind::CreateActor => self.on_create_actor(frame.correlation, frame.decode()?),
            FrameKind::IncomingConnection => self.on_incoming(frame),
            FrameKind::CreateObjectReply => self.on_created(conn, frame),
            FrameKind::ObjectReady => self.on_object_ready(conn, frame),
            FrameKind::NodeDied => self.on_node_died(&frame.decode()?),
            FrameKind::WorkerDied => self.on_worker_died(&frame.decode()?),
            FrameKind::ExitWorker => {
                let message: proto::ExitWorker = frame.decode()?;
                debug!(reason = message.reason, "the raylet ends this worker");
                self.execution.exit = true;
                self.news = true;
                Ok(())
            }
            FrameKind::HeadLost => {
                let message: proto::HeadLost = frame.decode()?;
                self.on_head_lost(message.cause);
                Ok(())
            }
            FrameKind::LogBatch => {
                let batch: proto::LogBatch = frame.decode()?;
                self.notify(Notice::Log(batch.lines));
                Ok(())
            }
            other => Err(CoreError::new(
                ErrorCode::Internal,
                format!("a core worker takes no {other:?} message"),
            )),
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------

    /// The time passes; `now` in microseconds.
    pub(crate) fn on_tick(&mut self, now: u64) {
        self.now = now;
        self.fire_timers();
        self.give_back_if_slow();
    }

    /// When [`State::on_tick`] has something to do next, in microseconds from now.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let at = [self.timers.next(), self.slow_at()].into_iter().flatten().min()?;
        Some(at.saturating_sub(self.now))
    }

    /// Takes over what finalizers left.
    pub(crate) fn take_dropped(&mut self, dropped: &mut Dropped) {
        for id in dropped.references.drain(..) {
            self.drop_ref(id);
        }
        for (id, kind) in dropped.actor_handles.drain(..) {
            self.drop_actor_handle(id, kind);
        }
        if !dropped.mappings.is_empty() {
            self.release_mapped(&dropped.mappings);
            dropped.mappings.clear();
        }
    }

    /// Whether something waits to be carried out.
    pub(crate) fn has_output(&self) -> bool {
        !(self.effects.is_empty()
            && self.touched.is_empty()
            && self.reads.is_empty()
            && self.frees.is_empty()
            && self.borrowing.is_told())
    }

    /// Nothing is left of anything; panics with what is.
    #[cfg(test)]
    fn check_empty(&self, who: &str) {
        assert!(self.tasks.is_empty(), "{who}: tasks {:?}", self.tasks);
        assert!(self.objects.is_empty(), "{who}: objects {:?}", self.objects);
        assert_eq!(self.inline_bytes, 0, "{who}: bytes of inline values");
        assert!(self.waits.is_empty(), "{who}: waits {:?}", self.waits);
        assert!(self.slots.is_empty(), "{who}: slots {:?}", self.slots);
        assert!(
            self.return_pins.is_empty(),
            "{who}: return pins {:?}",
            self.return_pins
        );
        assert!(self.borrowing.is_empty(), "{who}: borrowing {:?}", self.borrowing);
        assert!(
            self.unreachable.is_empty(),
            "{who}: unreachable {:?}",
            self.unreachable
        );
        assert!(self.borrowers.is_empty(), "{who}: borrowers {:?}", self.borrowers);
        assert!(
            self.closing.is_empty(),
            "{who}: closing connections {:?}",
            self.closing
        );
        assert_eq!(self.scheduling.lease_count(), 0, "{who}: leases");
        assert_eq!(self.scheduling.queued(), 0, "{who}: queued tasks");
        assert_eq!(self.timers.len(), 0, "{who}: timers {:?}", self.timers);
        for (conn, state) in &self.conns {
            assert!(state.is_quiet(), "{who}: connection {conn} {state:?}");
        }
    }

    /// Makes frames of what was gathered, and tells whether something happened for which a thread may wait. To be
    /// called before frames and effects are taken.
    pub(crate) fn settle(&mut self) -> bool {
        self.flush_reads();
        self.flush_borrows();
        self.flush_frees();
        if self.execution.is_to_be_announced() {
            self.notify(Notice::Work);
        }
        std::mem::take(&mut self.news)
    }
}

/// Splits the inline parts of a payload.
struct PayloadReader {
    rest: Bytes,
}

impl PayloadReader {
    fn new(payload: Bytes) -> Self {
        Self { rest: payload }
    }

    fn take(&mut self, length: u64) -> Result<Bytes, CoreError> {
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

fn failure_of(error: &CoreError) -> Failure {
    Failure::new(error.code, error.message.clone())
}
