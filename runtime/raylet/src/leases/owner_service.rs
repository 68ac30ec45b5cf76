//! Owners that come, lose their connection, return and die: what becomes of their leases.

use std::collections::HashSet;

use sparkray_common::{ErrorCode, LeaseId, NodeId, WorkerId};
use sparkray_proto::{Failure, MessageError, RegisterClient};
use tracing::{debug, info};

use crate::gateway::clients::Client;
use crate::leases::manager::{EndedLease, LeaseOwner, LeaseState};
use crate::raylet::Raylet;

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
}

impl Raylet {
    /// Why an owner cannot register. What came late for one that is dead would never end.
    pub(crate) fn refuse_owner(&self, owner: &OwnerRegistration) -> Option<Failure> {
        let worker = owner.worker;
        if self.store.is_dead_owner(worker, owner.node) {
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
    pub(crate) fn owner_registered(&mut self, connection: u64, owner: &OwnerRegistration) {
        let worker = owner.worker;
        let former = self
            .owners
            .registered(worker, owner.node, owner.number, connection);
        if let Some(former) = former {
            self.drop_connection(former, "its client registered again");
        }
        let held = &owner.held;
        let ended = self
            .leases
            .end_of_owner(LeaseOwner::Worker(worker), |lease_id, _| held.contains(&lease_id));
        self.forget_leases(ended);
        self.leases.ask_again(LeaseOwner::Worker(worker));
    }

    /// The connection of a client ended.
    pub(crate) fn owner_disconnected(&mut self, connection: u64, client: &Client) {
        let worker = client.worker_id;
        let owner = LeaseOwner::Worker(worker);
        if client.is_local() {
            return self.end_leases_of(worker);
        }
        if !self.owners.lost(worker, connection) {
            return;
        }
        if self.head.lost.is_some() {
            return self.owner_died(worker);
        }
        // It asks again, under other names, what it has had no answer to.
        let ended = self
            .leases
            .end_of_owner(owner, |_, state| matches!(state, LeaseState::Granted(_)));
        self.forget_leases(ended);
        if self.leases.holds_any(owner) {
            info!(worker_id = %worker, "an owner cannot be reached; it keeps its leases until it returns or is dead");
        } else {
            self.owners.holds_nothing(worker);
        }
    }

    /// There is a verdict on a process of another node, or nobody will give one.
    pub(crate) fn owner_died(&mut self, worker: WorkerId) {
        if let Some(connection) = self.owners.died(worker) {
            self.drop_connection(connection, "its client is dead");
        }
        self.end_leases_of(worker);
    }

    /// A node died, and the owners there.
    pub(crate) fn owners_died_with(&mut self, node: NodeId) {
        for worker in self.owners.of_node(node) {
            self.owner_died(worker);
        }
    }

    /// Without a head nobody gives verdicts: owners without a connection count as dead.
    pub(crate) fn give_up_absent_owners(&mut self) {
        for worker in self.owners.absent() {
            self.owner_died(worker);
        }
    }

    /// Nothing that comes over it counts any more.
    fn drop_connection(&mut self, connection: u64, cause: &str) {
        if let Some(dropped) = self.clients.get(connection) {
            dropped.sender.close();
        }
        self.closed(connection, cause);
    }

    /// An owner is gone: its requests are forgotten, and workers that ran for it are ended, because nobody
    /// would take their results.
    fn end_leases_of(&mut self, worker: WorkerId) {
        let ended = self.leases.end_of_owner(LeaseOwner::Worker(worker), |_, _| false);
        self.forget_leases(ended);
    }

    fn forget_leases(&mut self, ended: Vec<EndedLease>) {
        for lease in ended {
            let lease_id = lease.request.lease_id;
            self.lease_replies.remove(&lease_id);
            if let LeaseState::Granted(worker) = lease.state {
                debug!(%lease_id, %worker, "ending a worker that no owner has any more");
                self.kill_worker(worker);
            }
        }
        self.look_again();
    }
}
