//! Objects: values, references, owners and borrowers.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use sparkray_common::{ErrorCode, NodeId, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, Failure, FrameKind, location_of};
use sparkray_rpc::Frame;
use tracing::debug;

use super::{Effect, PeerKey, Pending, State, failure_of};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};
use crate::store::StoredValue;

/// Where the value of an object is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Not known yet.
    Pending,
    /// The whole value.
    Inline(Bytes),
    /// In the stores of these nodes.
    Stored {
        size: u64,
        locations: Vec<(NodeId, String)>,
    },
    /// There is none.
    Failed(CoreError),
}

/// Who waits for an object inside the state.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dependent {
    Task(TaskId),
}

pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) is_error: bool,
    /// `None`: this process.
    pub(crate) owner: Option<Arc<WorkerAddress>>,
    /// References in this process: of the user, of submitted tasks, of values that contain it.
    refs: u32,
    /// Connections of processes that hold references.
    borrowers: HashSet<ConnId>,
    /// Objects that this one's value refers to; each holds a reference.
    contained: Vec<ObjectId>,
    /// Only known as an argument of the task that runs; another process owns it.
    is_argument: bool,
    /// The owner was asked for the value.
    asked: bool,
    /// How often the owner's connection broke before it answered.
    fetch_failures: u8,
    /// GetObject requests of other processes.
    remote_waiters: Vec<(ConnId, u64)>,
    dependents: Vec<Dependent>,
    /// The mapped value, while somebody uses it.
    pub(crate) mapped: Weak<StoredValue>,
    /// The local store was asked for it.
    pub(crate) reading: bool,
    /// The local store has no copy to give.
    pub(crate) read_error: Option<CoreError>,
}

impl Object {
    fn new(owner: Option<Arc<WorkerAddress>>, value: Value) -> Self {
        Self {
            value,
            is_error: false,
            owner,
            refs: 0,
            borrowers: HashSet::new(),
            contained: Vec::new(),
            is_argument: false,
            asked: false,
            fetch_failures: 0,
            remote_waiters: Vec::new(),
            dependents: Vec::new(),
            mapped: Weak::new(),
            reading: false,
            read_error: None,
        }
    }

    pub(crate) fn is_resolved(&self) -> bool {
        !matches!(self.value, Value::Pending)
    }

    #[cfg(test)]
    pub(crate) fn refs(&self) -> u32 {
        self.refs
    }
}

impl State {
    /// A new object of this process with one reference.
    pub(crate) fn add_owned(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        for inner in &contained {
            self.add_ref(*inner);
        }
        let mut object = Object::new(None, value);
        object.refs = 1;
        object.contained = contained;
        self.objects.insert(id, object);
    }

