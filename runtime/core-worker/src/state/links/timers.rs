//! What is to be done later. An entry is looked at when its time comes: what it was for may be over by then, so
//! nothing is ever taken out before.

use std::collections::BTreeMap;

use sparkray_common::{ActorId, LeaseId, NodeId, ObjectId, WorkerId};

use super::ConnId;
use crate::state::ids::SchedulingClassId;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum Timer {
    /// A lease may have been idle for long enough to go back.
    IdleLease(LeaseId),
    /// A class may ask for leases again.
    LeaseRequests(SchedulingClassId),
    /// An actor whose connection broke is called again.
    ReconnectActor(ActorId),
    /// A process whose connection broke is called again.
    CallAgain(WorkerId),
    /// A raylet of another node whose connection broke is called again.
    CallRaylet(NodeId),
    /// Replies of an actor are acknowledged that no later call has acknowledged.
    AcknowledgeReplies(ActorId),
    /// An error to which somebody has a reference, and which nobody may have asked for.
    KeptError(ObjectId),
    /// A connection that nobody has answered yet.
    Unanswered(ConnId),
    /// A connection to a process that is said to be dead.
    CloseConnection(ConnId),
}

/// All timers, by their time in microseconds.
#[derive(Debug, Default)]
pub(in crate::state) struct Timers {
    queue: BTreeMap<(u64, u64), Timer>,
    last: u64,
}

impl Timers {
    pub(in crate::state) fn set(&mut self, at: u64, timer: Timer) {
        self.last += 1;
        self.queue.insert((at, self.last), timer);
    }

    /// The time of the next one.
    pub(in crate::state) fn next(&self) -> Option<u64> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    pub(in crate::state) fn take_due(&mut self, now: u64) -> Option<Timer> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(in crate::state) fn len(&self) -> usize {
        self.queue.len()
    }
}
