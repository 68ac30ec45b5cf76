//! Objects: their values, and the references of this process.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind, location_of};

use super::waits::WaitId;
use super::{Effect, State};
use crate::aligned::{copy_aligned, must_move};
use crate::error::CoreError;
use crate::hash::IdSet;
use crate::reactor::ConnId;
use crate::store::StoredValue;

/// Values up to this length are copied out of the buffer that they were read into, which they would keep whole.
const COPIED_BYTES: usize = 8 * 1024;

/// Nodes that hold an object, with the addresses of their raylets.
pub(crate) type Locations = Vec<(NodeId, String)>;

/// Where the value of an object is.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Not known yet.
    Pending,
    /// The whole value.
    Inline(Bytes),
    /// In the stores of these nodes.
    Stored { size: u64, locations: Locations },
    /// There is none.
    Failed(Arc<CoreError>),
}

impl Value {
    pub(super) fn failed(error: CoreError) -> Self {
        Self::Failed(Arc::new(error))
    }

    /// An inline value that does not keep the buffer it was read into, and whose buffers are aligned.
    pub(super) fn read_inline(bytes: Bytes) -> Self {
        if must_move(&bytes) {
            Self::Inline(copy_aligned(&bytes))
        } else if bytes.len() <= COPIED_BYTES {
            Self::Inline(Bytes::copy_from_slice(&bytes))
        } else {
            Self::Inline(bytes)
        }
    }
}

/// Who waits for an object inside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A task whose argument it is.
    Task(TaskId),
    /// An actor whose creation needs it.
    Actor(ActorId),
    /// A wait for its existence.
    Exists(WaitId),
    /// A wait for its value, which goes to this place.
    Value(WaitId, u32),
}

#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) is_error: bool,
    /// Somebody asked for it: `get`, `wait`, a call that it is an argument of, another process.
    pub(super) was_looked_at: bool,
    /// `None`: this process.
    pub(crate) owner: Option<Arc<WorkerAddress>>,
    /// References in this process: of the user, of submitted tasks, of values that contain it.
    refs: u32,
    /// Only known as an argument of a task that runs; another process owns it, and the task's caller keeps it.
    pub(super) is_argument: bool,
    /// The owner was asked for the value.
    pub(super) asked: bool,
    /// The local store was asked for it.
    pub(super) reading: bool,
    /// The owner was asked again where it is, because the store could not get it.
    pub(super) relocating: bool,
    /// Bytes that count as inline in this process: those of a put value.
    put_bytes: u32,
    /// How often the store could not give it.
    pub(super) failed_reads: u8,
    pub(super) waiters: Vec<Waiter>,
    /// The mapped value, while somebody uses it.
    pub(super) mapped: Weak<StoredValue>,
    /// What few objects have.
    links: Option<Box<Links>>,
}

/// How an object hangs together with others.
#[derive(Debug, Default)]
struct Links {
    /// Processes that hold references.
    borrowers: IdSet<WorkerId>,
    /// Objects that this one's value refers to; each holds a reference.
    contained: Vec<ObjectId>,
    /// GetObject requests of other processes.
    remote_waiters: Vec<(ConnId, u64)>,
}

impl Object {
    pub(super) fn new(owner: Option<Arc<WorkerAddress>>, value: Value) -> Self {
        Self {
            value,
            is_error: false,
            was_looked_at: false,
            owner,
            refs: 1,
            is_argument: false,
            asked: false,
            reading: false,
            relocating: false,
            put_bytes: 0,
            failed_reads: 0,
            waiters: Vec::new(),
            mapped: Weak::new(),
            links: None,
        }
    }

    pub(crate) fn is_resolved(&self) -> bool {
        !matches!(self.value, Value::Pending)
    }

    fn links(&mut self) -> &mut Links {
        self.links.get_or_insert_default()
    }

    pub(super) fn add_reference(&mut self) {
        self.refs += 1;
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
            || self
                .links
                .as_ref()
                .is_some_and(|links| !links.remote_waiters.is_empty())
    }

    pub(super) fn contain(&mut self, inner: impl IntoIterator<Item = ObjectId>) {
        self.links().contained.extend(inner);
    }

    pub(super) fn wait_remotely(&mut self, conn: ConnId, correlation: u64) {
        self.links().remote_waiters.push((conn, correlation));
    }

