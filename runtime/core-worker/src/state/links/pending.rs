//! What replies are for, and the places where threads wait for those to their own requests.

use std::os::fd::OwnedFd;

use sparkray_common::{ActorId, LeaseId, ObjectId, TaskId, WorkerId};
use sparkray_proto as proto;

use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};

/// What a reply is for.
#[derive(Debug)]
pub(crate) enum Pending {
    Register,
    Lease(LeaseId),
    Push(TaskId),
    /// GetObject to an owner.
    Fetch(ObjectId),
    /// GetObjects to the local raylet; answered once for each of the objects.
    Read(IdSet<ObjectId>),
    Create {
        slot: u64,
        object: ObjectId,
    },
    Head(u64),
    /// GetMetrics to the local raylet.
    Metrics(u64),
    /// RegisterActor, for which no thread waits.
    Creation(ActorId),
    /// A slot that only waits for Empty.
    Done(u64),
    /// RequestOwnerToCancelTask to an owner.
    Cancel(u64),
    /// AddBorrower to an owner.
    Borrow {
        settles: Vec<ObjectId>,
        owner: WorkerId,
        registration: u64,
    },
}

/// Result of a request that one thread waits for.
#[derive(Debug)]
pub(crate) enum SlotResult {
    Head(proto::HeadReply),
    Created(proto::CreateObjectReply, Option<OwnedFd>),
    Metrics(String),
    Done,
    Failed(CoreError),
}

/// Where threads wait for replies to requests of their own.
#[derive(Debug, Default)]
pub(super) struct Slots {
    last: u64,
    open: IdMap<u64, Option<SlotResult>>,
}

impl Slots {
    pub(super) fn add(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last, None);
        self.last
    }

    /// False: the thread gave up, and has removed its slot.
    pub(super) fn fill(&mut self, slot: u64, result: SlotResult) -> bool {
        match self.open.get_mut(&slot) {
            Some(place) => {
                *place = Some(result);
                true
            }
            None => false,
        }
    }

    /// The result, once it is there; the slot is gone with it.
    pub(super) fn take(&mut self, slot: u64) -> Option<SlotResult> {
        self.open.get(&slot)?.as_ref()?;
        self.open.remove(&slot).flatten()
    }

    pub(super) fn remove(&mut self, slot: u64) {
        self.open.remove(&slot);
    }

    /// Those that wait get this result.
    pub(super) fn fail_all(&mut self, error: &CoreError) {
        for place in self.open.values_mut().filter(|place| place.is_none()) {
            *place = Some(SlotResult::Failed(error.clone()));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
