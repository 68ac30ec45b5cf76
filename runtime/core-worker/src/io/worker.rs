//! The core worker: connects, and carries out what the state decides.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_common::{ErrorCode, JobId, NodeId, ObjectId, VERSION, WorkerAddress, WorkerId};
use sparkray_object_store::{Access, MappedRange, SegmentTable};
use sparkray_proto::{self as proto, ClientKind, FrameKind};
use sparkray_rpc::{Agreement, BlockingConnection, Endpoint, Identity, Target};
use tracing::warn;

use crate::dropped::{DropQueue, Dropped};
use crate::error::{CoreError, WaitError};
use crate::io::connection::Connection;
use crate::io::reactor::Reactor;
use crate::io::waiting::{Patience, Turns, run_helper};
use crate::state::{
    ConnId, Effect, IdSource, Notice, Pending, RAYLET_CONN, State, StoreAnswer, UnhandledErrors,
};
use crate::store::StoredValue;

const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// How a process joins its node.
pub struct ConnectOptions {
    /// The cluster.
    pub identity: Identity,
    /// Name of the local raylet's abstract socket.
    pub raylet_socket: String,
    /// The node; NIL for drivers, whose raylet tells them.
    pub node_id: NodeId,
    /// A worker's inherited connection to its raylet; others dial.
    pub inherited: Option<OwnedFd>,
    /// This process.
    pub worker_id: WorkerId,
    /// Driver, participant or worker.
    pub kind: ClientKind,
    /// Major.minor.
    pub python_version: String,
    /// Drivers: namespace of their actors.
    pub namespace: String,
    /// Drivers: wants the output of its workers.
    pub log_to_driver: bool,
    /// Wants to be told of these errors that nobody asked for.
    pub report_unhandled_errors: UnhandledErrors,
    /// Called with output of workers and with watched objects that were resolved; from any thread that waits.
    pub on_notice: Box<dyn Fn(Notice) + Send + Sync>,
}

/// One process's part in the cluster. All methods may be called by any thread.
///
/// Locks are taken in this order: the lead (see `waiting`), the state, and then any other, one at a time.
pub struct CoreWorker {
    pub(crate) state: Mutex<State>,
    pub(crate) reactor: Reactor,
    pub(crate) turns: Turns,
    stopping: AtomicBool,
    /// What reads the sockets failed for good.
    pub(crate) broken_down: AtomicBool,
    helper: Mutex<Option<JoinHandle<()>>>,
    pub(crate) dropped: Arc<DropQueue>,
    segments: Mutex<SegmentTable>,
    begun: Instant,
    on_notice: Box<dyn Fn(Notice) + Send + Sync>,
    registration: Mutex<Option<proto::RegisterClientReply>>,
    /// Of the job in which this process takes part: in a participant.
    pub(crate) driver: Mutex<Option<WorkerAddress>>,
    pub(crate) is_worker: bool,
    pub(crate) namespace: String,
    generation: u64,
    /// Another call may be submitted without waiting.
    pub(crate) room: AtomicBool,
}

impl CoreWorker {
    /// Joins the node's raylet and begins to take part.
    pub fn connect(options: ConnectOptions) -> Result<Arc<Self>, CoreError> {
        let socket = match options.inherited {
            Some(socket) => socket,
            None => {
                let endpoint = Endpoint::Abstract(options.raylet_socket.clone());
                let target = Target::Raylet(options.node_id);
                BlockingConnection::dial(&options.identity, &endpoint, target, REGISTER_DEADLINE)?
                    .into_socket()
            }
        };
        let me = WorkerAddress {
            node_id: options.node_id,
            worker_id: options.worker_id,
            node_address: String::new(),
        };
        let mut state = State::new(
            me,
            // A driver's or participant's comes from the head, a worker's with its tasks.
            JobId::NIL,
            options.python_version.clone(),
            options.raylet_socket,
            IdSource::random(),
        );
        state.report_unhandled(options.report_unhandled_errors);
        let internal = |error: std::io::Error| {
            CoreError::new(
                ErrorCode::Internal,
                format!("cannot set up the process's sockets: {error}"),
            )
        };
        let reactor = Reactor::new(options.identity).map_err(internal)?;
        reactor.adopt(RAYLET_CONN, socket, Agreement::plain(), "the local raylet");
        let dropped = Arc::new(DropQueue::new(Arc::clone(reactor.kick())));
        let worker = Arc::new(Self {
            state: Mutex::new(state),
            reactor,
            turns: Turns::default(),
            stopping: AtomicBool::new(false),
            broken_down: AtomicBool::new(false),
            helper: Mutex::new(None),
            dropped,
            segments: Mutex::new(SegmentTable::default()),
            begun: Instant::now(),
            on_notice: options.on_notice,
            registration: Mutex::new(None),
            driver: Mutex::new(None),
            is_worker: options.kind == ClientKind::Worker,
            namespace: options.namespace.clone(),
            generation: crate::fork::generation(),
            room: AtomicBool::new(true),
        });
        let register = proto::RegisterClient {
            worker_id: options.worker_id.to_vec().into(),
            kind: options.kind.into(),
            pid: std::process::id(),
            sparkray_version: VERSION.to_owned(),
            python_version: options.python_version,
            namespace: options.namespace,
            log_to_driver: options.log_to_driver,
            ..proto::RegisterClient::default()
        };
        worker.register(&register)?;
        let for_helper = Arc::downgrade(&worker);
        let helper = std::thread::Builder::new()
            .name("sparkray-helper".to_owned())
            .spawn(move || run_helper(&for_helper))
            .map_err(internal)?;
        *worker.helper.lock() = Some(helper);
        let me = Some((&worker.address()).into());
        let job = match options.kind {
            ClientKind::Driver => Some(proto::head_request::Request::RegisterJob(proto::RegisterJob {
                driver: me,
                namespace: register.namespace,
                python_version: register.python_version,
            })),
            ClientKind::Participant => Some(proto::head_request::Request::JoinJob(proto::JoinJob {
                participant: me,
            })),
            _ => None,
        };
        if let Some(job) = job {
            if let Err(error) = worker.take_job(job) {
                worker.shutdown();
                return Err(error);
            }
        }
        Ok(worker)
    }

