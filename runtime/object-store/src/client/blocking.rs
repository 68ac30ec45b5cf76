//! A client for processes whose threads may block: executor JVMs and tools.
//!
//! Invariants:
//! 1. At most one thread, the leader, holds the connection's receiving half. It receives until its own answer is
//!    there, hands the others theirs, and gives the half back; then a waiting thread takes it. So a lone thread
//!    waits for its answer without a hop between threads, and no thread of the client's own exists.
//! 2. Frames are handled in the order of arrival, so that descriptors are known before they are needed.
//! 3. An answer that nobody waits for any more gives back what it granted.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::sync::{Condvar, Mutex, MutexGuard};
use sparkray_common::{FeedId, NodeId, ObjectId, VERSION, WorkerAddress, WorkerId};
use sparkray_proto::{
    ClientKind, CreateObject, CreateObjectReply, FrameKind, FreeEntry, FreeObjects, GetObjectEntry,
    GetObjects, ObjectLocation, ObjectReady, RegisterClient, RegisterClientReply,
};
use sparkray_rpc::{BlockingConnection, BlockingSender, Endpoint, Frame, Identity, RpcError, Target};

use super::SegmentTable;
use super::objects::{ReadableObject, WritableObject, abort_frame, release_frame};
use crate::error::StoreError;
use crate::shm::{Access, MappedRange};

/// Between two questions whether a waiting thread was interrupted.
const SLICE: Duration = Duration::from_secs(1);
/// Long enough to see what has arrived.
const GLANCE: Duration = Duration::from_micros(50);

/// An object to get.
#[derive(Debug, Clone)]
pub struct GetEntry {
    /// The object.
    pub object: ObjectId,
    /// Nodes known to have copies; empty: wait until it is sealed on this node.
    pub locations: Vec<ObjectLocation>,
}

/// A connection to the object store of this node, for any number of threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockingStoreClient {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    sender: Mutex<BlockingSender>,
    state: Mutex<State>,
    /// Answers have arrived, or the connection waits for a leader.
    changed: Condvar,
    /// Whether the calling thread is to wait no longer.
    interrupted: fn() -> bool,
    node_id: NodeId,
    node_address: String,
}

struct State {
    /// `None` while a leader has it.
    connection: Option<BlockingConnection>,
    pending: HashMap<u64, Pending>,
    next_correlation: u64,
    segments: SegmentTable,
    /// Why the connection is of no more use.
    broken: Option<String>,
}

enum Pending {
    Create {
        object: ObjectId,
        answer: Option<Result<Option<MappedRange>, StoreError>>,
    },
    Get {
        missing: usize,
        answers: Vec<(ObjectId, Result<MappedRange, StoreError>)>,
    },
}

impl Pending {
    fn is_complete(&self) -> bool {
        match self {
            Self::Create { answer, .. } => answer.is_some(),
            Self::Get { missing, .. } => *missing == 0,
        }
    }
}

fn broken(error: &RpcError) -> StoreError {
    StoreError::Connection(error.to_string())
}

impl BlockingStoreClient {
    /// Connects to the raylet of this node and registers as a client that only reads and writes objects.
    /// `socket_name` is the raylet's abstract Unix socket.
    pub fn connect(
        identity: &Identity,
        socket_name: &str,
        node_id: NodeId,
        worker_id: WorkerId,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        Self::connect_interruptible(identity, socket_name, node_id, worker_id, patience, || false)
    }

