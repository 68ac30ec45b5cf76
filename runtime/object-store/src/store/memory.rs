//! Room: who gets it, what must go for it.

use std::sync::Arc;
use std::time::Instant;

use sparkray_common::ErrorCode;
use sparkray_proto::Failure;

use super::ObjectStore;
use super::lifecycle::refused;
use super::slot::{Demand, Purpose, SlotId, Stage};
use crate::allocator::{NoRoom, Range, pages_for};
use crate::event::StoreEvent;
use crate::io::{IoJob, Job};
use crate::shm::{Access, HUGE_PAGE_SIZE, Segment, SegmentId};

/// Bytes that one discard job gives back.
const DISCARD_STEP: u64 = 256 << 20;
/// Bytes that one job populates ahead.
const POPULATE_STEP: u64 = 8 << 20;

/// How the store fares with its memory.
#[derive(Debug)]
pub(super) struct Pressure {
    pub(super) spills: u64,
    pub(super) spilling_bytes: u64,
    /// When memory last came free.
    last_progress: Instant,
    /// No memory came free for so long that room is given on disk, until some comes free.
    stalled: bool,
    /// The disks were full; why, and when to try again.
    pub(super) disk_failure: Option<(String, Instant)>,
    /// When room was last asked for.
    last_demand: Option<Instant>,
}

impl Pressure {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            spills: 0,
            spilling_bytes: 0,
            last_progress: now,
            stalled: false,
            disk_failure: None,
            last_demand: None,
        }
    }

    /// Room came free, so waiting is worth while.
    pub(super) fn end_stall(&mut self, now: Instant) {
        self.last_progress = now;
        self.stalled = false;
    }
}

enum Reservation {
    Granted(Range),
    /// Memory will come free without anybody's doing.
    Waiting,
    /// Only clients can make memory free.
    Stuck,
    Failed(String),
}

impl ObjectStore {
    /// Time passes: waits that last too long get room on disk, unused memory goes back to the kernel.
    pub fn tick(&mut self, now: Instant) {
        self.now = now;
        self.end_pushes();
        if let Some(front) = self.demands.front() {
            let waited = now.saturating_duration_since(self.pressure.last_progress.max(front.since));
            let nothing_under_way = self.pressure.spills == 0 && self.memory.busy() == 0;
            if nothing_under_way && waited >= self.config.stall {
                self.pressure.stalled = true;
            }
        }
        self.pump();
        self.balance_warm_memory();
        self.ask_about_silent_feeds();
    }

    pub(super) fn ask_for_room(&mut self, slot: SlotId, purpose: Purpose) {
        let number = self.number();
        let since = self.now;
        self.pressure.last_demand = Some(since);
        let entry = self.slot(slot);
        entry.demand = Some(number);
        let size = entry.size;
        self.demands.push_back(Demand {
            number,
            slot,
            purpose,
            size,
            since,
        });
    }

    pub(super) fn is_wanted(&self, demand: &Demand) -> bool {
        self.slots
            .get(&demand.slot)
            .is_some_and(|slot| slot.demand == Some(demand.number))
    }

    /// Gives room to the demands at the front of the queue.
    pub(super) fn pump(&mut self) {
        while let Some(demand) = self.demands.front().copied() {
            if !self.is_wanted(&demand) {
                self.demands.pop_front();
                continue;
            }
            let is_spilled = demand.purpose == Purpose::Restore;
            if pages_for(demand.size) > self.config.capacity_bytes {
                self.demands.pop_front();
                if is_spilled {
                    self.open_in_place(demand.slot);
                } else {
                    self.start_fallback(demand);
                }
                continue;
            }
            match self.reserve(pages_for(demand.size)) {
                Reservation::Granted(range) => {
                    self.demands.pop_front();
                    self.grant(demand, range);
                }
                Reservation::Stuck if is_spilled => {
                    self.demands.pop_front();
                    self.open_in_place(demand.slot);
                }
                Reservation::Stuck if self.pressure.stalled => {
                    self.demands.pop_front();
                    self.start_fallback(demand);
                }
                Reservation::Waiting | Reservation::Stuck => break,
                Reservation::Failed(_) if is_spilled => {
                    self.demands.pop_front();
                    self.open_in_place(demand.slot);
                }
                Reservation::Failed(reason) => {
                    self.demands.pop_front();
                    self.refuse(demand, &reason);
                }
            }
        }
    }

