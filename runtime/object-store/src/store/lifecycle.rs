//! From create to seal, and the end of a slot.

use std::collections::VecDeque;

use sparkray_common::{ErrorCode, ObjectId};
use sparkray_proto::{CreateObjectReply, Failure, ObjectRange};

use super::ObjectStore;
use super::slot::{DiskWork, NextWriter, Purpose, Slot, SlotId, Stage};
use crate::allocator::Range;
use crate::event::{ClientId, StoreEvent};
use crate::io::{IoJob, Job};
use crate::shm::Access;

impl ObjectStore {
    pub(super) fn begin_create(&mut self, object: ObjectId, writer: NextWriter) {
        let client = writer.client;
        if let Some(failure) = self.dead_owner(&writer.owner, object) {
            self.answer_create(client, writer.correlation, refused(failure), None);
            return;
        }
        let own = self.client(client).writing.get(&object).copied();
        if own.is_some_and(|slot| self.slots[&slot].detached) {
            let message =
                format!("object {object} was freed while this process writes it: seal or abort it first");
            self.answer_create(
                client,
                writer.correlation,
                refused(Failure::new(ErrorCode::AlreadyExists, message)),
                None,
            );
            return;
        }
        let slot = match self.index.get(&object).copied() {
            Some(slot) => slot,
            None => self.new_slot(object, Stage::Awaited),
        };
        match self.slots[&slot].stage {
            Stage::Awaited => self.queue_create(slot, writer),
            Stage::Sealed => {
                let reply = CreateObjectReply {
                    already_sealed: true,
                    ..CreateObjectReply::default()
                };
                self.answer_create(client, writer.correlation, reply, None);
            }
            Stage::Writing { client: current } if current == client => {
                if self.slots[&slot].size == writer.size {
                    self.grant_create(slot, client, writer.correlation);
                    return;
                }
                let size = self.slots[&slot].size;
                let message = format!(
                    "this process writes object {object} already, with {size} bytes: seal or abort it first"
                );
                let failure = Failure::new(ErrorCode::AlreadyExists, message);
                self.answer_create(client, writer.correlation, refused(failure), None);
            }
            Stage::CreateQueued { .. } | Stage::Writing { .. } | Stage::Pulling => {
                self.client(client).queued_behind.insert(slot);
                self.slot(slot).next_writers.push_back(writer);
            }
        }
    }

    pub(super) fn new_slot(&mut self, object: ObjectId, stage: Stage) -> SlotId {
        let slot = SlotId(self.number());
        self.slots.insert(slot, Slot::new(object, stage));
        self.index.insert(object, slot);
        slot
    }

    /// The writer waits for room.
    fn queue_create(&mut self, slot: SlotId, writer: NextWriter) {
        let NextWriter {
            client,
            correlation,
            size,
            owner,
            feed,
        } = writer;
        self.owners.entry(owner.worker_id).or_default().insert(slot);
        if let Some(feed) = feed {
            self.join_feed(slot, feed, &owner);
        }
        let entry = self.slot(slot);
        entry.stage = Stage::CreateQueued { client, correlation };
        entry.size = size;
        entry.owner = Some(owner);
        entry.feed = feed;
        entry.primary = true;
        let object = entry.object;
        self.client(client).writing.insert(object, slot);
        self.ask_for_room(slot, Purpose::Create);
    }

    /// Tells a writer where its range is.
    pub(super) fn grant_create(&mut self, slot: SlotId, client: ClientId, correlation: u64) {
        let range = self.slots[&slot]
            .memory
            .expect("a slot that is written has a range");
        match self.descriptor_for(client, range.segment, Access::Writable) {
            Ok(descriptor) => {
                self.slot(slot).stage = Stage::Writing { client };
                let reply = CreateObjectReply {
                    range: Some(self.range_message(slot, range)),
                    ..CreateObjectReply::default()
                };
                self.answer_create(client, correlation, reply, descriptor);
            }
            Err(failure) => {
                self.answer_create(client, correlation, refused(failure), None);
                let object = self.slots[&slot].object;
                self.client(client).writing.remove(&object);
                self.writer_ended(slot, "its writer could not be given its memory");
            }
        }
    }

    pub(super) fn answer_create(
        &mut self,
        client: ClientId,
        correlation: u64,
        reply: CreateObjectReply,
        descriptor: Option<std::os::fd::OwnedFd>,
    ) {
        self.events.push(StoreEvent::Created {
            client,
            correlation,
            reply,
            descriptor,
        });
    }

    pub(super) fn range_message(&self, slot: SlotId, range: Range) -> ObjectRange {
        ObjectRange {
            segment_id: range.segment.0,
            segment_size: self.segments[&range.segment].size(),
            offset: range.offset,
            size: self.slots[&slot].size,
        }
    }

    pub(super) fn finish_create(&mut self, client: ClientId, object: ObjectId) {
        let Some(record) = self.clients.get_mut(&client) else {
            return;
        };
        let Some(slot) = record.writing.get(&object).copied() else {
            // A second seal of the same object, or one of an object that was sealed before.
            return;
        };
        if !matches!(self.slots[&slot].stage, Stage::Writing { .. }) {
            return;
        }
        record.writing.remove(&object);
        self.note_sign_of_feed(slot);
        self.metrics.created(self.slots[&slot].size);
        self.sealed(slot);
    }