    /// As [`Self::connect`]. A thread that waits asks `interrupted` every second; when that is true its wait ends as at
    /// the deadline.
    pub fn connect_interruptible(
        identity: &Identity,
        socket_name: &str,
        node_id: NodeId,
        worker_id: WorkerId,
        patience: Duration,
        interrupted: fn() -> bool,
    ) -> Result<Self, StoreError> {
        let deadline = Instant::now() + patience;
        let endpoint = Endpoint::Abstract(socket_name.to_owned());
        let mut connection = BlockingConnection::dial(identity, &endpoint, Target::Raylet(node_id), patience)
            .map_err(|error| StoreError::Refused {
                code: error.code(),
                message: error.to_string(),
            })?;
        let register = RegisterClient {
            worker_id: worker_id.to_vec().into(),
            kind: ClientKind::Store.into(),
            pid: std::process::id(),
            sparkray_version: VERSION.to_owned(),
            node_id: node_id.to_vec().into(),
            ..RegisterClient::default()
        };
        connection
            .send(&Frame::new(FrameKind::RegisterClient, 1, &register))
            .map_err(|error| broken(&error))?;
        let reply: RegisterClientReply = loop {
            match connection.receive(deadline).map_err(|error| broken(&error))? {
                Some(frame) if frame.kind == FrameKind::RegisterClientReply => {
                    break frame.decode().map_err(|error| broken(&error))?;
                }
                Some(_) => {}
                None => {
                    return Err(StoreError::Connection(
                        "the raylet closed it during registration".to_owned(),
                    ));
                }
            }
        };
        if let Some(failure) = reply.failure {
            return Err(failure.into());
        }
        let sender = connection
            .sender()
            .map_err(|error| StoreError::os("duplicate the socket to the raylet", error))?;
        let state = State {
            connection: Some(connection),
            pending: HashMap::new(),
            next_correlation: 2,
            segments: SegmentTable::new(),
            broken: None,
        };
        let shared = Shared {
            sender: Mutex::new(sender),
            state: Mutex::new(state),
            changed: Condvar::new(),
            interrupted,
            node_id,
            node_address: reply.node_address,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The node whose store this is.
    pub fn node_id(&self) -> NodeId {
        self.shared.node_id
    }

    /// `host:port` of the node's raylet, for locations of objects that are written here.
    pub fn node_address(&self) -> &str {
        &self.shared.node_address
    }

    /// Why the connection is of no more use, if so. Looks whether it still stands.
    pub fn failure(&self) -> Option<String> {
        self.shared.catch_up();
        self.shared.state.lock().broken.clone()
    }

    /// Room for one object; waits while the store is full. `None`: an earlier attempt has sealed it, so there is
    /// nothing to write.
    pub fn create(
        &self,
        object: ObjectId,
        size: u64,
        owner: &WorkerAddress,
        feed: Option<FeedId>,
        deadline: Instant,
    ) -> Result<Option<WritableObject>, StoreError> {
        let message = CreateObject {
            object_id: object.to_vec().into(),
            size,
            owner: Some(owner.into()),
            feed_id: feed.map(FeedId::to_vec).unwrap_or_default().into(),
        };
        let correlation = self.shared.register(Pending::Create { object, answer: None })?;
        let sent = self
            .shared
            .send(&Frame::new(FrameKind::CreateObject, correlation, &message));
        let pending = self.shared.wait(correlation, sent, deadline)?;
        let Pending::Create {
            answer: Some(answer), ..
        } = pending
        else {
            // Takes the request back, or the room if the answer is on its way.
            self.shared.send(&abort_frame(object))?;
            return Err(StoreError::Deadline {
                what: format!("room for object {object} of {size} bytes"),
            });
        };
        let Some(mut range) = answer? else {
            return Ok(None);
        };
        range.prepare_for_writing();
        Ok(Some(WritableObject {
            shared: Arc::clone(&self.shared),
            object,
            range: Some(range),
        }))
    }

    /// Objects to read, in the order of the entries; waits until each is here, lost, or the deadline has passed.
    pub fn get(&self, entries: &[GetEntry], deadline: Instant) -> Vec<Result<ReadableObject, StoreError>> {
        let objects = entries
            .iter()
            .map(|entry| GetObjectEntry {
                object_id: entry.object.to_vec().into(),
                locations: entry.locations.clone(),
            })
            .collect();
        let all_failed = |error: StoreError| {
            let reason = match error {
                StoreError::Connection(reason) => reason,
                other => other.to_string(),
            };
            entries
                .iter()
                .map(|_| Err(StoreError::Connection(reason.clone())))
                .collect()
        };
        let pending = Pending::Get {
            missing: entries.len(),
            answers: Vec::with_capacity(entries.len()),
        };
        let correlation = match self.shared.register(pending) {
            Ok(correlation) => correlation,
            Err(error) => return all_failed(error),
        };
        let sent = self.shared.send(&Frame::new(
            FrameKind::GetObjects,
            correlation,
            &GetObjects { objects },
        ));
        let mut answers: HashMap<ObjectId, Vec<Result<MappedRange, StoreError>>> = HashMap::new();
        match self.shared.wait(correlation, sent, deadline) {
            Ok(Pending::Get { answers: arrived, .. }) => {
                for (object, answer) in arrived {
                    answers.entry(object).or_default().push(answer);
                }
            }
            Ok(Pending::Create { .. }) => {}
            Err(error) => return all_failed(error),
        }
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let object = entry.object;
            let answer = answers.get_mut(&object).and_then(Vec::pop);
            results.push(match answer {
                Some(Ok(range)) => Ok(ReadableObject {
                    shared: Arc::clone(&self.shared),
                    object,
                    range: Some(range),
                }),
                Some(Err(error)) => Err(error),
                None => Err(StoreError::Deadline {
                    what: format!("object {object}"),
                }),
            });
        }
        results
    }

    /// Frees all copies of objects, those at the named nodes too. Does not wait.
    pub fn free(&self, objects: &[GetEntry]) -> Result<(), StoreError> {
        let objects = objects
            .iter()
            .map(|entry| FreeEntry {
                object_id: entry.object.to_vec().into(),
                locations: entry.locations.clone(),
            })
            .collect();
        self.shared
            .send(&Frame::new(FrameKind::FreeObjects, 0, &FreeObjects { objects }))
    }
}

impl Shared {
    pub(super) fn send(&self, frame: &Frame) -> Result<(), StoreError> {
        let sent = self.sender.lock().send(frame);
        sent.map_err(|error| {
            self.state.lock().broken.get_or_insert_with(|| error.to_string());
            self.changed.notify_all();
            broken(&error)
        })
    }

