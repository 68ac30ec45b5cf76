//! Frames that come: which part takes which message, and who may send it.

use sparkray_common::{ErrorCode, JobId};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::Frame;
use tracing::{debug, warn};

use super::links::{CloseCause, ConnId, PeerKey, Pending, RAYLET_CONN, SlotResult};
use super::outbox::Notice;
use super::tasks::Answer;
use super::{Base, State};
use crate::error::CoreError;

impl State {
    /// Takes in one frame.
    pub(crate) fn on_frame(&mut self, conn: ConnId, frame: Frame) {
        if !self.base.links.is_open(conn) {
            // This side closed the connection before it read the frame.
            return;
        }
        let kind = frame.kind;
        if let Err(error) = self.dispatch(conn, frame) {
            warn!(conn, ?kind, %error, "closed a connection whose messages cannot be understood");
            self.hang_up(conn, &CloseCause::new(error.message));
        }
        self.drain_events();
    }

    fn dispatch(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        let correlation = frame.correlation;
        self.check_speaker(conn, frame.kind)?;
        let Base {
            links,
            objects,
            tasks,
        } = &mut self.base;
        match frame.kind {
            FrameKind::PushTask => self.execution.on_push_task(links, conn, &frame),
            FrameKind::PushTaskReply => self.on_push_reply(conn, &frame),
            FrameKind::AcknowledgeReplies => {
                self.execution
                    .on_acknowledge_replies(links, conn, &frame.decode()?)
            }
            FrameKind::CancelTask => self.on_cancel_task(conn, &frame.decode()?),
            FrameKind::RequestOwnerToCancelTask => {
                self.on_request_to_cancel(conn, correlation, &frame.decode()?)
            }
            FrameKind::RequestOwnerToCancelTaskReply => {
                self.on_cancel_reply(conn, correlation, &frame.decode()?);
                Ok(())
            }
            FrameKind::GetObject => objects.on_get_object(links, conn, correlation, &frame.decode()?),
            FrameKind::GetObjectReply => match links.take_pending(conn, correlation) {
                Some(Pending::Fetch(id)) => objects.take_from_owner(links, id, &frame),
                _ => Ok(()),
            },
            FrameKind::AddBorrower => objects.on_add_borrower(links, conn, correlation, &frame.decode()?),
            FrameKind::AdoptObject => {
                objects.on_adopt_object(&frame.decode()?)?;
                links.send(conn, FrameKind::Empty, correlation, &proto::Empty {}, &[], true);
                Ok(())
            }
            FrameKind::RemoveBorrower => objects.on_remove_borrower(links, conn, &frame.decode()?),
            FrameKind::RegisterAgain => {
                let is_unfinished = |task: &_| tasks.contains(task);
                objects.on_register_again(links, conn, &frame.decode()?, is_unfinished)
            }
            FrameKind::ReleaseReturnPins => objects.on_release_return_pins(links, &frame.decode()?),
            FrameKind::LocationLost => {
                let me = &links.process.me;
                objects.on_location_lost((me.node_id, &me.node_address), &frame.decode()?)
            }
            FrameKind::WorkerHello => links.on_hello(conn, &frame.decode()?),
            FrameKind::Empty => {
                self.on_empty(conn, correlation);
                Ok(())
            }
            _ => self.dispatch_from_raylet(conn, frame),
        }
    }

    /// Whether the other end of a connection may say such a thing: workers speak for themselves, a raylet for its leases,
    /// and only the raylet of this node for the cluster.
    fn check_speaker(&self, conn: ConnId, kind: FrameKind) -> Result<(), CoreError> {
        let is_raylet = match self.base.links.peer_of(conn) {
            Some(PeerKey::LocalRaylet | PeerKey::Raylet(_)) => true,
            Some(PeerKey::Worker(_)) => false,
            // A raylet of another node that calls says so by an address without a worker.
            None => {
                let remote = self.base.links.remote_of(conn);
                remote.is_some_and(|remote| remote.worker_id.is_nil())
            }
        };
        let allowed = match kind {
            FrameKind::Empty => true,
            FrameKind::WorkerHello
            | FrameKind::PushTask
            | FrameKind::PushTaskReply
            | FrameKind::CancelTask
            | FrameKind::RequestOwnerToCancelTask
            | FrameKind::RequestOwnerToCancelTaskReply
            | FrameKind::AcknowledgeReplies
            | FrameKind::GetObject
            | FrameKind::GetObjectReply
            | FrameKind::AddBorrower
            | FrameKind::RemoveBorrower
            | FrameKind::AdoptObject
            | FrameKind::RegisterAgain
            | FrameKind::ReleaseReturnPins => !is_raylet,
            FrameKind::RegisterClientReply
            | FrameKind::RequestWorkerLeaseReply
            | FrameKind::LeaseWanted
            | FrameKind::LeaseBroken
            | FrameKind::LocationLost => is_raylet,
            _ => conn == RAYLET_CONN,
        };
        if allowed {
            return Ok(());
        }
        let speaker = if is_raylet { "a raylet" } else { "a worker" };
        Err(CoreError::new(
            ErrorCode::Internal,
            format!("{speaker} may send no {kind:?} message"),
        ))
    }