    fn reserve(&mut self, len: u64) -> Reservation {
        let capacity = self.config.capacity_bytes;
        loop {
            let excess = match self.memory.allocate(len, capacity) {
                Ok(range) => return Reservation::Granted(range),
                Err(NoRoom::Space) => match self.add_memory_segment(len) {
                    Ok(()) => continue,
                    Err(error) => {
                        return Reservation::Failed(format!("the kernel gives no memory segment: {error}"));
                    }
                },
                Err(NoRoom::Memory { excess }) => excess,
            };
            let shortfall = (self.memory.allocated() + len).saturating_sub(capacity);
            if shortfall > 0 {
                if self.drop_one_evictable() {
                    continue;
                }
                self.start_spills(shortfall);
                let under_way = self.pressure.spills > 0;
                return if under_way {
                    Reservation::Waiting
                } else {
                    Reservation::Stuck
                };
            }
            // Free memory elsewhere must go back to the kernel before other offsets can take its place.
            while self.memory.busy() < excess {
                let Some(range) = self.memory.begin_discard(excess - self.memory.busy()) else {
                    break;
                };
                self.discard(range);
            }
            return Reservation::Waiting;
        }
    }

    fn add_memory_segment(&mut self, len: u64) -> std::io::Result<()> {
        let id = SegmentId::memory(self.number());
        let size = self
            .config
            .capacity_bytes
            .max(len)
            .next_multiple_of(HUGE_PAGE_SIZE);
        let name = format!(
            "sparkray-{}-{}-{}",
            self.config.cluster_id, self.config.node_id, id.0
        );
        let segment = Segment::in_memory(id, &name, size)?;
        self.segments.insert(id, Arc::new(segment));
        self.memory.add_segment(id, size);
        Ok(())
    }

    fn discard(&mut self, range: Range) {
        let segment = Arc::clone(&self.segments[&range.segment]);
        self.events
            .push(StoreEvent::Io(IoJob(Job::Discard { segment, range })));
    }

    /// Evicts the least recently used slot that has another copy.
    fn drop_one_evictable(&mut self) -> bool {
        let Some((_, slot)) = self.droppable.first_key_value() else {
            return false;
        };
        let slot = *slot;
        let entry = self.slot(slot);
        let range = entry.memory.take();
        let spilled = entry.file.is_some();
        let object = entry.object;
        let owner = entry.owner.clone();
        self.refresh_evictable(slot);
        if let Some(range) = range {
            self.free_range(range);
        }
        if !spilled {
            self.metrics.evicted();
            if let Some(owner) = owner {
                self.events.push(StoreEvent::CopyGone {
                    object,
                    owner,
                    lost: false,
                });
            }
            let failure = Failure::new(
                ErrorCode::ObjectLost,
                format!("the copy of object {object} was evicted"),
            );
            self.detach(slot, &failure);
        }
        true
    }

    /// Puts a slot among the evictable ones, or takes it out.
    pub(super) fn refresh_evictable(&mut self, slot: SlotId) {
        if let Some(key) = self.slot(slot).evictable_since.take() {
            self.droppable.remove(&key);
            self.spillable.remove(&key);
        }
        self.close_unused(slot);
        if !self.slots[&slot].is_evictable() {
            return;
        }
        let key = self.number();
        let entry = self.slot(slot);
        entry.evictable_since = Some(key);
        let set = if entry.has_other_copy() {
            &mut self.droppable
        } else {
            &mut self.spillable
        };
        set.insert(key, slot);
    }

    pub(super) fn free_range(&mut self, range: Range) {
        if self.close_opened(range.segment) {
            return;
        }
        if range.segment.is_on_disk() {
            self.disk.free(range);
            self.close_if_empty(range.segment);
            return;
        }
        self.memory.free(range);
        self.pressure.end_stall(self.now);
    }

