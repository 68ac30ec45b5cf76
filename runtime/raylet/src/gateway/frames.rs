//! Frames of clients: who may say what.

use std::collections::HashSet;
use std::sync::Arc;

use sparkray_common::{ErrorCode, JobId, NodeId, VERSION, WorkerId};
use sparkray_object_store::ClientId;
use sparkray_proto::{ClientKind, Failure, FrameKind, MessageError, RegisterClient, RegisterClientReply};
use sparkray_rpc::{Frame, RpcError};
use tracing::{debug, info, warn};

use crate::gateway::clients::{Client, Connection, await_end, watch_process};
use crate::leases::owner_service::OwnerRegistration;
use crate::objects::service::FrameError;
use crate::raylet::Raylet;

impl Raylet {
    /// A client said something.
    pub(crate) fn frame(&mut self, connection: u64, frame: Frame) {
        let outcome = match (self.clients.client(connection), frame.kind) {
            (None, FrameKind::RegisterClient) => self.register(connection, &frame).map_err(FrameError::from),
            (None, other) | (Some(_), other @ FrameKind::RegisterClient) => Err(FrameError::NotHere(other)),
            (Some(_), _) => self.dispatch(connection, &frame),
        };
        // A connection that was dropped meanwhile says nothing any more.
        if let Err(error) = outcome
            && let Some(known) = self.clients.get(connection)
        {
            warn!(connection, kind = ?frame.kind, %error, "closing the connection of a client that broke the protocol");
            known.sender.close();
        }
    }

    fn dispatch(&mut self, connection: u64, frame: &Frame) -> Result<(), FrameError> {
        match frame.kind {
            FrameKind::RequestWorkerLease => self.request_lease(connection, frame)?,
            FrameKind::ReturnWorkerLease => self.return_lease(connection, frame)?,
            FrameKind::CancelWorkerLease => self.cancel_lease(connection, frame)?,
            FrameKind::HeadStall => self.tell_head_stall(connection, frame)?,
            FrameKind::FreeObjects | FrameKind::AdoptFeed | FrameKind::FeedQuery | FrameKind::PullObject => {
                self.store_frame(connection, frame)?;
            }
            other => {
                // The rest is for processes of this node, over the socket that carries descriptors.
                if !self
                    .clients
                    .get(connection)
                    .is_some_and(|connection| connection.local)
                {
                    return Err(FrameError::NotHere(other));
                }
                self.dispatch_local(connection, frame)?;
            }
        }
        Ok(())
    }

    fn dispatch_local(&mut self, connection: u64, frame: &Frame) -> Result<(), FrameError> {
        let client = self.clients.client(connection);
        let is_worker = client.is_some_and(|client| client.kind == ClientKind::Worker);
        match frame.kind {
            // What only a worker says of itself.
            FrameKind::WorkerBlocked
            | FrameKind::WorkerLabel
            | FrameKind::CreateActorReply
            | FrameKind::ActorExits
                if !is_worker =>
            {
                return Err(FrameError::NotHere(frame.kind));
            }
            FrameKind::HeadRequest => self.ask_head(connection, frame)?,
            FrameKind::WatchActor => self.watch_actor(connection, frame)?,
            FrameKind::WorkerBlocked => self.worker_blocked(connection, frame)?,
            FrameKind::WorkerLabel => self.worker_label(connection, frame)?,
            FrameKind::CreateActorReply => self.actor_created(connection, frame)?,
            FrameKind::ActorExits => self.actor_exits(connection),
            _ => self.store_frame(connection, frame)?,
        }
        Ok(())
    }

    /// RegisterClient.
    fn register(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: RegisterClient = frame.decode()?;
        let owner = match message.kind() {
            ClientKind::Remote => OwnerRegistration::of(&message)?,
            _ => None,
        };
        let refusal = owner.as_ref().and_then(|owner| self.refuse_owner(owner));
        let checked = match refusal {
            Some(refusal) => Err(refusal),
            None => self.check_client(connection, &message)?,
        };
        match checked {
            Ok(client) => {
                self.accept_client(connection, client);
                if let Some(owner) = owner {
                    self.owner_registered(connection, &owner);
                }
                self.answer_registration(connection, frame.correlation, None);
                self.greet(connection);
            }
            Err(failure) => {
                info!(
                    connection,
                    pid = message.pid,
                    reason = failure.message,
                    "refused a client"
                );
                self.answer_registration(connection, frame.correlation, Some(failure));
                if let Some(refused) = self.clients.get(connection) {
                    // Nothing that it says is heard any more; the answer still leaves.
                    refused.drain.cancel();
                }
            }
        }
        Ok(())
    }

