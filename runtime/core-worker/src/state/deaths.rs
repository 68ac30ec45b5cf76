//! Who is known to be dead, as the raylet tells it or a refused connection shows. What follows from a death is decided by
//! the router (`ends`).

use std::collections::VecDeque;
use std::hash::Hash;

use sparkray_common::{NodeId, WorkerAddress, WorkerId};

use crate::hash::IdSet;

/// Deaths that are remembered. An older one is found out again by the refusal of a connection.
const REMEMBERED: usize = 4096;

/// The most recent members of a set.
#[derive(Debug)]
struct Recent<T> {
    order: VecDeque<T>,
    members: IdSet<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            members: IdSet::default(),
        }
    }
}

impl<T: Copy + Eq + Hash> Recent<T> {
    fn add(&mut self, member: T) {
        if !self.members.insert(member) {
            return;
        }
        self.order.push_back(member);
        if self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.members.remove(&oldest);
            }
        }
    }

    fn contains(&self, member: &T) -> bool {
        self.members.contains(member)
    }
}

/// Processes and nodes that are known to be dead.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    workers: Recent<WorkerId>,
    nodes: Recent<NodeId>,
}

impl Deaths {
    pub(super) fn add_worker(&mut self, worker: WorkerId) {
        self.workers.add(worker);
    }

    pub(super) fn add_node(&mut self, node: NodeId) {
        self.nodes.add(node);
    }

    /// Whether a process is known to be dead, itself or with its node.
    pub(super) fn is_dead(&self, address: &WorkerAddress) -> bool {
        self.workers.contains(&address.worker_id) || self.nodes.contains(&address.node_id)
    }

    pub(super) fn is_node_dead(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_deaths_are_forgotten() {
        let mut deaths = Recent::default();
        let first = WorkerId::random();
        deaths.add(first);
        for _ in 0..REMEMBERED {
            deaths.add(WorkerId::random());
        }
        assert!(!deaths.contains(&first));
        assert_eq!(deaths.order.len(), REMEMBERED);
        assert_eq!(deaths.members.len(), REMEMBERED);
    }
}
