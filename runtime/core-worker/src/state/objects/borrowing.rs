//! References that enter this process inside values: this process as a borrower.
//!
//! Whoever reads a foreign reference out of a value tells its owner (AddBorrower); what the reference came out of is
//! kept until the owner has acknowledged that: a task's arguments by the caller until the reply, its results by the
//! worker until ReleaseReturnPins, a value that was read by a reference of this process to it.

use std::sync::Arc;

use sparkray_common::{ErrorCode, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};

use super::{Object, Objects, References, Value, lost};
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};
use crate::slab_map::SlabMap;
use crate::state::links::{ConnId, Links, PeerKey, Pending, id_bytes};

/// Another process whose objects this one refers to.
#[derive(Debug)]
struct Owner {
    address: Arc<WorkerAddress>,
    objects: IdSet<ObjectId>,
    /// References that were not announced to it.
    unannounced: Vec<ObjectId>,
    /// The number of this process's registration with it.
    registration: u64,
    /// The number when a connection broke, or when a superseded registration was answered: the owner may have taken
    /// things in another order than they were sent, until it has acknowledged a later registration.
    unsettled: Option<u64>,
    /// Registrations that the owner has not answered, over any connection.
    unanswered: u32,
    dead: bool,
}

impl Owner {
    fn new(address: WorkerAddress, registration: u64) -> Self {
        Self {
            address: Arc::new(address),
            objects: IdSet::default(),
            unannounced: Vec::new(),
            registration,
            unsettled: None,
            unanswered: 0,
            dead: false,
        }
    }

    fn unsettle(&mut self) {
        self.unsettled = Some(self.registration);
    }

    fn is_unused(&self) -> bool {
        let settled = self.unsettled.is_none() && self.unanswered == 0;
        self.objects.is_empty() && self.unannounced.is_empty() && (self.dead || settled)
    }
}

/// An object whose owner has not acknowledged this process yet.
#[derive(Debug, Default)]
struct Unacknowledged {
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
    owners: IdMap<WorkerId, Owner>,
    /// Owners with references that were not announced to them.
    to_tell: Vec<WorkerId>,
    unacknowledged: IdMap<ObjectId, Unacknowledged>,
    /// Tasks whose worker pins references until this many of them are acknowledged.
    waiting_tasks: IdMap<TaskId, (ConnId, usize)>,
    carriers: IdMap<u64, Carrier>,
    last_carrier: u64,
    last_registration: u64,
}

impl Borrowing {
    /// Whether every owner has been told.
    pub(super) fn is_told(&self) -> bool {
        self.to_tell.is_empty()
    }

    pub(super) fn borrows_from(&self, owner: WorkerId) -> bool {
        self.owners.contains_key(&owner)
    }

    /// Whether an owner is known to be dead; `None`: nothing is borrowed from it.
    pub(super) fn is_owner_dead(&self, owner: WorkerId) -> Option<bool> {
        Some(self.owners.get(&owner)?.dead)
    }

    /// Owners, and their nodes.
    pub(super) fn owners(&self) -> impl Iterator<Item = (WorkerId, NodeId)> {
        let owners = self.owners.iter();
        owners.map(|(worker, owner)| (*worker, owner.address.node_id))
    }

    /// An owner of which nothing is left here is forgotten.
    fn forget_unused(&mut self, worker: WorkerId) {
        if self.owners.get(&worker).is_some_and(Owner::is_unused) {
            self.owners.remove(&worker);
        }
    }

    /// A reference has to be announced to its owner with the next frames.
    fn announce_later(&mut self, worker: WorkerId, id: ObjectId) {
        if let Some(owner) = self.owners.get_mut(&worker) {
            if owner.unannounced.is_empty() {
                self.to_tell.push(worker);
            }
            owner.unannounced.push(id);
        }
    }

    pub(super) fn check(&self, table: &SlabMap<ObjectId, Object, References>) {
        for (worker, owner) in &self.owners {
            assert!(!owner.is_unused(), "nothing is borrowed from {worker}: {owner:?}");
            for id in &owner.objects {
                let theirs = table.get(id).and_then(|object| object.owner.as_ref());
                assert!(
                    theirs.is_some_and(|address| address.worker_id == *worker),
                    "{id} is not of its owner {worker}"
                );
            }
        }
        for (number, carrier) in &self.carriers {
            // A value may contain a reference twice.
            let carriers = self.unacknowledged.values().flat_map(|entry| &entry.carriers);
            let waiting = carriers.filter(|carrier| *carrier == number).count();
            assert_eq!(
                waiting, carrier.waiting,
                "references read out of {}",
                carrier.object
            );
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
            && self.unacknowledged.is_empty()
            && self.waiting_tasks.is_empty()
            && self.carriers.is_empty()
    }
}

impl Objects {
    // ---- references that were read -------------------------------------------------------------------------

