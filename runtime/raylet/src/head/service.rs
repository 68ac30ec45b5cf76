//! What the head says is done, and what it has to know is told.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, ErrorCode, JobId, NodeId, WorkerId};
use sparkray_proto::{
    ActorUpdate, Failure, FrameKind, HeadLost, HeadReply, HeadRequest, IncomingConnection, LogBatch,
    MessageError, NodeDeathNotice, NodeDied, NodeMessage, ResourceReport, WorkerDeathNotice, WorkerDied,
    head_message, node_message,
};
use sparkray_rpc::{Frame, FrameSender, RpcError};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use crate::error::RayletError;
use crate::head::lease::Lease;
use crate::head::link;
use crate::input::HeadEvent;
use crate::raylet::{Look, Raylet};

/// A report without news is sent this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client's question to the head may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Shapes of waiting requests in a report.
const SHAPES: usize = 32;

/// This raylet's side of the head.
#[derive(Debug)]
pub(crate) struct HeadSide {
    /// For messages.
    pub(crate) name: String,
    /// The present connection to the head.
    channel: watch::Receiver<Channel>,
    outgoing: Outgoing,
    /// To the head's gateway, when the head runs on this node.
    gateway: Option<FrameSender>,
    /// The present states of actors that clients of this node watch.
    pub(crate) actor_states: HashMap<ActorId, ActorUpdate>,
    /// Why the head is gone.
    pub(crate) lost: Option<String>,
    pub(crate) lease: Lease,
    last_report: Option<(ResourceReport, Instant)>,
    last_look: Instant,
}

impl HeadSide {
    pub(crate) fn new(
        name: String,
        channel: watch::Receiver<Channel>,
        outgoing: mpsc::Sender<NodeMessage>,
        gateway: Option<FrameSender>,
        lease: Lease,
    ) -> Self {
        Self {
            name,
            channel,
            outgoing: Outgoing::new(outgoing),
            gateway,
            actor_states: HashMap::new(),
            lost: None,
            lease,
            last_report: None,
            last_look: Instant::now(),
        }
    }

    /// Tells the head. What cannot be told any more is lost with the head.
    pub(crate) fn send(&mut self, message: node_message::Message) {
        if self.lost.is_none() {
            self.outgoing.send(message);
        }
    }

    /// Log lines give way to everything else.
    pub(crate) fn send_log(&mut self, batch: LogBatch) {
        if self.outgoing.is_calm() {
            self.send(node_message::Message::Log(batch));
        }
    }
}

/// The queue to the head. Deaths and states of actors are told once, so none of them may be lost: what finds no place
/// waits here, in order.
#[derive(Debug)]
struct Outgoing {
    queue: mpsc::Sender<NodeMessage>,
    overflow: VecDeque<NodeMessage>,
}

impl Outgoing {
    fn new(queue: mpsc::Sender<NodeMessage>) -> Self {
        Self {
            queue,
            overflow: VecDeque::new(),
        }
    }

    fn send(&mut self, message: node_message::Message) {
        self.overflow.push_back(NodeMessage {
            message: Some(message),
            ..NodeMessage::default()
        });
        self.flush();
    }

    /// Moves what waits into the queue, as far as there is room.
    fn flush(&mut self) {
        while !self.overflow.is_empty() {
            match self.queue.try_reserve() {
                Ok(place) => {
                    if let Some(message) = self.overflow.pop_front() {
                        place.send(message);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => return,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    debug!("this raylet ends: the head is told no more");
                    self.overflow.clear();
                }
            }
        }
    }

    /// Whether there is room for what is not essential.
    fn is_calm(&self) -> bool {
        self.overflow.is_empty() && self.queue.capacity() > self.queue.max_capacity() / 2
    }
}

impl Raylet {
    /// The link's news.
    pub(crate) fn head_event(&mut self, event: HeadEvent) {
        match event {
            HeadEvent::Message(message) => {
                if let Err(error) = self.head_message(*message) {
                    warn!(%error, "the head sent a message that cannot be used");
                }
            }
            HeadEvent::Acknowledged { sent } => self.head.lease.acknowledged(sent),
            HeadEvent::Refused(failure) => {
                self.failure = Some(RayletError::Refused {
                    code: failure.error_code(),
                    message: failure.message,
                });
            }
            HeadEvent::Lost { cause } => self.head_lost(cause),
        }
    }

