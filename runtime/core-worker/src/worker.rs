//! The core worker: carries out what the state decides, and makes threads wait for it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use sparkray_common::{ErrorCode, JobId, NodeId, ObjectId, VERSION, WorkerAddress, WorkerId};
use sparkray_object_store::{Access, SegmentTable};
use sparkray_proto::{self as proto, ClientKind, FrameKind};
use sparkray_rpc::{BlockingConnection, Endpoint, Identity, Target};
use tracing::warn;

use crate::connection::Connection;
use crate::error::{CoreError, WaitError};
use crate::reactor::{ConnId, Incident, RAYLET_CONN, Reactor};
use crate::state::{Effect, Notice, Pending, State};
use crate::store::{DropQueue, StoredValue};

/// A thread that waits looks at signals this often.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);
/// The helper takes over when nobody has read the sockets for this long.
const HELPER_PATIENCE: Duration = Duration::from_millis(1);
/// A worker that waits longer than this lends its CPUs.
const BLOCKED_AFTER: Duration = Duration::from_micros(500);
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// How a process joins its node.
pub struct ConnectOptions {
    /// The cluster.
    pub identity: Identity,
    /// Name of the local raylet's abstract socket.
    pub raylet_socket: String,
    /// The node; NIL for drivers, whose raylet tells them.
    pub node_id: NodeId,
    /// A worker's inherited connection to its raylet; drivers dial.
    pub inherited: Option<OwnedFd>,
    /// This process.
    pub worker_id: WorkerId,
    /// The job: new for a driver, NIL for a worker.
    pub job_id: JobId,
    /// Driver or worker.
    pub kind: ClientKind,
    /// Major.minor.
    pub python_version: String,
    /// Drivers: namespace of their actors.
    pub namespace: String,
    /// Drivers: wants the output of its workers.
    pub log_to_driver: bool,
    /// Called with output of workers and with watched objects that were resolved; from any thread that waits.
    pub on_notice: Box<dyn Fn(Notice) + Send + Sync>,
}

