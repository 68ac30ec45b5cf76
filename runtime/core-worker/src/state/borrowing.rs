//! References that leave and enter this process inside values.
//!
//! Whoever reads a foreign reference out of a value tells its owner (AddBorrower); what the reference came out of is
//! kept until the owner has acknowledged that: a task's arguments by the caller until the reply, its results by the
//! worker until ReleaseReturnPins, a value that was read by a reference of this process to it.

use std::sync::Arc;

use sparkray_common::{ErrorCode, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};

use super::execution::IncomingTask;
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
    /// The number of this process's registration with it.
    registration: u64,
    /// The number when a connection broke, or when a superseded registration was answered: the owner may have taken
    /// things in another order than they were sent, until it has acknowledged a later registration.
    unsettled: Option<u64>,
    /// Registrations that the owner has not answered, over any connection.
    unanswered: u32,
    pub(super) dead: bool,
}

impl Owner {
    /// A connection broke: what was told may have been lost.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = Some(self.registration);
    }

    fn is_unused(&self) -> bool {
        let settled = self.unsettled.is_none() && self.unanswered == 0;
        self.objects.is_empty() && self.untold.is_empty() && (self.dead || settled)
    }
}

/// An object whose owner has not acknowledged this process yet.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    /// Messages that are not answered, or not sent.
    messages: u32,
    /// Tasks whose results contain it, and whose worker waits for the acknowledgement.
    tasks: Vec<TaskId>,
    /// Values that it came out of, as numbers of `Borrowing::carriers`.
    carriers: Vec<u64>,
}

/// An object out of whose value references were read. It is kept until their owners know this process.
#[derive(Debug)]
struct Carrier {
    object: ObjectId,
    waiting: usize,
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
    carriers: IdMap<u64, Carrier>,
    last_carrier: u64,
    last_registration: u64,
}

/// References in the results of a task that this process ran, until its caller has taken them over.
#[derive(Debug)]
pub(super) struct ReturnPins {
    pub(super) caller: WorkerId,
    pub(super) node: NodeId,
    objects: Vec<ObjectId>,
}

impl Borrowing {
    /// Whether the owner of an object does not know this process yet.
    fn is_unacknowledged(&self, id: &ObjectId) -> bool {
        self.unacknowledged.contains_key(id)
    }

    /// Whether every owner has been told.
    pub(super) fn is_told(&self) -> bool {
        self.to_tell.is_empty()
    }

    /// An owner of which nothing is left here is forgotten.
    pub(super) fn forget_unused(&mut self, worker: WorkerId) {
        if self.owners.get(&worker).is_some_and(Owner::is_unused) {
            self.owners.remove(&worker);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
            && self.unacknowledged.is_empty()
            && self.waiting_tasks.is_empty()
            && self.carriers.is_empty()
    }
}

impl State {
    // ---- the borrower's side -------------------------------------------------------------------------------

    /// Whether the owners of these references, which came out of values, know this process or are dead.
    pub(crate) fn are_borrowed(&self, ids: &[ObjectId]) -> bool {
        !ids.iter().any(|id| self.borrowing.is_unacknowledged(id))
    }

    /// Keeps an object until the owners of references that were read out of its value know this process.
    pub(crate) fn keep_until_borrowed(&mut self, object: ObjectId, read: &[ObjectId]) {
        let number = self.borrowing.last_carrier + 1;
        let mut waiting = 0;
        for id in read {
            if let Some(entry) = self.borrowing.unacknowledged.get_mut(id) {
                entry.carriers.push(number);
                waiting += 1;
            }
        }
        if waiting > 0 {
            self.add_ref(object);
            self.borrowing.last_carrier = number;
            self.borrowing
                .carriers
                .insert(number, Carrier { object, waiting });
        }
    }

    /// One reference that was read out of a value is known to its owner.
    fn one_read_settled(&mut self, number: u64) {
        let Some(carrier) = self.borrowing.carriers.get_mut(&number) else {
            return;
        };
        carrier.waiting -= 1;
        if carrier.waiting == 0 {
            let object = carrier.object;
            self.borrowing.carriers.remove(&number);
            self.drop_ref(object);
        }
    }

    /// Whether every owner has been told of the references that came out of values.
    pub(crate) fn has_told_owners(&self) -> bool {
        self.borrowing.is_told()
    }

