//! The store of one node as a state machine: no clock, no threads, no disk.
//!
//! Invariants (checked by the model test):
//! 1. A range of a segment belongs to at most one slot; a slot keeps its range while a client writes it, holds
//!    a use of it or it is being sent, spilled or restored.
//! 2. Every request is answered: a waiting get, create or push is attached to a slot that has a writer, a pull,
//!    a restore or a demand for room, or to an object that nobody has announced yet.
//! 3. Room is given in the order in which it was asked for.
//! 4. Memory that is allocated, kept warm or being discarded never exceeds the capacity.

mod clients;
mod dead_owners;
mod disk;
mod feeds;
mod lifecycle;
mod memory;
mod metrics;
mod slot;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use sparkray_common::{ErrorCode, FeedId, Metrics, NodeId, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{
    AbortObject, AdoptFeed, CreateObject, Failure, FreeObjects, GetObjects, MessageError, ReleaseObjects,
    SealObject, StoreStats,
};

use crate::allocator::Allocator;
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::event::{ClientId, PullTicket, PushTicket, StoreEvent};
use crate::shm::{Segment, SegmentId};
use clients::ClientRecord;
use dead_owners::DeadOwners;
use feeds::{AdoptedFeeds, Feed};
use lifecycle::refused;
use memory::Pressure;
use metrics::StoreMetrics;
use slot::{Demand, NextWriter, Slot, SlotId};
use transfer::Push;

/// No object is larger; who claims more is wrong, and sums of sizes stay far from overflow.
const MAX_OBJECT_BYTES: u64 = 1 << 46;

/// The store of one node. Methods never block; what is to be done comes out of [`ObjectStore::drain_events`].
#[derive(Debug)]
pub struct ObjectStore {
    config: StoreConfig,
    now: Instant,
    slots: HashMap<SlotId, Slot>,
    index: HashMap<ObjectId, SlotId>,
    /// Attached slots by owner.
    owners: HashMap<WorkerId, HashSet<SlotId>>,
    /// Provisional blocks by feed.
    feeds: HashMap<FeedId, Feed>,
    adopted: AdoptedFeeds,
    dead_owners: DeadOwners,
    clients: HashMap<ClientId, ClientRecord>,
    segments: HashMap<SegmentId, Arc<Segment>>,
    memory: Allocator,
    disk: Allocator,
    demands: VecDeque<Demand>,
    /// Demands for which a segment on disk of this size is being made.
    fallbacks: HashMap<SegmentId, (Demand, u64)>,
    /// Files of spilled objects that are read where they lie, each for one slot.
    opened: HashSet<SegmentId>,
    /// Unused slots with another copy elsewhere, least recently used first.
    droppable: BTreeMap<u64, SlotId>,
    /// Unused slots that must be spilled before they go, least recently used first.
    spillable: BTreeMap<u64, SlotId>,
    pressure: Pressure,
    pulls: HashMap<PullTicket, SlotId>,
    pushes: HashMap<PushTicket, Push>,
    next_number: u64,
    /// Sealed objects that ids lead to.
    object_count: u64,
    metrics: StoreMetrics,
    events: Vec<StoreEvent>,
}

impl ObjectStore {
    /// An empty store. `now` is the time of the first tick.
    pub fn new(config: StoreConfig, now: Instant) -> Self {
        Self {
            config,
            now,
            slots: HashMap::new(),
            index: HashMap::new(),
            owners: HashMap::new(),
            feeds: HashMap::new(),
            adopted: AdoptedFeeds::default(),
            dead_owners: DeadOwners::default(),
            clients: HashMap::new(),
            segments: HashMap::new(),
            memory: Allocator::default(),
            disk: Allocator::default(),
            demands: VecDeque::new(),
            fallbacks: HashMap::new(),
            opened: HashSet::new(),
            droppable: BTreeMap::new(),
            spillable: BTreeMap::new(),
            pressure: Pressure::new(now),
            pulls: HashMap::new(),
            pushes: HashMap::new(),
            next_number: 1,
            object_count: 0,
            metrics: StoreMetrics::default(),
            events: Vec::new(),
        }
    }

    /// What is to be done now, in order.
    pub fn drain_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether [`Self::drain_events`] has something to give.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether the object is complete on this node, in memory or on disk.
    pub fn contains(&self, object: ObjectId) -> bool {
        self.index
            .get(&object)
            .is_some_and(|slot| self.slots[slot].stage == slot::Stage::Sealed)
    }