    /// Whether the owners of these references, which came out of values, know this process or are dead.
    pub(crate) fn are_borrowed(&self, ids: &[ObjectId]) -> bool {
        !ids.iter()
            .any(|id| self.borrowing.unacknowledged.contains_key(id))
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
    fn one_read_settled(&mut self, links: &mut Links, number: u64) {
        let Some(carrier) = self.borrowing.carriers.get_mut(&number) else {
            return;
        };
        carrier.waiting -= 1;
        if carrier.waiting == 0 {
            let object = carrier.object;
            self.borrowing.carriers.remove(&number);
            self.drop_ref(links, object);
        }
    }

    /// Whether every owner has been told of the references that came out of values.
    pub(crate) fn has_told_owners(&self) -> bool {
        self.borrowing.is_told()
    }

    /// A reference that came out of a value. Its owner is told with the next frames. True: it does not know this process
    /// yet, and what the reference came from must be kept until it does ([`Objects::are_borrowed`]).
    pub(in crate::state) fn add_foreign_ref(
        &mut self,
        links: &Links,
        id: ObjectId,
        owner: &WorkerAddress,
    ) -> bool {
        let is_own = owner.worker_id == links.process.me.worker_id;
        let known = match self.table.hot_mut(&id) {
            Some(references) => {
                references.count += 1;
                if !references.is_argument {
                    return self.borrowing.unacknowledged.contains_key(&id);
                }
                // Known as an argument so far: from now on this process is a borrower.
                references.is_argument = false;
                true
            }
            None if is_own => {
                // Freed already: its owner, this process, gave it up while the reference was on its way.
                let message = format!("object {id} was freed by its owner, this process");
                let object = Object::new(None, lost(ErrorCode::ObjectLost, message));
                self.table.insert_with(id, object, References::ONE);
                return false;
            }
            None => false,
        };
        if is_own {
            return false;
        }
        let is_dead = links.deaths.is_dead(owner);
        let last_registration = &mut self.borrowing.last_registration;
        let entry = self.borrowing.owners.entry(owner.worker_id).or_insert_with(|| {
            *last_registration += 1;
            Owner::new(owner.clone(), *last_registration)
        });
        entry.dead |= is_dead;
        entry.objects.insert(id);
        let (address, is_dead) = (Arc::clone(&entry.address), entry.dead);
        if !is_dead {
            self.borrowing.announce_later(owner.worker_id, id);
            self.borrowing.unacknowledged.entry(id).or_default().messages += 1;
        }
        match self.table.get_mut(&id).filter(|_| known) {
            Some(object) => object.owner = Some(address),
            None => {
                let value = if is_dead {
                    owner_died(id, &address)
                } else {
                    Value::Pending
                };
                self.table
                    .insert_with(id, Object::new(Some(address), value), References::ONE);
            }
        }
        !is_dead
    }

    // ---- telling owners ------------------------------------------------------------------------------------

    /// Tells owners of the references that came since the last time. One that cannot be reached is told of all when it
    /// is called again.
    pub(super) fn flush_borrows(&mut self, links: &mut Links) {
        for worker in std::mem::take(&mut self.borrowing.to_tell) {
            if links.is_unreachable(worker) {
                continue;
            }
            let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
                continue;
            };
            let unannounced = std::mem::take(&mut owner.unannounced);
            let held = self.still_held(links, unannounced);
            if !held.is_empty() {
                self.tell_borrowed(links, worker, held.clone(), held);
            }
            self.borrowing.forget_unused(worker);
        }
    }

    /// Those of these references that were not dropped; for the others nobody needs to wait.
    fn still_held(&mut self, links: &mut Links, unannounced: Vec<ObjectId>) -> Vec<ObjectId> {
        let (held, dropped): (Vec<_>, Vec<_>) = unannounced
            .into_iter()
            .partition(|id| self.table.contains_key(id));
        self.borrows_acknowledged(links, &dropped);
        held
    }

