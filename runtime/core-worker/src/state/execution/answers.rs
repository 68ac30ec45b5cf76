//! Functions that callers send again, because a connection broke, and answers that are kept for them.
//!
//! Within a node a connection ends with one of its processes. Between nodes it may break while both live: the caller
//! then sends again what is not answered.
//!
//! Invariants:
//! 1. What is sent again is not run again while this worker runs it or has its answer.
//! 2. Answers for callers on other nodes are kept until they are acknowledged by a later call, or another caller has the
//!    lease of this worker. There are at most as many as a caller may have under way at one worker.
//! 3. What an old connection delivers after its caller has sent again over another one is ignored.

use std::collections::VecDeque;

use bytes::Bytes;
use sparkray_common::{TaskId, WorkerId};

use super::{Execution, IncomingTask, Work};
use crate::hash::IdMap;
use crate::state::limits::MAX_PUSHED_AHEAD;
use crate::state::links::{ConnId, Links, with_correlation};

/// The function that runs.
#[derive(Debug)]
struct Running {
    task: TaskId,
    attempt: u32,
    /// Where its answer goes, when the caller has sent it again.
    moved: Option<(ConnId, u64)>,
}

#[derive(Debug)]
struct Kept {
    task: TaskId,
    attempt: u32,
    correlation: u64,
    frame: Bytes,
}

/// What this worker knows of the functions that it ran.
#[derive(Debug, Default)]
pub(super) struct FunctionAnswers {
    running: Option<Running>,
    /// Whose answers are kept.
    caller: Option<WorkerId>,
    /// Oldest first.
    kept: VecDeque<Kept>,
    /// Callers that have sent again: over which connection, and the first correlation id there.
    resumed: IdMap<WorkerId, (ConnId, u64)>,
}

impl FunctionAnswers {
    /// A function begins to run.
    pub(super) fn began(&mut self, task: TaskId, attempt: u32) {
        self.running = Some(Running {
            task,
            attempt,
            moved: None,
        });
    }

    /// A caller has the answers up to this correlation id, and all of them when another one calls.
    fn acknowledge(&mut self, caller: WorkerId, acknowledged: u64) {
        if self.kept.is_empty() {
            return;
        }
        if self.caller != Some(caller) {
            self.kept.clear();
        }
        while self
            .kept
            .front()
            .is_some_and(|kept| kept.correlation <= acknowledged)
        {
            self.kept.pop_front();
        }
    }

    /// Whether a newer connection of the caller has replaced the one over which a call came.
    fn is_late(&self, task: &IncomingTask) -> bool {
        let resumed = self.resumed.get(&task.caller.worker_id);
        resumed.is_some_and(|(_, first)| task.correlation < *first)
    }

    pub(super) fn keep(&mut self, task: &IncomingTask, correlation: u64, frame: Bytes) {
        if self.caller != Some(task.caller.worker_id) {
            self.caller = Some(task.caller.worker_id);
            self.kept.clear();
        }
        if self.kept.len() >= MAX_PUSHED_AHEAD {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept {
            task: task.task_id,
            attempt: task.attempt,
            correlation,
            frame,
        });
    }

    /// Whether this function runs.
    pub(super) fn is_running(&self, task_id: TaskId) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.task == task_id)
    }

    /// Where the answer of the function that ran goes.
    pub(super) fn place_of(&mut self, task: &IncomingTask) -> (ConnId, u64) {
        let moved = self.running.take().and_then(|running| running.moved);
        moved.unwrap_or((task.conn, task.correlation))
    }

    /// A caller is dead.
    pub(super) fn forget(&mut self, caller: WorkerId) {
        self.resumed.remove(&caller);
        if self.caller == Some(caller) {
            self.kept.clear();
        }
    }
}

impl Execution {
    /// A function came. `acknowledged`: its caller has the results up to that correlation id.
    pub(super) fn take_function(
        &mut self,
        links: &mut Links,
        task: IncomingTask,
        acknowledged: u64,
        again: bool,
    ) {
        self.answers.acknowledge(task.caller.worker_id, acknowledged);
        if self.answers.is_late(&task) || (again && self.is_known(links, &task)) {
            return;
        }
        if self.blocked > 0 && self.running_since.is_some() {
            // The task that runs may wait for this one.
            self.give_back(links, &task);
        } else {
            self.add(links, Work::Task(task));
        }
    }

    /// A function was sent again. Whether it need not be run: it runs, or its answer has left once more.
    fn is_known(&mut self, links: &mut Links, task: &IncomingTask) -> bool {
        let caller = task.caller.worker_id;
        let (conn, correlation) = (task.conn, task.correlation);
        let answers = &mut self.answers;
        match answers.resumed.insert(caller, (conn, correlation)) {
            // What came before it over the same connection counts too.
            Some((same, first)) if same == conn => {
                answers.resumed.insert(caller, (conn, first));
            }
            // What waits was sent over an older connection: it comes again, or is not wanted any more.
            _ => self.ready.retain(|work| {
                let function = work.function();
                function.is_none_or(|other| other.caller.worker_id != caller)
            }),
        }
        if let Some(running) = &mut answers.running {
            if (running.task, running.attempt) == (task.task_id, task.attempt) {
                running.moved = Some((conn, correlation));
                return true;
            }
        }
        let mut kept = answers.kept.iter_mut();
        let Some(kept) = kept.find(|kept| (kept.task, kept.attempt) == (task.task_id, task.attempt)) else {
            return false;
        };
        kept.correlation = correlation;
        links.send_encoded(conn, &with_correlation(&kept.frame, correlation), true);
        true
    }
}
