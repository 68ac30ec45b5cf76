//! Clients that come: through the doors, and by their registration.

use std::time::Instant;

use sparkray_proto::{
    ClientKind, Failure, FrameKind, IncomingConnection, RegisterClient, RegisterClientReply,
};
use sparkray_rpc::{Accepted, Frame, Target};
use tracing::{debug, info};

use super::Router;
use crate::error::FrameError;
use crate::gateway::Client;
use crate::leases::OwnerRegistration;
use crate::outbox::{Effect, HeadEffect};

impl Router {
    /// A caller went through the handshake.
    pub(super) fn accepted(&mut self, accepted: Accepted, local: bool, now: Instant) {
        match accepted.target {
            Target::Raylet(_) => {
                let connection = self.clients.connected(local, None, now);
                let socket = accepted.socket;
                self.out.effect(Effect::Serve { connection, socket });
            }
            Target::Worker(_, worker) => {
                if let Some(connection) = self.connection_of(worker) {
                    let frame = incoming(accepted);
                    self.out.effect(Effect::Send { connection, frame });
                } else {
                    // It ended since the caller was let in: the caller sees its connection close.
                    debug!(worker_id = %worker, "a caller came for a worker that is gone");
                }
            }
            Target::Head => {
                let frame = incoming(accepted);
                self.out.effect(HeadEffect::Pass { frame });
            }
            Target::HeadGateway | Target::Manager => {
                debug!(peer = accepted.peer, "a caller came to the wrong door");
            }
        }
    }

    /// RegisterClient.
    pub(super) fn register(
        &mut self,
        connection: u64,
        frame: &Frame,
        now: Instant,
    ) -> Result<(), FrameError> {
        let message: RegisterClient = frame.decode()?;
        let owner = match message.kind() {
            ClientKind::Remote => OwnerRegistration::of(&message)?,
            _ => None,
        };
        let refusal = owner.as_ref().and_then(|owner| {
            let (worker, node) = owner.process();
            let is_dead = self.objects.is_dead_owner(worker, node);
            self.leases.refuse_owner(owner, is_dead)
        });
        let checked = match refusal {
            Some(refusal) => Err(refusal),
            None => self.clients.check(connection, &message, &self.node.address)?,
        };
        match checked {
            Ok(client) => {
                self.welcome(connection, client, now);
                if let Some(owner) = owner {
                    self.leases.owner_registered(connection, &owner, &mut self.out);
                }
                self.answer_registration(connection, frame.correlation, None);
                // Those of other nodes hear of the head from their own raylet, and expect no such word here.
                if self.clients.client(connection).is_some_and(Client::is_local) {
                    self.head.greet(connection, &mut self.out);
                }
            }
            Err(failure) => {
                info!(
                    connection,
                    pid = message.pid,
                    reason = failure.message,
                    "refused a client"
                );
                self.answer_registration(connection, frame.correlation, Some(failure));
                // Nothing that it says is heard any more; the answer still leaves.
                self.out.effect(Effect::Drain { connection });
            }
        }
        Ok(())
    }

    fn welcome(&mut self, connection: u64, client: Client, now: Instant) {
        let (kind, worker, pid) = (client.kind, client.worker_id, client.pid);
        debug!(connection, ?kind, worker_id = %worker, pid, "client registered");
        self.clients.register(connection, client);
        if kind == ClientKind::Remote {
            return;
        }
        self.out.effect(Effect::OpenRoute { worker });
        if kind == ClientKind::Worker {
            // A child of this process: its end comes as SIGCHLD.
            self.workers.registered(worker, pid, now, &mut self.out);
        } else {
            self.out.effect(Effect::WatchProcess { connection, pid });
        }
    }

    fn answer_registration(&mut self, connection: u64, correlation: u64, failure: Option<Failure>) {
        let reply = RegisterClientReply {
            failure,
            node_id: self.node.node_id.to_vec().into(),
            node_address: self.node.address.clone(),
            cluster_id: self.node.cluster_id.to_vec().into(),
            head_epoch: self.node.head_epoch,
            node_ip: self.node.host.clone(),
            log_dir: self.node.log_dir.clone(),
        };
        let frame = Frame::new(FrameKind::RegisterClientReply, correlation, &reply);
        self.out.effect(if self.clients.expected(connection).is_some() {
            Effect::SendWithLease { connection, frame }
        } else {
            Effect::Send { connection, frame }
        });
    }
}

/// Hands a caller on to the process that it asked for.
fn incoming(accepted: Accepted) -> Frame {
    let message = IncomingConnection {
        agreement: accepted.agreement.encode().into(),
    };
    Frame::new(FrameKind::IncomingConnection, 0, &message).with_descriptor(accepted.socket.socket)
}
