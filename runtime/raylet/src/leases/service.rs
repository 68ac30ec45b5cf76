//! Leases, as clients see them: frames in, decisions of the lease manager carried out.

use std::time::Instant;

use sparkray_common::{ErrorCode, JobId, LeaseId, ResourceSet, WorkerId};
use sparkray_proto::{
    CancelWorkerLease, Failure, FrameKind, LeaseBroken, LeaseWanted, MessageError, RequestWorkerLease,
    RequestWorkerLeaseReply, ReturnWorkerLease, WorkerBlocked, location_of,
};
use sparkray_rpc::{Frame, RpcError};
use tracing::{debug, warn};

use crate::leases::manager::{LeaseDecision, LeaseOwner, LeaseRequest, LeaseState};
use crate::raylet::Raylet;

/// How the answer to a request travels.
#[derive(Debug)]
pub(crate) struct LeaseReply {
    connection: u64,
    /// Of the request and of its repetitions; empty once answered.
    correlations: Vec<u64>,
    /// Python of the job, empty when it does not matter.
    python_version: String,
}

impl Raylet {
    /// RequestWorkerLease.
    pub(crate) fn request_lease(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: RequestWorkerLease = frame.decode()?;
        let lease_id = LeaseId::from_slice(&message.lease_id).map_err(MessageError::from)?;
        let owner = self
            .owner_behind(connection)
            .ok_or(MessageError::Missing("owner"))?;
        let resources = match &message.resources {
            Some(resources) => ResourceSet::try_from(resources)?,
            None => ResourceSet::default(),
        };
        let request = LeaseRequest {
            lease_id,
            job_id: JobId::from_slice(&message.job_id).map_err(MessageError::from)?,
            owner,
            resources,
            pinned: message.pinned_to_node,
            spilled: message.spilled,
        };
        if let Some(known) = self.leases.request_of(lease_id)
            && known.owner != request.owner
        {
            let failure = Failure::new(
                ErrorCode::AlreadyExists,
                format!("lease {lease_id} belongs to another owner"),
            );
            self.answer_lease(
                connection,
                frame.correlation,
                RequestWorkerLeaseReply {
                    failure: Some(failure),
                    ..Default::default()
                },
            );
            return Ok(());
        }
        match self.leases.request(request, Instant::now()) {
            Some(LeaseState::Granted(worker)) => {
                let reply = self.grant_message(worker);
                self.answer_lease(connection, frame.correlation, reply);
            }
            Some(LeaseState::Queued | LeaseState::Starting) => {
                if let Some(reply) = self.lease_replies.get_mut(&lease_id) {
                    reply.correlations.push(frame.correlation);
                }
            }
            None => {
                let python_version = message.python_version;
                let reply = LeaseReply {
                    connection,
                    correlations: vec![frame.correlation],
                    python_version,
                };
                self.lease_replies.insert(lease_id, reply);
                self.look_again();
            }
        }
        Ok(())
    }

    /// ReturnWorkerLease.
    pub(crate) fn return_lease(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: ReturnWorkerLease = frame.decode()?;
        let lease_id = LeaseId::from_slice(&message.lease_id).map_err(MessageError::from)?;
        if !self.owns_lease(connection, lease_id) {
            // The lease broke, or the job ended, while this was under way.
            return Ok(());
        }
        self.lease_replies.remove(&lease_id);
        if let Some(ended) = self.leases.end(lease_id)
            && let LeaseState::Granted(worker) = ended.state
        {
            if message.worker_failed {
                self.kill_worker(worker);
            } else {
                self.workers.pool.give_back(worker, Instant::now());
            }
        }
        self.look_again();
        Ok(())
    }

    /// CancelWorkerLease. A lease that was granted meanwhile is returned by its owner.
    pub(crate) fn cancel_lease(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: CancelWorkerLease = frame.decode()?;
        let lease_id = LeaseId::from_slice(&message.lease_id).map_err(MessageError::from)?;
        let waits = matches!(
            self.leases.state(lease_id),
            Some(LeaseState::Queued | LeaseState::Starting)
        );
        if self.owns_lease(connection, lease_id) && waits {
            let failure = Failure::new(
                ErrorCode::Cancelled,
                format!("lease {lease_id} was cancelled by its owner"),
            );
            self.refuse_lease(lease_id, failure);
            self.look_again();
        }
        Ok(())
    }