    fn register(&self, pending: Pending) -> Result<u64, StoreError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.broken {
            return Err(StoreError::Connection(reason.clone()));
        }
        let correlation = state.next_correlation;
        state.next_correlation += 1;
        state.pending.insert(correlation, pending);
        Ok(correlation)
    }

    /// Waits until the request is answered or the deadline has passed, and takes it off the table. Receives for
    /// everybody while nobody else does.
    fn wait(
        &self,
        correlation: u64,
        sent: Result<(), StoreError>,
        deadline: Instant,
    ) -> Result<Pending, StoreError> {
        let mut state = self.state.lock();
        if let Err(error) = sent {
            state.pending.remove(&correlation);
            return Err(error);
        }
        loop {
            let complete = state.pending.get(&correlation).is_none_or(Pending::is_complete);
            let slice = deadline.min(Instant::now() + SLICE);
            let left = slice.saturating_duration_since(Instant::now());
            if complete || state.broken.is_some() || left.is_zero() || (self.interrupted)() {
                // The next thread takes the lead.
                self.changed.notify_all();
                let reason = state.broken.clone();
                return match state.pending.remove(&correlation) {
                    Some(pending) if complete || reason.is_none() => Ok(pending),
                    _ => Err(StoreError::Connection(
                        reason.unwrap_or_else(|| "the request was forgotten".to_owned()),
                    )),
                };
            }
            let Some(connection) = state.connection.take() else {
                (state, _) = self.changed.wait_for(state, left);
                continue;
            };
            (state, _) = self.receive(state, connection, slice);
        }
    }