    /// The head begins this driver's job, or names that in which this process takes part: actors and output belong to it,
    /// and end with it. Nothing that names the job leaves this process before.
    fn take_job(&self, request: proto::head_request::Request) -> Result<(), CoreError> {
        let reply = self.ask_head_plainly(request)?;
        let proto::head_reply::Reply::Job(begun) = reply else {
            return Err(CoreError::new(
                ErrorCode::Internal,
                "the head gave another answer",
            ));
        };
        self.set_job_id(JobId::from_slice(&begun.job_id)?);
        *self.driver.lock() = begun.driver.as_ref().map(WorkerAddress::try_from).transpose()?;
        Ok(())
    }

    fn register(&self, message: &proto::RegisterClient) -> Result<(), CoreError> {
        self.with_state(|state| {
            let slot = state.ask_raylet(|_| Pending::Register, FrameKind::RegisterClient, message);
            // The answer has its own place.
            state.forget_slot(slot);
        });
        let patience = Patience::until(Some(Instant::now() + REGISTER_DEADLINE));
        let outcome = self.wait_until(patience, &never_interrupted, |state| state.take_registration());
        let reply = match outcome {
            Ok(outcome) => outcome?,
            Err(WaitError::Deadline) => {
                return Err(CoreError::new(
                    ErrorCode::Unavailable,
                    format!(
                        "the raylet did not answer within {} s",
                        REGISTER_DEADLINE.as_secs()
                    ),
                ));
            }
            Err(WaitError::Failed(error)) => return Err(error),
            Err(WaitError::Interrupted(never)) => match never {},
        };
        let node_id = NodeId::from_slice(&reply.node_id)?;
        self.state.lock().set_address(node_id, reply.node_address.clone());
        *self.registration.lock() = Some(reply);
        let lease = self.state.lock().take_node_lease();
        if let Some(lease) = lease {
            crate::io::watchdog::start(lease).map_err(|error| {
                CoreError::new(
                    ErrorCode::Internal,
                    format!("cannot watch the lease of this worker's node: {error}"),
                )
            })?;
        }
        Ok(())
    }

    /// What the raylet said when this process registered.
    pub fn registration(&self) -> proto::RegisterClientReply {
        self.registration.lock().clone().unwrap_or_default()
    }

    /// This process.
    pub fn address(&self) -> WorkerAddress {
        WorkerAddress::clone(self.state.lock().me())
    }

    /// The job of the driver, that in which a participant takes part, or that of the task that runs.
    pub fn job_id(&self) -> JobId {
        self.state.lock().job_id()
    }

    /// Takes over the job of the task that runs, so that what it submits belongs to it.
    pub fn set_job_id(&self, job_id: JobId) {
        self.state.lock().set_job_id(job_id);
    }

    /// Whether this process is a child that user code forked from the one that connected.
    pub fn is_forked(&self) -> bool {
        self.generation != crate::fork::generation()
    }

