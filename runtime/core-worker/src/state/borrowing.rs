//! References that leave and enter this process inside values.
//!
//! Whoever reads a foreign reference out of a value tells its owner (AddBorrower); what the reference came out of is
//! kept until the owner has acknowledged that: a task's arguments by the caller until the reply, its results by the
//! worker until ReleaseReturnPins, a value that was read by the thread that reads it.

use std::sync::Arc;

use sparkray_common::{ErrorCode, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};
use tracing::debug;

use super::objects::{Object, Value};
use super::{PeerKey, Pending, State};
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};
use crate::reactor::ConnId;

/// Another process whose objects this one refers to.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) address: Arc<WorkerAddress>,
    pub(super) objects: IdSet<ObjectId>,
    /// References that it has not been told of.
    pub(super) untold: Vec<ObjectId>,
    /// Since when its connection is broken; a timer will call it again.
    pub(super) broken_since: Option<u64>,
    /// Since when it was called again without having said anything.
    pub(super) unreached_since: Option<u64>,
    pub(super) dead: bool,
}

/// An object whose owner has not acknowledged this process yet.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    /// Messages that are not answered, or not sent.
    messages: u32,
    /// Tasks whose results contain it, and whose worker waits for the acknowledgement.
    tasks: Vec<TaskId>,
}

/// This process as a borrower.
#[derive(Debug, Default)]
pub(super) struct Borrowing {
    pub(super) owners: IdMap<WorkerId, Owner>,
    /// Owners with references that they have not been told of.
    to_tell: Vec<WorkerId>,
    unacknowledged: IdMap<ObjectId, Unacknowledged>,
    /// Tasks whose worker pins references until this many of them are acknowledged.
    waiting_tasks: IdMap<TaskId, (ConnId, usize)>,
}

/// References in the results of a task that this process ran, until its caller has taken them over.
#[derive(Debug)]
pub(super) struct ReturnPins {
    conn: ConnId,
    objects: Vec<ObjectId>,
}

impl Borrowing {
    pub(super) fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// Whether every owner has been told.
    pub(super) fn is_told(&self) -> bool {
        self.to_tell.is_empty()
    }

    /// An owner of which nothing is left here is forgotten.
    pub(super) fn forget_unused(&mut self, worker: WorkerId) {
        if self
            .owners
            .get(&worker)
            .is_some_and(|owner| owner.objects.is_empty() && owner.untold.is_empty())
        {
            self.owners.remove(&worker);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.unacknowledged.is_empty() && self.waiting_tasks.is_empty()
    }
}

impl State {
    // ---- the borrower's side -------------------------------------------------------------------------------

    /// Whether every owner of a reference that came out of a value knows this process.
    pub(crate) fn borrows_settled(&self) -> bool {
        self.borrowing.is_settled()
    }

    /// A reference that came out of a value. Its owner is told with the next frames; the caller keeps what the
    /// reference came from until [`State::borrows_settled`].
    pub(crate) fn add_foreign_ref(&mut self, id: ObjectId, owner: &WorkerAddress) {
        let mut resolved = false;
        if let Some(object) = self.objects.get_mut(&id) {
            object.add_reference();
            if !object.is_argument {
                return;
            }
            // Known as an argument so far: from now on this process is a borrower.
            object.is_argument = false;
            resolved = true;
        } else if owner.worker_id == self.me.worker_id {
            // Freed already: its owner, this process, gave it up while the reference was on its way.
            let gone = CoreError::new(
                ErrorCode::ObjectLost,
                format!("object {id} was freed by its owner, this process"),
            );
            self.objects.insert(id, Object::new(None, Value::failed(gone)));
            return;
        }
        if owner.worker_id == self.me.worker_id {
            return;
        }
        let dead = self.is_dead(owner);
        let entry = self
            .borrowing
            .owners
            .entry(owner.worker_id)
            .or_insert_with(|| Owner {
                address: Arc::new(owner.clone()),
                objects: IdSet::default(),
                untold: Vec::new(),
                broken_since: None,
                unreached_since: None,
                dead: false,
            });
        entry.dead |= dead;
        entry.objects.insert(id);
        let address = Arc::clone(&entry.address);
        let dead = entry.dead;
        if !dead {
            if entry.untold.is_empty() {
                self.borrowing.to_tell.push(owner.worker_id);
            }
            entry.untold.push(id);
            self.borrowing.unacknowledged.entry(id).or_default().messages += 1;
        }
        if resolved {
            if let Some(object) = self.objects.get_mut(&id) {
                object.owner = Some(address);
            }
        } else {
            self.objects
                .insert(id, Object::new(Some(address), Value::Pending));
            if dead {
                self.lose_to_dead_owner(id);
            }
        }
    }