    /// The head is gone, and with it the cluster. What runs here may go on: nobody takes its place.
    pub(crate) fn head_lost(&mut self, cause: String) {
        if self.head.lost.is_some() {
            return;
        }
        // Where a cluster is stopped, its head may be the first to end: who did not expect it says so.
        info!(cause, "the head is lost");
        self.routes.head_ended();
        self.head.lease.end();
        self.clients
            .broadcast(FrameKind::HeadLost, &HeadLost { cause: cause.clone() });
        self.head.lost = Some(cause);
        self.give_up_absent_owners();
        self.look_again();
    }

    /// A client that just registered hears at once that the head is gone.
    pub(crate) fn greet(&self, connection: u64) {
        if let Some(cause) = &self.head.lost {
            self.clients.send(
                connection,
                FrameKind::HeadLost,
                0,
                &HeadLost { cause: cause.clone() },
            );
        }
    }

    fn head_message(&mut self, message: head_message::Message) -> Result<(), MessageError> {
        match message {
            head_message::Message::Registered(_) | head_message::Message::HeartbeatReply(_) => {}
            head_message::Message::View(view) => {
                self.view.apply(&view)?;
                self.look = Look::ViewChanged;
            }
            head_message::Message::PlaceActor(message) => self.place_actor(message)?,
            head_message::Message::KillActor(message) => self.kill_actor(&message)?,
            head_message::Message::Actor(update) => self.actor_update(update),
            head_message::Message::WorkerDeath(notice) => self.other_worker_died(notice)?,
            head_message::Message::NodeDeath(notice) => self.other_node_died(notice)?,
            head_message::Message::Log(batch) => self.log_from_head(batch),
            head_message::Message::JobFinished(message) => {
                let job = JobId::from_slice(&message.job_id)?;
                info!(job_id = %job, "job finished");
                self.finish_job(job);
            }
        }
        Ok(())
    }

    fn other_worker_died(&mut self, notice: WorkerDeathNotice) -> Result<(), MessageError> {
        let worker = WorkerId::from_slice(&notice.worker_id)?;
        // The processes of this node were reaped when it happened.
        if notice.node_id == self.node.node_id.as_bytes()[..] {
            return Ok(());
        }
        self.store.owner_gone(worker);
        self.owner_died(worker);
        let message = WorkerDied {
            worker_id: notice.worker_id,
            node_id: notice.node_id,
            cause: notice.cause,
        };
        self.clients.broadcast(FrameKind::WorkerDied, &message);
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
        self.look = Look::ViewChanged;
        self.peers.forget(node);
        self.store_side.frees.forget(node);
        self.store.node_gone(node);
        self.owners_died_with(node);
        let message = NodeDied {
            node_id: notice.node_id,
            cause: notice.cause,
        };
        self.clients.broadcast(FrameKind::NodeDied, &message);
        // Its raylet may never close its connections by itself.
        for (_, connection) in self.clients.of_node(node) {
            connection.sender.close();
        }
        Ok(())
    }

    /// A client, worker or driver of this node is gone: its objects, and everybody who knew it.
    pub(crate) fn process_over(&mut self, worker: WorkerId, cause: &str, job: Option<JobId>) {
        self.routes.remove(worker);
        self.report_death(worker, cause, job);
        self.store.owner_gone(worker);
        let message = WorkerDied {
            worker_id: worker.to_vec().into(),
            node_id: self.node.node_id.to_vec().into(),
            cause: cause.to_owned(),
        };
        self.clients.broadcast(FrameKind::WorkerDied, &message);
    }