    /// One more reference. Unknown ids are those of objects that were freed: a reference to one cannot appear
    /// but by a bug, and then reading it says so.
    pub(crate) fn add_ref(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs += 1;
        }
    }

    /// A reference that came out of a value. Registers as a borrower with a foreign owner; the caller keeps what
    /// the reference came from until [`State::unacknowledged_borrows`] has let go of it.
    pub(crate) fn add_foreign_ref(&mut self, id: ObjectId, owner: &WorkerAddress) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs += 1;
            if !object.is_argument {
                return;
            }
            // Known as an argument so far: from now on this process is a borrower.
            object.is_argument = false;
            object.owner = Some(Arc::new(owner.clone()));
            self.register_as_borrower(id, owner);
            return;
        }
        if owner.worker_id == self.me.worker_id {
            // Freed already: its owner, this process, gave it up while the reference was on its way.
            let gone = CoreError::new(
                ErrorCode::ObjectLost,
                format!("object {id} was freed by its owner, this process"),
            );
            let mut object = Object::new(None, Value::Failed(gone));
            object.refs = 1;
            self.objects.insert(id, object);
            return;
        }
        let mut object = Object::new(Some(Arc::new(owner.clone())), Value::Pending);
        object.refs = 1;
        self.objects.insert(id, object);
        if self.dead_workers.contains(&owner.worker_id) {
            self.owner_died(id);
            return;
        }
        self.register_as_borrower(id, owner);
    }

    fn register_as_borrower(&mut self, id: ObjectId, owner: &WorkerAddress) {
        self.unacknowledged_borrows.insert(id);
        let conn = self.conn_to_worker(owner);
        let message = proto::AddBorrower {
            object_ids: vec![id.to_vec().into()],
        };
        self.request(
            conn,
            Pending::Borrow(vec![id]),
            FrameKind::AddBorrower,
            &message,
            &[],
        );
    }

    pub(super) fn borrow_acknowledged(&mut self, objects: &[ObjectId]) {
        for id in objects {
            self.unacknowledged_borrows.remove(id);
        }
        let mut finished = Vec::new();
        self.pin_releases.retain_mut(|(task, conn, waiting)| {
            for id in objects {
                waiting.remove(id);
            }
            if waiting.is_empty() {
                finished.push((*task, *conn));
            }
            !waiting.is_empty()
        });
        for (task, conn) in finished {
            self.release_return_pins(task, conn);
        }
    }

    fn release_return_pins(&mut self, task: TaskId, conn: ConnId) {
        let message = proto::ReleaseReturnPins {
            task_id: task.to_vec().into(),
        };
        self.send(conn, FrameKind::ReleaseReturnPins, 0, &message, &[], false);
    }

    /// One reference less.
    pub(crate) fn drop_ref(&mut self, id: ObjectId) {
        let mut worklist = vec![id];
        while let Some(id) = worklist.pop() {
            let Some(object) = self.objects.get_mut(&id) else {
                continue;
            };
            object.refs = object.refs.saturating_sub(1);
            if object.refs == 0 && object.borrowers.is_empty() {
                self.forget_object(id, &mut worklist);
            }
        }
    }

    fn forget_object(&mut self, id: ObjectId, released: &mut Vec<ObjectId>) {
        let Some(object) = self.objects.remove(&id) else {
            return;
        };
        released.extend(&object.contained);
        self.watchers.remove(&id);
        match &object.owner {
            Some(owner) => {
                if let Some(conn) = self.peers.get(&PeerKey::Worker(owner.worker_id)).copied() {
                    let message = proto::RemoveBorrower {
                        object_ids: vec![id.to_vec().into()],
                    };
                    self.send(conn, FrameKind::RemoveBorrower, 0, &message, &[], false);
                }
            }
            None => {
                if let Value::Stored { locations, .. } = &object.value {
                    self.free_stored(id, locations);
                }
            }
        }
    }

    pub(super) fn free_stored(&mut self, id: ObjectId, locations: &[(NodeId, String)]) {
        let locations = locations
            .iter()
            .map(|(node, address)| location_of(*node, address))
            .collect();
        let message = proto::FreeObjects {
            objects: vec![proto::FreeEntry {
                object_id: id.to_vec().into(),
                locations,
            }],
        };
        self.tell_raylet(FrameKind::FreeObjects, &message, false);
    }

    /// The value of an object is known. Later values of the same object are ignored.
    pub(crate) fn resolve(&mut self, id: ObjectId, value: Value, is_error: bool) {
        let Some(object) = self.objects.get_mut(&id) else {
            // Nobody refers to it any more.
            if let Value::Stored { locations, .. } = value {
                self.free_stored(id, &locations);
            }
            return;
        };
        if object.is_resolved() {
            return;
        }
        object.value = value;
        object.is_error = is_error;
        let waiters = std::mem::take(&mut object.remote_waiters);
        let dependents = std::mem::take(&mut object.dependents);
        for (conn, correlation) in waiters {
            self.reply_value(conn, correlation, id);
        }
        if let Some(watchers) = self.watchers.remove(&id) {
            self.resolved_watchers.extend(watchers);
        }
        for dependent in dependents {
            let Dependent::Task(task) = dependent;
            self.dependency_resolved(task);
        }
    }

    /// Takes note that results contain references, which the worker pins until this process has registered.
    pub(super) fn hold_contained(
        &mut self,
        outer: ObjectId,
        task: TaskId,
        conn: ConnId,
        inner: &[(ObjectId, WorkerAddress)],
    ) {
        let mut waiting = HashSet::new();
        let mut contained = Vec::with_capacity(inner.len());
        for (id, owner) in inner {
            self.add_foreign_ref(*id, owner);
            if self.unacknowledged_borrows.contains(id) {
                waiting.insert(*id);
            }
            contained.push(*id);
        }
        match self.objects.get_mut(&outer) {
            Some(object) => object.contained.extend(contained),
            None => {
                for id in contained {
                    self.drop_ref(id);
                }
            }
        }
        if waiting.is_empty() {
            self.release_return_pins(task, conn);
        } else {
            self.pin_releases.push((task, conn, waiting));
        }
    }

    // ---- asking owners -------------------------------------------------------------------------------------

    /// Begins to find out the value of an object.
    pub(crate) fn want(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        let Some(owner) = object.owner.clone() else { return };
        if object.is_resolved() || object.asked {
            return;
        }
        object.asked = true;
        if self.dead_workers.contains(&owner.worker_id) {
            self.owner_died(id);
            return;
        }
        let conn = self.conn_to_worker(&owner);
        let message = proto::GetObject {
            object_id: id.to_vec().into(),
        };
        self.request(conn, Pending::Fetch(id), FrameKind::GetObject, &message, &[]);
    }

    /// Makes `task` wait for an object; `false`: it is there.
    pub(super) fn depend(&mut self, id: ObjectId, dependent: Dependent) -> bool {
        let Some(object) = self.objects.get_mut(&id) else {
            return false;
        };
        if object.is_resolved() {
            return false;
        }
        object.dependents.push(dependent);
        self.want(id);
        // The owner may be known to be dead.
        self.objects.get(&id).is_some_and(|object| !object.is_resolved())
    }

    /// Reports `key` once the object is resolved; `false`: it is already.
    pub(crate) fn watch(&mut self, id: ObjectId, key: u64) -> bool {
        match self.objects.get(&id) {
            Some(object) if !object.is_resolved() => {
                self.watchers.entry(id).or_default().push(key);
                self.want(id);
                true
            }
            _ => false,
        }
    }

    pub(super) fn on_get_object_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Some(Pending::Fetch(id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let reply: proto::GetObjectReply = frame.decode()?;
        let value = if let Some(failure) = &reply.failure {
            Value::Failed(failure.into())
        } else if reply.inline {
            Value::Inline(frame.payload.clone())
        } else {
            Value::Stored {
                size: reply.stored_length,
                locations: read_locations(&reply.locations)?,
            }
        };
        self.resolve(id, value, reply.is_error);
        Ok(())
    }

    pub(super) fn fetch_failed(&mut self, id: ObjectId, was_connected: bool) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.asked = false;
        object.fetch_failures += 1;
        if was_connected && object.fetch_failures < 3 {
            // A connection may break while both live: ask again. A dead owner refuses the new connection.
            self.want(id);
        } else {
            self.owner_died(id);
        }
    }

    fn owner_died(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get(&id) else {
            return;
        };
        let Some(owner) = object.owner.clone() else { return };
        let message = format!(
            "the owner of object {id}, worker {} on node {}, died: its value cannot be found",
            owner.worker_id, owner.node_id
        );
        self.resolve(
            id,
            Value::Failed(CoreError::new(ErrorCode::OwnerDied, message)),
            false,
        );
    }

    // ---- answering borrowers -------------------------------------------------------------------------------

    pub(super) fn on_get_object(
        &mut self,
        conn: ConnId,
        correlation: u64,
        message: &proto::GetObject,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        match self.objects.get_mut(&id) {
            Some(object) if !object.is_resolved() => {
                object.remote_waiters.push((conn, correlation));
                // This process may itself be a borrower that was asked by mistake; then it asks on.
                self.want(id);
            }
            _ => self.reply_value(conn, correlation, id),
        }
        Ok(())
    }

    fn reply_value(&mut self, conn: ConnId, correlation: u64, id: ObjectId) {
        let mut reply = proto::GetObjectReply::default();
        let mut payload = Bytes::new();
        match self.objects.get(&id) {
            None => {
                reply.failure = Some(Failure::new(
                    ErrorCode::ObjectLost,
                    format!("object {id} was freed by its owner"),
                ));
            }
            Some(object) => {
                reply.is_error = object.is_error;
                match &object.value {
                    Value::Pending => return,
                    Value::Inline(bytes) => {
                        reply.inline = true;
                        payload = bytes.clone();
                    }
                    Value::Stored { size, locations } => {
                        reply.stored_length = *size;
                        reply.locations = locations
                            .iter()
                            .map(|(node, address)| location_of(*node, address))
                            .collect();
                    }
                    Value::Failed(error) => reply.failure = Some(failure_of(error)),
                }
            }
        }
        self.send(
            conn,
            FrameKind::GetObjectReply,
            correlation,
            &reply,
            &[&payload],
            true,
        );
    }

    pub(super) fn on_add_borrower(
        &mut self,
        conn: ConnId,
        correlation: u64,
        message: &proto::AddBorrower,
    ) -> Result<(), CoreError> {
        for bytes in &message.object_ids {
            let id = ObjectId::from_slice(bytes)?;
            match self.objects.get_mut(&id) {
                Some(object) => {
                    object.borrowers.insert(conn);
                }
                None => debug!(object_id = %id, "a borrower came for an object that was freed"),
            }
        }
        self.send(conn, FrameKind::Empty, correlation, &proto::Empty {}, &[], true);
        Ok(())
    }

    pub(super) fn on_remove_borrower(
        &mut self,
        conn: ConnId,
        message: &proto::RemoveBorrower,
    ) -> Result<(), CoreError> {
        for bytes in &message.object_ids {
            self.remove_borrower(ObjectId::from_slice(bytes)?, conn);
        }
        Ok(())
    }

    fn remove_borrower(&mut self, id: ObjectId, conn: ConnId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.borrowers.remove(&conn);
        if object.refs == 0 && object.borrowers.is_empty() {
            let mut released = Vec::new();
            self.forget_object(id, &mut released);
            for inner in released {
                self.drop_ref(inner);
            }
        }
    }

    pub(super) fn drop_borrower_connection(&mut self, conn: ConnId) {
        let borrowed: Vec<ObjectId> = self
            .objects
            .iter_mut()
            .filter_map(|(id, object)| object.borrowers.contains(&conn).then_some(*id))
            .collect();
        for id in borrowed {
            self.remove_borrower(id, conn);
        }
    }

    pub(super) fn on_release_return_pins(
        &mut self,
        message: &proto::ReleaseReturnPins,
    ) -> Result<(), CoreError> {
        let task = TaskId::from_slice(&message.task_id)?;
        if let Some((_, pins)) = self.return_pins.remove(&task) {
            for id in pins {
                self.drop_ref(id);
            }
        }
        Ok(())
    }

    pub(super) fn drop_return_pins_of(&mut self, conn: ConnId) {
        let tasks: Vec<TaskId> = self
            .return_pins
            .iter()
            .filter(|(_, (of, _))| *of == conn)
            .map(|(task, _)| *task)
            .collect();
        for task in tasks {
            if let Some((_, pins)) = self.return_pins.remove(&task) {
                for id in pins {
                    self.drop_ref(id);
                }
            }
        }
        self.pin_releases.retain(|(_, of, _)| *of != conn);
    }

    // ---- the local store -----------------------------------------------------------------------------------

    /// Asks the local store for objects whose nodes are known and that nobody here has mapped.
    pub(crate) fn read_stored(&mut self, ids: &[ObjectId]) {
        let mut entries = Vec::new();
        let mut asked = HashSet::new();
        for id in ids {
            let Some(object) = self.objects.get_mut(id) else {
                continue;
            };
            if object.reading || object.mapped.strong_count() > 0 {
                continue;
            }
            let Value::Stored { locations, .. } = &object.value else {
                continue;
            };
            object.reading = true;
            object.read_error = None;
            asked.insert(*id);
            entries.push(proto::GetObjectEntry {
                object_id: id.to_vec().into(),
                locations: locations
                    .iter()
                    .map(|(node, address)| location_of(*node, address))
                    .collect(),
            });
        }
        if entries.is_empty() {
            return;
        }
        let message = proto::GetObjects { objects: entries };
        self.request(
            RAYLET_CONN,
            Pending::Read(asked),
            FrameKind::GetObjects,
            &message,
            &[],
        );
    }

    pub(super) fn on_object_ready(&mut self, conn: ConnId, mut frame: Frame) -> Result<(), CoreError> {
        let reply: proto::ObjectReady = frame.decode()?;
        let id = ObjectId::from_slice(&reply.object_id)?;
        if let Some(state) = self.conns.get_mut(&conn) {
            if let Some(Pending::Read(waiting)) = state.pending.get_mut(&frame.correlation) {
                waiting.remove(&id);
                if waiting.is_empty() {
                    state.pending.remove(&frame.correlation);
                }
            }
        }
        if let Some(failure) = &reply.failure {
            self.read_failed(id, &failure.into());
            // A descriptor never comes with a failure.
            return Ok(());
        }
        self.ready_reads.push((id, reply, frame.descriptor.take()));
        Ok(())
    }

    pub(super) fn read_failed(&mut self, id: ObjectId, error: &CoreError) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.reading = false;
            object.read_error = Some(error.clone());
        }
    }

    /// An argument in a store, which the caller pins while the task runs.
    pub(crate) fn hold_argument(
        &mut self,
        id: ObjectId,
        locations: &[proto::ObjectLocation],
    ) -> Result<(), CoreError> {
        let locations = read_locations(locations)?;
        let object = self.objects.entry(id).or_insert_with(|| {
            let mut object = Object::new(None, Value::Stored { size: 0, locations });
            object.is_argument = true;
            object
        });
        object.refs += 1;
        Ok(())
    }

    /// The argument is mapped, or the task gave up.
    pub(crate) fn release_argument(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if object.is_argument && object.refs == 1 {
            // Its owner frees it, not this process.
            self.objects.remove(&id);
        } else {
            self.drop_ref(id);
        }
    }

    // ---- deaths --------------------------------------------------------------------------------------------

    pub(super) fn on_location_lost(&mut self, message: &proto::LocationLost) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        let node = NodeId::from_slice(&message.node_id)?;
        self.remove_location(id, node, "its store does not have it any more");
        Ok(())
    }

    fn remove_location(&mut self, id: ObjectId, node: NodeId, cause: &str) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        let Value::Stored { locations, .. } = &mut object.value else {
            return;
        };
        locations.retain(|(at, _)| *at != node);
        if locations.is_empty() {
            let message = format!("object {id} was lost with node {node}: {cause}");
            object.value = Value::Failed(CoreError::new(ErrorCode::ObjectLost, message));
        }
    }

    pub(super) fn on_node_died(&mut self, message: &proto::NodeDied) -> Result<(), CoreError> {
        let node = NodeId::from_slice(&message.node_id)?;
        let there: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                matches!(&object.value, Value::Stored { locations, .. } if locations.iter().any(|(at, _)| *at == node))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in there {
            self.remove_location(id, node, &message.cause);
        }
        if let Some(conn) = self.peers.get(&PeerKey::Raylet(node)).copied() {
            self.outbox.push(Effect::Close { conn });
            self.on_closed(conn, &message.cause);
        }
        let on_node: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, state)| state.from.as_ref().is_some_and(|address| address.node_id == node))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in on_node {
            self.outbox.push(Effect::Close { conn });
            self.on_closed(conn, &message.cause);
        }
        Ok(())
    }

    pub(super) fn on_worker_died(&mut self, message: &proto::WorkerDied) -> Result<(), CoreError> {
        let worker = sparkray_common::WorkerId::from_slice(&message.worker_id)?;
        self.dead_workers.insert(worker);
        let orphans: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                !object.is_resolved()
                    && object
                        .owner
                        .as_ref()
                        .is_some_and(|owner| owner.worker_id == worker)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in orphans {
            self.owner_died(id);
        }
        if let Some(conn) = self.peers.get(&PeerKey::Worker(worker)).copied() {
            self.outbox.push(Effect::Close { conn });
            self.on_closed(conn, &message.cause);
        }
        Ok(())
    }
}

pub(crate) fn read_locations(messages: &[proto::ObjectLocation]) -> Result<Vec<(NodeId, String)>, CoreError> {
    let mut locations = Vec::with_capacity(messages.len());
    for message in messages {
        locations.push((
            NodeId::from_slice(&message.node_id)?,
            message.node_address.clone(),
        ));
    }
    Ok(locations)
}