    pub(super) fn add_borrower(&mut self, worker: WorkerId) {
        self.links().borrowers.insert(worker);
    }

    fn is_unused(&self) -> bool {
        self.refs == 0 && self.links.as_ref().is_none_or(|links| links.borrowers.is_empty())
    }

    #[cfg(test)]
    pub(super) fn refs(&self) -> u32 {
        self.refs
    }

    #[cfg(test)]
    pub(super) fn borrower_count(&self) -> usize {
        self.links.as_ref().map_or(0, |links| links.borrowers.len())
    }
}

impl State {
    // ---- references ----------------------------------------------------------------------------------------

    /// A new object of this process with one reference.
    pub(crate) fn add_owned(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        let mut object = Object::new(None, value);
        if !contained.is_empty() {
            for inner in &contained {
                self.add_ref(*inner);
            }
            object.contain(contained);
        }
        self.objects.insert(id, object);
    }

    /// A value that was put is an error: whoever gets it has it raised.
    pub(crate) fn mark_put_error(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.is_error = true;
            object.was_looked_at = true;
        }
    }

    /// As [`State::add_owned`], for a value that the user put.
    pub(crate) fn add_put(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        let inline_bytes = match &value {
            Value::Inline(bytes) => bytes.len(),
            _ => 0,
        };
        self.add_owned(id, value, contained);
        if let Some(object) = self.objects.get_mut(&id) {
            object.put_bytes = inline_bytes as u32;
            self.inline_bytes += inline_bytes;
        }
    }

    /// One more reference. Unknown ids are those of objects that were freed: a reference to one cannot appear
    /// but by a bug, and then reading it says so.
    pub(crate) fn add_ref(&mut self, id: ObjectId) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs += 1;
        }
    }

    /// One reference less.
    pub(crate) fn drop_ref(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.refs = object.refs.saturating_sub(1);
        if object.is_unused() {
            self.forget_object(id);
        }
    }

    pub(super) fn remove_borrower(&mut self, id: ObjectId, worker: WorkerId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if let Some(links) = &mut object.links {
            links.borrowers.remove(&worker);
        }
        if object.is_unused() {
            self.forget_object(id);
        }
    }

    /// Forgets an object without references, and those that only it refers to.
    fn forget_object(&mut self, id: ObjectId) {
        let mut unused = vec![id];
        while let Some(id) = unused.pop() {
            let Some(object) = self.objects.remove(&id) else {
                continue;
            };
            if object.is_error {
                self.note_forgotten(&object);
            }
            self.inline_bytes -= object.put_bytes as usize;
            match &object.owner {
                Some(owner) => self.give_up_borrow(id, owner),
                None => {
                    if let Value::Stored { locations, .. } = &object.value {
                        if !object.is_argument {
                            self.free_stored(id, locations);
                        }
                    }
                }
            }
            for waiter in object.waiters {
                self.waited_for_freed(id, waiter);
            }
            let Some(links) = object.links else { continue };
            for inner in links.contained {
                let Some(object) = self.objects.get_mut(&inner) else {
                    continue;
                };
                object.refs = object.refs.saturating_sub(1);
                if object.is_unused() {
                    unused.push(inner);
                }
            }
        }
    }

    /// All copies go away: with the next frames, together with others.
    pub(super) fn free_stored(&mut self, id: ObjectId, locations: &Locations) {
        self.frees.push(proto::FreeEntry {
            object_id: Self::id_bytes(id.as_bytes()),
            locations: describe_locations(locations),
        });
    }

    /// As [`State::free_stored`], for an object that this process has written to its node's store.
    pub(crate) fn free_here(&mut self, id: ObjectId) {
        let here = vec![(self.me.node_id, self.me.node_address.clone())];
        self.free_stored(id, &here);
    }

    /// The store's ranges of values that nobody here uses any more.
    pub(crate) fn release_mapped(&mut self, ids: &[ObjectId]) {
        let object_ids = ids.iter().map(|id| Self::id_bytes(id.as_bytes())).collect();
        self.tell_raylet(
            FrameKind::ReleaseObjects,
            &proto::ReleaseObjects { object_ids },
            false,
        );
    }

    /// An argument in a store, which the caller keeps while the task runs: it is known here without being borrowed.
    pub(crate) fn hold_argument(&mut self, id: ObjectId, locations: Locations) {
        if let Some(object) = self.objects.get_mut(&id) {
            object.refs += 1;
            return;
        }
        let mut object = Object::new(None, Value::Stored { size: 0, locations });
        object.is_argument = true;
        self.objects.insert(id, object);
    }

    // ---- values --------------------------------------------------------------------------------------------

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
        if !object.has_waiters() {
            return;
        }
        let waiters = std::mem::take(&mut object.waiters);
        let remote = object
            .links
            .as_mut()
            .map(|links| std::mem::take(&mut links.remote_waiters))
            .unwrap_or_default();
        for (conn, correlation) in remote {
            self.reply_value(conn, correlation, id);
        }
        for waiter in waiters {
            match waiter {
                Waiter::Task(_) | Waiter::Actor(_) => self.dependents.push_back(waiter),
                Waiter::Exists(wait) => self.wait_met(wait),
                Waiter::Value(wait, place) => self.deliver(id, wait, place),
            }
        }
        self.tell_dependents();
    }

    /// Lets go on what waited for objects. What that resolves in turn is not told by a call in this call: an error goes
    /// through a chain of calls of any length.
    pub(super) fn tell_dependents(&mut self) {
        if self.telling_dependents {
            return;
        }
        self.telling_dependents = true;
        while let Some(dependent) = self.dependents.pop_front() {
            match dependent {
                Waiter::Task(task) => self.dependency_resolved(task),
                Waiter::Actor(actor) => self.creation_dependency_resolved(actor),
                Waiter::Exists(_) | Waiter::Value(..) => {}
            }
        }
        self.telling_dependents = false;
    }

    /// Ends what waits for objects that will never be resolved.
    pub(super) fn fail_unresolved(&mut self, error: &CoreError) {
        let unresolved: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(_, object)| !object.is_resolved())
            .map(|(id, _)| *id)
            .collect();
        let failed = Value::failed(error.clone());
        for id in unresolved {
            self.resolve(id, failed.clone(), false);
        }
    }

    pub(super) fn on_location_lost(&mut self, message: &proto::LocationLost) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        let node = NodeId::from_slice(&message.node_id)?;
        self.remove_location(id, node, "its store does not have it any more");
        Ok(())
    }

    pub(super) fn locations_lost(&mut self, node: NodeId, cause: &str) {
        let there: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(_, object)| {
                matches!(&object.value, Value::Stored { locations, .. } if locations.iter().any(|(at, _)| *at == node))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in there {
            self.remove_location(id, node, cause);
        }
    }

    fn remove_location(&mut self, id: ObjectId, node: NodeId, cause: &str) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        let Value::Stored { locations, .. } = &mut object.value else {
            return;
        };
        locations.retain(|(at, _)| *at != node);
        if !locations.is_empty() {
            return;
        }
        if object.mapped.strong_count() > 0 && node != self.me.node_id {
            // This node has a copy as long as this process uses it, and perhaps longer.
            locations.push((self.me.node_id, self.me.node_address.clone()));
            return;
        }
        let message = format!("object {id} was lost with node {node}: {cause}");
        object.value = Value::failed(CoreError::new(ErrorCode::ObjectLost, message));
    }

    /// Tells the raylet what was freed since the last time.
    pub(super) fn flush_frees(&mut self) {
        if !self.frees.is_empty() {
            let objects = std::mem::take(&mut self.frees);
            self.tell_raylet(FrameKind::FreeObjects, &proto::FreeObjects { objects }, false);
        }
    }

    pub(crate) fn notify(&mut self, notice: super::Notice) {
        self.effects.push(Effect::Notify(notice));
    }
}

pub(super) fn describe_locations(locations: &Locations) -> Vec<proto::ObjectLocation> {
    locations
        .iter()
        .map(|(node, address)| location_of(*node, address))
        .collect()
}

pub(crate) fn read_locations(messages: &[proto::ObjectLocation]) -> Result<Locations, CoreError> {
    let mut locations = Vec::with_capacity(messages.len());
    for message in messages {
        locations.push((
            NodeId::from_slice(&message.node_id)?,
            message.node_address.clone(),
        ));
    }
    Ok(locations)
}