    /// HeadRequest: relayed, answered by HeadReply.
    pub(crate) fn ask_head(&self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let request: HeadRequest = frame.decode()?;
        let correlation = frame.correlation;
        if let Some(cause) = &self.head.lost {
            let failure = Failure::new(
                ErrorCode::Unavailable,
                format!("{cause}; call shutdown() and init() again"),
            );
            let reply = HeadReply {
                failure: Some(failure),
                reply: None,
            };
            self.clients
                .send(connection, FrameKind::HeadReply, correlation, &reply);
            return Ok(());
        }
        let Some(sender) = self
            .clients
            .get(connection)
            .map(|connection| connection.sender.clone())
        else {
            return Ok(());
        };
        let channel = self.head.channel.borrow().clone();
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            let reply = tokio::select! {
                () = cancel.cancelled() => return,
                reply = link::call(channel, request, CALL_DEADLINE) => reply,
            };
            if let Err(error) = sender.send(Frame::new(FrameKind::HeadReply, correlation, &reply)) {
                debug!(%error, "a client did not wait for the head's answer");
            }
        });
        Ok(())
    }

    /// A connection from another node for the head.
    pub(crate) fn pass_to_head(&self, accepted: sparkray_rpc::Accepted) {
        let Some(gateway) = &self.head.gateway else { return };
        let incoming = IncomingConnection {
            agreement: accepted.agreement.encode().into(),
        };
        let frame =
            Frame::new(FrameKind::IncomingConnection, 0, &incoming).with_descriptor(accepted.socket.socket);
        if let Err(error) = gateway.send(frame) {
            debug!(%error, "cannot pass a connection to the head");
        }
    }

    /// Ten times a second: what is due.
    pub(crate) fn tick(&mut self) {
        self.tend_lease();
        self.store.tick(Instant::now());
        self.clients.close_unregistered(Instant::now());
        self.tend_workers();
        self.kill_orphans();
        let has_more_room = self.view.forget_old_notes(Instant::now());
        if self.leases.queued_count() > 0 {
            // Time alone can change what fits.
            self.look = self.look.max(if has_more_room {
                Look::ViewChanged
            } else {
                Look::Again
            });
        }
        self.tend_actors();
        self.flush_frees();
        self.flush_lost_locations();
        if self.head.last_look.elapsed() >= REPORT_INTERVAL {
            self.head.last_look = Instant::now();
            self.name_infeasible();
        }
        self.head.outgoing.flush();
        self.report();
    }

    /// Tells the head what is free, when that changed and otherwise once a second.
    fn report(&mut self) {
        let report = ResourceReport {
            available: Some(self.leases.available().into()),
            queued_leases: self.leases.queued_count() as u32,
            store: Some(self.store.stats()),
            worker_count: self.workers.pool.len() as u32,
            queued_shapes: self.leases.queued_shapes(SHAPES).iter().map(Into::into).collect(),
        };
        if let Some((last, at)) = &self.head.last_report
            && *last == report
            && at.elapsed() < REPORT_INTERVAL
        {
            return;
        }
        if !self.head.outgoing.is_calm() {
            // The next tick has a newer one.
            return;
        }
        self.head.send(node_message::Message::Report(report.clone()));
        self.head.last_report = Some((report, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_the_head_are_not_lost_when_its_queue_is_full() {
        let (queue, mut head) = mpsc::channel(4);
        let mut outgoing = Outgoing::new(queue);
        for number in 0..100_u8 {
            outgoing.send(node_message::Message::UnwatchActor(vec![number].into()));
        }
        assert!(!outgoing.is_calm());
        for number in 0..100_u8 {
            let message = head.try_recv().unwrap().message;
            let expected = node_message::Message::UnwatchActor(vec![number].into());
            assert_eq!(message, Some(expected));
            outgoing.flush();
        }
        assert!(outgoing.is_calm() && head.try_recv().is_err());
    }
}
