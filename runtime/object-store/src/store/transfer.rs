//! Objects that come from other nodes and go to them.

use std::sync::{Arc, Weak};

use sparkray_common::{ErrorCode, ObjectId, WorkerAddress};
use sparkray_proto::{Failure, ObjectLocation};

use super::slot::{DiskWork, Purpose, SlotId, Stage};
use super::{ObjectStore, too_large};
use crate::event::{ClientId, PullTicket, PushBytes, PushSource, PushTicket, StoreEvent};
use crate::shm::{Access, MappedRange};

/// One sending of an object.
#[derive(Debug)]
pub(super) struct Push {
    slot: SlotId,
    client: ClientId,
    /// Chunks that wait to be written to a socket keep the mapping alive, and so the pin.
    mapping: Option<Weak<MappedRange>>,
    finished: bool,
}

impl Push {
    fn is_over(&self) -> bool {
        self.finished
            && self
                .mapping
                .as_ref()
                .is_none_or(|mapping| mapping.strong_count() == 0)
    }
}

impl ObjectStore {
    pub(super) fn start_pull(&mut self, slot: SlotId, locations: Vec<ObjectLocation>) {
        let ticket = PullTicket(self.number());
        self.pulls.insert(ticket, slot);
        let entry = self.slot(slot);
        entry.stage = Stage::Pulling;
        entry.pull = Some(ticket);
        entry.tried.extend(locations.iter().cloned());
        let object = entry.object;
        self.events.push(StoreEvent::StartPull {
            ticket,
            object,
            locations,
        });
    }

    /// Another get names more nodes: they are asked when the first ones fail.
    pub(super) fn add_pull_locations(&mut self, slot: SlotId, locations: Vec<ObjectLocation>) {
        let entry = self.slot(slot);
        for location in locations {
            let known = entry
                .tried
                .iter()
                .chain(&entry.untried)
                .any(|known| known.node_id == location.node_id);
            if !known {
                entry.untried.push(location);
            }
        }
    }

    /// A node answered a pull: asks for room. Answered by [`StoreEvent::PullRoom`], when there is room, or at once
    /// when the answer is of no use. Ignored when the pull is over.
    pub fn pull_room(&mut self, ticket: PullTicket, size: u64, owner: WorkerAddress) {
        let Some(slot) = self.pulls.get(&ticket).copied() else {
            return;
        };
        let entry = self.slot(slot);
        if entry.detached || entry.demand.is_some() || entry.memory.is_some() {
            return;
        }
        let object = entry.object;
        if let Some(failure) = too_large(object, size).or_else(|| self.dead_owner(&owner, object)) {
            self.events.push(StoreEvent::PullRoom {
                ticket,
                room: Err(failure),
            });
            return;
        }
        let entry = self.slot(slot);
        entry.size = size;
        let worker = owner.worker_id;
        entry.owner = Some(owner);
        self.owners.entry(worker).or_default().insert(slot);
        self.ask_for_room(slot, Purpose::Pull);
        self.pump();
    }

    /// All bytes have been written to the target.
    pub fn pull_finished(&mut self, ticket: PullTicket, target: MappedRange) {
        drop(target);
        let Some(slot) = self.pulls.remove(&ticket) else {
            return;
        };
        let entry = self.slot(slot);
        entry.pull = None;
        entry.tried.clear();
        entry.untried.clear();
        if entry.memory.is_none() {
            tracing::error!(object_id = %entry.object, "a pull was finished before it had room");
            self.pull_over(slot, ErrorCode::ObjectLost, "it was not received");
        } else {
            let size = entry.size;
            self.metrics.pulled(size);
            self.sealed(slot);
        }
        self.pump();
    }

    /// None of the locations gave the object, or the pull was cancelled. The target of the pull must have been
    /// dropped before.
    pub fn pull_failed(&mut self, ticket: PullTicket, reason: &str) {
        let Some(slot) = self.pulls.remove(&ticket) else {
            return;
        };
        self.slot(slot).pull = None;
        self.pull_over(slot, ErrorCode::ObjectLost, reason);
        self.pump();
    }

    /// As [`ObjectStore::pull_failed`], but nothing is lost: a location could not be reached in time, and may be asked
    /// again.
    pub fn pull_timed_out(&mut self, ticket: PullTicket, reason: &str) {
        let Some(slot) = self.pulls.remove(&ticket) else {
            return;
        };
        self.slot(slot).pull = None;
        self.pull_over(slot, ErrorCode::FetchTimedOut, reason);
        self.pump();
    }

    /// The slot's pull is over without success.
    pub(super) fn pull_over(&mut self, slot: SlotId, code: ErrorCode, reason: &str) {
        self.leave_owner(slot);
        let entry = self.slot(slot);
        entry.stage = Stage::Awaited;
        entry.owner = None;
        entry.demand = None;
        let range = entry.memory.take();
        let untried = std::mem::take(&mut entry.untried);
        let object = entry.object;
        let detached = entry.detached;
        if let Some(range) = range {
            self.free_range(range);
        }
        if detached {
            self.remove_if_unneeded(slot);
            return;
        }
        if !untried.is_empty() {
            self.start_pull(slot, untried);
            return;
        }
        self.slot(slot).tried.clear();
        if !self.slots[&slot].next_writers.is_empty() {
            self.writer_ended(slot, reason);
            return;
        }
        let message = if code == ErrorCode::FetchTimedOut {
            format!(
                "object {object} is not lost, but no node that has it can be reached ({reason}): try again later"
            )
        } else {
            format!("object {object} is lost: no node has a copy any more ({reason})")
        };
        self.fail_waiters_with_locations(slot, &Failure::new(code, message));
    }

