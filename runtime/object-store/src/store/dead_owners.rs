//! Processes and nodes that died not long ago. What comes late for them is refused: nobody would ever free it.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

use sparkray_common::{NodeId, WorkerId};

/// Dead ones of each kind that are remembered.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct DeadOwners {
    workers: Remembered<WorkerId>,
    nodes: Remembered<NodeId>,
}

#[derive(Debug)]
struct Remembered<T> {
    known: HashSet<T>,
    /// Oldest first.
    order: VecDeque<T>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Copy + Eq + Hash> Remembered<T> {
    fn add(&mut self, id: T) {
        if self.known.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl DeadOwners {
    pub(super) fn add_worker(&mut self, worker: WorkerId) {
        self.workers.add(worker);
    }

    pub(super) fn add_node(&mut self, node: NodeId) {
        self.nodes.add(node);
    }

    pub(super) fn contains(&self, worker: WorkerId, node: NodeId) -> bool {
        self.workers.known.contains(&worker) || self.nodes.known.contains(&node)
    }
}