    pub(super) fn grant(&mut self, demand: Demand, range: Range) {
        let slot = demand.slot;
        let entry = self.slot(slot);
        entry.demand = None;
        entry.memory = Some(range);
        match (demand.purpose, entry.stage) {
            (Purpose::Create, Stage::CreateQueued { client, correlation }) => {
                self.grant_create(slot, client, correlation);
            }
            (Purpose::Pull, Stage::Pulling) => self.grant_pull(demand, range),
            (Purpose::Restore, _) => {
                let object = entry.object;
                let file = entry
                    .file
                    .clone()
                    .expect("a slot that is restored has a spill file");
                let segment = Arc::clone(&self.segments[&range.segment]);
                let job = Job::Restore {
                    slot: slot.0,
                    object,
                    segment,
                    offset: range.offset,
                    file,
                };
                self.events.push(StoreEvent::Io(IoJob(job)));
            }
            (purpose, stage) => {
                unreachable!("{purpose:?} of a slot that is {stage:?}: demands end with their stage")
            }
        }
    }

    fn grant_pull(&mut self, demand: Demand, range: Range) {
        let ticket = self.slots[&demand.slot]
            .pull
            .expect("a pull that asks for room is under way");
        match self.segments[&range.segment].map(range.offset, demand.size as usize, Access::Writable) {
            Ok(target) => self.events.push(StoreEvent::PullRoom {
                ticket,
                room: Ok(target),
            }),
            Err(error) => self.refuse(demand, &format!("its memory cannot be mapped: {error}")),
        }
    }

    /// There is nowhere any room for the demand.
    pub(super) fn refuse(&mut self, demand: Demand, reason: &str) {
        let slot = demand.slot;
        let entry = self.slot(slot);
        entry.demand = None;
        let object = entry.object;
        let range = entry.memory.take();
        self.metrics.refused();
        if let Some(range) = range {
            self.free_range(range);
        }
        let message = format!(
            "no room for object {object} of {} bytes: of the {} bytes of this node's object store {} are in use and \
             cannot be moved, and on disk: {reason}; raise object_store_memory, drop references to objects that are \
             not needed any more, or free space in the spill directories",
            demand.size,
            self.config.capacity_bytes,
            self.memory.allocated()
        );
        let failure = Failure::new(ErrorCode::OutOfStorage, message);
        match (demand.purpose, self.slots[&slot].stage) {
            (Purpose::Create, Stage::CreateQueued { client, correlation }) => {
                self.client(client).writing.remove(&object);
                self.answer_create(client, correlation, refused(failure), None);
                self.writer_ended(slot, "there was no room to write it");
            }
            (Purpose::Pull, _) => {
                let ticket = self.slot(slot).pull.take();
                if let Some(ticket) = ticket {
                    self.pulls.remove(&ticket);
                    self.events.push(StoreEvent::PullRoom {
                        ticket,
                        room: Err(failure.clone()),
                    });
                }
                self.slot(slot).untried.clear();
                self.fail_waiters(slot, &failure);
                self.pull_over(slot, ErrorCode::ObjectLost, "there was no room for it");
            }
            (Purpose::Restore | Purpose::Create, _) => {
                self.slot(slot).disk_work = None;
                self.fail_waiters(slot, &failure);
                self.remove_if_unneeded(slot);
            }
        }
    }

    /// Gives free memory back to the kernel when nobody asks for room, and has a little of it ready when somebody
    /// does.
    pub(super) fn balance_warm_memory(&mut self) {
        let idle = self
            .pressure
            .last_demand
            .is_none_or(|at| self.now.saturating_duration_since(at) >= self.config.idle_after);
        let warm = self.memory.warm();
        if !idle {
            let wanted = self.config.warm_bytes.min(self.config.capacity_bytes / 4);
            if warm + self.memory.busy() + POPULATE_STEP > wanted || !self.demands.is_empty() {
                return;
            }
            if let Some(range) = self
                .memory
                .begin_populate(POPULATE_STEP, self.config.capacity_bytes)
            {
                let segment = Arc::clone(&self.segments[&range.segment]);
                self.events
                    .push(StoreEvent::Io(IoJob(Job::Populate { segment, range })));
            }
            return;
        }
        if warm <= self.config.warm_bytes || self.memory.busy() > 0 {
            return;
        }
        if let Some(range) = self
            .memory
            .begin_discard((warm - self.config.warm_bytes).min(DISCARD_STEP))
        {
            self.discard(range);
        }
    }
}