    /// Whether anything leads to the object: it is here, on its way, or asked for.
    pub fn knows(&self, object: ObjectId) -> bool {
        self.index.contains_key(&object)
    }

    /// What the store holds and did.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            capacity_bytes: self.config.capacity_bytes,
            used_bytes: self.memory.allocated(),
            object_count: self.object_count,
            ..self.metrics.stats()
        }
    }

    /// Lists what the store holds and has counted.
    pub fn list_metrics(&self, into: &mut Metrics) {
        let used = self.memory.allocated();
        into.gauge(
            "ray_object_store_used_memory",
            "Bytes of memory in use by objects",
            used,
        );
        into.gauge(
            "ray_object_store_available_memory",
            "Bytes of memory that objects may still take",
            self.config.capacity_bytes.saturating_sub(used),
        );
        into.gauge(
            "ray_object_store_num_local_objects",
            "Objects that are whole on this node, in memory or on disk",
            self.object_count,
        );
        self.metrics.list(into);
    }

    /// A client asks for room. Answered by [`StoreEvent::Created`], when there is room.
    pub fn create(
        &mut self,
        client: ClientId,
        correlation: u64,
        message: &CreateObject,
    ) -> Result<(), StoreError> {
        let object = ObjectId::from_slice(&message.object_id)?;
        let owner = message.owner.as_ref().ok_or(MessageError::Missing("owner"))?;
        let owner = WorkerAddress::try_from(owner)?;
        let feed = if message.feed_id.is_empty() {
            None
        } else {
            Some(FeedId::from_slice(&message.feed_id)?)
        };
        if let Some(failure) = too_large(object, message.size) {
            self.answer_create(client, correlation, refused(failure), None);
            return Ok(());
        }
        let writer = NextWriter {
            client,
            correlation,
            size: message.size,
            owner,
            feed,
        };
        self.begin_create(object, writer);
        self.pump();
        Ok(())
    }

    /// The client has written the object: from now on it is immutable and can be read.
    pub fn seal(&mut self, client: ClientId, message: &SealObject) -> Result<(), StoreError> {
        self.finish_create(client, ObjectId::from_slice(&message.object_id)?);
        self.pump();
        Ok(())
    }

    /// The client gives up writing the object.
    pub fn abort(&mut self, client: ClientId, message: &AbortObject) -> Result<(), StoreError> {
        let object = ObjectId::from_slice(&message.object_id)?;
        let writing = self
            .clients
            .get_mut(&client)
            .and_then(|record| record.writing.remove(&object));
        match (writing, self.index.get(&object).copied()) {
            (Some(slot), _) => self.writer_ended(slot, "its writer gave up before it was complete"),
            (None, Some(slot)) => {
                self.client(client).queued_behind.remove(&slot);
                self.slot(slot)
                    .next_writers
                    .retain(|writer| writer.client != client);
                self.forget_if_unwanted(slot);
            }
            (None, None) => {}
        }
        self.pump();
        Ok(())
    }

    /// A client asks for objects. Each is answered by [`StoreEvent::Ready`], when it is here.
    pub fn get(
        &mut self,
        client: ClientId,
        correlation: u64,
        message: &GetObjects,
    ) -> Result<(), StoreError> {
        let mut wanted = Vec::with_capacity(message.objects.len());
        for entry in &message.objects {
            for location in &entry.locations {
                NodeId::from_slice(&location.node_id)?;
            }
            wanted.push((ObjectId::from_slice(&entry.object_id)?, entry));
        }
        for (object, entry) in wanted {
            self.get_one(client, correlation, object, &entry.locations);
        }
        self.pump();
        Ok(())
    }

    /// The client gives up one use for each entry.
    pub fn release(&mut self, client: ClientId, message: &ReleaseObjects) -> Result<(), StoreError> {
        for id in &message.object_ids {
            self.release_one(client, ObjectId::from_slice(id)?);
        }
        self.pump();
        Ok(())
    }

    /// Nobody has a reference to these objects any more. Uses that clients hold stay valid.
    pub fn free(&mut self, message: &FreeObjects) -> Result<(), StoreError> {
        let mut objects = Vec::with_capacity(message.objects.len());
        for entry in &message.objects {
            objects.push(ObjectId::from_slice(&entry.object_id)?);
        }
        self.free_objects(objects);
        Ok(())
    }

    /// As [`Self::free`], for the raylet itself.
    pub fn free_objects(&mut self, objects: impl IntoIterator<Item = ObjectId>) {
        for object in objects {
            if let Some(slot) = self.index.get(&object).copied() {
                let reason =
                    format!("object {object} was freed by its owner, which has no reference to it any more");
                self.metrics.freed();
                self.detach(slot, &Failure::new(ErrorCode::ObjectLost, reason));
            }
        }
        self.pump();
    }

    /// Keeps the winners among the feed's blocks on this node and frees its others, those that are sealed later
    /// included.
    pub fn adopt_feed(&mut self, message: &AdoptFeed) -> Result<(), StoreError> {
        let feed = FeedId::from_slice(&message.feed_id)?;
        let mut winners = HashSet::with_capacity(message.winners.len());
        for winner in &message.winners {
            winners.insert(ObjectId::from_slice(winner)?);
        }
        self.adopt(feed, winners);
        self.pump();
        Ok(())
    }

    /// What became of a feed, when its winners are known here.
    pub fn winners_of(&self, feed: FeedId) -> Option<AdoptFeed> {
        let winners = self.adopted.winners_of(feed)?;
        Some(AdoptFeed {
            feed_id: feed.to_vec().into(),
            winners: winners.iter().map(|object| object.to_vec().into()).collect(),
            nodes: Vec::new(),
        })
    }

    /// The client's connection ended and everything that it sent has been handled. Its process may go on and still
    /// touch the ranges that it was given: they stay its own until [`Self::client_gone`]. False: it has none, and is
    /// forgotten.
    pub fn client_left(&mut self, client: ClientId) -> bool {
        self.forget_requests(client);
        let has_ranges = self.clients.get(&client).is_some_and(ClientRecord::has_ranges);
        if !has_ranges {
            self.forget_client(client);
        }
        self.pump();
        has_ranges
    }

    /// The client's process ended, or it never had a range: nothing is mapped any more.
    pub fn client_gone(&mut self, client: ClientId) {
        self.forget_client(client);
        self.pump();
    }

    /// A process died: the objects that it owns are freed, and no more are made for it.
    pub fn owner_gone(&mut self, worker: WorkerId) {
        self.dead_owners.add_worker(worker);
        let mut slots: Vec<SlotId> = self.owners.get(&worker).into_iter().flatten().copied().collect();
        slots.sort_unstable();
        for slot in slots {
            let object = self.slots[&slot].object;
            let reason = format!("object {object} was freed because its owner, worker {worker}, died");
            self.metrics.freed();
            self.detach(slot, &Failure::new(ErrorCode::OwnerDied, reason));
        }
        self.pump();
    }

    /// A node died: the objects that its processes own are freed.
    pub fn node_gone(&mut self, node: NodeId) {
        self.dead_owners.add_node(node);
        let mut workers = HashSet::new();
        for slot in self.index.values() {
            if let Some(owner) = self.slots[slot]
                .owner
                .as_ref()
                .filter(|owner| owner.node_id == node)
            {
                workers.insert(owner.worker_id);
            }
        }
        for worker in workers {
            self.owner_gone(worker);
        }
    }

    /// Whether a process, or its node, died not long ago.
    pub fn is_dead_owner(&self, worker: WorkerId, node: NodeId) -> bool {
        self.dead_owners.contains(worker, node)
    }

    fn dead_owner(&self, owner: &WorkerAddress, object: ObjectId) -> Option<Failure> {
        self.dead_owners
            .contains(owner.worker_id, owner.node_id)
            .then(|| {
                let worker = owner.worker_id;
                let message = format!("object {object} is of no use: its owner, worker {worker}, died");
                Failure::new(ErrorCode::OwnerDied, message)
            })
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn client(&mut self, client: ClientId) -> &mut ClientRecord {
        self.clients.entry(client).or_default()
    }

    fn slot(&mut self, slot: SlotId) -> &mut Slot {
        self.slots
            .get_mut(&slot)
            .expect("ids of live slots are kept only while the slot lives")
    }
}

fn too_large(object: ObjectId, size: u64) -> Option<Failure> {
    (size > MAX_OBJECT_BYTES).then(|| {
        let message =
            format!("object {object} cannot have {size} bytes: no object has more than {MAX_OBJECT_BYTES}");
        Failure::new(ErrorCode::InvalidArgument, message)
    })
}
