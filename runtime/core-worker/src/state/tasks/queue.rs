//! Queues of tasks, out of which any task may be cancelled.

use std::collections::VecDeque;

use sparkray_common::TaskId;

use super::Tasks;

/// Tasks in order. One that ends while it waits here is not looked for: it is counted, passed over by whoever takes it
/// out, and swept when as many have ended as wait.
#[derive(Debug, Default)]
pub(in crate::state) struct TaskQueue {
    tasks: VecDeque<TaskId>,
    /// How many of them have ended.
    ended: usize,
}

impl TaskQueue {
    /// Those that wait.
    pub(in crate::state) fn len(&self) -> usize {
        self.tasks.len() - self.ended
    }

    pub(in crate::state) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(in crate::state) fn push_back(&mut self, task: TaskId) {
        self.tasks.push_back(task);
    }

    pub(in crate::state) fn push_front(&mut self, task: TaskId) {
        self.tasks.push_front(task);
    }

    /// The first, which may have ended.
    pub(in crate::state) fn front(&self) -> Option<TaskId> {
        self.tasks.front().copied()
    }

    /// Takes out the first. When it has ended, [`TaskQueue::passed_over`] is to be called.
    pub(in crate::state) fn pop_front(&mut self) -> Option<TaskId> {
        self.tasks.pop_front()
    }

    /// What was taken out had ended.
    pub(in crate::state) fn passed_over(&mut self) {
        self.ended = self.ended.saturating_sub(1);
    }

    /// One of those that wait has ended.
    pub(in crate::state) fn one_ended(&mut self, table: &Tasks) {
        self.ended += 1;
        if 2 * self.ended > self.tasks.len() {
            self.tasks.retain(|task| table.contains(task));
            self.ended = 0;
        }
    }

    pub(in crate::state) fn iter(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.iter()
    }

    /// All, those that have ended too.
    pub(in crate::state) fn take(&mut self) -> VecDeque<TaskId> {
        self.ended = 0;
        std::mem::take(&mut self.tasks)
    }

    /// Panics when it counts tasks that have not ended. (A process that has left the cluster has ended all, and counts none.)
    pub(in crate::state) fn check(&self, table: &Tasks) {
        let ended = self.tasks.iter().filter(|task| !table.contains(task)).count();
        assert!(self.ended <= ended, "{} of {ended} tasks have ended", self.ended);
    }
}
