//! Functions that are handed back to their owners, because the one that runs is slow or waits itself.

use sparkray_proto::{self as proto, FrameKind, TaskStatus};

use super::{Execution, IncomingTask, Work};
use crate::state::links::Links;

/// A worker whose task runs longer gives tasks back that wait behind it, in microseconds.
const SLOW_TASK: u64 = 5_000;

impl Execution {
    pub(super) fn give_back(&mut self, links: &mut Links, task: &IncomingTask) {
        self.metrics.given_back();
        let reply = proto::PushTaskReply {
            status: TaskStatus::Returned.into(),
            ..Default::default()
        };
        let kind = FrameKind::PushTaskReply;
        links.send(task.conn, kind, task.correlation, &reply, &[], true);
    }

    /// Hands tasks that wait behind the running one back to their owners.
    fn give_back_waiting(&mut self, links: &mut Links) {
        // From the last to the first: each goes to the front of its owner's queue.
        for work in std::mem::take(&mut self.ready).into_iter().rev() {
            match work {
                Work::Task(task) if task.sequence.is_none() => self.give_back(links, &task),
                other => self.ready.push_front(other),
            }
        }
    }

    /// When the function that runs has been running for too long for others to wait behind it.
    pub(in crate::state) fn slow_at(&self) -> Option<u64> {
        let since = self.running_since?;
        self.has_work().then_some(since + SLOW_TASK)
    }

    pub(in crate::state) fn give_back_if_slow(&mut self, links: &mut Links) {
        if self.slow_at().is_some_and(|at| at <= links.process.now) {
            self.give_back_waiting(links);
        }
    }

    /// One more, or one less, thread of this worker waits for objects.
    pub(in crate::state) fn set_blocked(&mut self, links: &mut Links, blocked: bool) {
        let before = self.blocked;
        self.blocked = if blocked {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if blocked && self.running_since.is_some() {
            self.give_back_waiting(links);
        }
        if (before == 0) != (self.blocked == 0) {
            links.tell_raylet(FrameKind::WorkerBlocked, &proto::WorkerBlocked { blocked }, true);
        }
    }
}
