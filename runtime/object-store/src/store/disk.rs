//! Disk work: spilling, restoring, and room on disk when memory cannot be had.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::ObjectStore;
use super::slot::{Demand, DiskWork, Slot, SlotId};
use crate::allocator::{Range, pages_for};
use crate::event::StoreEvent;
use crate::io::{IoJob, IoOutcome, Job, Outcome};
use crate::shm::{Segment, SegmentId};
use crate::spill::SpillFile;

/// Spills that are asked for at once.
const MAX_SPILLS: u64 = 16;
/// How long a full disk is left alone.
const SPILL_RETRY: Duration = Duration::from_secs(1);
/// Smallest segment on disk, so that many small objects share a few descriptors.
const FALLBACK_SEGMENT: u64 = 64 << 20;

impl ObjectStore {
    /// Work that [`StoreEvent::Io`] asked for is done.
    pub fn io_done(&mut self, outcome: IoOutcome) {
        match outcome.0 {
            Outcome::Spilled { slot, result } => self.spilled(SlotId(slot), result),
            Outcome::Restored { slot, result } => self.restored(SlotId(slot), result),
            Outcome::Opened {
                slot,
                segment,
                result,
            } => self.opened(SlotId(slot), segment, result),
            Outcome::Discarded { range, result } => {
                if let Err(error) = result {
                    tracing::warn!(%error, bytes = range.len, "the kernel does not take free memory back");
                }
                self.memory.end_discard(range);
            }
            Outcome::Populated { range } => self.memory.end_populate(range),
            Outcome::Fallback { segment, result } => self.fallback_made(segment, result),
        }
        self.pump();
        self.balance_warm_memory();
    }

    fn spilled(&mut self, slot: SlotId, result: io::Result<SpillFile>) {
        let entry = self.slot(slot);
        entry.disk_work = None;
        let object = entry.object;
        let range = entry.memory.expect("a slot keeps its memory while it is spilled");
        self.pressure.spills -= 1;
        self.pressure.spilling_bytes -= range.len;
        match result {
            Ok(file) => {
                self.metrics.spilled(file.size());
                self.slot(slot).file = Some(file);
                self.pressure.disk_failure = None;
            }
            Err(error) => {
                tracing::warn!(object_id = %object, %error, "cannot spill an object");
                self.pressure.disk_failure = Some((error.to_string(), self.now + SPILL_RETRY));
            }
        }
        self.refresh_evictable(slot);
        self.remove_if_unneeded(slot);
    }

    fn restored(&mut self, slot: SlotId, result: io::Result<()>) {
        let entry = self.slot(slot);
        entry.disk_work = None;
        match result {
            Ok(()) => {
                self.metrics.restored(self.slots[&slot].size);
                if !self.slots[&slot].detached {
                    self.answer_waiters(slot);
                    self.refresh_evictable(slot);
                }
                self.remove_if_unneeded(slot);
            }
            Err(error) => {
                if let Some(range) = entry.memory.take() {
                    self.free_range(range);
                }
                self.lose(slot, &format!("it cannot be read back from disk: {error}"));
            }
        }
    }

    /// There is no room to bring a spilled object back: it is read where it lies.
    pub(super) fn open_in_place(&mut self, slot: SlotId) {
        let segment = SegmentId::disk(self.number());
        let entry = self.slot(slot);
        entry.demand = None;
        let object = entry.object;
        let file = entry
            .file
            .clone()
            .expect("a slot that is restored has a spill file");
        self.events.push(StoreEvent::Io(IoJob(Job::Open {
            slot: slot.0,
            object,
            segment,
            file,
        })));
    }

    fn opened(&mut self, slot: SlotId, id: SegmentId, result: io::Result<Segment>) {
        let is_awaited = |entry: &Slot| !entry.detached && entry.disk_work == Some(DiskWork::Restoring);
        let Some(entry) = self.slots.get_mut(&slot).filter(|entry| is_awaited(entry)) else {
            // Freed meanwhile.
            if let Ok(segment) = result {
                let segment = Arc::new(segment);
                self.events.push(StoreEvent::Io(IoJob(Job::Close { segment })));
            }
            return;
        };
        entry.disk_work = None;
        match result {
            Ok(segment) => {
                let offset = entry.file.as_ref().map_or(0, SpillFile::offset);
                let len = pages_for(entry.size);
                entry.memory = Some(Range {
                    segment: id,
                    offset,
                    len,
                });
                self.metrics.restored(self.slots[&slot].size);
                self.segments.insert(id, Arc::new(segment));
                self.opened.insert(id);
                self.answer_waiters(slot);
                self.refresh_evictable(slot);
            }
            Err(error) => self.lose(slot, &format!("it cannot be read back from disk: {error}")),
        }
    }

