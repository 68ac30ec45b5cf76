//! What is to be done later. An entry is looked at when its time comes: what it was for may be over by then, so
//! nothing is ever taken out before.

use std::collections::BTreeMap;

use sparkray_common::{ActorId, LeaseId, NodeId, WorkerId};

use super::State;
use super::scheduling::SchedulingClassId;
use crate::reactor::ConnId;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
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
    /// A connection that nobody has answered yet.
    Unanswered(ConnId),
    /// A connection to a process that is said to be dead.
    CloseConnection(ConnId),
}

/// All timers, by their time in microseconds.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<(u64, u64), Timer>,
    last: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: u64, timer: Timer) {
        self.last += 1;
        self.queue.insert((at, self.last), timer);
    }

    /// The time of the next one.
    pub(super) fn next(&self) -> Option<u64> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: u64) -> Option<Timer> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl State {
    pub(super) fn fire_timers(&mut self) {
        while let Some(timer) = self.timers.take_due(self.now) {
            match timer {
                Timer::IdleLease(lease) => self.lease_may_be_idle(lease),
                Timer::LeaseRequests(class) => self.ask_for_leases_again(class),
                Timer::ReconnectActor(actor) => self.reconnect_actor(actor),
                Timer::CallAgain(worker) => self.call_again(worker),
                Timer::CallRaylet(node) => self.call_raylet_again(node),
                Timer::AcknowledgeReplies(actor) => self.acknowledge_replies(actor),
                Timer::Unanswered(conn) => self.give_up_unanswered(conn),
                Timer::CloseConnection(conn) => self.close_connection(conn),
            }
        }
    }
}
