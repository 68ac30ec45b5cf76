//! What each client has, and the answers to its gets.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use sparkray_common::{ErrorCode, ObjectId};
use sparkray_proto::{Failure, ObjectLocation, ObjectReady};

use super::ObjectStore;
use super::slot::{SlotId, Stage, Waiter};
use crate::event::{ClientId, PushTicket, StoreEvent};
use crate::shm::{Access, SegmentId};

#[derive(Debug, Default)]
pub(crate) struct ClientRecord {
    /// Descriptors that it has got.
    segments: HashMap<SegmentId, Access>,
    uses: HashMap<ObjectId, Uses>,
    /// Slots that it writes or waits for room to write.
    pub(crate) writing: HashMap<ObjectId, SlotId>,
    /// Slots that it wants to write after another writer.
    pub(crate) queued_behind: HashSet<SlotId>,
    /// Slots with a waiting get of it.
    waiting: HashSet<SlotId>,
    pub(crate) pushes: HashSet<PushTicket>,
}

impl ClientRecord {
    pub(super) fn has_ranges(&self) -> bool {
        !self.uses.is_empty() || !self.writing.is_empty()
    }
}

/// Uses of one object id. A client that holds uses of two lives of an object cannot say which one it releases:
/// they go together then, with its last use.
#[derive(Debug, Default)]
struct Uses {
    held: Vec<SlotId>,
    released: usize,
}

impl Uses {
    fn release(&mut self) -> Vec<SlotId> {
        self.released += 1;
        let one_life = self.held.windows(2).all(|pair| pair[0] == pair[1]);
        if one_life || self.released >= self.held.len() {
            let count = self.released.min(self.held.len());
            self.released = 0;
            return self.held.split_off(self.held.len() - count);
        }
        Vec::new()
    }
}

impl ObjectStore {
    pub(super) fn get_one(
        &mut self,
        client: ClientId,
        correlation: u64,
        object: ObjectId,
        locations: &[ObjectLocation],
    ) {
        let own_id = self.config.node_id;
        let elsewhere: Vec<ObjectLocation> = locations
            .iter()
            .filter(|location| location.node_id[..] != own_id.as_bytes()[..])
            .cloned()
            .collect();
        let slot = match self.index.get(&object).copied() {
            Some(slot) => slot,
            None if !locations.is_empty() && elsewhere.is_empty() => {
                let message = format!(
                    "object {object} is lost: node {own_id}, which made it, does not have it any more"
                );
                self.answer_get(
                    client,
                    correlation,
                    object,
                    Failure::new(ErrorCode::ObjectLost, message),
                );
                return;
            }
            None => self.new_slot(object, Stage::Awaited),
        };
        if self.slots[&slot].stage == Stage::Sealed && self.slots[&slot].is_readable() {
            self.answer_ready(slot, client, correlation);
            return;
        }
        let waiter = Waiter {
            client,
            correlation,
            named_locations: !locations.is_empty(),
        };
        self.slot(slot).waiters.push(waiter);
        self.client(client).waiting.insert(slot);
        match self.slots[&slot].stage {
            Stage::Sealed => self.begin_restore(slot),
            Stage::Awaited if !elsewhere.is_empty() => self.start_pull(slot, elsewhere),
            Stage::Awaited if waiter.named_locations => {
                let message = format!(
                    "object {object} is lost: node {own_id}, which made it, does not have it any more"
                );
                self.fail_waiters_with_locations(slot, &Failure::new(ErrorCode::ObjectLost, message));
            }
            Stage::Pulling => self.add_pull_locations(slot, elsewhere),
            Stage::Awaited | Stage::CreateQueued { .. } | Stage::Writing { .. } => {}
        }
    }

    fn answer_get(&mut self, client: ClientId, correlation: u64, object: ObjectId, failure: Failure) {
        let reply = ObjectReady {
            object_id: object.to_vec().into(),
            failure: Some(failure),
            range: None,
        };
        self.events.push(StoreEvent::Ready {
            client,
            correlation,
            reply,
            descriptor: None,
        });
    }

