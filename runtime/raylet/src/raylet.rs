//! The raylet's state and its loop: one event after the other, none of them waits.
//!
//! Invariants:
//! 1. Only the loop touches the state; tasks talk to it by [`Event`]s over one bounded channel, and the loop
//!    never waits for a task.
//! 2. After each batch of events the leases are looked at (when something changed that could matter to them) and the
//!    store's wishes are carried out.

use std::collections::HashMap;
use std::sync::Arc;

use sparkray_common::{ClusterId, JobId, LeaseId, NodeId, ParentNotice, WorkerAddress, WorkerId};
use sparkray_object_store::{ClientId, IoExecutor, IoOutcome, ObjectStore};
use sparkray_rpc::{Identity, Target, frame_connection};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::actors::Actors;
use crate::error::RayletError;
use crate::gateway::clients::Clients;
use crate::gateway::doors::Routes;
use crate::gateway::peers::Peers;
use crate::head::service::HeadSide;
use crate::input::Event;
use crate::leases::cluster_view::ClusterView;
use crate::leases::manager::LeaseManager;
use crate::leases::owners::Owners;
use crate::leases::service::LeaseReply;
use crate::objects::service::StoreSide;
use crate::workers::table::Workers;

/// Events handled before the leases and the store are looked at.
const BATCH: usize = 256;

/// Who this node is.
#[derive(Debug, Clone)]
pub(crate) struct NodeInfo {
    pub(crate) node_id: NodeId,
    pub(crate) cluster_id: ClusterId,
    pub(crate) head_epoch: u64,
    /// `host:port`.
    pub(crate) address: String,
    /// The host alone, as an IP address.
    pub(crate) host: String,
    pub(crate) log_dir: String,
}

/// Whether the leases are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Nothing changed.
    No,
    /// Resources, workers or requests changed.
    Again,
    /// Other nodes changed too.
    ViewChanged,
}

/// Everything that a raylet knows.
pub(crate) struct Raylet {
    pub(crate) node: NodeInfo,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) cancel: CancellationToken,
    pub(crate) routes: Arc<Routes>,
    pub(crate) clients: Clients,
    pub(crate) leases: LeaseManager,
    pub(crate) lease_replies: HashMap<LeaseId, LeaseReply>,
    pub(crate) owners: Owners,
    pub(crate) view: ClusterView,
    pub(crate) workers: Workers,
    pub(crate) actors: Actors,
    pub(crate) head: HeadSide,
    pub(crate) store: ObjectStore,
    pub(crate) executor: IoExecutor,
    pub(crate) store_side: StoreSide,
    pub(crate) peers: Peers,
    pub(crate) identity: Identity,
    pub(crate) look: Look,
    /// Set when the raylet cannot go on.
    pub(crate) failure: Option<RayletError>,
}

/// What the loop listens to.
pub(crate) struct Inputs {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) store_io: mpsc::Receiver<IoOutcome>,
    pub(crate) children: tokio::signal::unix::Signal,
    pub(crate) ticks: tokio::time::Interval,
    /// From the process that started this one.
    pub(crate) notices: mpsc::Receiver<ParentNotice>,
}

