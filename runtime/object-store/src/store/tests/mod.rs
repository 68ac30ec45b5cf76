//! A store with clients that really map and write the memory, and disk work that the test runs when it likes.

mod metrics;
mod model;
mod pressure;
mod sharing;
mod transfers;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sparkray_common::{ClusterId, ErrorCode, FeedId, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{
    AbortObject, CreateObject, GetObjectEntry, GetObjects, ObjectLocation, ReleaseObjects, SealObject,
    location_of,
};

use super::ObjectStore;
use super::slot::{SlotId, Stage};
use crate::client::SegmentTable;
use crate::config::StoreConfig;
use crate::event::{ClientId, PullTicket, PushSource, StoreEvent};
use crate::io::{IoJob, IoOutcome, Job, Outcome};
use crate::shm::{Access, MappedRange, PAGE_SIZE};
use crate::spill::SpillDirectories;

/// What a request was answered with.
#[derive(Debug)]
enum Answer {
    Write(MappedRange),
    AlreadySealed,
    Read(MappedRange),
    Failed(ErrorCode, String),
}

struct Harness {
    store: ObjectStore,
    directories: SpillDirectories,
    _directory: tempfile::TempDir,
    node: NodeId,
    owner: WorkerAddress,
    now: Instant,
    tables: HashMap<ClientId, SegmentTable>,
    next_correlation: u64,
    created: HashMap<u64, Answer>,
    /// In the order of arrival.
    ready: HashMap<u64, Vec<(ObjectId, Answer)>>,
    jobs: Vec<Job>,
    pulls: Vec<(PullTicket, ObjectId, Vec<ObjectLocation>)>,
    rooms: HashMap<PullTicket, MappedRange>,
    refused: Vec<(PullTicket, ErrorCode)>,
    cancelled: Vec<PullTicket>,
    pushed: Vec<(u64, Result<PushSource, ErrorCode>)>,
    gone: Vec<(ObjectId, bool)>,
    asked: Vec<FeedId>,
}

fn object(number: u32) -> ObjectId {
    ObjectId::for_result(TaskId::from_array([7; 16]), number)
}

fn client(number: u64) -> ClientId {
    ClientId(number)
}

impl Harness {
    /// A store of this many pages, with a spill directory.
    fn new(pages: u64) -> Self {
        Self::with(pages, true)
    }

