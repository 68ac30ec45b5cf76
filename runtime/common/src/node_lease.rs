//! The lease by which a node lives. Pure: times come in as distances from the zero of the node's clock.
//!
//! Head and node judge a silence each by its own clock, and the node is the more impatient one. Invariants:
//! 1. The head declares a node dead at the earliest [`NODE_SILENCE`] after it *received* the newest message of the node.
//! 2. A lease counts from the moment at which a message was *sent* that the head has acknowledged. It ends
//!    [`FENCE_MARGIN`] before the head's deadline: then the raylet ends the node's workers. [`WORKER_MARGIN`] before it the
//!    workers end themselves, in case that their raylet does not run.
//! 3. Time in which the head provably did not run is not counted: the head does not count it either when it runs again.
//!    Whatever is not proved is counted.
//! 4. So when the head gives a node's actors to others, no worker of the node is alive.

use std::time::Duration;

/// A node of which the head hears nothing for this long is dead.
pub const NODE_SILENCE: Duration = Duration::from_secs(10);
/// The same for the node of a driver on Spark. Nothing takes its place, so the driver's manager is given the time to
/// judge first: it knows whether the head's host is gone, and says so.
pub const DRIVER_NODE_SILENCE: Duration = Duration::from_secs(20);
/// The longest silence that a head grants.
pub const LONGEST_SILENCE: Duration = Duration::from_mins(5);
/// So long before the head's deadline a raylet ends its workers. Killing them takes a part of it.
pub const FENCE_MARGIN: Duration = Duration::from_millis(2500);
/// So long before the head's deadline a worker ends itself.
pub const WORKER_MARGIN: Duration = Duration::from_millis(1500);
/// A raylet sends a message that the head acknowledges so often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Longer between two ticks of the head means that the head did not run, and it counts that time against nobody.
pub const HEAD_STALL: Duration = Duration::from_secs(1);
/// The head's last tick is so old: the next one will see a stall, even if the process was stopped between the tick and
/// the note of it.
pub const PROVEN_STALL: Duration = Duration::from_millis(1200);

/// What a node knows of its lease.
#[derive(Debug, Clone)]
pub struct NodeLease {
    silence: Duration,
    /// Until when the head certainly believes in the node.
    head_deadline: Duration,
    /// When the newest message was sent that the head has acknowledged.
    acknowledged: Duration,
    /// Stalls of the head are counted up to here.
    excused_until: Duration,
}

impl NodeLease {
    /// The head has acknowledged the registration, sent at `sent`, of a node that it grants so long a silence.
    pub fn new(sent: Duration, silence: Duration) -> Self {
        Self {
            silence,
            head_deadline: sent + silence,
            acknowledged: sent,
            excused_until: sent,
        }
    }

    /// The head has acknowledged a message that was sent at `sent`.
    pub fn acknowledged(&mut self, sent: Duration) {
        self.acknowledged = self.acknowledged.max(sent);
        self.head_deadline = self.head_deadline.max(sent + self.silence);
    }

    /// The head provably did not run between `from` and `to`.
    pub fn excuse(&mut self, from: Duration, to: Duration) {
        let from = from.max(self.acknowledged).max(self.excused_until);
        if to > from {
            self.head_deadline += to.saturating_sub(from);
            self.excused_until = to;
        }
    }

    /// When the raylet ends the node's workers and itself.
    pub fn fence_at(&self) -> Duration {
        self.head_deadline.saturating_sub(FENCE_MARGIN)
    }

    /// When workers end that nobody has ended before.
    pub fn workers_end_at(&self) -> Duration {
        self.head_deadline.saturating_sub(WORKER_MARGIN)
    }

    /// How long ago the newest acknowledged message was sent.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_times_of_the_lease_follow_each_other_with_room_for_what_happens_between() {
        // Killing and collecting all processes of a node takes 1.5 s at most.
        assert!(WORKER_MARGIN < FENCE_MARGIN && at(1500) < FENCE_MARGIN);
        // A cut of 5 s is mended by a new connection, tried once a second, before anything ends.
        assert!(at(5000 + 1000) + 2 * HEARTBEAT_INTERVAL + FENCE_MARGIN < NODE_SILENCE);
        // A manager gives an executor up within 10 s: two of waiting, eight for the answer (`rpc/tonic_bridge.rs`).
        assert!(
            at(2000 + 8000) + FENCE_MARGIN < DRIVER_NODE_SILENCE && DRIVER_NODE_SILENCE < LONGEST_SILENCE
        );
        // Both within two of the head's ticks of 100 ms.
        assert!(HEAD_STALL + at(200) <= PROVEN_STALL);
    }

    #[test]
    fn a_lease_counts_from_the_sending_of_what_was_acknowledged() {
        let mut lease = NodeLease::new(at(0), NODE_SILENCE);
        assert_eq!(lease.fence_at(), at(7500));
        assert_eq!(lease.workers_end_at(), at(8500));
        lease.acknowledged(at(3000));
        lease.acknowledged(at(2000));
        assert_eq!(lease.fence_at(), at(10_500));
        assert_eq!(lease.age(at(4000)), at(1000));
    }

    #[test]
    fn stalls_of_the_head_are_counted_once_and_only_after_what_it_acknowledged() {
        let mut lease = NodeLease::new(at(0), NODE_SILENCE);
        lease.acknowledged(at(1000));
        lease.excuse(at(500), at(3000));
        assert_eq!(lease.fence_at(), at(8500 + 2000));
        lease.excuse(at(2000), at(4000));
        assert_eq!(lease.fence_at(), at(8500 + 3000));
        lease.excuse(at(2000), at(3500));
        assert_eq!(lease.fence_at(), at(8500 + 3000));
        // The head runs again and has read what was sent meanwhile.
        lease.acknowledged(at(3900));
        assert_eq!(lease.fence_at(), at(8500 + 3000));
        lease.acknowledged(at(5000));
        assert_eq!(lease.fence_at(), at(12_500));
    }
}
