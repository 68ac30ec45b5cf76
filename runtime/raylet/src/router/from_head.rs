//! What the head says is done.

use std::time::Instant;

use sparkray_common::{ErrorCode, JobId, LeaseId, NodeId, PlacementGroupId, WorkerId};
use sparkray_proto::{
    Failure, FrameKind, HeadReply, MessageError, NodeDeathNotice, NodeDied, WorkerDeathNotice, WorkerDied,
    head_message, head_reply,
};
use sparkray_rpc::Frame;
use tracing::{info, warn};

use super::{Changed, Router};
use crate::error::RayletError;
use crate::outbox::Effect;

impl Router {
    pub(super) fn head_message(
        &mut self,
        message: head_message::Message,
        now: Instant,
    ) -> Result<(), MessageError> {
        match message {
            head_message::Message::Registered(_) | head_message::Message::HeartbeatReply(_) => {}
            head_message::Message::View(view) => {
                self.view.apply(&view)?;
                self.changed = Changed::View;
            }
            head_message::Message::PlaceActor(message) => {
                self.actors.place(message, &mut self.leases, now, &mut self.out)?;
            }
            head_message::Message::KillActor(message) => {
                self.actors.kill(&message, &mut self.leases, &mut self.out)?;
            }
            head_message::Message::Actor(update) => self.head.actor_update(update, &mut self.out),
            head_message::Message::WorkerDeath(notice) => self.other_worker_died(notice)?,
            head_message::Message::NodeDeath(notice) => self.other_node_died(notice)?,
            // Of a driver that is gone nobody wants them any more.
            head_message::Message::Log(batch) => {
                self.log_here(batch);
            }
            head_message::Message::InfeasibleDemand(demand) => {
                let job = JobId::from_slice(&demand.job_id)?;
                if let Some((connection, _)) = self.clients.driver_of(job) {
                    let frame = Frame::new(FrameKind::InfeasibleDemand, 0, &demand);
                    self.out.effect(Effect::SendIfRead { connection, frame });
                }
            }
            head_message::Message::JobFinished(message) => {
                let job = JobId::from_slice(&message.job_id)?;
                info!(job_id = %job, "job finished");
                self.finish_job(job, now);
            }
            head_message::Message::PrepareBundles(message) => {
                self.leases.prepare_bundles(&message, &mut self.out)?;
            }
            head_message::Message::CommitBundles(message) => {
                self.leases.commit_bundles(&message, &mut self.out)?;
            }
            head_message::Message::ReturnBundles(message) => {
                let ended = self.leases.return_bundles(&message, &mut self.out)?;
                self.left_without_bundle(ended);
            }
            head_message::Message::PlacementGroupRemoved(id) => {
                let group = PlacementGroupId::from_slice(&id)?;
                let ended = self.leases.remove_group(group, &mut self.out);
                self.left_without_bundle(ended);
            }
        }
        Ok(())
    }

    fn left_without_bundle(&mut self, ended: Vec<LeaseId>) {
        for lease_id in ended {
            let text = "its placement group was removed while it waited there; create another one and submit it again";
            self.fail(lease_id, Failure::new(ErrorCode::TaskPlacementGroupRemoved, text));
        }
    }

    /// A driver hears of its job when this raylet knows it: what is of the job may come at once then. A driver that did
    /// not live to hear of it was reported to the head, which ends its job by itself. The job of a participant may have
    /// ended on the way.
    pub(super) fn job_answered(&mut self, connection: u64, correlation: u64, reply: &HeadReply) {
        let mut over = None;
        if let Some(head_reply::Reply::Job(begun)) = &reply.reply {
            match JobId::from_slice(&begun.job_id) {
                Ok(job) => {
                    self.clients.set_job(connection, job);
                    over = self.clients.is_finished(job).then_some(job);
                }
                Err(error) => warn!(%error, "the head gave a job an id that cannot be used"),
            }
        }
        self.out
            .send(connection, FrameKind::HeadReply, correlation, reply);
        if let Some(job) = over {
            self.tell_job_finished(connection, job);
        }
    }

    /// The head is gone, and with it the cluster.
    pub(super) fn head_lost(&mut self, cause: String) {
        if self.head.lose(cause, &mut self.out) {
            self.leases.give_up_absent_owners(&mut self.out);
            self.leases_changed();
        }
    }

    fn other_worker_died(&mut self, notice: WorkerDeathNotice) -> Result<(), MessageError> {
        let worker = WorkerId::from_slice(&notice.worker_id)?;
        // The processes of this node were reaped when it happened.
        if notice.node_id == self.node.node_id.as_bytes()[..] {
            return Ok(());
        }
        self.objects.owner_gone(worker);
        self.leases.owner_died(worker, &mut self.out);
        let message = WorkerDied {
            worker_id: notice.worker_id,
            node_id: notice.node_id,
            cause: notice.cause,
        };
        self.out.notify(FrameKind::WorkerDied, &message);
        Ok(())
    }

    fn other_node_died(&mut self, notice: NodeDeathNotice) -> Result<(), MessageError> {
        let node = NodeId::from_slice(&notice.node_id)?;
        if node == self.node.node_id {
            let message = format!("it was declared dead: {}", notice.cause);
            self.failure = Some(RayletError::Refused {
                code: ErrorCode::Stale,
                message,
            });
            return Ok(());
        }
        info!(node_id = %node, cause = notice.cause, "another node died");
        self.view.remove(node);
        self.changed = Changed::View;
        self.out.effect(Effect::ForgetPeer { node });
        self.objects.node_gone(node);
        self.leases.owners_died_with(node, &mut self.out);
        let message = NodeDied {
            node_id: notice.node_id,
            cause: notice.cause,
        };
        self.out.notify(FrameKind::NodeDied, &message);
        // Its raylet may never close its connections by itself.
        for connection in self.clients.of_node(node) {
            self.out.effect(Effect::Close { connection });
        }
        Ok(())
    }
}