    /// Tells owners of the references that came since the last time.
    pub(super) fn flush_borrows(&mut self) {
        for worker in std::mem::take(&mut self.borrowing.to_tell) {
            let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
                continue;
            };
            if owner.broken_since.is_none() {
                let untold = std::mem::take(&mut owner.untold);
                let address = Arc::clone(&owner.address);
                self.register_as_borrower(&address, untold);
                self.borrowing.forget_unused(worker);
            }
        }
    }

    pub(super) fn register_as_borrower(&mut self, owner: &WorkerAddress, objects: Vec<ObjectId>) {
        let (held, dropped): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|id| self.objects.contains_key(id));
        self.borrows_acknowledged(&dropped);
        if held.is_empty() {
            return;
        }
        self.tell_borrowed(owner, &held.clone(), held);
    }

    pub(super) fn tell_borrowed(
        &mut self,
        owner: &WorkerAddress,
        objects: &[ObjectId],
        settles: Vec<ObjectId>,
    ) {
        let conn = self.conn_to_worker(owner);
        let message = proto::AddBorrower {
            object_ids: objects.iter().map(|id| Self::id_bytes(id.as_bytes())).collect(),
        };
        self.request(conn, Pending::Borrow(settles), FrameKind::AddBorrower, &message);
    }

    pub(super) fn borrows_acknowledged(&mut self, objects: &[ObjectId]) {
        for id in objects {
            let Some(entry) = self.borrowing.unacknowledged.get_mut(id) else {
                continue;
            };
            entry.messages = entry.messages.saturating_sub(1);
            if entry.messages > 0 {
                continue;
            }
            let tasks = std::mem::take(&mut entry.tasks);
            self.borrowing.unacknowledged.remove(id);
            for task in tasks {
                self.one_result_settled(task);
            }
        }
        if self.borrowing.is_settled() {
            self.news = true;
        }
    }

    /// The connection broke before the owner acknowledged: it is told again, or it is dead.
    pub(super) fn borrows_lost(&mut self, objects: Vec<ObjectId>) {
        for id in objects {
            let owner = self.objects.get(&id).and_then(|object| object.owner.clone());
            let entry = owner.and_then(|owner| self.borrowing.owners.get_mut(&owner.worker_id));
            match entry {
                Some(entry) if !entry.dead => {
                    if entry.untold.is_empty() {
                        self.borrowing.to_tell.push(entry.address.worker_id);
                    }
                    entry.untold.push(id);
                }
                _ => self.borrows_acknowledged(&[id]),
            }
        }
    }

    /// This process's last reference of a foreign object is gone.
    pub(super) fn give_up_borrow(&mut self, id: ObjectId, address: &WorkerAddress) {
        if let Some(owner) = self.borrowing.owners.get_mut(&address.worker_id) {
            owner.objects.remove(&id);
            self.borrowing.forget_unused(address.worker_id);
        }
        if let Some(conn) = self.peers.get(&PeerKey::Worker(address.worker_id)).copied() {
            let message = proto::RemoveBorrower {
                object_ids: vec![Self::id_bytes(id.as_bytes())],
            };
            self.send(conn, FrameKind::RemoveBorrower, 0, &message, &[], false);
        }
    }

    // ---- results that contain references -------------------------------------------------------------------

    /// Takes note that results of a task contain references, which its worker pins until this process has
    /// registered with their owners. `inner`: the result, the object, and its owner.
    pub(super) fn take_contained(
        &mut self,
        task: TaskId,
        conn: ConnId,
        inner: &[(ObjectId, ObjectId, WorkerAddress)],
    ) {
        let mut waiting = IdSet::default();
        for (outer, id, owner) in inner {
            self.add_foreign_ref(*id, owner);
            if self.borrowing.unacknowledged.contains_key(id) {
                waiting.insert(*id);
            }
            match self.objects.get_mut(outer) {
                Some(object) => object.contain([*id]),
                None => self.drop_ref(*id),
            }
        }
        if waiting.is_empty() {
            self.release_return_pins(task, conn);
            return;
        }
        for id in &waiting {
            if let Some(entry) = self.borrowing.unacknowledged.get_mut(id) {
                entry.tasks.push(task);
            }
        }
        self.borrowing.waiting_tasks.insert(task, (conn, waiting.len()));
    }

    /// The same results came again, over another connection.
    pub(super) fn contained_came_again(&mut self, task: TaskId, conn: ConnId) {
        match self.borrowing.waiting_tasks.get_mut(&task) {
            Some(waiting) => waiting.0 = conn,
            None => self.release_return_pins(task, conn),
        }
    }

    fn one_result_settled(&mut self, task: TaskId) {
        let Some((conn, waiting)) = self.borrowing.waiting_tasks.get_mut(&task) else {
            return;
        };
        *waiting -= 1;
        if *waiting == 0 {
            let conn = *conn;
            self.borrowing.waiting_tasks.remove(&task);
            self.release_return_pins(task, conn);
        }
    }

    fn release_return_pins(&mut self, task: TaskId, conn: ConnId) {
        let message = proto::ReleaseReturnPins {
            task_id: Self::id_bytes(task.as_bytes()),
        };
        self.send(conn, FrameKind::ReleaseReturnPins, 0, &message, &[], false);
    }

    // ---- the owner's side ----------------------------------------------------------------------------------

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
                    object.add_borrower(conn);
                    if let Some(state) = self.conns.get_mut(&conn) {
                        state.borrowed.insert(id);
                    }
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

    // ---- the worker's side: references in results ----------------------------------------------------------

    /// Keeps references in a task's results until its caller has registered.
    pub(super) fn pin_returned(&mut self, task: TaskId, conn: ConnId, objects: Vec<ObjectId>) {
        if objects.is_empty() {
            return;
        }
        if self.conns.contains_key(&conn) || self.broken_conns.contains_key(&conn) {
            self.return_pins.insert(task, ReturnPins { conn, objects });
        } else {
            for id in objects {
                self.drop_ref(id);
            }
        }
    }

    /// The caller came back over another connection.
    pub(super) fn repin_returned(&mut self, task: TaskId, conn: ConnId) {
        if let Some(pins) = self.return_pins.get_mut(&task) {
            pins.conn = conn;
        }
    }

    pub(super) fn on_release_return_pins(
        &mut self,
        message: &proto::ReleaseReturnPins,
    ) -> Result<(), CoreError> {
        let task = TaskId::from_slice(&message.task_id)?;
        if let Some(pins) = self.return_pins.remove(&task) {
            for id in pins.objects {
                self.drop_ref(id);
            }
        }
        Ok(())
    }

    pub(super) fn drop_return_pins_of(&mut self, conn: ConnId) {
        let tasks: Vec<TaskId> = self
            .return_pins
            .iter()
            .filter(|(_, pins)| pins.conn == conn)
            .map(|(task, _)| *task)
            .collect();
        for task in tasks {
            if let Some(pins) = self.return_pins.remove(&task) {
                for id in pins.objects {
                    self.drop_ref(id);
                }
            }
        }
    }
}