impl Raylet {
    /// Handles events until the raylet is cancelled or cannot go on.
    pub(crate) async fn run(&mut self, mut inputs: Inputs) -> Result<(), RayletError> {
        let mut batch = Vec::with_capacity(BATCH);
        // Workers are wanted before anybody asks.
        self.look_again();
        loop {
            self.settle();
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let cancel = self.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                count = inputs.events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for event in batch.drain(..) {
                        self.handle(event);
                    }
                }
                Some(outcome) = inputs.store_io.recv() => self.store.io_done(outcome),
                _ = inputs.children.recv() => self.reap_children(),
                _ = inputs.ticks.tick() => self.tick(),
                Some(notice) = inputs.notices.recv() => match notice {
                    ParentNotice::HeadLost { cause } => self.head_lost(cause),
                },
            }
        }
    }

    /// The leases are to be looked at before the loop waits again.
    pub(crate) fn look_again(&mut self) {
        self.look = self.look.max(Look::Again);
    }

    fn settle(&mut self) {
        let look = std::mem::replace(&mut self.look, Look::No);
        if look != Look::No {
            self.look_at_leases(look == Look::ViewChanged);
        }
        self.carry_out_store_events();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted { accepted, local } => self.accepted(accepted, local),
            Event::Frame { connection, frame } => self.frame(connection, frame),
            Event::Closed { connection, cause } => self.closed(connection, &cause),
            Event::ProcessEnded { connection } => self.store.client_gone(ClientId(connection)),
            Event::Zygote(event) => self.zygote_event(event),
            Event::Output {
                worker_id,
                is_stderr,
                lines,
            } => self.worker_output(worker_id, is_stderr, lines),
            Event::OutputEnded { worker_id } => self.workers.output_ended(worker_id),
            Event::KillWorker { worker_id } => self.kill_worker(worker_id),
            Event::Head(event) => self.head_event(event),
            Event::HeadStall { asked, answer } => self.head_stall_answered(asked, answer),
            Event::PullNeedsRoom {
                ticket,
                size,
                owner,
                room,
            } => self.pull_needs_room(ticket, size, owner, room),
            Event::PullEnded {
                ticket,
                object,
                outcome,
            } => self.pull_ended(ticket, object, outcome),
            Event::FeedSettled(message) => {
                if let Err(error) = self.store.adopt_feed(&message) {
                    warn!(%error, "another raylet named the winners of a feed in a way that cannot be read");
                }
            }
            Event::FreesTold { node, left } => {
                let is_alive = self.view.get(node).is_some();
                self.store_side.frees.told(node, left, is_alive);
            }
            Event::PushEnded { ticket, outcome } => match outcome {
                Ok(bytes) => self.store.push_finished(ticket, bytes),
                Err(reason) => self.store.push_failed(ticket, &reason),
            },
        }
    }

    fn accepted(&mut self, accepted: sparkray_rpc::Accepted, local: bool) {
        match accepted.target {
            Target::Raylet(_) => match frame_connection(accepted.socket) {
                Ok((sender, receiver)) => {
                    self.clients.add(sender, receiver, local, None, &self.events);
                }
                Err(error) => warn!(peer = accepted.peer, %error, "cannot serve a connection"),
            },
            Target::Worker(_, worker) => {
                if let Some(connection) = self.clients.of_worker(worker) {
                    self.pass_connection(connection, accepted);
                } else {
                    // It ended since the caller was let in: the caller sees its connection close.
                    debug!(%worker, "a caller came for a worker that is gone");
                }
            }
            Target::Head => self.pass_to_head(accepted),
            Target::HeadGateway | Target::Manager => {
                debug!(peer = accepted.peer, "a caller came to the wrong door");
            }
        }
    }

    fn pass_connection(&self, connection: u64, accepted: sparkray_rpc::Accepted) {
        let frame = sparkray_rpc::Frame::new(
            sparkray_proto::FrameKind::IncomingConnection,
            0,
            &sparkray_proto::IncomingConnection {
                agreement: accepted.agreement.encode().into(),
            },
        );
        self.clients
            .send_frame(connection, frame.with_descriptor(accepted.socket.socket));
    }

    /// The address of a worker of this node.
    pub(crate) fn address_of(&self, worker: WorkerId) -> WorkerAddress {
        WorkerAddress {
            node_id: self.node.node_id,
            worker_id: worker,
            node_address: self.node.address.clone(),
        }
    }

    /// A job is over: its workers and objects go. Actors that outlive it stay, with the leases that they hold: a lease
    /// ends with its owner, whose end follows for all others.
    pub(crate) fn finish_job(&mut self, job: JobId) {
        self.actors_of_finished_job(job);
        for worker in self.workers.pool.of_job(job) {
            if !self.leases.serves_an_owner(worker) {
                self.kill_worker(worker);
            }
        }
        self.look_again();
    }
}