    /// Registers with an owner. `settles`: references for which its answer is awaited.
    fn tell_borrowed(
        &mut self,
        links: &mut Links,
        worker: WorkerId,
        objects: Vec<ObjectId>,
        settles: Vec<ObjectId>,
    ) {
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        owner.unanswered += 1;
        let registration = owner.registration;
        let message = proto::AddBorrower {
            object_ids: objects.iter().map(|id| id_bytes(id.as_bytes())).collect(),
            registration,
        };
        let pending = Pending::Borrow {
            settles: settles.clone(),
            owner: worker,
            registration,
        };
        let conn = links.conn_to_worker(&owner.address);
        if links
            .request(conn, pending, FrameKind::AddBorrower, &message)
            .is_err()
        {
            self.borrows_lost(links, worker, settles);
        }
    }

    /// The connection to a process broke: what it was told may have been lost.
    pub(in crate::state) fn unsettle(&mut self, worker: WorkerId) {
        if let Some(owner) = self.borrowing.owners.get_mut(&worker) {
            owner.unsettle();
        }
    }

    /// Tells an owner anew of everything that this process holds of it, and asks again for what was not answered.
    pub(in crate::state) fn register_again(&mut self, links: &mut Links, worker: WorkerId) {
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        self.borrowing.last_registration += 1;
        if owner.dead {
            return;
        }
        owner.registration = self.borrowing.last_registration;
        let unannounced = std::mem::take(&mut owner.unannounced);
        let held: Vec<ObjectId> = owner.objects.iter().copied().collect();
        let settles = self.still_held(links, unannounced);
        self.tell_borrowed(links, worker, held.clone(), settles);
        for id in held {
            let waits = self
                .table
                .get(&id)
                .is_some_and(|object| object.refetching_locations || (object.asked && !object.is_resolved()));
            if waits {
                self.ask_owner(links, id);
            }
        }
        self.borrowing.forget_unused(worker);
    }

    /// Another process has something for this one, and a connection broke in between. `is_unfinished`: whether a task waits
    /// for its answer.
    pub(in crate::state) fn on_register_again(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        message: &proto::RegisterAgain,
        is_unfinished: impl Fn(&TaskId) -> bool,
    ) -> Result<(), CoreError> {
        let sender = links.sender_of(conn)?;
        if links.deaths.is_dead(&sender) {
            return Ok(());
        }
        links.prefer(conn, &sender);
        if self.borrowing.borrows_from(sender.worker_id) {
            self.register_again(links, sender.worker_id);
        } else {
            self.borrowing.last_registration += 1;
            let nothing = proto::AddBorrower {
                object_ids: Vec::new(),
                registration: self.borrowing.last_registration,
            };
            // Nobody waits for the answer.
            links.send(conn, FrameKind::AddBorrower, 0, &nothing, &[], true);
        }
        for bytes in &message.task_ids {
            let task = TaskId::from_slice(bytes)?;
            if self.borrowing.waiting_tasks.contains_key(&task) || !is_unfinished(&task) {
                self.contained_came_again(links, task, conn);
            }
        }
        Ok(())
    }

    // ---- answers -------------------------------------------------------------------------------------------

    /// An owner has acknowledged a registration.
    ///
    /// Both sides may have called each other, so that there are two connections. When this process registered over one
    /// and then over the other, the owner may have taken the earlier registration last, and have forgotten the number
    /// of the later one with the last reference: it is told once more, when nothing else is on its way.
    pub(in crate::state) fn registered_with(
        &mut self,
        links: &mut Links,
        owner: WorkerId,
        registration: u64,
    ) {
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
        if tell_again && !links.is_unreachable(owner) {
            self.register_again(links, owner);
        }
        self.borrowing.forget_unused(owner);
    }

