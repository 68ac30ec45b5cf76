//! Owners that come, lose their connection, return and die: what becomes of their leases.

use std::collections::HashSet;

use sparkray_common::{ErrorCode, LeaseId, NodeId, WorkerId};
use sparkray_proto::{Failure, MessageError, RegisterClient};
use tracing::{debug, info};

use super::manager::{EndedLease, LeaseOwner, LeaseState};
use super::part::Leases;
use crate::outbox::{Event, Outbox};

/// What an owner on another node says of itself when it registers.
#[derive(Debug)]
pub(crate) struct OwnerRegistration {
    worker: WorkerId,
    node: NodeId,
    number: u64,
    /// The granted leases that it knows.
    held: HashSet<LeaseId>,
}

impl OwnerRegistration {
    /// `None`: the client is a raylet, which owns nothing.
    pub(crate) fn of(message: &RegisterClient) -> Result<Option<Self>, MessageError> {
        if message.worker_id.is_empty() {
            return Ok(None);
        }
        let held = message.lease_ids.iter().map(|id| LeaseId::from_slice(id));
        Ok(Some(Self {
            worker: WorkerId::from_slice(&message.worker_id)?,
            node: NodeId::from_slice(&message.node_id)?,
            number: message.registration,
            held: held.collect::<Result<_, _>>()?,
        }))
    }

    /// Who it is, and where.
    pub(crate) fn process(&self) -> (WorkerId, NodeId) {
        (self.worker, self.node)
    }
}

impl Leases {
    /// Why an owner cannot register. `is_dead`: there is a verdict on it. What came late for one that is dead would
    /// never end.
    pub(crate) fn refuse_owner(&self, owner: &OwnerRegistration, is_dead: bool) -> Option<Failure> {
        let worker = owner.worker;
        if is_dead {
            let text = format!("worker {worker} was declared dead");
            return Some(Failure::new(ErrorCode::Stale, text));
        }
        self.owners.is_outdated(worker, owner.number).then(|| {
            let text = format!("worker {worker} has registered over another connection since");
            Failure::new(ErrorCode::Stale, text)
        })
    }

    /// An owner on another node came, or returned. What it does not know of was lost on the way: the grant, or the
    /// return.
    pub(crate) fn owner_registered(&mut self, connection: u64, owner: &OwnerRegistration, out: &mut Outbox) {
        let worker = owner.worker;
        let former = self
            .owners
            .registered(worker, owner.node, owner.number, connection);
        if let Some(connection) = former {
            let cause = "its client registered again";
            out.event(Event::ConnectionDropped { connection, cause });
        }
        let held = &owner.held;
        let ended = self
            .manager
            .end_of_owner(LeaseOwner::Worker(worker), |lease_id, _| held.contains(&lease_id));
        self.forget(ended, out);
        self.manager.ask_again(LeaseOwner::Worker(worker));
    }

    /// The connection of an owner on another node ended. `head_is_lost`: nobody will give a verdict on it.
    pub(crate) fn owner_disconnected(
        &mut self,
        connection: u64,
        worker: WorkerId,
        head_is_lost: bool,
        out: &mut Outbox,
    ) {
        let owner = LeaseOwner::Worker(worker);
        if !self.owners.lost(worker, connection) {
            return;
        }
        if head_is_lost {
            return self.owner_died(worker, out);
        }
        // It asks again, under other names, what it has had no answer to.
        let ended = self
            .manager
            .end_of_owner(owner, |_, state| matches!(state, LeaseState::Granted(_)));
        self.forget(ended, out);
        if self.manager.holds_any(owner) {
            info!(worker_id = %worker, "an owner cannot be reached; it keeps its leases until it returns or is dead");
        } else {
            self.owners.holds_nothing(worker);
        }
    }

    /// There is a verdict on a process of another node, or nobody will give one.
    pub(crate) fn owner_died(&mut self, worker: WorkerId, out: &mut Outbox) {
        if let Some(connection) = self.owners.died(worker) {
            let cause = "its client is dead";
            out.event(Event::ConnectionDropped { connection, cause });
        }
        self.end_of_owner(worker, out);
    }

    /// A node died, and the owners there.
    pub(crate) fn owners_died_with(&mut self, node: NodeId, out: &mut Outbox) {
        for worker in self.owners.of_node(node) {
            self.owner_died(worker, out);
        }
    }

    /// Without a head nobody gives verdicts: owners without a connection count as dead.
    pub(crate) fn give_up_absent_owners(&mut self, out: &mut Outbox) {
        for worker in self.owners.absent() {
            self.owner_died(worker, out);
        }
    }

    /// An owner is gone: its requests are forgotten, and workers that ran for it are ended, because nobody
    /// would take their results.
    pub(crate) fn end_of_owner(&mut self, worker: WorkerId, out: &mut Outbox) {
        let ended = self
            .manager
            .end_of_owner(LeaseOwner::Worker(worker), |_, _| false);
        self.forget(ended, out);
    }

    fn forget(&mut self, ended: Vec<EndedLease>, out: &mut Outbox) {
        for lease in ended {
            let lease_id = lease.request.lease_id;
            self.replies.remove(&lease_id);
            if let LeaseState::Granted(worker) = lease.state {
                debug!(%lease_id, worker_id = %worker, "ending a worker that no owner has any more");
                out.event(Event::KillWorker { worker });
            }
        }
        out.schedule();
    }
}
