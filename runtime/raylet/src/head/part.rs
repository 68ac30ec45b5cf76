//! The part: what the head is told, and what is known of the head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, ErrorCode, Metrics};
use sparkray_proto::{
    ActorUpdate, Failure, FrameKind, HeadLost, HeadReply, HeadRequest, LogBatch, MessageError,
    ResourceReport, WatchActor, head_request, node_message,
};
use tracing::{error, info, warn};

use super::lease::{Lease, Verdict};
use super::metrics::HeadMetrics;
use super::outgoing::Outgoing;
use super::watches::Watches;
use crate::cluster_view::ClusterView;
use crate::error::RayletError;
use crate::node_info::NodeInfo;
use crate::outbox::{Effect, HeadEffect, Outbox};

/// A report without news is sent this often, and requests that nothing can meet are looked for.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// This raylet's side of the head.
#[derive(Debug)]
pub(crate) struct Head {
    node: Arc<NodeInfo>,
    /// For messages.
    name: String,
    /// Address of the raylet of the head's node, when that is another one.
    address: Option<String>,
    outgoing: Outgoing,
    lease: Lease,
    watches: Watches,
    /// Why the head is gone.
    lost: Option<String>,
    last_report: Option<(ResourceReport, Instant)>,
    last_second: Instant,
    metrics: HeadMetrics,
}

impl Head {
    /// `name`: for messages; `address`: of the raylet of the head's node, when that is another one.
    pub(crate) fn new(
        node: Arc<NodeInfo>,
        name: String,
        address: Option<String>,
        outgoing: Outgoing,
        lease: Lease,
        now: Instant,
    ) -> Self {
        Self {
            node,
            name,
            address,
            outgoing,
            lease,
            watches: Watches::default(),
            lost: None,
            last_report: None,
            last_second: now,
            metrics: HeadMetrics::default(),
        }
    }

    /// Why the head is gone.
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Tells the head. What cannot be told any more is lost with the head.
    pub(crate) fn send(&mut self, message: node_message::Message) {
        if self.lost.is_none() {
            self.metrics.told();
            self.outgoing.send(message);
        }
    }

    /// Log lines give way to everything else.
    pub(crate) fn send_log(&mut self, batch: LogBatch) {
        if self.outgoing.is_calm() {
            self.send(node_message::Message::Log(batch));
        } else {
            self.metrics.log_dropped();
        }
    }

    /// The head is gone, and with it the cluster. What runs here may go on: nobody takes its place. False: that was
    /// known.
    pub(crate) fn lose(&mut self, cause: String, out: &mut Outbox) -> bool {
        if self.lost.is_some() {
            return false;
        }
        // Where a cluster is stopped, its head may be the first to end: who did not expect it says so.
        info!(cause, "the head is lost");
        out.effect(Effect::CloseHeadRoute);
        self.lease.end();
        out.effect(HeadEffect::PublishLease(self.lease.workers_end_at()));
        out.notify(FrameKind::HeadLost, &HeadLost { cause: cause.clone() });
        self.lost = Some(cause);
        true
    }

    /// A client that just registered hears at once that the head is gone.
    pub(crate) fn greet(&self, connection: u64, out: &mut Outbox) {
        if let Some(cause) = self.lost.clone() {
            out.send(connection, FrameKind::HeadLost, 0, &HeadLost { cause });
        }
    }

    /// HeadRequest: relayed, answered by HeadReply.
    pub(crate) fn ask(&mut self, connection: u64, correlation: u64, request: HeadRequest, out: &mut Outbox) {
        self.metrics.relayed();
        let Some(cause) = &self.lost else {
            out.effect(match request.request {
                Some(head_request::Request::RegisterJob(_) | head_request::Request::JoinJob(_)) => {
                    HeadEffect::AskForJob {
                        connection,
                        correlation,
                        request,
                    }
                }
                _ => HeadEffect::Call {
                    connection,
                    correlation,
                    request,
                },
            });
            return;
        };
        let text = format!("{cause}; call shutdown() and init() again");
        let reply = HeadReply {
            failure: Some(Failure::new(ErrorCode::Unavailable, text)),
            reply: None,
        };
        out.send(connection, FrameKind::HeadReply, correlation, &reply);
    }

