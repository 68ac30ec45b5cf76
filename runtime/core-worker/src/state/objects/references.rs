//! References of this process, and objects that end with the last of them.

use sparkray_common::{ObjectId, WorkerId};
use sparkray_proto::{self as proto, FrameKind};

use super::{
    Locations, Object, Objects, References, Value, Waiter, describe_locations, read_locations, unknown_object,
};
use crate::error::CoreError;
use crate::state::events::Event;
use crate::state::links::{Links, id_bytes};

impl Objects {
    /// A new object of this process with one reference. `contained`: objects that its value refers to.
    pub(crate) fn add_owned(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        let mut object = Object::new(None, value);
        if !contained.is_empty() {
            for inner in &contained {
                self.add_ref(*inner);
            }
            object.ties().contained.extend(contained);
        }
        self.table.insert_with(id, object, References::ONE);
    }

    /// A participant has sealed an object for this process. It stays until this process leaves: who will read the reference
    /// to it is not known. Said again it changes nothing.
    pub(in crate::state) fn on_adopt_object(
        &mut self,
        message: &proto::AdoptObject,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        let size = message.size;
        let locations = read_locations(message.location.as_slice())?;
        if !self.table.contains_key(&id) {
            self.add_owned(id, Value::Stored { size, locations }, Vec::new());
        }
        Ok(())
    }

    /// Whether the value of an object refers to others.
    pub(crate) fn contains_references(&self, id: &ObjectId) -> bool {
        let ties = self.table.get(id).and_then(|object| object.ties.as_ref());
        ties.is_some_and(|ties| !ties.contained.is_empty())
    }

    /// As [`Objects::add_owned`], for a value that the user put. An error that was put is raised by whoever gets it, and is
    /// nothing that its user has not heard of.
    pub(crate) fn add_put(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        let inline_bytes = match &value {
            Value::Inline(bytes) | Value::Raised(bytes) => bytes.len(),
            _ => 0,
        };
        let is_error = matches!(value, Value::Raised(_));
        self.metrics.put();
        self.add_owned(id, value, contained);
        if let Some(object) = self.table.get_mut(&id) {
            object.put_bytes = inline_bytes as u32;
            object.was_looked_at = is_error;
            self.bytes.put += inline_bytes;
        }
    }

    /// One more reference. Unknown ids are those of objects that were freed: a reference to one cannot appear
    /// but by a bug, and then reading it says so.
    pub(crate) fn add_ref(&mut self, id: ObjectId) {
        if let Some(references) = self.table.hot_mut(&id) {
            references.count += 1;
        }
    }

    /// One reference less.
    pub(in crate::state) fn drop_ref(&mut self, links: &mut Links, id: ObjectId) {
        if self.count_down(id) {
            self.forget(links, id);
        }
    }

    /// Whether the object is to be forgotten: it was the last reference, and nobody else holds one.
    fn count_down(&mut self, id: ObjectId) -> bool {
        let Some(references) = self.table.hot_mut(&id) else {
            return false;
        };
        references.count = references.count.saturating_sub(1);
        references.count == 0 && self.table.get(&id).is_some_and(|object| !object.is_borrowed())
    }

    pub(super) fn remove_borrower(&mut self, links: &mut Links, id: ObjectId, worker: WorkerId) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        if let Some(ties) = &mut object.ties {
            ties.borrowers.remove(&worker);
        }
        let is_borrowed = object.is_borrowed();
        if !is_borrowed
            && self
                .table
                .hot_mut(&id)
                .is_some_and(|references| references.count == 0)
        {
            self.forget(links, id);
        }
    }

    /// Forgets an object without references, and those that only it refers to.
    fn forget(&mut self, links: &mut Links, id: ObjectId) {
        let mut unused = vec![id];
        while let Some(id) = unused.pop() {
            let is_argument = self
                .table
                .hot_mut(&id)
                .is_some_and(|references| references.is_argument);
            let Some(object) = self.table.remove(&id) else {
                continue;
            };
            if !is_argument {
                self.note_forgotten(links, &object);
            }
            self.bytes.forget(&id, object.put_bytes as usize);
            match &object.owner {
                Some(owner) => self.give_up_borrow(links, id, owner),
                None => {
                    if let Value::Stored { locations, .. } = &object.value {
                        if !is_argument {
                            self.free_stored(id, locations);
                        }
                    }
                }
            }
            for waiter in object.waiters {
                match waiter {
                    Waiter::Dependent(dependent) => links.out.event(Event::DependencyResolved(dependent)),
                    Waiter::Exists(wait) => self.waits.met(links, wait),
                    Waiter::Value(wait, place) => {
                        self.fill(links, wait, place, Err(unknown_object(id)));
                    }
                }
            }
            let Some(ties) = object.ties else { continue };
            for inner in ties.contained {
                if self.count_down(inner) {
                    unused.push(inner);
                }
            }
        }
    }

    /// An argument in a store, which the caller keeps while the task runs: it is known here without being borrowed.
    pub(crate) fn hold_argument(&mut self, id: ObjectId, locations: Locations) {
        if let Some(references) = self.table.hot_mut(&id) {
            references.count += 1;
            return;
        }
        let object = Object::new(None, Value::Stored { size: 0, locations });
        let references = References {
            is_argument: true,
            ..References::ONE
        };
        self.table.insert_with(id, object, references);
    }

    // ---- the node's store ----------------------------------------------------------------------------------

    /// All copies go away: with the next frames, together with others.
    pub(in crate::state) fn free_stored(&mut self, id: ObjectId, locations: &Locations) {
        self.frees.push(proto::FreeEntry {
            object_id: id_bytes(id.as_bytes()),
            locations: describe_locations(locations),
        });
    }

    /// Tells the raylet what was freed since the last time.
    pub(super) fn flush_frees(&mut self, links: &mut Links) {
        if !self.frees.is_empty() {
            let objects = std::mem::take(&mut self.frees);
            links.tell_raylet(FrameKind::FreeObjects, &proto::FreeObjects { objects }, false);
        }
    }
}