    /// Gives the client a use of a readable slot.
    fn answer_ready(&mut self, slot: SlotId, client: ClientId, correlation: u64) {
        let object = self.slots[&slot].object;
        let range = self.slots[&slot].memory.expect("a readable slot is in memory");
        let descriptor = match self.descriptor_for(client, range.segment, Access::ReadOnly) {
            Ok(descriptor) => descriptor,
            Err(failure) => {
                self.answer_get(client, correlation, object, failure);
                return;
            }
        };
        let message = self.range_message(slot, range);
        let reply = ObjectReady {
            object_id: object.to_vec().into(),
            failure: None,
            range: Some(message),
        };
        self.events.push(StoreEvent::Ready {
            client,
            correlation,
            reply,
            descriptor,
        });
        self.client(client)
            .uses
            .entry(object)
            .or_default()
            .held
            .push(slot);
        self.slot(slot).uses += 1;
        self.refresh_evictable(slot);
    }

    /// Answers all gets that wait for a slot that has become readable.
    pub(super) fn answer_waiters(&mut self, slot: SlotId) {
        for waiter in std::mem::take(&mut self.slot(slot).waiters) {
            self.client(waiter.client).waiting.remove(&slot);
            self.answer_ready(slot, waiter.client, waiter.correlation);
        }
    }

    pub(super) fn fail_waiters(&mut self, slot: SlotId, failure: &Failure) {
        let object = self.slots[&slot].object;
        for waiter in std::mem::take(&mut self.slot(slot).waiters) {
            self.client(waiter.client).waiting.remove(&slot);
            self.answer_get(waiter.client, waiter.correlation, object, failure.clone());
        }
    }

