//! What owners and workers say about leases.

use std::time::Instant;

use sparkray_common::{ErrorCode, JobId, LeaseId, ResourceSet, WorkerId};
use sparkray_proto::{
    self as proto, CancelWorkerLease, Failure, FrameKind, MessageError, RequestWorkerLease,
    RequestWorkerLeaseReply, ReturnWorkerLease, SchedulingStrategy,
};
use tracing::debug_span;

use super::manager::{LeaseOwner, LeaseRequest, LeaseState};
use super::part::{LeaseReply, Leases};
use crate::outbox::{Event, Outbox};
use crate::shape::Shape;

/// Of whom a message comes, and where its answer goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// `None` for raylets, which own nothing.
    pub(crate) owner: Option<LeaseOwner>,
    pub(crate) connection: u64,
    pub(crate) correlation: u64,
}

impl Leases {
    /// RequestWorkerLease. `pid_of`: the pid of a worker of this node.
    pub(crate) fn request(
        &mut self,
        asker: Asker,
        message: RequestWorkerLease,
        pid_of: impl Fn(WorkerId) -> u32,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let Asker {
            connection,
            correlation,
            ..
        } = asker;
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let owner = asker.owner.ok_or(MessageError::Missing("owner"))?;
        let resources = match &message.resources {
            Some(resources) => ResourceSet::try_from(resources)?,
            None => ResourceSet::default(),
        };
        let request = LeaseRequest {
            lease_id,
            job_id: JobId::from_slice(&message.job_id)?,
            owner,
            shape: Shape::new(resources, SchedulingStrategy::read(message.strategy.as_ref())?),
            spilled: message.spilled,
            python_version: message.python_version,
            worker: proto::WorkerKey::read(message.worker.as_ref())?,
            task_name: message.task_name,
        };
        let mut answer = |reply: &RequestWorkerLeaseReply| {
            out.send(connection, FrameKind::RequestWorkerLeaseReply, correlation, reply);
        };
        if let Some(known) = self.manager.request_of(lease_id)
            && known.owner != request.owner
        {
            let text = format!("lease {lease_id} belongs to another owner");
            answer(&RequestWorkerLeaseReply {
                failure: Some(Failure::new(ErrorCode::AlreadyExists, text)),
                ..Default::default()
            });
            return Ok(());
        }
        if let Some(group) = self.removed_groups.named_in(&request.shape.resources) {
            let text =
                format!("placement group {group} was removed: create another one and submit the task again");
            answer(&RequestWorkerLeaseReply {
                failure: Some(Failure::new(ErrorCode::TaskPlacementGroupRemoved, text)),
                ..Default::default()
            });
            return Ok(());
        }
        match self.manager.request(request, now) {
            Some(LeaseState::Granted(worker)) => answer(&self.grant_message(worker, pid_of(worker))),
            Some(LeaseState::Queued | LeaseState::Starting) => {
                if let Some(reply) = self.replies.get_mut(&lease_id) {
                    reply.correlations.push(correlation);
                }
            }
            None => {
                self.metrics.requested();
                let reply = LeaseReply {
                    connection,
                    correlations: vec![correlation],
                    _span: debug_span!("grant_lease", %lease_id),
                };
                self.replies.insert(lease_id, reply);
                out.schedule();
            }
        }
        Ok(())
    }

    /// ReturnWorkerLease.
    pub(crate) fn return_lease(
        &mut self,
        owner: Option<LeaseOwner>,
        message: &ReturnWorkerLease,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        if !self.is_owned_by(lease_id, owner) {
            // The lease broke, or the job ended, while this was under way.
            return Ok(());
        }
        self.replies.remove(&lease_id);
        if let Some(ended) = self.manager.end(lease_id)
            && let LeaseState::Granted(worker) = ended.state
        {
            out.event(if message.worker_failed {
                Event::KillWorker { worker }
            } else {
                Event::WorkerReturned { worker }
            });
        }
        out.schedule();
        Ok(())
    }

    /// CancelWorkerLease. A lease that was granted meanwhile is returned by its owner.
    pub(crate) fn cancel(
        &mut self,
        owner: Option<LeaseOwner>,
        message: &CancelWorkerLease,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let waits = matches!(
            self.manager.state(lease_id),
            Some(LeaseState::Queued | LeaseState::Starting)
        );
        if self.is_owned_by(lease_id, owner) && waits {
            let text = format!("lease {lease_id} was cancelled by its owner");
            self.metrics.cancelled();
            self.fail(lease_id, Failure::new(ErrorCode::Cancelled, text), out);
            out.schedule();
        }
        Ok(())
    }

    fn is_owned_by(&self, lease_id: LeaseId, owner: Option<LeaseOwner>) -> bool {
        self.manager
            .request_of(lease_id)
            .is_some_and(|request| owner == Some(request.owner))
    }

    /// WorkerBlocked.
    pub(crate) fn worker_blocked(&mut self, worker: WorkerId, blocked: bool, out: &mut Outbox) {
        self.manager.set_blocked(worker, blocked);
        out.schedule();
    }
}