    /// Leaves the cluster. Waiting threads fail with `NotRunning`.
    pub fn shutdown(&self) {
        if self.is_forked() || self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        self.with_state(|state| {
            state.leave(CoreError::new(
                ErrorCode::NotRunning,
                "this process has left the cluster: call init() first",
            ));
        });
        self.reactor.kick().now();
        self.wake_helper();
        let helper = self.helper.lock().take();
        if let Some(helper) = helper {
            if helper.thread().id() != std::thread::current().id() && helper.join().is_err() {
                warn!("the helper thread panicked");
            }
        }
        self.reactor.close_all();
        // A program may keep references for as long as it likes: they do not keep the store's memory. Values that
        // were read keep what they lie in.
        *self.segments.lock() = SegmentTable::default();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn is_broken_down(&self) -> bool {
        self.broken_down.load(Ordering::Acquire)
    }

    // ---- carrying out --------------------------------------------------------------------------------------

    pub(crate) fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// The state, with the time and with what finalizers left.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.set_now(self.now());
        let mut dropped = Dropped::default();
        if self.dropped.take(&mut dropped) {
            state.take_dropped(&mut dropped);
        }
        state
    }

    /// Does what the state decided, then lets go of it. Frames are queued under the lock and leave after it.
    pub(crate) fn carry_out(&self, state: MutexGuard<'_, State>) {
        self.carry_out_as(state, false);
    }

    /// As [`CoreWorker::carry_out`], by the thread that leads.
    pub(crate) fn carry_out_leading(&self, state: MutexGuard<'_, State>) {
        self.carry_out_as(state, true);
    }

    fn carry_out_as(&self, mut state: MutexGuard<'_, State>, leads: bool) {
        let news = state.settle();
        let has_room = state.has_room();
        if has_room != self.room.load(Ordering::Relaxed) {
            self.room.store(has_room, Ordering::Relaxed);
        }
        let mut closed = Vec::new();
        let mut notices = Vec::new();
        for effect in state.take_effects() {
            match effect {
                Effect::Open {
                    conn,
                    endpoint,
                    target,
                } => self.reactor.open(conn, &endpoint, target),
                Effect::Close { conn } => closed.push(conn),
                Effect::Adopt {
                    conn,
                    socket,
                    agreement,
                } => self.reactor.adopt(conn, socket, agreement, "another worker"),
                Effect::Notify(notice) => notices.push(notice),
            }
        }
        let mut urgent: Vec<(ConnId, Arc<Connection>)> = Vec::new();
        state.take_outgoing(|conn, frames, now| {
            if let Some(connection) = self.reactor.append(conn, frames, now) {
                urgent.push((conn, connection));
            }
        });
        drop(state);
        for (id, connection) in urgent {
            self.reactor.flush(id, &connection);
        }
        for conn in closed {
            self.reactor.close(conn);
        }
        if news {
            self.tell_waiting(leads);
        }
        for notice in notices {
            (self.on_notice)(notice);
        }
    }

    /// Runs `change` on the state and carries out what it decided.
    pub(crate) fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let outcome = change(&mut state);
        self.carry_out(state);
        outcome
    }

    // ---- shared memory -------------------------------------------------------------------------------------

    /// Takes in what came with the store's answers: keeps descriptors of segments, and maps objects that are ready.
    /// Only the leader calls it, with the state's lock held since it took the frames in.
    pub(crate) fn take_in_answers(&self, state: &mut State) {
        for answer in state.take_store_answers() {
            let ready = match answer {
                StoreAnswer::Read(ready) => ready,
                StoreAnswer::Segment {
                    object,
                    range,
                    descriptor,
                } => {
                    if let Err(error) = self.segments.lock().learn(object, &range, descriptor) {
                        warn!(%error, "cannot keep the descriptor of a segment");
                    }
                    continue;
                }
            };
            let id = ready.object;
            let mapped = self
                .segments
                .lock()
                .attach(id, &ready.range, ready.descriptor, Access::ReadOnly);
            match mapped {
                Ok(range) => {
                    let value = StoredValue::new(id, range, Arc::clone(&self.dropped));
                    state.mapped(id, &Arc::new(value));
                }
                Err(error) => {
                    state.release_mapped(&[id]);
                    let message = format!("cannot map object {id} into this process: {error}");
                    state.read_failed(id, &CoreError::new(ErrorCode::Internal, message));
                }
            }
        }
    }

    /// Maps a range for writing. The leader has kept the descriptor of its segment; `descriptor` is that of a segment
    /// on disk.
    pub(crate) fn attach_writable(
        &self,
        id: ObjectId,
        range: &proto::ObjectRange,
        descriptor: Option<OwnedFd>,
    ) -> Result<MappedRange, CoreError> {
        self.segments
            .lock()
            .attach(id, range, descriptor, Access::Writable)
            .map_err(|error| CoreError::new(ErrorCode::Internal, format!("cannot map a new object: {error}")))
    }
}

impl Drop for CoreWorker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

pub(crate) fn never_interrupted() -> Result<(), std::convert::Infallible> {
    Ok(())
}