    fn owns_lease(&self, connection: u64, lease_id: LeaseId) -> bool {
        self.leases
            .request_of(lease_id)
            .is_some_and(|request| self.owner_behind(connection) == Some(request.owner))
    }

    /// `None` for raylets, which have no worker id.
    fn owner_behind(&self, connection: u64) -> Option<LeaseOwner> {
        let worker = self.clients.client(connection)?.worker_id;
        (!worker.is_nil()).then_some(LeaseOwner::Worker(worker))
    }

    /// Tells an owner, if it can be reached.
    fn tell_owner_of_lease<M: prost::Message>(&self, owner: LeaseOwner, kind: FrameKind, message: &M) {
        let LeaseOwner::Worker(worker) = owner else { return };
        let connection = self.owners.connection(worker);
        if let Some(connection) = connection.or_else(|| self.clients.of_worker(worker)) {
            self.clients.send(connection, kind, 0, message);
        }
    }

    /// WorkerBlocked.
    pub(crate) fn worker_blocked(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: WorkerBlocked = frame.decode()?;
        if let Some(client) = self.clients.client(connection) {
            self.leases.set_blocked(client.worker_id, message.blocked);
            self.look_again();
        }
        Ok(())
    }

    fn answer_lease(&self, connection: u64, correlation: u64, reply: RequestWorkerLeaseReply) {
        self.clients.send(
            connection,
            FrameKind::RequestWorkerLeaseReply,
            correlation,
            &reply,
        );
    }

    fn grant_message(&self, worker: WorkerId) -> RequestWorkerLeaseReply {
        RequestWorkerLeaseReply {
            failure: None,
            worker: Some((&self.address_of(worker)).into()),
            spillback: None,
            worker_pid: self
                .workers
                .pool
                .get(worker)
                .and_then(|worker| worker.pid)
                .unwrap_or(0),
        }
    }

    fn answer_all(&mut self, lease_id: LeaseId, reply: &RequestWorkerLeaseReply) {
        let Some(waiting) = self.lease_replies.remove(&lease_id) else {
            return;
        };
        for correlation in waiting.correlations {
            self.answer_lease(waiting.connection, correlation, reply.clone());
        }
    }

    /// Ends a request with a failure.
    pub(crate) fn refuse_lease(&mut self, lease_id: LeaseId, failure: Failure) {
        self.leases.end(lease_id);
        self.answer_all(
            lease_id,
            &RequestWorkerLeaseReply {
                failure: Some(failure),
                ..Default::default()
            },
        );
    }

    /// Tells the owner that the worker of its lease died. The lease has ended.
    pub(crate) fn break_lease(&mut self, request: &LeaseRequest, cause: &str) {
        let message = LeaseBroken {
            lease_id: request.lease_id.to_vec().into(),
            cause: cause.to_owned(),
        };
        self.tell_owner_of_lease(request.owner, FrameKind::LeaseBroken, &message);
        if let LeaseOwner::Worker(owner) = request.owner
            && !self.leases.holds_any(request.owner)
        {
            self.owners.holds_nothing(owner);
        }
    }

    /// Decides on waiting requests and finds workers for those that got resources.
    pub(crate) fn look_at_leases(&mut self, view_changed: bool) {
        for decision in self.leases.schedule(&mut self.view, view_changed, Instant::now()) {
            match decision {
                // Found below, together with those that waited for a worker before.
                LeaseDecision::NeedsWorker(_) => {}
                LeaseDecision::Spill(request, node) => {
                    let address = self
                        .view
                        .get(node)
                        .map(|entry| entry.address.clone())
                        .unwrap_or_default();
                    debug!(lease_id = %request.lease_id, node_id = %node, "passing a lease request on");
                    let spillback = Some(location_of(node, &address));
                    self.answer_all(
                        request.lease_id,
                        &RequestWorkerLeaseReply {
                            spillback,
                            ..Default::default()
                        },
                    );
                }
                LeaseDecision::Wanted(lease_id, owner) => {
                    let message = LeaseWanted {
                        lease_id: lease_id.to_vec().into(),
                    };
                    self.tell_owner_of_lease(owner, FrameKind::LeaseWanted, &message);
                }
            }
        }
        self.find_workers();
        self.refuse_infeasible_without_head();
    }

