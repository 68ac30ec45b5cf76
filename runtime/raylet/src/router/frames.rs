//! Frames of clients: who may say what.

use std::time::Instant;

use sparkray_common::WorkerId;
use sparkray_proto::{ClientKind, FrameKind, MetricsText, WorkerBlocked};
use sparkray_rpc::Frame;
use tracing::warn;

use super::Router;
use crate::error::FrameError;
use crate::leases::{Asker, LeaseOwner};
use crate::objects::StoreFrame;
use crate::outbox::{Effect, HeadEffect};

impl Router {
    /// A client said something.
    pub(super) fn frame(&mut self, connection: u64, frame: &Frame, now: Instant) {
        let outcome = match (self.clients.client(connection), frame.kind) {
            (None, FrameKind::RegisterClient) => self.register(connection, frame, now),
            (None, other) | (Some(_), other @ FrameKind::RegisterClient) => Err(FrameError::NotHere(other)),
            (Some(_), _) => self.dispatch(connection, frame, now),
        };
        // A connection that was dropped meanwhile says nothing any more.
        if let Err(error) = outcome
            && self.clients.is_known(connection)
        {
            warn!(connection, kind = ?frame.kind, %error, "closing the connection of a client that broke the protocol");
            self.out.effect(Effect::Close { connection });
        }
    }

    fn dispatch(&mut self, connection: u64, frame: &Frame, now: Instant) -> Result<(), FrameError> {
        let owner = self.owner_behind(connection);
        let correlation = frame.correlation;
        match frame.kind {
            FrameKind::RequestWorkerLease => {
                let asker = Asker {
                    owner,
                    connection,
                    correlation,
                };
                let pid_of = |worker| self.workers.pid_of(worker);
                self.leases
                    .request(asker, frame.decode()?, pid_of, now, &mut self.out)?;
            }
            FrameKind::ReturnWorkerLease => {
                self.leases.return_lease(owner, &frame.decode()?, &mut self.out)?;
            }
            FrameKind::CancelWorkerLease => self.leases.cancel(owner, &frame.decode()?, &mut self.out)?,
            FrameKind::HeadStall => {
                let _: sparkray_proto::HeadStall = frame.decode()?;
                self.out.effect(HeadEffect::TellStall {
                    connection,
                    correlation,
                });
            }
            FrameKind::GetMetrics => {
                let _: sparkray_proto::GetMetrics = frame.decode()?;
                let text = self.render_metrics();
                let reply = MetricsText { text };
                self.out
                    .send(connection, FrameKind::MetricsText, correlation, &reply);
            }
            FrameKind::FreeObjects | FrameKind::AdoptFeed | FrameKind::FeedQuery | FrameKind::PullObject => {
                self.store_frame(connection, frame)?;
            }
            // The rest is for processes of this node, over the socket that carries descriptors.
            other if self.clients.is_local(connection) != Some(true) => {
                return Err(FrameError::NotHere(other));
            }
            _ => self.dispatch_local(connection, frame, now)?,
        }
        Ok(())
    }

    fn dispatch_local(&mut self, connection: u64, frame: &Frame, now: Instant) -> Result<(), FrameError> {
        match frame.kind {
            FrameKind::HeadRequest => {
                let request = frame.decode()?;
                self.head
                    .ask(connection, frame.correlation, request, &mut self.out);
            }
            FrameKind::WatchActor => {
                self.head
                    .watch_actor(connection, &frame.decode()?, &mut self.out)?;
            }
            FrameKind::WorkerBlocked
            | FrameKind::WorkerLabel
            | FrameKind::ExitWorkerReply
            | FrameKind::CreateActorReply
            | FrameKind::ActorExits => {
                let worker = self
                    .worker_behind(connection)
                    .ok_or(FrameError::NotHere(frame.kind))?;
                self.worker_frame(worker, frame, now)?;
            }
            _ => self.store_frame(connection, frame)?,
        }
        Ok(())
    }

    /// What only a worker says of itself.
    fn worker_frame(&mut self, worker: WorkerId, frame: &Frame, now: Instant) -> Result<(), FrameError> {
        match frame.kind {
            FrameKind::WorkerBlocked => {
                let message: WorkerBlocked = frame.decode()?;
                self.leases.worker_blocked(worker, message.blocked, &mut self.out);
            }
            FrameKind::WorkerLabel => self.workers.label(worker, frame.decode()?),
            FrameKind::ExitWorkerReply => {
                self.workers.answered(worker, frame.decode()?, now, &mut self.out);
            }
            FrameKind::CreateActorReply => {
                let pid = self.workers.pid_of(worker);
                self.actors.created(
                    worker,
                    pid,
                    frame.correlation,
                    frame.decode()?,
                    &mut self.leases,
                    now,
                    &mut self.out,
                );
            }
            FrameKind::ActorExits => self.actors.exits(worker),
            other => return Err(FrameError::NotHere(other)),
        }
        Ok(())
    }

    fn store_frame(&mut self, connection: u64, frame: &Frame) -> Result<(), FrameError> {
        let client = self.clients.client(connection);
        let said = StoreFrame {
            connection,
            node: client.and_then(|client| client.node_id),
            frame,
        };
        self.objects.frame(said, &self.view, &mut self.out)
    }

    /// `None` for raylets, which have no worker id.
    fn owner_behind(&self, connection: u64) -> Option<LeaseOwner> {
        let worker = self.clients.client(connection)?.worker_id;
        (!worker.is_nil()).then_some(LeaseOwner::Worker(worker))
    }

    fn worker_behind(&self, connection: u64) -> Option<WorkerId> {
        let client = self.clients.client(connection)?;
        (client.kind == ClientKind::Worker).then_some(client.worker_id)
    }
}
