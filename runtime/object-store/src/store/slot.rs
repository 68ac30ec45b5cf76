//! What the store knows of one object.

use std::collections::VecDeque;
use std::time::Instant;

use sparkray_common::{FeedId, ObjectId, WorkerAddress};
use sparkray_proto::ObjectLocation;

use crate::allocator::Range;
use crate::event::{ClientId, PullTicket};
use crate::spill::SpillFile;

/// Names one life of an object in the store. An object that was freed and is made again has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId(pub(crate) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Only asked for.
    Awaited,
    /// A client waits for room to write it.
    CreateQueued { client: ClientId, correlation: u64 },
    /// A client writes it.
    Writing { client: ClientId },
    /// The raylet fetches it from another node.
    Pulling,
    /// Complete.
    Sealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskWork {
    Spilling,
    /// Room is asked for, or the bytes are on their way.
    Restoring,
}

/// A get that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) client: ClientId,
    pub(crate) correlation: u64,
    /// It named nodes that had a copy: when none of them has, the object is lost.
    pub(crate) named_locations: bool,
}

/// A create that waits for another writer of the same object to end.
#[derive(Debug, Clone)]
pub(crate) struct NextWriter {
    pub(crate) client: ClientId,
    pub(crate) correlation: u64,
    pub(crate) size: u64,
    pub(crate) owner: WorkerAddress,
    pub(crate) feed: Option<FeedId>,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) object: ObjectId,
    pub(crate) stage: Stage,
    pub(crate) size: u64,
    pub(crate) owner: Option<WorkerAddress>,
    pub(crate) feed: Option<FeedId>,
    /// Made on this node: evicting it needs a copy on disk first.
    pub(crate) primary: bool,
    pub(crate) memory: Option<Range>,
    pub(crate) file: Option<SpillFile>,
    pub(crate) disk_work: Option<DiskWork>,
    /// Uses that clients hold.
    pub(crate) uses: u64,
    /// Sendings to other nodes that are under way.
    pub(crate) pushes: u64,
    /// The object's id does not lead here any more: the slot goes when nobody needs it.
    pub(crate) detached: bool,
    pub(crate) waiters: Vec<Waiter>,
    /// Raylets that wait for it: connection and correlation id.
    pub(crate) push_waiters: Vec<(ClientId, u64)>,
    pub(crate) next_writers: VecDeque<NextWriter>,
    /// The fetch that is under way.
    pub(crate) pull: Option<PullTicket>,
    /// Nodes that it asks.
    pub(crate) tried: Vec<ObjectLocation>,
    /// Nodes to ask when those fail.
    pub(crate) untried: Vec<ObjectLocation>,
    /// The demand for room that is not answered yet.
    pub(crate) demand: Option<u64>,
    /// Its key among the evictable slots.
    pub(crate) evictable_since: Option<u64>,
}

impl Slot {
    pub(crate) fn new(object: ObjectId, stage: Stage) -> Self {
        Self {
            object,
            stage,
            size: 0,
            owner: None,
            feed: None,
            primary: false,
            memory: None,
            file: None,
            disk_work: None,
            uses: 0,
            pushes: 0,
            detached: false,
            waiters: Vec::new(),
            push_waiters: Vec::new(),
            next_writers: VecDeque::new(),
            pull: None,
            tried: Vec::new(),
            untried: Vec::new(),
            demand: None,
            evictable_since: None,
        }
    }

    /// Whether its memory could be used for something else, after a spill perhaps.
    pub(crate) fn is_evictable(&self) -> bool {
        self.stage == Stage::Sealed
            && !self.detached
            && self.memory.is_some_and(|range| !range.segment.is_on_disk())
            && self.uses == 0
            && self.pushes == 0
            && self.disk_work.is_none()
    }

    /// Whether its bytes are in memory and complete.
    pub(crate) fn is_readable(&self) -> bool {
        self.stage == Stage::Sealed && self.memory.is_some() && self.disk_work != Some(DiskWork::Restoring)
    }

    /// Whether it can be evicted without losing the object.
    pub(crate) fn has_other_copy(&self) -> bool {
        !self.primary || self.file.is_some()
    }

    /// Whether nothing keeps a detached slot.
    pub(crate) fn is_unneeded(&self) -> bool {
        self.detached
            && self.uses == 0
            && self.pushes == 0
            && matches!(self.stage, Stage::Sealed | Stage::Awaited)
            && self.disk_work.is_none()
    }
}

/// Room that is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// The slot's demand, while it is this one.
    pub(crate) number: u64,
    pub(crate) slot: SlotId,
    pub(crate) purpose: Purpose,
    /// Bytes of the object.
    pub(crate) size: u64,
    pub(crate) since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Create,
    Pull,
    Restore,
}