    fn check_client(
        &self,
        connection: u64,
        message: &RegisterClient,
    ) -> Result<Result<Client, Failure>, MessageError> {
        if message.sparkray_version != VERSION {
            let text = format!(
                "this process runs sparkray {}, node {} runs {VERSION}: install the same version everywhere",
                message.sparkray_version, self.node.address
            );
            return Ok(Err(Failure::new(ErrorCode::VersionMismatch, text)));
        }
        let Some(known) = self.clients.get(connection) else {
            return Err(MessageError::Missing("connection"));
        };
        let kind = message.kind();
        let worker_id = match kind {
            ClientKind::Remote => WorkerId::from_slice(&message.worker_id).unwrap_or(WorkerId::NIL),
            _ => WorkerId::from_slice(&message.worker_id)?,
        };
        if let Some(expected) = known.expected
            && (expected != worker_id || kind != ClientKind::Worker)
        {
            let text = format!("this connection is for worker {expected}, not for {worker_id}");
            return Ok(Err(Failure::new(ErrorCode::InvalidArgument, text)));
        }
        if (kind != ClientKind::Remote) != known.local
            || (kind == ClientKind::Worker && known.expected.is_none())
        {
            let text = format!("a client of kind {kind:?} cannot register over this connection");
            return Ok(Err(Failure::new(ErrorCode::InvalidArgument, text)));
        }
        if kind != ClientKind::Remote && self.clients.of_worker(worker_id).is_some() {
            let text = format!("worker id {worker_id} is registered already; a process registers once");
            return Ok(Err(Failure::new(ErrorCode::AlreadyExists, text)));
        }
        let job_id = if kind == ClientKind::Driver {
            Some(JobId::from_slice(&message.job_id)?)
        } else {
            None
        };
        Ok(Ok(Client {
            kind,
            worker_id,
            node_id: NodeId::from_slice(&message.node_id).ok(),
            pid: message.pid,
            job_id,
            log_to_driver: message.log_to_driver,
            lost_lines: 0,
            watched: HashSet::new(),
        }))
    }

    fn accept_client(&mut self, connection: u64, client: Client) {
        let (kind, worker_id, pid) = (client.kind, client.worker_id, client.pid);
        debug!(connection, ?kind, %worker_id, pid, "client registered");
        self.clients.register(connection, client);
        if kind == ClientKind::Remote {
            return;
        }
        self.routes.add(worker_id);
        if kind == ClientKind::Worker {
            // A child of this process: its end comes as SIGCHLD.
            self.worker_registered(worker_id, pid);
        } else if let Some(known) = self.clients.get_mut(connection) {
            match watch_process(pid, known.drain.clone()) {
                Ok(process) => known.process = Some(process),
                Err(error) => {
                    debug!(pid, %error, "cannot watch a client; only the end of its connection tells that it died");
                }
            }
        }
    }

    fn answer_registration(&self, connection: u64, correlation: u64, failure: Option<Failure>) {
        let reply = RegisterClientReply {
            failure,
            node_id: self.node.node_id.to_vec().into(),
            node_address: self.node.address.clone(),
            cluster_id: self.node.cluster_id.to_vec().into(),
            head_epoch: self.node.head_epoch,
            node_ip: self.node.host.clone(),
            log_dir: self.node.log_dir.clone(),
        };
        let mut frame = Frame::new(FrameKind::RegisterClientReply, correlation, &reply);
        if self
            .clients
            .get(connection)
            .is_some_and(|known| known.expected.is_some())
        {
            match self.head.lease.share() {
                Ok(lease) => frame = frame.with_descriptor(lease),
                Err(error) => warn!(%error, "cannot share this node's lease with a worker"),
            }
        }
        self.clients.send_frame(connection, frame);
    }

    /// The store takes back what a client had once its process cannot touch it any more: a process may go on without
    /// its connection.
    fn client_left(&mut self, connection: u64, removed: &Connection) {
        let client = ClientId(connection);
        if !self.store.client_left(client) {
            return;
        }
        if let Some(process) = &removed.process {
            tokio::spawn(await_end(
                connection,
                Arc::clone(process),
                self.events.clone(),
                self.cancel.clone(),
            ));
        } else if removed.expected.is_none() {
            self.store.client_gone(client);
        }
        // What a worker had is taken back in `worker_over`.
    }

    /// A connection ended and everything that came over it was handled.
    pub(crate) fn closed(&mut self, connection: u64, cause: &str) {
        let Some(removed) = self.clients.remove(connection) else {
            return;
        };
        self.client_left(connection, &removed);
        if let Some(client) = &removed.client {
            self.owner_disconnected(connection, client);
        }
        if let Some(worker) = removed.expected {
            if let Some(client) = removed.client {
                self.unwatch(client.watched);
            }
            self.worker_closed(worker);
            return;
        }
        let Some(client) = removed.client else { return };
        debug!(connection, kind = ?client.kind, worker_id = %client.worker_id, cause, "client is gone");
        if client.kind == ClientKind::Remote {
            // Of another node's client nothing but leases lasts: its fetches it begins again, and what it adopts or
            // frees it repeats until that was acknowledged.
            return;
        }
        let kind = if client.kind == ClientKind::Driver {
            "driver"
        } else {
            "store client"
        };
        let cause = format!(
            "{kind} {} (pid {}) on {}: {cause}",
            client.worker_id, client.pid, self.node.host
        );
        self.unwatch(client.watched);
        if let Some(job) = client.job_id {
            info!(job_id = %job, pid = client.pid, "driver is gone");
            self.finish_job(job);
        }
        self.process_over(client.worker_id, &cause, client.job_id);
    }
}