/// One process's part in the cluster. All methods may be called by any thread.
pub struct CoreWorker {
    pub(crate) state: Mutex<State>,
    changed: Condvar,
    reactor: Reactor,
    lead: Mutex<Vec<Incident>>,
    /// Waiting threads that do not lead, counted under the state's lock.
    followers: AtomicU64,
    leading: AtomicBool,
    helper_leads: AtomicBool,
    helper_parked: AtomicBool,
    helper_lock: Mutex<()>,
    helper_wake: Condvar,
    /// Counts the times that a leader left.
    turns: AtomicU64,
    /// The helper leads always, for processes whose threads are busy with an event loop.
    helper_always: AtomicBool,
    stopping: AtomicBool,
    helper: Mutex<Option<JoinHandle<()>>>,
    pub(crate) dropped: DropQueue,
    segments: Mutex<SegmentTable>,
    /// Mapped values that wait for the thread that asked for them.
    arrived: Mutex<HashMap<ObjectId, Arc<StoredValue>>>,
    begun: Instant,
    on_notice: Box<dyn Fn(Notice) + Send + Sync>,
    registration: Mutex<Option<proto::RegisterClientReply>>,
    pub(crate) is_worker: bool,
    pub(crate) namespace: String,
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
        let state = State::new(
            me,
            options.job_id,
            options.python_version.clone(),
            options.raylet_socket,
        );
        let internal = |error: std::io::Error| {
            CoreError::new(
                ErrorCode::Internal,
                format!("cannot set up the process's sockets: {error}"),
            )
        };
        let reactor = Reactor::new(options.identity).map_err(internal)?;
        reactor
            .adopt(RAYLET_CONN, socket, "the local raylet".to_owned())
            .map_err(internal)?;
        let worker = Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            reactor,
            lead: Mutex::new(Vec::new()),
            followers: AtomicU64::new(0),
            leading: AtomicBool::new(false),
            helper_leads: AtomicBool::new(false),
            helper_parked: AtomicBool::new(false),
            helper_lock: Mutex::new(()),
            helper_wake: Condvar::new(),
            turns: AtomicU64::new(0),
            helper_always: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            helper: Mutex::new(None),
            dropped: DropQueue::default(),
            segments: Mutex::new(SegmentTable::default()),
            arrived: Mutex::new(HashMap::new()),
            begun: Instant::now(),
            on_notice: options.on_notice,
            registration: Mutex::new(None),
            is_worker: options.kind == ClientKind::Worker,
            namespace: options.namespace.clone(),
        });
        let register = proto::RegisterClient {
            worker_id: options.worker_id.to_vec().into(),
            kind: options.kind.into(),
            pid: std::process::id(),
            job_id: options.job_id.to_vec().into(),
            sparkray_version: VERSION.to_owned(),
            python_version: options.python_version,
            namespace: options.namespace,
            node_id: bytes::Bytes::new(),
            log_to_driver: options.log_to_driver,
        };
        worker.register(&register)?;
        let for_helper = Arc::downgrade(&worker);
        let helper = std::thread::Builder::new()
            .name("sparkray-helper".to_owned())
            .spawn(move || crate::helper::run(&for_helper))
            .map_err(internal)?;
        *worker.helper.lock() = Some(helper);
        if options.kind == ClientKind::Driver {
            if let Err(error) = worker.register_job(&register) {
                worker.shutdown();
                return Err(error);
            }
        }
        Ok(worker)
    }

    /// Tells the head of this driver's job: actors and output belong to it, and end with it.
    fn register_job(&self, client: &proto::RegisterClient) -> Result<(), CoreError> {
        let job = proto::RegisterJob {
            job_id: client.job_id.clone(),
            driver: Some((&self.address()).into()),
            namespace: client.namespace.clone(),
            python_version: client.python_version.clone(),
        };
        self.ask_head_plainly(proto::head_request::Request::RegisterJob(job)).map(|_| ())
    }

    fn register(&self, message: &proto::RegisterClient) -> Result<(), CoreError> {
        let mut state = self.lock();
        state.ask_raylet(|_| Pending::Register, FrameKind::RegisterClient, message);
        self.carry_out(state);
        let deadline = Instant::now() + REGISTER_DEADLINE;
        let outcome = self.wait_until(Some(deadline), false, &never_interrupted, |state| {
            state.registered.take()
        });
        let reply = match outcome {
            Ok(outcome) => outcome?,
            Err(WaitError::Deadline) => {
                return Err(CoreError::new(
                    ErrorCode::DeadlineExceeded,
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
        Ok(())
    }

    /// What the raylet said when this process registered.
    pub fn registration(&self) -> proto::RegisterClientReply {
        self.registration.lock().clone().unwrap_or_default()
    }

    /// This process.
    pub fn address(&self) -> WorkerAddress {
        self.state.lock().me.clone()
    }

    /// The job of the driver, or of the task that runs.
    pub fn job_id(&self) -> JobId {
        self.state.lock().job_id
    }

    /// Takes over the job of the task that runs, so that what it submits belongs to it.
    pub fn set_job_id(&self, job_id: JobId) {
        self.state.lock().job_id = job_id;
    }

    /// Leaves the cluster. Waiting threads fail with `NotRunning`.
    pub fn shutdown(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        {
            let mut state = self.lock();
            state.execution.exit = true;
            state.broken.get_or_insert_with(|| {
                CoreError::new(
                    ErrorCode::NotRunning,
                    "this process has left the cluster: call init() first",
                )
            });
            self.carry_out(state);
        }
        // Answers that wait for company: an actor that ends itself has given them.
        self.reactor.flush_dirty();
        self.changed.notify_all();
        self.reactor.wake();
        self.wake_helper();
        if let Some(helper) = self.helper.lock().take() {
            if helper.thread().id() != std::thread::current().id() && helper.join().is_err() {
                warn!("the helper thread panicked");
            }
        }
        self.reactor.close(RAYLET_CONN);
    }

    // ---- carrying out --------------------------------------------------------------------------------------

    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// The state, with the time and with what finalizers left.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.now = self.now();
        let dropped = std::mem::take(&mut *self.dropped.lock());
        for id in dropped.references {
            state.drop_ref(id);
        }
        for id in dropped.actor_handles {
            state.drop_actor_handle(id);
        }
        if !dropped.mappings.is_empty() {
            let object_ids = dropped.mappings.iter().map(|id| id.to_vec().into()).collect();
            state.tell_raylet(
                FrameKind::ReleaseObjects,
                &proto::ReleaseObjects { object_ids },
                false,
            );
        }
        state
    }

    /// Does what the state decided, then lets go of it. Frames are queued under the lock and leave after it.
    pub(crate) fn carry_out(&self, mut state: MutexGuard<'_, State>) {
        state.collect_notices();
        let mut urgent: Vec<(ConnId, Arc<Connection>)> = Vec::new();
        let mut notices = Vec::new();
        for effect in std::mem::take(&mut state.outbox) {
            match effect {
                Effect::Open {
                    conn,
                    endpoint,
                    target,
                } => self.reactor.open(conn, &endpoint, target),
                Effect::Send {
                    conn,
                    bytes,
                    urgent: now,
                } => {
                    if let Some(connection) = self.reactor.append(conn, &bytes, now) {
                        if !urgent.iter().any(|(id, _)| *id == conn) {
                            urgent.push((conn, connection));
                        }
                    }
                }
                Effect::Close { conn } => self.reactor.close(conn),
                Effect::Adopt { conn, socket } => {
                    if let Err(error) = self.reactor.adopt(conn, socket, "another worker".to_owned()) {
                        warn!(%error, "cannot take over a connection");
                    }
                }
                Effect::Notify(notice) => notices.push(notice),
            }
        }
        drop(state);
        for (id, connection) in urgent {
            self.reactor.flush(id, &connection);
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

    // ---- waiting -------------------------------------------------------------------------------------------

    /// Waits until `check` gives something. Reads the sockets meanwhile, or follows the thread that does.
    /// `lends`: a worker that waits here for other tasks lends its CPUs.
    pub(crate) fn wait_until<T, E>(
        &self,
        deadline: Option<Instant>,
        lends: bool,
        interrupt: &dyn Fn() -> Result<(), E>,
        mut check: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, WaitError<E>> {
        let begun = Instant::now();
        let lends = lends && self.is_worker;
        let mut lent = false;
        let mut looked_at_signals = begun;
        let outcome = loop {
            let found = self.with_state(&mut check);
            if let Some(found) = found {
                break Ok(found);
            }
            if let Some(error) = self.why_broken() {
                break Err(WaitError::Failed(error));
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                break Err(WaitError::Deadline);
            }
            if now - looked_at_signals >= INTERRUPT_INTERVAL {
                looked_at_signals = now;
                if let Err(stop) = interrupt() {
                    break Err(WaitError::Interrupted(stop));
                }
            }
            let mut patience = INTERRUPT_INTERVAL;
            if let Some(deadline) = deadline {
                patience = patience.min(deadline - now);
            }
            if lends && !lent {
                if now - begun >= BLOCKED_AFTER {
                    lent = true;
                    self.with_state(|state| state.set_blocked(true));
                } else {
                    patience = patience.min(BLOCKED_AFTER);
                }
            }
            match self.lead.try_lock() {
                Some(incidents) => {
                    let already = self.with_state(&mut check);
                    if let Some(found) = already {
                        self.leave_lead(incidents);
                        break Ok(found);
                    }
                    self.leading.store(true, Ordering::Release);
                    let incidents = self.drive(incidents, patience);
                    self.leave_lead(incidents);
                    // A signal interrupts epoll: look at once.
                    if Instant::now() - looked_at_signals >= INTERRUPT_INTERVAL {
                        continue;
                    }
                }
                None => {
                    if self.helper_leads.load(Ordering::Acquire)
                        && !self.helper_always.load(Ordering::Acquire)
                    {
                        self.reactor.wake();
                    }
                    let mut state = self.lock();
                    if let Some(found) = check(&mut state) {
                        self.carry_out(state);
                        break Ok(found);
                    }
                    self.followers.fetch_add(1, Ordering::AcqRel);
                    self.changed.wait_for(&mut state, patience);
                    self.followers.fetch_sub(1, Ordering::AcqRel);
                    self.carry_out(state);
                }
            }
        };
        if lent {
            self.with_state(|state| state.set_blocked(false));
        }
        outcome
    }

    fn why_broken(&self) -> Option<CoreError> {
        self.state.lock().broken.clone()
    }

    fn leave_lead(&self, incidents: MutexGuard<'_, Vec<Incident>>) {
        self.leading.store(false, Ordering::Release);
        self.turns.fetch_add(1, Ordering::AcqRel);
        drop(incidents);
        if self.followers.load(Ordering::Acquire) > 0 {
            // The lock orders this wake-up after a follower's check.
            drop(self.state.lock());
            self.changed.notify_all();
        }
        if self.helper_parked.swap(false, Ordering::AcqRel) {
            self.wake_helper();
        }
    }

    fn wake_helper(&self) {
        drop(self.helper_lock.lock());
        self.helper_wake.notify_all();
    }

    /// Reads the sockets once and lets the state take in what came.
    fn drive<'a>(
        &self,
        mut incidents: MutexGuard<'a, Vec<Incident>>,
        patience: Duration,
    ) -> MutexGuard<'a, Vec<Incident>> {
        let tick = self
            .state
            .lock()
            .next_tick()
            .map_or(patience, Duration::from_micros);
        if let Err(error) = self.reactor.drive(patience.min(tick), &mut incidents) {
            warn!(%error, "cannot wait for the process's sockets");
        }
        let mut state = self.lock();
        for incident in incidents.drain(..) {
            match incident {
                Incident::Frames(conn, frames) => {
                    for frame in frames {
                        state.on_frame(conn, frame);
                    }
                }
                Incident::Closed(conn, cause) => state.on_closed(conn, &cause),
            }
        }
        let now = self.now();
        state.on_tick(now);
        self.map_arrivals(&mut state);
        self.carry_out(state);
        if self.followers.load(Ordering::Acquire) > 0 {
            self.changed.notify_all();
        }
        incidents
    }

    /// Maps objects that the store has made ready.
    fn map_arrivals(&self, state: &mut State) {
        for (id, ready, descriptor) in state.take_ready_reads() {
            let Some(range) = &ready.range else { continue };
            let mapped = self
                .segments
                .lock()
                .attach(id, range, descriptor, Access::ReadOnly);
            match mapped {
                Ok(range) => {
                    let value = Arc::new(StoredValue::new(id, range, Arc::clone(&self.dropped)));
                    if let Some(object) = state.objects.get_mut(&id) {
                        object.reading = false;
                        object.mapped = Arc::downgrade(&value);
                        self.arrived.lock().insert(id, value);
                    }
                }
                Err(error) => {
                    if let Some(object) = state.objects.get_mut(&id) {
                        object.reading = false;
                        object.read_error = Some(CoreError::new(
                            ErrorCode::Internal,
                            format!("cannot map object {id} into this process: {error}"),
                        ));
                    }
                }
            }
        }
    }

    /// Forgets values that arrived for a thread that has taken them, or gave up.
    pub(crate) fn forget_arrivals(&self, ids: &[ObjectId]) {
        let mut arrived = self.arrived.lock();
        let forgotten: Vec<_> = ids.iter().filter_map(|id| arrived.remove(id)).collect();
        drop(arrived);
        drop(forgotten);
    }

    /// Maps a range for writing.
    pub(crate) fn attach_writable(
        &self,
        id: ObjectId,
        range: &proto::ObjectRange,
        descriptor: Option<OwnedFd>,
    ) -> Result<sparkray_object_store::MappedRange, CoreError> {
        self.segments
            .lock()
            .attach(id, range, descriptor, Access::Writable)
            .map_err(|error| CoreError::new(ErrorCode::Internal, format!("cannot map a new object: {error}")))
    }

    /// Makes the helper read the sockets always: for event loops, whose thread must not.
    pub fn lead_by_helper(&self) {
        self.helper_always.store(true, Ordering::Release);
        self.wake_helper();
    }

    /// Lets a thread that does nothing but wait notice what finalizers left.
    pub(crate) fn notice_drops(&self) {
        if self.helper_leads.load(Ordering::Acquire) {
            self.reactor.wake();
        }
    }

    // ---- the helper's part; see helper.rs --------------------------------------------------------------------

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// One round of the helper: waits a little, and leads when nobody else does. Returns when it has to look again.
    pub(crate) fn help(&self) {
        let turn = self.turns.load(Ordering::Acquire);
        let always = self.helper_always.load(Ordering::Acquire);
        if !always {
            let mut guard = self.helper_lock.lock();
            if self.is_stopping() {
                return;
            }
            self.helper_wake.wait_for(&mut guard, HELPER_PATIENCE);
        }
        if self.is_stopping() {
            return;
        }
        if self.turns.load(Ordering::Acquire) != turn && !always {
            // Others take turns. Frames that they corked leave at the latest now.
            self.reactor.flush_dirty();
            return;
        }
        let Some(mut incidents) = self.lead.try_lock() else {
            // One thread has led all this time: sleep until it leaves.
            self.helper_parked.store(true, Ordering::Release);
            let mut guard = self.helper_lock.lock();
            if self.helper_parked.load(Ordering::Acquire) && !self.is_stopping() {
                // Bounded, because a leader that left between the check and the store wakes nobody.
                self.helper_wake.wait_for(&mut guard, INTERRUPT_INTERVAL);
            }
            self.helper_parked.store(false, Ordering::Release);
            return;
        };
        self.leading.store(true, Ordering::Release);
        self.helper_leads.store(true, Ordering::Release);
        loop {
            incidents = self.drive(incidents, Duration::from_secs(1));
            let wanted = self.followers_wait();
            if self.is_stopping() || (wanted && !self.helper_always.load(Ordering::Acquire)) {
                break;
            }
        }
        self.helper_leads.store(false, Ordering::Release);
        self.leave_lead(incidents);
    }

    /// Whether a thread waits that would rather lead itself.
    fn followers_wait(&self) -> bool {
        self.followers.load(Ordering::Acquire) > 0
    }
}

impl Drop for CoreWorker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.reactor.wake();
        self.wake_helper();
    }
}

pub(crate) fn never_interrupted() -> Result<(), std::convert::Infallible> {
    Ok(())
}