    /// Another node asks for an object. Answered by [`StoreEvent::PushReady`], at once or when the object is sealed.
    pub fn push(&mut self, client: ClientId, correlation: u64, object: ObjectId) {
        let slot = self.index.get(&object).copied();
        match slot.map(|slot| (slot, self.slots[&slot].stage)) {
            Some((slot, Stage::Sealed)) => self.answer_push(slot, client, correlation),
            Some((slot, Stage::CreateQueued { .. } | Stage::Writing { .. })) => {
                self.slot(slot).push_waiters.push((client, correlation));
            }
            // Waiting for a pull here could wait for the asking node itself.
            Some((_, Stage::Awaited | Stage::Pulling)) | None => {
                let message = format!("node {} has no copy of object {object}", self.config.node_id);
                let source = Err(Failure::new(ErrorCode::ObjectLost, message));
                self.events.push(StoreEvent::PushReady {
                    client,
                    correlation,
                    object,
                    source,
                });
            }
        }
    }

    fn answer_push(&mut self, slot: SlotId, client: ClientId, correlation: u64) {
        let object = self.slots[&slot].object;
        let source = self.push_source(slot, client).map_err(|error| {
            let message = format!(
                "node {} cannot read object {object}: {error}",
                self.config.node_id
            );
            Failure::new(ErrorCode::Internal, message)
        });
        self.events.push(StoreEvent::PushReady {
            client,
            correlation,
            object,
            source,
        });
    }

    fn push_source(&mut self, slot: SlotId, client: ClientId) -> std::io::Result<PushSource> {
        let entry = &self.slots[&slot];
        let owner = entry
            .owner
            .clone()
            .ok_or_else(|| std::io::Error::other("its owner is not known"))?;
        let size = entry.size;
        let restoring = entry.disk_work == Some(DiskWork::Restoring);
        let bytes = match (entry.memory.filter(|_| !restoring), &entry.file) {
            (Some(range), _) => {
                let segment = &self.segments[&range.segment];
                PushBytes::Memory(Arc::new(segment.map(
                    range.offset,
                    size as usize,
                    Access::ReadOnly,
                )?))
            }
            (None, Some(file)) => PushBytes::File(file.clone()),
            (None, None) => return Err(std::io::Error::other("it is neither in memory nor on disk")),
        };
        let mapping = match &bytes {
            PushBytes::Memory(mapping) => Some(Arc::downgrade(mapping)),
            PushBytes::File(_) => None,
        };
        let ticket = PushTicket(self.number());
        self.pushes.insert(
            ticket,
            Push {
                slot,
                client,
                mapping,
                finished: false,
            },
        );
        self.client(client).pushes.insert(ticket);
        self.slot(slot).pushes += 1;
        self.refresh_evictable(slot);
        Ok(PushSource {
            ticket,
            size,
            owner,
            bytes,
        })
    }

    pub(super) fn answer_push_waiters(&mut self, slot: SlotId) {
        for (client, correlation) in std::mem::take(&mut self.slot(slot).push_waiters) {
            self.answer_push(slot, client, correlation);
        }
    }

    pub(super) fn fail_push_waiters(&mut self, slot: SlotId, failure: &Failure) {
        let object = self.slots[&slot].object;
        for (client, correlation) in std::mem::take(&mut self.slot(slot).push_waiters) {
            let source = Err(failure.clone());
            self.events.push(StoreEvent::PushReady {
                client,
                correlation,
                object,
                source,
            });
        }
    }

    /// The object was sent, or the sending was given up after `bytes_sent`. The bytes stay pinned as long as a chunk
    /// of them exists, which may wait in a connection's queue.
    pub fn push_finished(&mut self, ticket: PushTicket, bytes_sent: u64) {
        self.finish_push(ticket, bytes_sent);
        self.pump();
    }

    /// As [`Self::push_finished`], in the middle of something else.
    pub(super) fn finish_push(&mut self, ticket: PushTicket, bytes_sent: u64) {
        let Some(push) = self.pushes.get_mut(&ticket) else {
            return;
        };
        if !push.finished {
            push.finished = true;
            self.metrics.pushed(bytes_sent);
        }
        self.end_push(ticket);
    }

    /// Unpins what was sent and has left this process.
    pub(super) fn end_pushes(&mut self) {
        let mut over: Vec<_> = self
            .pushes
            .iter()
            .filter(|(_, push)| push.is_over())
            .map(|(ticket, _)| *ticket)
            .collect();
        over.sort_unstable();
        for ticket in over {
            self.end_push(ticket);
        }
    }

    fn end_push(&mut self, ticket: PushTicket) {
        if !self.pushes.get(&ticket).is_some_and(Push::is_over) {
            return;
        }
        let Some(Push { slot, client, .. }) = self.pushes.remove(&ticket) else {
            return;
        };
        if let Some(record) = self.clients.get_mut(&client) {
            record.pushes.remove(&ticket);
        }
        self.slot(slot).pushes -= 1;
        self.refresh_evictable(slot);
        self.remove_if_unneeded(slot);
    }

    /// A push found the object's spill file damaged: this node has no copy.
    pub fn push_failed(&mut self, ticket: PushTicket, reason: &str) {
        let slot = self.pushes.get(&ticket).map(|push| push.slot);
        if let Some(slot) = slot.filter(|slot| self.slots[slot].memory.is_none()) {
            self.lose(slot, reason);
        }
        self.push_finished(ticket, 0);
    }
}