    /// Fails the gets that named locations. The others go on waiting, if there are any; else the slot goes.
    pub(super) fn fail_waiters_with_locations(&mut self, slot: SlotId, failure: &Failure) {
        let waiters = std::mem::take(&mut self.slot(slot).waiters);
        let (failed, waiting): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|waiter| waiter.named_locations);
        let object = self.slots[&slot].object;
        for waiter in &failed {
            if !waiting.iter().any(|other| other.client == waiter.client) {
                self.client(waiter.client).waiting.remove(&slot);
            }
            self.answer_get(waiter.client, waiter.correlation, object, failure.clone());
        }
        self.slot(slot).waiters = waiting;
        self.forget_if_unwanted(slot);
    }

    /// An awaited slot for which nobody waits is of no use.
    pub(super) fn forget_if_unwanted(&mut self, slot: SlotId) {
        let entry = &self.slots[&slot];
        if entry.stage == Stage::Awaited
            && entry.waiters.is_empty()
            && entry.next_writers.is_empty()
            && !entry.detached
        {
            let failure = Failure::new(ErrorCode::ObjectLost, "nobody waits for the object");
            self.detach(slot, &failure);
        }
    }

    /// The segment's descriptor, if the client needs it to use the segment in this way.
    pub(super) fn descriptor_for(
        &mut self,
        client: ClientId,
        segment: SegmentId,
        access: Access,
    ) -> Result<Option<OwnedFd>, Failure> {
        let has = self.client(client).segments.get(&segment).copied();
        if !segment.is_on_disk() && has.is_some_and(|has| has >= access) {
            return Ok(None);
        }
        match self.segments[&segment].descriptor(access) {
            Ok(descriptor) => {
                if !segment.is_on_disk() {
                    self.client(client).segments.insert(segment, access);
                }
                Ok(Some(descriptor))
            }
            Err(error) => {
                let message = format!(
                    "the object store cannot duplicate a descriptor: {error}; raise the limit of open files (ulimit -n)"
                );
                Err(Failure::new(ErrorCode::Internal, message))
            }
        }
    }

    pub(super) fn release_one(&mut self, client: ClientId, object: ObjectId) {
        let Some(record) = self.clients.get_mut(&client) else {
            return;
        };
        let Some(uses) = record.uses.get_mut(&object) else {
            tracing::debug!(?client, object_id = %object, "release of an object that the client does not use");
            return;
        };
        let released = uses.release();
        if uses.held.is_empty() {
            record.uses.remove(&object);
        }
        self.drop_uses(released);
    }

    fn drop_uses(&mut self, slots: Vec<SlotId>) {
        for slot in slots {
            self.slot(slot).uses -= 1;
            self.refresh_evictable(slot);
            self.remove_if_unneeded(slot);
        }
    }

    /// Drops everything of a client but the ranges that it may have mapped.
    pub(super) fn forget_requests(&mut self, client: ClientId) {
        let Some(record) = self.clients.get_mut(&client) else {
            return;
        };
        let waiting = std::mem::take(&mut record.waiting);
        let queued_behind = std::mem::take(&mut record.queued_behind);
        let mut pushes: Vec<_> = std::mem::take(&mut record.pushes).into_iter().collect();
        let mut writing: Vec<_> = record.writing.values().copied().collect();
        for entry in self.slots.values_mut() {
            entry.push_waiters.retain(|(waiting, _)| *waiting != client);
        }
        for slot in waiting {
            self.slot(slot).waiters.retain(|waiter| waiter.client != client);
            self.forget_if_unwanted(slot);
        }
        for slot in queued_behind {
            self.slot(slot)
                .next_writers
                .retain(|writer| writer.client != client);
        }
        pushes.sort_unstable();
        for ticket in pushes {
            self.finish_push(ticket, 0);
        }
        writing.sort_unstable();
        for slot in writing {
            if matches!(self.slots[&slot].stage, Stage::CreateQueued { .. }) {
                let object = self.slots[&slot].object;
                self.client(client).writing.remove(&object);
                self.writer_ended(slot, "its writer left before there was room");
            } else if !self.slots[&slot].detached {
                self.writer_left(slot);
            }
        }
    }

    /// The writer of a slot will never seal it, but may still write: the slot keeps its range, and the object's id
    /// leads to the next writer's, with those who wait for it, or nowhere.
    fn writer_left(&mut self, slot: SlotId) {
        let entry = self.slot(slot);
        let object = entry.object;
        let has_next = !entry.next_writers.is_empty();
        let mut waiters = Vec::new();
        let mut push_waiters = Vec::new();
        if has_next {
            waiters = std::mem::take(&mut entry.waiters);
            push_waiters = std::mem::take(&mut entry.push_waiters);
        }
        let failure = Failure::new(
            ErrorCode::ObjectLost,
            format!("object {object} is lost: its writer left before it was complete"),
        );
        self.detach(slot, &failure);
        if waiters.is_empty() && push_waiters.is_empty() {
            return;
        }
        let next = match self.index.get(&object).copied() {
            Some(next) => next,
            None => self.new_slot(object, Stage::Awaited),
        };
        for waiter in &waiters {
            let record = self.client(waiter.client);
            record.waiting.remove(&slot);
            record.waiting.insert(next);
        }
        self.slot(next).waiters.extend(waiters);
        self.slot(next).push_waiters.extend(push_waiters);
        if self.slots[&next].stage == Stage::Awaited {
            // The next writer was refused.
            self.fail_push_waiters(next, &failure);
            self.fail_waiters(next, &failure);
            self.forget_if_unwanted(next);
        }
    }

    pub(super) fn forget_client(&mut self, client: ClientId) {
        self.forget_requests(client);
        let Some(record) = self.clients.remove(&client) else {
            return;
        };
        for uses in record.uses.into_values() {
            self.drop_uses(uses.held);
        }
        let mut writing: Vec<_> = record.writing.into_values().collect();
        writing.sort_unstable();
        for slot in writing {
            self.writer_ended(slot, "its writer died before it was complete");
        }
    }

    #[cfg(test)]
    pub(super) fn used_slots(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.clients
            .values()
            .flat_map(|record| record.uses.values())
            .flat_map(|uses| uses.held.iter().copied())
    }
}