    fn dispatch_from_raylet(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        let Base { links, objects, .. } = &mut self.base;
        match frame.kind {
            FrameKind::RegisterClientReply => return self.on_registered(conn, frame),
            FrameKind::RequestWorkerLeaseReply => {
                if let Some(Pending::Lease(lease)) = links.take_pending(conn, frame.correlation) {
                    return self.leases.take_reply(&mut self.base, conn, lease, &frame);
                }
            }
            FrameKind::LeaseWanted => {
                return self.leases.on_lease_wanted(&mut self.base, &frame.decode()?);
            }
            FrameKind::LeaseBroken => return self.on_lease_broken(&frame.decode()?),
            FrameKind::HeadReply => self.on_head_reply(conn, &frame),
            FrameKind::MetricsText => {
                let message: proto::MetricsText = frame.decode()?;
                if let Some(Pending::Metrics(slot)) = links.take_pending(conn, frame.correlation) {
                    links.fill_slot(slot, SlotResult::Metrics(message.text));
                }
            }
            FrameKind::ActorUpdate => {
                return self.actors.on_update(&mut self.base, &frame.decode()?);
            }
            FrameKind::CreateActor => {
                return self
                    .execution
                    .on_create_actor(links, frame.correlation, frame.decode()?);
            }
            FrameKind::IncomingConnection => return links.on_incoming(frame),
            FrameKind::CreateObjectReply => return objects.on_created(links, conn, frame),
            FrameKind::ObjectReady => return objects.on_object_ready(links, conn, frame),
            FrameKind::NodeDied => return self.on_node_died(&frame.decode()?),
            FrameKind::WorkerDied => return self.on_worker_died(&frame.decode()?),
            FrameKind::ExitWorker => self.on_exit_worker(&frame.decode()?),
            FrameKind::HeadLost => {
                let message: proto::HeadLost = frame.decode()?;
                self.on_head_lost(message.cause);
            }
            FrameKind::JobFinished => {
                let message: proto::JobFinished = frame.decode()?;
                self.on_job_finished(JobId::from_slice(&message.job_id)?);
            }
            FrameKind::LogBatch => {
                let batch: proto::LogBatch = frame.decode()?;
                links.out.notify(Notice::Log(batch.lines));
            }
            FrameKind::InfeasibleDemand => {
                links.out.notify(Notice::InfeasibleDemand(frame.decode()?));
            }
            other => {
                return Err(CoreError::new(
                    ErrorCode::Internal,
                    format!("a core worker takes no {other:?} message"),
                ));
            }
        }
        Ok(())
    }

    fn on_exit_worker(&mut self, message: &proto::ExitWorker) {
        let ends = !(message.unless_needed && self.is_needed());
        debug!(reason = message.reason, ends, "the raylet ends this worker");
        let links = &mut self.base.links;
        if message.unless_needed {
            let reply = proto::ExitWorkerReply { ends };
            links.tell_raylet(FrameKind::ExitWorkerReply, &reply, true);
        }
        if ends {
            self.execution.exit(links);
        }
    }

    /// Whether others lose something when this process ends, or somebody waits for it.
    fn is_needed(&self) -> bool {
        let Base { objects, tasks, .. } = &self.base;
        !self.execution.is_idle() || tasks.len() > 0 || objects.are_needed() || self.actors.are_needed()
    }

    fn on_registered(&mut self, conn: ConnId, frame: Frame) -> Result<(), CoreError> {
        let links = &mut self.base.links;
        links.take_pending(conn, frame.correlation);
        let reply: proto::RegisterClientReply = frame.decode()?;
        let outcome = match &reply.failure {
            Some(failure) => Err(CoreError::from(failure)),
            None => Ok(reply),
        };
        if conn == RAYLET_CONN {
            self.registered = Some(outcome);
            self.node_lease = frame.descriptor;
            links.out.news();
        } else {
            self.leases.raylet_answered(links, conn, outcome.is_err());
            if let Err(error) = outcome {
                debug!(%error, "a raylet of another node refused this process");
            }
        }
        Ok(())
    }

    fn on_push_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Base {
            links,
            objects,
            tasks,
        } = &mut self.base;
        let Some(Pending::Push(task)) = links.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        match tasks.take_reply(objects, links, conn, task, frame)? {
            Answer::Late => {}
            Answer::Function {
                class,
                outcome,
                bytes,
            } => {
                let place = (conn, frame.correlation);
                self.leases
                    .answered(&mut self.base, place, class, task, outcome, bytes);
            }
            Answer::Actor {
                actor,
                sequence,
                bytes,
            } => self.actors.answered(&mut self.base, actor, sequence, bytes),
        }
        Ok(())
    }

    fn on_empty(&mut self, conn: ConnId, correlation: u64) {
        let Base { links, objects, .. } = &mut self.base;
        match links.take_pending(conn, correlation) {
            Some(Pending::Done(slot)) => links.fill_slot(slot, SlotResult::Done),
            Some(Pending::Borrow {
                settles,
                owner,
                registration,
            }) => {
                objects.borrows_acknowledged(links, &settles);
                objects.registered_with(links, owner, registration);
            }
            _ => {}
        }
    }

    fn on_head_reply(&mut self, conn: ConnId, frame: &Frame) {
        let reply = frame.decode::<proto::HeadReply>().map_err(CoreError::from);
        let links = &mut self.base.links;
        match links.take_pending(conn, frame.correlation) {
            Some(Pending::Head(slot)) => {
                links.fill_slot(slot, reply.map_or_else(SlotResult::Failed, SlotResult::Head));
            }
            Some(Pending::Creation(actor)) => {
                self.actors.on_registration_reply(&mut self.base, actor, reply);
            }
            _ => {}
        }
    }
}