    pub(in crate::state) fn borrows_acknowledged(&mut self, links: &mut Links, objects: &[ObjectId]) {
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
                self.one_result_settled(links, task);
            }
            for carrier in settled.carriers {
                self.one_read_settled(links, carrier);
            }
            // A thread may wait for those of its arguments.
            links.out.news();
        }
    }

    /// The connection broke before the owner acknowledged: it is told again, or it is dead.
    pub(in crate::state) fn borrows_lost(
        &mut self,
        links: &mut Links,
        worker: WorkerId,
        objects: Vec<ObjectId>,
    ) {
        if let Some(owner) = self.borrowing.owners.get_mut(&worker) {
            owner.unanswered = owner.unanswered.saturating_sub(1);
        }
        for id in objects {
            let owner = self.table.get(&id).and_then(|object| object.owner.as_ref());
            let owner = owner.map(|owner| owner.worker_id);
            match owner {
                Some(owner) if self.borrowing.is_owner_dead(owner) == Some(false) => {
                    self.borrowing.announce_later(owner, id);
                }
                _ => self.borrows_acknowledged(links, &[id]),
            }
        }
    }

    /// This process's last reference of a foreign object is gone.
    pub(super) fn give_up_borrow(&mut self, links: &mut Links, id: ObjectId, address: &WorkerAddress) {
        let worker = address.worker_id;
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        owner.objects.remove(&id);
        // The dead are not called again, though what they have sent may still be read.
        if links.is_unreachable(worker) && !owner.dead {
            // It hears of what is left when it is called again.
            owner.unsettle();
            return;
        }
        let registration = owner.registration;
        self.borrowing.forget_unused(worker);
        if let Some(conn) = links.conn_of(PeerKey::Worker(worker)) {
            let message = proto::RemoveBorrower {
                object_ids: vec![id_bytes(id.as_bytes())],
                registration,
            };
            links.send(conn, FrameKind::RemoveBorrower, 0, &message, &[], false);
        }
    }

    /// An owner is dead: what it alone knew is lost.
    pub(in crate::state) fn owner_died(&mut self, links: &mut Links, worker: WorkerId) {
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        owner.dead = true;
        let unannounced = std::mem::take(&mut owner.unannounced);
        let objects: Vec<ObjectId> = owner.objects.iter().copied().collect();
        self.borrows_acknowledged(links, &unannounced);
        for id in objects {
            self.lose_to_dead_owner(links, id);
        }
        self.borrowing.forget_unused(worker);
    }

    // ---- results that contain references -------------------------------------------------------------------

    /// Takes note that results of a task contain references, which its worker pins until this process has
    /// registered with their owners. `inner`: the result, the object, and its owner.
    pub(in crate::state) fn take_contained(
        &mut self,
        links: &mut Links,
        task: TaskId,
        conn: ConnId,
        inner: &[(ObjectId, ObjectId, WorkerAddress)],
    ) {
        let mut waiting = IdSet::default();
        for (outer, id, owner) in inner {
            self.add_foreign_ref(links, *id, owner);
            if self.borrowing.unacknowledged.contains_key(id) {
                waiting.insert(*id);
            }
            match self.table.get_mut(outer) {
                Some(object) => object.ties().contained.push(*id),
                None => self.drop_ref(links, *id),
            }
        }
        if waiting.is_empty() {
            release_return_pins(links, task, conn);
            return;
        }
        for id in &waiting {
            if let Some(entry) = self.borrowing.unacknowledged.get_mut(id) {
                entry.tasks.push(task);
            }
        }
        self.borrowing.waiting_tasks.insert(task, (conn, waiting.len()));
    }

    /// The same results came again, over another connection, or are to be released over it.
    pub(in crate::state) fn contained_came_again(&mut self, links: &mut Links, task: TaskId, conn: ConnId) {
        match self.borrowing.waiting_tasks.get_mut(&task) {
            Some(waiting) => waiting.0 = conn,
            None => release_return_pins(links, task, conn),
        }
    }

    fn one_result_settled(&mut self, links: &mut Links, task: TaskId) {
        let Some((conn, waiting)) = self.borrowing.waiting_tasks.get_mut(&task) else {
            return;
        };
        *waiting -= 1;
        if *waiting == 0 {
            let conn = *conn;
            self.borrowing.waiting_tasks.remove(&task);
            release_return_pins(links, task, conn);
        }
    }
}

/// The worker of a task need not keep what its results refer to any more.
fn release_return_pins(links: &mut Links, task: TaskId, conn: ConnId) {
    let message = proto::ReleaseReturnPins {
        task_id: id_bytes(task.as_bytes()),
    };
    links.send(conn, FrameKind::ReleaseReturnPins, 0, &message, &[], false);
}

/// The value of an object whose owner is dead.
pub(super) fn owner_died(id: ObjectId, owner: &WorkerAddress) -> Value {
    let message = format!(
        "the owner of object {id}, worker {} on node {}, died: its value cannot be found",
        owner.worker_id, owner.node_id
    );
    lost(ErrorCode::OwnerDied, message)
}