    /// The slot's bytes are complete: answers everybody who waits for them.
    pub(super) fn sealed(&mut self, slot: SlotId) {
        let entry = self.slot(slot);
        entry.stage = Stage::Sealed;
        if entry.detached {
            self.remove_if_unneeded(slot);
            return;
        }
        let next_writers = std::mem::take(&mut entry.next_writers);
        self.object_count += 1;
        for writer in next_writers {
            self.client(writer.client).queued_behind.remove(&slot);
            let reply = CreateObjectReply {
                already_sealed: true,
                ..CreateObjectReply::default()
            };
            self.answer_create(writer.client, writer.correlation, reply, None);
        }
        self.answer_waiters(slot);
        self.answer_push_waiters(slot);
        self.refresh_evictable(slot);
        self.settle_block(slot);
    }

    /// The writer of an unsealed slot died, gave up or got no room. Another one takes over, or who waits hears
    /// that the object is lost. The caller has taken the slot out of the client's record.
    pub(super) fn writer_ended(&mut self, slot: SlotId, reason: &str) {
        self.leave_feed(slot);
        self.leave_owner(slot);
        let entry = self.slot(slot);
        entry.stage = Stage::Awaited;
        entry.owner = None;
        entry.demand = None;
        let range = entry.memory.take();
        let next = entry.next_writers.pop_front();
        let object = entry.object;
        if let Some(range) = range {
            self.free_range(range);
        }
        if self.slots[&slot].detached {
            self.remove_if_unneeded(slot);
            return;
        }
        let Some(writer) = next else {
            let failure = Failure::new(
                ErrorCode::ObjectLost,
                format!("object {object} is lost: {reason}"),
            );
            self.detach(slot, &failure);
            return;
        };
        let waits_again = self.slots[&slot]
            .next_writers
            .iter()
            .any(|other| other.client == writer.client);
        if !waits_again {
            self.client(writer.client).queued_behind.remove(&slot);
        }
        self.queue_create(slot, writer);
    }

    /// The object's id leads here no more. Who waits hears why; who uses the bytes keeps them.
    pub(super) fn detach(&mut self, slot: SlotId, failure: &Failure) {
        self.leave_feed(slot);
        self.leave_owner(slot);
        self.fail_waiters(slot, failure);
        self.fail_push_waiters(slot, failure);
        let entry = self.slot(slot);
        let was_counted = entry.stage == Stage::Sealed && !entry.detached;
        entry.detached = true;
        if entry.disk_work == Some(DiskWork::Restoring) && entry.memory.is_none() {
            entry.disk_work = None;
        }
        if !matches!(entry.stage, Stage::CreateQueued { .. }) {
            entry.demand = None;
        }
        let object = entry.object;
        let next_writers = std::mem::take(&mut entry.next_writers);
        self.object_count -= u64::from(was_counted);
        if self.index.get(&object) == Some(&slot) {
            self.index.remove(&object);
        }
        if let Some(ticket) = self.slots[&slot].pull {
            self.events.push(StoreEvent::CancelPull { ticket });
        }
        self.restart_writers(object, slot, next_writers);
        self.refresh_evictable(slot);
        self.remove_if_unneeded(slot);
    }

    /// Writers that waited behind a slot that was freed begin the object's next life.
    fn restart_writers(&mut self, object: ObjectId, old: SlotId, writers: VecDeque<NextWriter>) {
        for writer in writers {
            self.client(writer.client).queued_behind.remove(&old);
            self.begin_create(object, writer);
        }
    }

    pub(super) fn leave_owner(&mut self, slot: SlotId) {
        let Some(worker) = self.slots[&slot].owner.as_ref().map(|owner| owner.worker_id) else {
            return;
        };
        if let Some(slots) = self.owners.get_mut(&worker) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.owners.remove(&worker);
            }
        }
    }

    pub(super) fn remove_if_unneeded(&mut self, slot: SlotId) {
        if !self.slots[&slot].is_unneeded() {
            return;
        }
        if let Some(entry) = self.slots.remove(&slot) {
            if let Some(range) = entry.memory {
                self.free_range(range);
            }
            if let Some(file) = entry.file {
                self.events.push(StoreEvent::Io(IoJob(Job::Delete { file })));
                self.full_disk_has_room();
            }
        }
    }

    /// The bytes of an object that was made here cannot be had back.
    pub(super) fn lose(&mut self, slot: SlotId, reason: &str) {
        let entry = self.slot(slot);
        entry.disk_work = None;
        let object = entry.object;
        let owner = entry.owner.clone();
        if !entry.detached {
            if let Some(owner) = owner {
                self.events.push(StoreEvent::CopyGone {
                    object,
                    owner,
                    lost: true,
                });
            }
            self.metrics.lost();
            tracing::warn!(object_id = %object, reason, "lost an object");
        }
        self.detach(
            slot,
            &Failure::new(
                ErrorCode::ObjectLost,
                format!("object {object} is lost: {reason}"),
            ),
        );
    }

    /// Asks for room to read a spilled object back.
    pub(super) fn begin_restore(&mut self, slot: SlotId) {
        let entry = self.slot(slot);
        if entry.disk_work.is_some() || entry.memory.is_some() {
            return;
        }
        entry.disk_work = Some(DiskWork::Restoring);
        self.ask_for_room(slot, Purpose::Restore);
    }
}

pub(super) fn refused(failure: Failure) -> CreateObjectReply {
    CreateObjectReply {
        failure: Some(failure),
        ..CreateObjectReply::default()
    }
}