    /// A reference that came out of a value. Its owner is told with the next frames. True: it does not know this process
    /// yet, and what the reference came from must be kept until it does ([`State::are_borrowed`]).
    pub(crate) fn add_foreign_ref(&mut self, id: ObjectId, owner: &WorkerAddress) -> bool {
        let mut resolved = false;
        if let Some(object) = self.objects.get_mut(&id) {
            object.add_reference();
            if !object.is_argument {
                return self.borrowing.is_unacknowledged(&id);
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
            return false;
        }
        if owner.worker_id == self.me.worker_id {
            return false;
        }
        let dead = self.is_dead(owner);
        let last_registration = &mut self.borrowing.last_registration;
        let entry = self.borrowing.owners.entry(owner.worker_id).or_insert_with(|| {
            *last_registration += 1;
            Owner {
                address: Arc::new(owner.clone()),
                objects: IdSet::default(),
                untold: Vec::new(),
                registration: *last_registration,
                unsettled: None,
                unanswered: 0,
                dead: false,
            }
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
        !dead
    }

    /// Tells owners of the references that came since the last time. One that cannot be reached is told of all when it
    /// is called again.
    pub(super) fn flush_borrows(&mut self) {
        for worker in std::mem::take(&mut self.borrowing.to_tell) {
            if self.is_unreachable(worker) {
                continue;
            }
            let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
                continue;
            };
            let untold = std::mem::take(&mut owner.untold);
            let (address, registration) = (Arc::clone(&owner.address), owner.registration);
            let held = self.still_held(untold);
            if !held.is_empty() {
                self.tell_borrowed(&address, registration, &held.clone(), held);
            }
            self.borrowing.forget_unused(worker);
        }
    }

    /// Those of these references that were not dropped; for the others nobody needs to wait.
    fn still_held(&mut self, untold: Vec<ObjectId>) -> Vec<ObjectId> {
        let (held, dropped): (Vec<_>, Vec<_>) =
            untold.into_iter().partition(|id| self.objects.contains_key(id));
        self.borrows_acknowledged(&dropped);
        held
    }

    fn tell_borrowed(
        &mut self,
        owner: &WorkerAddress,
        registration: u64,
        objects: &[ObjectId],
        settles: Vec<ObjectId>,
    ) {
        let conn = self.conn_to_worker(owner);
        let message = proto::AddBorrower {
            object_ids: objects.iter().map(|id| Self::id_bytes(id.as_bytes())).collect(),
            registration,
        };
        let pending = Pending::Borrow {
            settles,
            owner: owner.worker_id,
            registration,
        };
        if let Some(owner) = self.borrowing.owners.get_mut(&owner.worker_id) {
            owner.unanswered += 1;
        }
        self.request(conn, pending, FrameKind::AddBorrower, &message);
    }

    /// Tells an owner anew of everything that this process holds of it, and asks again for what was not answered.
    pub(super) fn register_again(&mut self, worker: WorkerId) {
        self.borrowing.last_registration += 1;
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        if owner.dead {
            return;
        }
        owner.registration = self.borrowing.last_registration;
        let registration = owner.registration;
        let untold = std::mem::take(&mut owner.untold);
        let held: Vec<ObjectId> = owner.objects.iter().copied().collect();
        let address = Arc::clone(&owner.address);
        let settles = self.still_held(untold);
        self.tell_borrowed(&address, registration, &held, settles);
        for id in held {
            let waits = self
                .objects
                .get(&id)
                .is_some_and(|object| object.relocating || (object.asked && !object.is_resolved()));
            if waits {
                self.ask_owner(id, &address);
            }
        }
        self.borrowing.forget_unused(worker);
    }

    /// Another process has something for this one, and a connection broke in between.
    pub(super) fn on_register_again(
        &mut self,
        conn: ConnId,
        message: &proto::RegisterAgain,
    ) -> Result<(), CoreError> {
        let sender = self.sender_of(conn)?;
        if self.is_dead(&sender) {
            return Ok(());
        }
        // The other side may have lost the connection that this one still believes in.
        self.peers.insert(PeerKey::Worker(sender.worker_id), conn);
        if self.borrowing.owners.contains_key(&sender.worker_id) {
            self.register_again(sender.worker_id);
        } else {
            self.borrowing.last_registration += 1;
            let nothing = proto::AddBorrower {
                object_ids: Vec::new(),
                registration: self.borrowing.last_registration,
            };
            // Nobody waits for the answer.
            self.send(conn, FrameKind::AddBorrower, 0, &nothing, &[], true);
        }
        for bytes in &message.task_ids {
            let task = TaskId::from_slice(bytes)?;
            if let Some(waiting) = self.borrowing.waiting_tasks.get_mut(&task) {
                waiting.0 = conn;
            } else if !self.tasks.contains_key(&task) {
                self.release_return_pins(task, conn);
            }
        }
        Ok(())
    }

    /// An owner has acknowledged a registration.
    ///
    /// Both sides may have called each other, so that there are two connections. When this process registered over one
    /// and then over the other, the owner may have taken the earlier registration last, and have forgotten the number
    /// of the later one with the last reference: it is told once more, when nothing else is on its way.
    pub(super) fn registered_with(&mut self, owner: WorkerId, registration: u64) {
        let Some(entry) = self.borrowing.owners.get_mut(&owner) else {
            return;
        };
        entry.unanswered = entry.unanswered.saturating_sub(1);
        if registration < entry.registration {
            entry.unsettle();
        } else if entry.unsettled.is_some_and(|before| registration > before) {
            entry.unsettled = None;
        }
        let tell_again = entry.unsettled.is_some() && entry.unanswered == 0;
        if tell_again && !self.is_unreachable(owner) {
            self.register_again(owner);
        }
        self.borrowing.forget_unused(owner);
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
            let Some(settled) = self.borrowing.unacknowledged.remove(id) else {
                continue;
            };
            for task in settled.tasks {
                self.one_result_settled(task);
            }
            for carrier in settled.carriers {
                self.one_read_settled(carrier);
            }
            // A thread may wait for those of its arguments.
            self.news = true;
        }
    }

    /// The connection broke before the owner acknowledged: it is told again, or it is dead.
    pub(super) fn borrows_lost(&mut self, worker: WorkerId, objects: Vec<ObjectId>) {
        if let Some(owner) = self.borrowing.owners.get_mut(&worker) {
            owner.unanswered = owner.unanswered.saturating_sub(1);
        }
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
        let worker = address.worker_id;
        let unreachable = self.is_unreachable(worker);
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        owner.objects.remove(&id);
        let registration = owner.registration;
        if unreachable {
            // It hears of what is left when it is called again.
            owner.unsettle();
            return;
        }
        self.borrowing.forget_unused(worker);
        if let Some(conn) = self.peers.get(&PeerKey::Worker(worker)).copied() {
            let message = proto::RemoveBorrower {
                object_ids: vec![Self::id_bytes(id.as_bytes())],
                registration,
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

    // ---- the worker's side: references in results ----------------------------------------------------------

    /// Keeps references in a task's results until its caller has registered. `conn`: where the answer goes.
    pub(super) fn pin_returned(&mut self, task: &IncomingTask, conn: ConnId, objects: Vec<ObjectId>) {
        if objects.is_empty() {
            return;
        }
        if self.is_dead(&task.caller) {
            for id in objects {
                self.drop_ref(id);
            }
            return;
        }
        let pins = ReturnPins {
            caller: task.caller.worker_id,
            node: task.caller.node_id,
            objects,
        };
        let earlier = self.return_pins.insert(task.task_id, pins);
        for id in earlier.into_iter().flat_map(|pins| pins.objects) {
            self.drop_ref(id);
        }
        if !self.conns.contains_key(&conn) {
            self.peer_connection_lost(&task.caller);
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

    /// Tasks whose results wait for this caller to register.
    pub(super) fn return_pins_of(&self, caller: WorkerId) -> Vec<TaskId> {
        self.return_pins
            .iter()
            .filter(|(_, pins)| pins.caller == caller)
            .map(|(task, _)| *task)
            .collect()
    }

    pub(super) fn drop_return_pins_of(&mut self, caller: WorkerId) {
        for task in self.return_pins_of(caller) {
            if let Some(pins) = self.return_pins.remove(&task) {
                for id in pins.objects {
                    self.drop_ref(id);
                }
            }
        }
    }
}
