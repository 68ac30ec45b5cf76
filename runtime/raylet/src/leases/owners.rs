//! Owners on other nodes, which lease workers of this one, and their connections. Pure.
//!
//! The end of such a connection is no death: the workers stay with the owner until it returns over another connection,
//! or until there is a verdict on it. (The connection of a process of this node ends only with that process, or because
//! it leaves the cluster.)
//!
//! Invariants:
//! 1. An owner is here while it has a connection or leases, and not after the verdict.
//! 2. Of an owner's connections only the one with the greatest registration number counts.

use std::collections::HashMap;

use sparkray_common::{NodeId, WorkerId};

#[derive(Debug)]
struct Owner {
    node: NodeId,
    registration: u64,
    connection: Option<u64>,
}

/// All owners on other nodes.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    known: HashMap<WorkerId, Owner>,
}

impl Owners {
    /// Whether the owner has registered since it made this registration.
    pub(crate) fn is_outdated(&self, worker: WorkerId, registration: u64) -> bool {
        self.known
            .get(&worker)
            .is_some_and(|owner| registration <= owner.registration)
    }

    /// An owner came, or returned. Its former connection, which counts no more.
    #[must_use]
    pub(crate) fn registered(
        &mut self,
        worker: WorkerId,
        node: NodeId,
        registration: u64,
        connection: u64,
    ) -> Option<u64> {
        let owner = Owner {
            node,
            registration,
            connection: Some(connection),
        };
        self.known.insert(worker, owner)?.connection
    }

    /// Where an owner can be reached now.
    pub(crate) fn connection(&self, worker: WorkerId) -> Option<u64> {
        self.known.get(&worker)?.connection
    }

    /// A connection ended. Whether it was the one that counts.
    pub(crate) fn lost(&mut self, worker: WorkerId, connection: u64) -> bool {
        match self.known.get_mut(&worker) {
            Some(owner) if owner.connection == Some(connection) => {
                owner.connection = None;
                true
            }
            _ => false,
        }
    }

    /// The owner has no leases any more. It stays while it has a connection.
    pub(crate) fn holds_nothing(&mut self, worker: WorkerId) {
        if self.connection(worker).is_none() {
            self.known.remove(&worker);
        }
    }

    /// There is a verdict on an owner. The connection that it had.
    pub(crate) fn died(&mut self, worker: WorkerId) -> Option<u64> {
        self.known.remove(&worker)?.connection
    }

    /// The owners of a node.
    pub(crate) fn of_node(&self, node: NodeId) -> Vec<WorkerId> {
        let of_node = self.known.iter().filter(|(_, owner)| owner.node == node);
        of_node.map(|(worker, _)| *worker).collect()
    }

    /// The owners that have leases and no connection.
    pub(crate) fn absent(&self) -> Vec<WorkerId> {
        let absent = self.known.iter().filter(|(_, owner)| owner.connection.is_none());
        absent.map(|(worker, _)| *worker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_connection_of_an_owner_counts() {
        let mut owners = Owners::default();
        let (worker, node) = (WorkerId::random(), NodeId::random());
        assert_eq!(owners.registered(worker, node, 1, 10), None);
        assert_eq!(owners.registered(worker, node, 3, 11), Some(10));
        assert!(owners.is_outdated(worker, 2) && owners.is_outdated(worker, 3));
        assert!(!owners.is_outdated(worker, 4) && !owners.is_outdated(WorkerId::random(), 1));
        assert!(!owners.lost(worker, 10));
        assert_eq!(owners.connection(worker), Some(11));
        assert!(owners.lost(worker, 11));
        assert_eq!(owners.absent(), vec![worker]);
        assert!(owners.is_outdated(worker, 2), "while it is absent, too");
    }

    #[test]
    fn an_owner_is_forgotten_when_it_has_neither_connection_nor_leases_or_is_dead() {
        let mut owners = Owners::default();
        let (first, second, node) = (WorkerId::random(), WorkerId::random(), NodeId::random());
        for (worker, connection) in [(first, 10), (second, 11)] {
            assert_eq!(owners.registered(worker, node, 1, connection), None);
        }
        owners.holds_nothing(first);
        assert_eq!(owners.of_node(node).len(), 2);
        assert!(owners.lost(first, 10));
        owners.holds_nothing(first);
        assert_eq!(owners.of_node(node), vec![second]);
        assert_eq!(owners.died(second), Some(11));
        assert!(owners.known.is_empty());
    }
}