    /// The head has what was sent at this time of the lease's clock.
    pub(crate) fn acknowledged(&mut self, sent: Duration) {
        self.metrics.acknowledged();
        self.lease.acknowledged(sent);
    }

    /// Ten times a second: ends this node before the head's patience with it may end.
    pub(crate) fn check_lease(
        &mut self,
        now: Duration,
        head_stall: Option<Duration>,
        view: &ClusterView,
        out: &mut Outbox,
    ) -> Result<(), RayletError> {
        if let Some(messages) = self.outgoing.overrun() {
            let failure = RayletError::Overrun {
                node: self.node.node_id,
                head: self.name.clone(),
                messages,
            };
            return Err(Self::fence(failure, out));
        }
        match self.lease.tick(now, head_stall) {
            Verdict::Ended => Ok(()),
            Verdict::Holds => {
                out.effect(HeadEffect::PublishLease(self.lease.workers_end_at()));
                self.ask_for_stall(now, view, out);
                Ok(())
            }
            Verdict::Fenced { silence } => {
                let failure = RayletError::CutOff {
                    node: self.node.node_id,
                    head: self.name.clone(),
                    seconds: silence.as_secs_f64(),
                };
                Err(Self::fence(failure, out))
            }
        }
    }

    /// This node ends; whoever uses it hears why.
    fn fence(failure: RayletError, out: &mut Outbox) -> RayletError {
        error!(%failure, "this node ends");
        let cause = failure.to_string();
        out.notify(FrameKind::HeadLost, &HeadLost { cause });
        failure
    }

    /// Asks the raylet of the head's node whether the head runs, when it is silent.
    fn ask_for_stall(&mut self, now: Duration, view: &ClusterView, out: &mut Outbox) {
        if let Some(address) = &self.address
            && self.lease.is_to_ask(now)
            && let Some(node) = view.at_address(address)
        {
            self.metrics.asked_about_silence();
            self.lease.ask();
            out.effect(HeadEffect::AskStall {
                node,
                address: address.clone(),
                asked: now,
            });
        }
    }

    /// What the raylet of the head's node says.
    pub(crate) fn stall_answered(&mut self, asked: Duration, answered: Duration, stall: Option<Duration>) {
        self.lease.answered(asked, answered, stall);
    }

    /// WatchActor.
    pub(crate) fn watch_actor(
        &mut self,
        connection: u64,
        message: &WatchActor,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let id = ActorId::from_slice(&message.actor_id)?;
        self.watches.watch(connection, id, out);
        Ok(())
    }

    /// The head told the state of an actor.
    pub(crate) fn actor_update(&mut self, update: ActorUpdate, out: &mut Outbox) {
        match ActorId::from_slice(&update.actor_id) {
            Ok(id) => self.watches.update(id, update, out),
            Err(_) => warn!("the head sent an update of an actor without an id"),
        }
    }

    /// Lists what waits for the head, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_raylet_head_messages_waiting",
            "Messages that the head does not take as fast as they come; there is a limit at which the node ends",
            self.outgoing.waiting() as u64,
        );
        self.metrics.list(into);
    }

    /// A client is gone, and what it watched.
    pub(crate) fn client_left(&mut self, connection: u64, out: &mut Outbox) {
        self.watches.client_left(connection, out);
    }

    /// Whether a second has passed since this was true last.
    pub(crate) fn is_second_over(&mut self, now: Instant) -> bool {
        let is_over = now.duration_since(self.last_second) >= REPORT_INTERVAL;
        if is_over {
            self.last_second = now;
        }
        is_over
    }

    /// Tells the head what is free, when that changed and otherwise once a second.
    pub(crate) fn report(&mut self, report: ResourceReport, now: Instant) {
        self.outgoing.flush();
        if let Some((last, at)) = &self.last_report
            && *last == report
            && now.duration_since(*at) < REPORT_INTERVAL
        {
            return;
        }
        if !self.outgoing.is_calm() {
            // The next tick has a newer one.
            return;
        }
        self.metrics.reported();
        self.send(node_message::Message::Report(report.clone()));
        self.last_report = Some((report, now));
    }
}