    /// Once the head is gone no node joins any more that could meet what none can meet now.
    fn refuse_infeasible_without_head(&mut self) {
        let Some(cause) = self.head.lost.clone() else {
            return;
        };
        for (lease_id, missing) in self.leases.infeasible(&self.view) {
            let text = format!(
                "no node can meet the resources of a task ({missing}), and none joins any more, because the head of the \
                 cluster is gone ({cause}): call shutdown() and init() again"
            );
            let failure = Failure::new(ErrorCode::Unavailable, text);
            if let Some(actor) = self.actors.by_lease(lease_id) {
                self.actor_cannot_start(actor, failure);
            } else {
                self.refuse_lease(lease_id, failure);
            }
        }
    }

    fn find_workers(&mut self) {
        let mut waiting = 0;
        for lease_id in self.leases.starting() {
            let Some(request) = self.leases.request_of(lease_id) else {
                continue;
            };
            let job = request.job_id;
            if let Some(failure) = self.why_not_here(lease_id, job) {
                self.fail_starting(lease_id, failure);
                continue;
            }
            match self.workers.pool.take_idle(job, lease_id, Instant::now()) {
                Some(worker) => self.give_worker(lease_id, worker),
                None => waiting += 1,
            }
        }
        self.fork_workers(waiting);
        if let Some(cause) = self.workers.hopeless() {
            let failure = Failure::new(
                ErrorCode::Unavailable,
                format!("node {} cannot start Python workers: {cause}", self.node.address),
            );
            for lease_id in self.leases.starting() {
                self.fail_starting(lease_id, failure.clone());
            }
        }
    }

    fn why_not_here(&self, lease_id: LeaseId, job: JobId) -> Option<Failure> {
        let wanted = match self.lease_replies.get(&lease_id) {
            Some(reply) => reply.python_version.as_str(),
            None => self.actors.python_version_of(lease_id)?,
        };
        let here = self.workers.python_version.as_deref()?;
        if wanted.is_empty() || wanted == here {
            return None;
        }
        Some(Failure::new(
            ErrorCode::VersionMismatch,
            format!(
                "job {job} runs Python {wanted}, but node {} has Python {here}: use the same Python on the driver and on \
                 all nodes",
                self.node.address
            ),
        ))
    }

    fn fail_starting(&mut self, lease_id: LeaseId, failure: Failure) {
        if let Some(actor) = self.actors.by_lease(lease_id) {
            self.actor_cannot_start(actor, failure);
        } else {
            self.refuse_lease(lease_id, failure);
        }
    }

    fn give_worker(&mut self, lease_id: LeaseId, worker: WorkerId) {
        self.leases.assign_worker(lease_id, worker);
        if let Some(request) = self.leases.request_of(lease_id) {
            self.workers.set_job(worker, request.job_id);
        }
        if let Some(actor) = self.actors.by_lease(lease_id) {
            self.create_actor(actor, worker);
            return;
        }
        debug!(%lease_id, worker_id = %worker, "granted worker lease");
        let reply = self.grant_message(worker);
        self.answer_all(lease_id, &reply);
    }

    /// Once a second: requests that nothing in the cluster can ever meet are named.
    pub(crate) fn name_infeasible(&mut self) {
        for (request, missing) in self.leases.newly_infeasible(&self.view) {
            warn!(lease_id = %request.lease_id, job_id = %request.job_id, missing, "no node can meet a request");
            let text = format!(
                "a task or actor cannot be scheduled: no node of the cluster can meet its resources ({missing}). It waits \
                 until such a node joins."
            );
            self.tell_driver(request.job_id, text);
        }
    }
}