    /// A spilled object that was read where it lies is not used any more.
    pub(super) fn close_unused(&mut self, slot: SlotId) {
        let entry = &self.slots[&slot];
        let is_unused = entry.uses == 0 && entry.pushes == 0;
        if let Some(range) = entry
            .memory
            .filter(|range| is_unused && self.opened.contains(&range.segment))
        {
            self.slot(slot).memory = None;
            self.free_range(range);
        }
    }

    pub(super) fn close_opened(&mut self, segment: SegmentId) -> bool {
        if !self.opened.remove(&segment) {
            return false;
        }
        if let Some(segment) = self.segments.remove(&segment) {
            self.events.push(StoreEvent::Io(IoJob(Job::Close { segment })));
        }
        true
    }

    pub(super) fn start_spills(&mut self, shortfall: u64) {
        let disk_rests = self
            .pressure
            .disk_failure
            .as_ref()
            .is_some_and(|(_, retry_at)| self.now < *retry_at);
        if !self.config.can_spill || disk_rests {
            return;
        }
        while self.pressure.spilling_bytes < shortfall && self.pressure.spills < MAX_SPILLS {
            let Some((_, slot)) = self.spillable.first_key_value() else {
                return;
            };
            let slot = *slot;
            let entry = self.slot(slot);
            entry.disk_work = Some(DiskWork::Spilling);
            let (object, size) = (entry.object, entry.size);
            let range = entry.memory.expect("an evictable slot is in memory");
            self.refresh_evictable(slot);
            self.pressure.spills += 1;
            self.pressure.spilling_bytes += range.len;
            let segment = Arc::clone(&self.segments[&range.segment]);
            let job = Job::Spill {
                slot: slot.0,
                object,
                segment,
                offset: range.offset,
                size,
            };
            self.events.push(StoreEvent::Io(IoJob(job)));
        }
    }

    /// A spilled object goes: when the disks were full, spilling is tried again at once, and nobody is refused before.
    pub(super) fn full_disk_has_room(&mut self) {
        if self.pressure.disk_failure.take().is_some() {
            self.pressure.end_stall(self.now);
        }
    }

    /// Gives room on disk to a demand that was taken out of the queue.
    pub(super) fn start_fallback(&mut self, demand: Demand) {
        if !self.config.can_spill {
            self.refuse(demand, "there is no directory to spill to");
            return;
        }
        let len = pages_for(demand.size);
        if let Ok(range) = self.disk.allocate(len, u64::MAX) {
            self.grant(demand, range);
            return;
        }
        self.make_fallback_segment(demand, len.max(FALLBACK_SEGMENT));
    }

    fn make_fallback_segment(&mut self, demand: Demand, size: u64) {
        let segment = SegmentId::disk(self.number());
        self.fallbacks.insert(segment, (demand, size));
        self.events
            .push(StoreEvent::Io(IoJob(Job::Fallback { segment, size })));
    }

    fn fallback_made(&mut self, id: SegmentId, result: io::Result<Segment>) {
        let Some((demand, size)) = self.fallbacks.remove(&id) else {
            return;
        };
        let len = pages_for(demand.size);
        match result {
            Ok(segment) => {
                self.disk.add_segment(id, segment.size());
                self.segments.insert(id, Arc::new(segment));
                if self.is_wanted(&demand) {
                    match self.disk.allocate(len, u64::MAX) {
                        Ok(range) => self.grant(demand, range),
                        Err(_) => self.refuse(demand, "a segment on disk is smaller than asked for"),
                    }
                }
                self.close_if_empty(id);
            }
            Err(_) if !self.is_wanted(&demand) => {}
            Err(_) if size > len => self.make_fallback_segment(demand, len),
            Err(error) => self.refuse(demand, &error.to_string()),
        }
    }

    pub(super) fn close_if_empty(&mut self, segment: SegmentId) {
        if self.disk.remove_empty_segment(segment) {
            if let Some(segment) = self.segments.remove(&segment) {
                self.events.push(StoreEvent::Io(IoJob(Job::Close { segment })));
            }
        }
    }
}
