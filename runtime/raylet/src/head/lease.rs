//! This node's lease: how long it may believe that the head counts on it, what ends with it, and when to ask whether the
//! head itself stands still. Pure; what excuses and fences is in `sparkray_common::NodeLease`.
//!
//! The head is cut off, or it does not run: only in the first case does time count against this node. What proves the
//! second is the note of the head's last tick, in memory that it shares with the raylet of its node; the other nodes ask
//! that raylet.

use std::time::Duration;

use sparkray_common::{MomentClock, NodeLease, SharedMoment};

/// When the head has acknowledged nothing for this long, its node is asked whether it runs.
const ASK_AFTER: Duration = Duration::from_millis(1500);
/// The next question follows the last answer after this time.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// What a look at the lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It needs no lease any more.
    Ended,
    /// It goes on.
    Holds,
    /// The head may give this node up: it ends. The head has acknowledged nothing for so long.
    Fenced { silence: Duration },
}

/// The lease. Times are of its clock.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: MomentClock,
    granted: NodeLease,
    is_asking: bool,
    next_question: Duration,
    has_ended: bool,
}

impl Lease {
    /// As granted at the registration.
    pub(crate) fn new(clock: MomentClock, granted: NodeLease) -> Self {
        Self {
            clock,
            granted,
            is_asking: false,
            next_question: Duration::ZERO,
            has_ended: false,
        }
    }

    /// The head has what was sent at `sent`.
    pub(super) fn acknowledged(&mut self, sent: Duration) {
        self.granted.acknowledged(sent);
    }

    /// Nobody will take this node's place any more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// When workers must have ended.
    pub(crate) fn workers_end_at(&self) -> SharedMoment {
        let at = if self.has_ended {
            Duration::MAX
        } else {
            self.granted.workers_end_at()
        };
        SharedMoment {
            clock: self.clock,
            at,
        }
    }

    /// Ten times a second. `head_stall`: how long the head of this node provably has not run.
    pub(super) fn tick(&mut self, now: Duration, head_stall: Option<Duration>) -> Verdict {
        if self.has_ended {
            return Verdict::Ended;
        }
        if let Some(stall) = head_stall {
            self.granted.excuse(now.saturating_sub(stall), now);
        }
        if now >= self.granted.fence_at() {
            let silence = self.granted.age(now);
            return Verdict::Fenced { silence };
        }
        Verdict::Holds
    }

    /// Whether the raylet of the head's node is to be asked now, because the head is silent.
    pub(super) fn is_to_ask(&self, now: Duration) -> bool {
        !self.is_asking && now >= self.next_question && self.granted.age(now) >= ASK_AFTER
    }

    /// It is asked.
    pub(super) fn ask(&mut self) {
        self.is_asking = true;
    }

    /// The answer: the head did not run at any time between `answered` less the stall and `asked`, whenever in between
    /// the other raylet looked.
    pub(super) fn answered(&mut self, asked: Duration, answered: Duration, stall: Option<Duration>) {
        self.is_asking = false;
        self.next_question = answered + ASK_INTERVAL;
        if let Some(stall) = stall {
            self.granted.excuse(answered.saturating_sub(stall), asked);
        }
    }
}

/// By which clock a node's lease is measured: one that goes on while this machine is suspended, unless the head is on it
/// too and is suspended with it.
pub(crate) fn clock_beside(head_on_this_machine: bool) -> MomentClock {
    if head_on_this_machine {
        MomentClock::Monotonic
    } else {
        MomentClock::Boottime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    fn lease() -> Lease {
        Lease::new(MomentClock::Monotonic, NodeLease::new(Duration::ZERO, SILENCE))
    }

    #[test]
    fn a_silent_head_fences_unless_it_provably_does_not_run() {
        let mut cut_off = lease();
        let fence = cut_off.granted.fence_at();
        assert_eq!(
            cut_off.tick(fence.saturating_sub(Duration::from_millis(1)), None),
            Verdict::Holds
        );
        assert_eq!(cut_off.tick(fence, None), Verdict::Fenced { silence: fence });
        let mut excused = lease();
        assert_eq!(excused.tick(fence, Some(fence)), Verdict::Holds);
        let mut ended = lease();
        ended.end();
        assert_eq!(ended.tick(fence, None), Verdict::Ended);
        assert_eq!(ended.workers_end_at().at, Duration::MAX);
    }

    #[test]
    fn one_question_at_a_time_is_asked_of_a_silent_heads_node() {
        let mut lease = lease();
        assert!(!lease.is_to_ask(ASK_AFTER / 2));
        assert!(lease.is_to_ask(ASK_AFTER));
        lease.ask();
        assert!(!lease.is_to_ask(2 * ASK_AFTER));
        lease.answered(ASK_AFTER, ASK_AFTER, None);
        assert!(!lease.is_to_ask(ASK_AFTER));
        assert!(lease.is_to_ask(ASK_AFTER + ASK_INTERVAL));
    }
}
