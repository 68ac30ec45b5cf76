//! Deaths of workers, nodes, the head and the local raylet, as the raylet tells them or a refused connection shows.

use std::collections::VecDeque;
use std::hash::Hash;

use sparkray_common::{ErrorCode, NodeId, WorkerAddress, WorkerId};
use sparkray_proto as proto;
use tracing::warn;

use super::connections::LAST_ANSWER_TIME;
use super::timers::Timer;
use super::{Effect, PeerKey, Pending, SlotResult, State};
use crate::error::CoreError;
use crate::hash::IdSet;
use crate::reactor::{CloseCause, ConnId, RAYLET_CONN};

/// Deaths that are remembered. An older one is found out again by the refusal of a connection.
const REMEMBERED: usize = 4096;

/// The most recent members of a set.
#[derive(Debug)]
pub(super) struct Recent<T> {
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
    pub(super) fn add(&mut self, member: T) {
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

    pub(super) fn contains(&self, member: &T) -> bool {
        self.members.contains(member)
    }
}

/// Who is known to be dead.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    pub(super) workers: Recent<WorkerId>,
    pub(super) nodes: Recent<NodeId>,
}

impl State {
    /// Whether a process is known to be dead.
    pub(super) fn is_dead(&self, address: &WorkerAddress) -> bool {
        self.deaths.workers.contains(&address.worker_id) || self.deaths.nodes.contains(&address.node_id)
    }

    pub(super) fn on_worker_died(&mut self, message: &proto::WorkerDied) -> Result<(), CoreError> {
        let worker = WorkerId::from_slice(&message.worker_id)?;
        self.deaths.workers.add(worker);
        self.execution.callers.forget_idle(worker);
        self.owner_died(worker);
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, state)| {
                state
                    .remote
                    .as_ref()
                    .is_some_and(|remote| remote.worker_id == worker)
            })
            .map(|(conn, _)| *conn)
            .collect();
        if conns.is_empty() {
            self.worker_gone(worker, &message.cause);
        }
        for conn in conns {
            self.close_after_drain(conn, &message.cause);
        }
        Ok(())
    }

    pub(super) fn on_node_died(&mut self, message: &proto::NodeDied) -> Result<(), CoreError> {
        let node = NodeId::from_slice(&message.node_id)?;
        self.deaths.nodes.add(node);
        self.locations_lost(node, &message.cause);
        // A node that vanished does not close its connections.
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, state)| {
                state.peer == Some(PeerKey::Raylet(node))
                    || state.remote.as_ref().is_some_and(|remote| remote.node_id == node)
            })
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            self.effects.push(Effect::Close { conn });
            let cause = CloseCause {
                gone: true,
                ..CloseCause::new(message.cause.clone())
            };
            self.on_closed(conn, &cause);
        }
        for worker in self.tied_workers_on(node) {
            self.worker_gone(worker, &message.cause);
        }
        Ok(())
    }

    /// Processes of a node to which this one has ties.
    fn tied_workers_on(&self, node: NodeId) -> IdSet<WorkerId> {
        let borrowers = self.borrowers.iter().map(|(worker, entry)| (*worker, entry.node));
        let callers = self.return_pins.values().map(|pins| (pins.caller, pins.node));
        let owners = self.borrowing.owners.iter();
        let owners = owners.map(|(worker, owner)| (*worker, owner.address.node_id));
        let leased = self
            .scheduling
            .leases
            .values()
            .filter_map(|lease| lease.worker.as_ref());
        let leased = leased.map(|worker| (worker.address.worker_id, worker.address.node_id));
        borrowers
            .chain(callers)
            .chain(owners)
            .chain(leased)
            .filter(|(_, at)| *at == node)
            .map(|(worker, _)| worker)
            .collect()
    }

    /// A process is dead, and all that it has sent was read: nothing is kept for it any more.
    pub(super) fn worker_gone(&mut self, worker: WorkerId, cause: &str) {
        self.unreachable.remove(&worker);
        self.end_suspended_leases(worker, cause);
        self.execution.callers.forget_idle(worker);
        self.execution.answers.forget(worker);
        self.forget_borrower(worker);
        self.drop_return_pins_of(worker);
        self.owner_died(worker);
    }

    pub(super) fn raylet_lost(&mut self, cause: &str) {
        self.leave(CoreError::new(
            ErrorCode::NotRunning,
            format!("the raylet of this node is gone ({cause}): call shutdown() and init() again"),
        ));
    }

    /// Takes no more part in the cluster: whatever is waited for ends with `error`.
    pub(crate) fn leave(&mut self, error: CoreError) {
        self.execution.exit = true;
        self.news = true;
        if self.broken.is_some() {
            return;
        }
        self.broken = Some(error.clone());
        let open: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, result)| result.is_none())
            .map(|(slot, _)| *slot)
            .collect();
        for slot in open {
            self.fill_slot(slot, SlotResult::Failed(error.clone()));
        }
        self.fail_all_tasks(&error);
        self.fail_unresolved(&error);
    }

    pub(super) fn on_head_lost(&mut self, cause: String) {
        if self.head_lost.is_some() {
            return;
        }
        warn!(cause, "the head is gone");
        self.fail_actors_without_head(&cause);
        self.fail_head_requests(&cause);
        self.head_lost = Some(cause.clone());
        // Nobody will say whether they died.
        let workers: Vec<WorkerId> = self.unreachable.keys().copied().collect();
        for worker in workers {
            self.deaths.workers.add(worker);
            self.worker_gone(worker, &cause);
        }
        let unanswered: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, state)| {
                let called = matches!(state.peer, Some(PeerKey::Worker(_) | PeerKey::Raylet(_)));
                called && !state.greeted
            })
            .map(|(conn, _)| *conn)
            .collect();
        for conn in unanswered {
            self.timers
                .set(self.now + LAST_ANSWER_TIME, Timer::Unanswered(conn));
        }
    }

    /// The head answers nobody any more.
    fn fail_head_requests(&mut self, cause: &str) {
        let Some(raylet) = self.conns.get_mut(&RAYLET_CONN) else {
            return;
        };
        let asked = raylet
            .pending
            .extract_if(|_, pending| matches!(pending, Pending::Head(_)));
        let asked: Vec<Pending> = asked.map(|(_, pending)| pending).collect();
        let message = format!("the head of the cluster is gone ({cause}): call shutdown() and init() again");
        for pending in asked {
            if let Pending::Head(slot) = pending {
                let error = CoreError::new(ErrorCode::Unavailable, message.clone());
                self.fill_slot(slot, SlotResult::Failed(error));
            }
        }
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
