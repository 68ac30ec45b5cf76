//! Processes that have ended: a request that one of them made before may still arrive, and is refused.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use sparkray_common::WorkerId;

/// Ended processes that are remembered; older ones are forgotten.
const KEPT_DEAD_WORKERS: usize = 65_536;

/// The processes that ended last.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct DeadWorkers {
    dead: HashSet<WorkerId>,
    /// Oldest first.
    order: VecDeque<WorkerId>,
}

impl DeadWorkers {
    /// Whether the end of this process is remembered.
    pub(crate) fn contains(&self, worker: WorkerId) -> bool {
        self.dead.contains(&worker)
    }

    pub(super) fn remember(&mut self, worker: WorkerId) {
        if !self.dead.insert(worker) {
            return;
        }
        self.order.push_back(worker);
        if self.order.len() > KEPT_DEAD_WORKERS
            && let Some(forgotten) = self.order.pop_front()
        {
            self.dead.remove(&forgotten);
        }
    }
}