    fn with(pages: u64, can_spill: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = NodeId::random();
        let mut config = StoreConfig::new(ClusterId::random(), node, pages * PAGE_SIZE, can_spill);
        config.warm_bytes = 2 * PAGE_SIZE;
        let now = Instant::now();
        Self {
            store: ObjectStore::new(config, now),
            directories: SpillDirectories::new(vec![directory.path().to_owned()]).unwrap(),
            _directory: directory,
            node,
            owner: WorkerAddress {
                node_id: node,
                worker_id: WorkerId::random(),
                node_address: "h:1".to_owned(),
            },
            now,
            tables: HashMap::new(),
            next_correlation: 1,
            created: HashMap::new(),
            ready: HashMap::new(),
            jobs: Vec::new(),
            pulls: Vec::new(),
            rooms: HashMap::new(),
            refused: Vec::new(),
            cancelled: Vec::new(),
            pushed: Vec::new(),
            gone: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Takes the store's events and checks its invariants.
    fn settle(&mut self) {
        for event in self.store.drain_events() {
            match event {
                StoreEvent::Created {
                    client,
                    correlation,
                    reply,
                    descriptor,
                } => {
                    let answer = match (reply.failure, reply.range) {
                        (Some(failure), _) => Answer::Failed(failure.error_code(), failure.message),
                        (None, Some(range)) => {
                            let table = self.tables.entry(client).or_default();
                            let mapped = table
                                .attach(ObjectId::NIL, &range, descriptor, Access::Writable)
                                .unwrap();
                            Answer::Write(mapped)
                        }
                        (None, None) => {
                            assert!(reply.already_sealed);
                            Answer::AlreadySealed
                        }
                    };
                    let earlier = self.created.insert(correlation, answer);
                    assert!(earlier.is_none(), "a create is answered once");
                }
                StoreEvent::Ready {
                    client,
                    correlation,
                    reply,
                    descriptor,
                } => {
                    let object = ObjectId::from_slice(&reply.object_id).unwrap();
                    let answer = match (reply.failure, reply.range) {
                        (Some(failure), _) => Answer::Failed(failure.error_code(), failure.message),
                        (None, range) => {
                            let table = self.tables.entry(client).or_default();
                            let range = range.expect("an answer without failure names a range");
                            Answer::Read(
                                table
                                    .attach(object, &range, descriptor, Access::ReadOnly)
                                    .unwrap(),
                            )
                        }
                    };
                    self.ready.entry(correlation).or_default().push((object, answer));
                }
                StoreEvent::PushReady {
                    correlation, source, ..
                } => {
                    self.pushed
                        .push((correlation, source.map_err(|failure| failure.error_code())));
                }
                StoreEvent::StartPull {
                    ticket,
                    object,
                    locations,
                } => self.pulls.push((ticket, object, locations)),
                StoreEvent::PullRoom { ticket, room } => match room {
                    Ok(target) => {
                        self.rooms.insert(ticket, target);
                    }
                    Err(failure) => self.refused.push((ticket, failure.error_code())),
                },
                StoreEvent::AskFeed { feed, owner } => {
                    assert_eq!(owner, self.owner);
                    self.asked.push(feed);
                }
                StoreEvent::CancelPull { ticket } => self.cancelled.push(ticket),
                StoreEvent::Io(IoJob(job)) => self.jobs.push(job),
                StoreEvent::CopyGone { object, lost, .. } => self.gone.push((object, lost)),
            }
        }
        check_invariants(&self.store);
    }

    fn create_sized(&mut self, by: u64, number: u32, size: u64, feed: Option<FeedId>) -> u64 {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let message = CreateObject {
            object_id: object(number).to_vec().into(),
            size,
            owner: Some((&self.owner).into()),
            feed_id: feed.map(FeedId::to_vec).unwrap_or_default().into(),
        };
        self.store.create(client(by), correlation, &message).unwrap();
        self.settle();
        correlation
    }

    fn create(&mut self, by: u64, number: u32, pages: u64) -> u64 {
        self.create_sized(by, number, pages * PAGE_SIZE, None)
    }

    /// The room that a create was given.
    fn room(&mut self, correlation: u64) -> MappedRange {
        match self.created.remove(&correlation) {
            Some(Answer::Write(range)) => range,
            other => panic!("the create was not given room: {other:?}"),
        }
    }

    fn seal(&mut self, by: u64, number: u32) {
        self.store
            .seal(
                client(by),
                &SealObject {
                    object_id: object(number).to_vec().into(),
                },
            )
            .unwrap();
        self.settle();
    }

    fn abort(&mut self, by: u64, number: u32) {
        self.store
            .abort(
                client(by),
                &AbortObject {
                    object_id: object(number).to_vec().into(),
                },
            )
            .unwrap();
        self.settle();
    }

    /// Creates, fills and seals an object for which there is room.
    fn put(&mut self, by: u64, number: u32, pages: u64) {
        let correlation = self.create(by, number, pages);
        self.room(correlation).as_mut_slice().fill(number as u8);
        self.seal(by, number);
    }

    fn get_from(&mut self, by: u64, number: u32, nodes: &[NodeId]) -> u64 {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let locations = nodes.iter().map(|node| location_of(*node, "h:1")).collect();
        let entry = GetObjectEntry {
            object_id: object(number).to_vec().into(),
            locations,
        };
        self.store
            .get(client(by), correlation, &GetObjects { objects: vec![entry] })
            .unwrap();
        self.settle();
        correlation
    }

    fn get(&mut self, by: u64, number: u32) -> u64 {
        self.get_from(by, number, &[])
    }

    fn answer(&mut self, correlation: u64) -> Option<Answer> {
        self.ready
            .get_mut(&correlation)
            .and_then(Vec::pop)
            .map(|(_, answer)| answer)
    }

    /// The bytes that a get was given.
    fn bytes(&mut self, correlation: u64) -> MappedRange {
        match self.answer(correlation) {
            Some(Answer::Read(range)) => range,
            other => panic!("the get was not given the object: {other:?}"),
        }
    }

    fn failure(&mut self, correlation: u64) -> ErrorCode {
        match self.answer(correlation) {
            Some(Answer::Failed(code, _)) => code,
            other => panic!("the get did not fail: {other:?}"),
        }
    }

    fn release(&mut self, by: u64, number: u32) {
        let message = ReleaseObjects {
            object_ids: vec![object(number).to_vec().into()],
        };
        self.store.release(client(by), &message).unwrap();
        self.settle();
    }

    fn free(&mut self, number: u32) {
        self.store.free_objects([object(number)]);
        self.settle();
    }

    fn run_job(&mut self, index: usize) {
        let job = self.jobs.remove(index);
        if let Some(outcome) = job.run(&self.directories) {
            self.store.io_done(IoOutcome(outcome));
        }
        self.settle();
    }

    /// Lets a spill, a restore or a fallback fail as a full or broken disk would; other jobs succeed.
    fn fail_job(&mut self, index: usize) {
        let error = || std::io::Error::new(std::io::ErrorKind::StorageFull, "No space left on device");
        let outcome = match &self.jobs[index] {
            Job::Spill { slot, .. } => Outcome::Spilled {
                slot: *slot,
                result: Err(error()),
            },
            Job::Restore { slot, .. } => Outcome::Restored {
                slot: *slot,
                result: Err(error()),
            },
            Job::Open { slot, segment, .. } => Outcome::Opened {
                slot: *slot,
                segment: *segment,
                result: Err(error()),
            },
            Job::Fallback { segment, .. } => Outcome::Fallback {
                segment: *segment,
                result: Err(error()),
            },
            Job::Delete { .. } | Job::Discard { .. } | Job::Populate { .. } | Job::Close { .. } => {
                return self.run_job(index);
            }
        };
        self.jobs.remove(index);
        self.store.io_done(IoOutcome(outcome));
        self.settle();
    }

    fn run_jobs(&mut self) {
        while !self.jobs.is_empty() {
            self.run_job(0);
        }
    }

    fn fail_jobs(&mut self) {
        while !self.jobs.is_empty() {
            self.fail_job(0);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.store.tick(self.now);
        self.settle();
    }
}

fn check_invariants(store: &ObjectStore) {
    assert!(
        store.memory.committed() <= store.config.capacity_bytes,
        "memory stays within the capacity"
    );
    let mut ranges: Vec<_> = store.slots.values().filter_map(|slot| slot.memory).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let apart = pair[0].segment != pair[1].segment || pair[0].offset + pair[0].len <= pair[1].offset;
        assert!(apart, "ranges overlap: {pair:?}");
    }
    let in_memory = ranges
        .iter()
        .filter(|range| !range.segment.is_on_disk())
        .map(|range| range.len)
        .sum::<u64>();
    assert_eq!(
        in_memory,
        store.memory.allocated(),
        "used bytes are the bytes of the slots"
    );
    let on_disk = ranges
        .iter()
        .filter(|range| range.segment.is_on_disk() && !store.opened.contains(&range.segment))
        .map(|range| range.len)
        .sum::<u64>();
    assert_eq!(on_disk, store.disk.allocated());
    let opened = ranges
        .iter()
        .filter(|range| store.opened.contains(&range.segment));
    assert_eq!(
        opened.count(),
        store.opened.len(),
        "each open file is some slot's"
    );
    let mut uses: HashMap<SlotId, u64> = HashMap::new();
    for slot in store.used_slots() {
        *uses.entry(slot).or_default() += 1;
    }
    for (id, slot) in &store.slots {
        assert_eq!(
            slot.uses,
            uses.get(id).copied().unwrap_or(0),
            "uses are those of the clients"
        );
        assert_eq!(
            slot.detached,
            store.index.get(&slot.object) != Some(id),
            "the index leads to attached slots"
        );
        assert_eq!(slot.is_evictable(), slot.evictable_since.is_some());
        let is_open = slot
            .memory
            .is_some_and(|range| store.opened.contains(&range.segment));
        assert!(
            !is_open || slot.uses + slot.pushes > 0,
            "open files are in use: {slot:?}"
        );
        assert!(!slot.is_unneeded(), "unneeded slots are removed: {slot:?}");
    }
    assert_eq!(
        store.droppable.len() + store.spillable.len(),
        store
            .slots
            .values()
            .filter(|slot| slot.evictable_since.is_some())
            .count()
    );
    assert!(store.index.values().all(|slot| store.slots.contains_key(slot)));
    let sealed = store
        .index
        .values()
        .filter(|slot| store.slots[slot].stage == Stage::Sealed)
        .count();
    assert_eq!(store.stats().object_count, sealed as u64);
}