    /// Receives and handles one frame with the connection that was taken from the state, and puts it back.
    /// False when none came until the deadline, or none will come any more.
    fn receive<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        mut connection: BlockingConnection,
        deadline: Instant,
    ) -> (MutexGuard<'a, State>, bool) {
        drop(state);
        let received = connection.receive(deadline);
        let mut state = self.state.lock();
        state.connection = Some(connection);
        let (surplus, progress) = match received {
            Ok(Some(frame)) => (state.dispatch(frame), true),
            Ok(None) => {
                state
                    .broken
                    .get_or_insert_with(|| "the raylet of this node has ended".to_owned());
                (None, false)
            }
            Err(RpcError::Deadline { .. }) => (None, false),
            Err(error) => {
                state.broken.get_or_insert_with(|| error.to_string());
                (None, false)
            }
        };
        // Others may have been answered, or may take the lead.
        self.changed.notify_all();
        if let Some(frame) = surplus {
            drop(state);
            // A failure marks the connection as broken, which the caller sees.
            self.send(&frame).ok();
            state = self.state.lock();
        }
        (state, progress)
    }

    /// Handles what has arrived while nobody waited.
    fn catch_up(&self) {
        let mut state = self.state.lock();
        let mut progress = true;
        while progress && state.broken.is_none() {
            let Some(connection) = state.connection.take() else {
                return;
            };
            (state, progress) = self.receive(state, connection, Instant::now() + GLANCE);
        }
    }
}

impl State {
    /// Hands a frame to its request. Returns what must be sent to give back what nobody wants.
    fn dispatch(&mut self, frame: Frame) -> Option<Frame> {
        match frame.kind {
            FrameKind::CreateObjectReply => match frame.decode::<CreateObjectReply>() {
                Ok(reply) => return self.created(frame.correlation, reply, frame.descriptor),
                Err(error) => self.broken = Some(error.to_string()),
            },
            FrameKind::ObjectReady => match frame.decode::<ObjectReady>() {
                Ok(reply) => return self.ready(frame.correlation, reply, frame.descriptor),
                Err(error) => self.broken = Some(error.to_string()),
            },
            FrameKind::ExitWorker => {
                self.broken = Some("the raylet of this node told its clients to end".to_owned());
            }
            other => tracing::debug!(?other, "a store client ignores this frame"),
        }
        None
    }

    fn created(
        &mut self,
        correlation: u64,
        reply: CreateObjectReply,
        descriptor: Option<OwnedFd>,
    ) -> Option<Frame> {
        let Some(Pending::Create { object, answer }) = self.pending.get_mut(&correlation) else {
            // The request's deadline has passed. Its object cannot be named without it: the range says nothing of
            // it, so the descriptor is kept, and the room is given up by the abort that the deadline sent.
            if let (Some(range), Some(descriptor)) = (reply.range, descriptor) {
                self.segments.learn(ObjectId::NIL, &range, descriptor).ok();
            }
            return None;
        };
        let object = *object;
        let mut surplus = None;
        *answer = Some(match (reply.failure, reply.range) {
            (Some(failure), _) => Err(failure.into()),
            (None, Some(range)) => {
                let mapped = self.segments.attach(object, &range, descriptor, Access::Writable);
                if mapped.is_err() {
                    surplus = Some(abort_frame(object));
                }
                mapped.map(Some)
            }
            (None, None) => Ok(None),
        });
        surplus
    }

    fn ready(&mut self, correlation: u64, reply: ObjectReady, descriptor: Option<OwnedFd>) -> Option<Frame> {
        let object = match ObjectId::from_slice(&reply.object_id) {
            Ok(object) => object,
            Err(error) => {
                self.broken = Some(error.to_string());
                return None;
            }
        };
        let Some(Pending::Get { missing, answers }) = self.pending.get_mut(&correlation) else {
            let range = reply.range?;
            if let Some(descriptor) = descriptor {
                self.segments.learn(object, &range, descriptor).ok();
            }
            return Some(release_frame(object));
        };
        *missing = missing.saturating_sub(1);
        match (reply.failure, reply.range) {
            (Some(failure), _) => answers.push((object, Err(failure.into()))),
            (None, Some(range)) => {
                let mapped = self.segments.attach(object, &range, descriptor, Access::ReadOnly);
                let surplus = mapped.is_err().then(|| release_frame(object));
                answers.push((object, mapped));
                return surplus;
            }
            (None, None) => {
                let error = StoreError::BadRange {
                    object,
                    reason: "the answer names none".to_owned(),
                };
                answers.push((object, Err(error)));
            }
        }
        None
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}
