//! The part: its state, its answers, and what its decisions become.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sparkray_common::{ErrorCode, JobId, LeaseId, Metrics, ResourceSet, WorkerId, WorkerKey};
use sparkray_proto::{Failure, FrameKind, LeaseBroken, LeaseWanted, RequestWorkerLeaseReply, location_of};
use sparkray_rpc::Frame;
use tracing::{Span, debug};

use super::manager::{LeaseDecision, LeaseManager, LeaseOwner, LeaseRequest, LeaseState};
use super::metrics::LeaseMetrics;
use super::owners::Owners;
use super::placement::Own;
use super::removed_groups::RemovedGroups;
use crate::cluster_view::ClusterView;
use crate::node_info::NodeInfo;
use crate::outbox::{Event, Outbox};
use crate::shape::Shape;

/// How the answer to a request travels.
#[derive(Debug)]
pub(super) struct LeaseReply {
    pub(super) connection: u64,
    /// Of the request and of its repetitions.
    pub(super) correlations: Vec<u64>,
    /// Until the answer.
    pub(super) _span: Span,
}

/// A lease that has its resources and waits for a worker.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) lease_id: LeaseId,
    pub(crate) job: JobId,
    /// Empty when it does not matter.
    pub(crate) python_version: String,
    pub(crate) worker: WorkerKey,
}

/// The leases of this node.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(super) node: Arc<NodeInfo>,
    pub(super) manager: LeaseManager,
    /// Of owners' requests that were not answered yet. The head asks for actors' leases, and is not answered.
    pub(super) replies: HashMap<LeaseId, LeaseReply>,
    pub(super) owners: Owners,
    pub(super) removed_groups: RemovedGroups,
    pub(super) metrics: LeaseMetrics,
}

impl Leases {
    /// All of `total` is free. `runs_workers`: false on a node without Python, where nothing is ever granted.
    pub(crate) fn new(node: Arc<NodeInfo>, total: ResourceSet, runs_workers: bool) -> Self {
        Self {
            manager: LeaseManager::new(Own::new(&node, total, runs_workers)),
            node,
            replies: HashMap::new(),
            owners: Owners::default(),
            removed_groups: RemovedGroups::default(),
            metrics: LeaseMetrics::default(),
        }
    }

    /// Asks for a lease that only this node may grant, for an actor.
    pub(crate) fn request_for_actor(&mut self, request: LeaseRequest, now: Instant) {
        debug_assert_eq!(request.owner, LeaseOwner::Head);
        if self.manager.request(request, now).is_none() {
            self.metrics.requested();
        }
    }

    /// The lease of an actor ends.
    pub(crate) fn end_for_actor(&mut self, lease_id: LeaseId) {
        self.manager.end(lease_id);
    }

    /// Decides on waiting requests. Those that got resources are [`Self::waiting`] then.
    pub(crate) fn decide(
        &mut self,
        view: &mut ClusterView,
        view_changed: bool,
        now: Instant,
        out: &mut Outbox,
    ) {
        for decision in self.manager.schedule(view, view_changed, now) {
            match decision {
                // Found by whoever asks for `waiting`, together with those that waited for a worker before.
                LeaseDecision::NeedsWorker(_) => {}
                LeaseDecision::Spill(request, node) => {
                    let address = view
                        .get(node)
                        .map(|entry| entry.address.clone())
                        .unwrap_or_default();
                    self.metrics.spilled();
                    debug!(lease_id = %request.lease_id, node_id = %node, "passing a lease request on");
                    let reply = RequestWorkerLeaseReply {
                        spillback: Some(location_of(node, &address)),
                        ..Default::default()
                    };
                    self.answer(request.lease_id, &reply, out);
                }
                LeaseDecision::Wanted(lease_id, owner) => {
                    let message = LeaseWanted {
                        lease_id: lease_id.to_vec().into(),
                    };
                    self.tell_owner(owner, FrameKind::LeaseWanted, &message, out);
                }
            }
        }
    }

    /// Leases that have their resources and wait for a worker, oldest first.
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        let starting = self.manager.starting().into_iter();
        let requests = starting.filter_map(|lease_id| self.manager.request_of(lease_id));
        requests
            .map(|request| Waiting {
                lease_id: request.lease_id,
                job: request.job_id,
                python_version: request.python_version.clone(),
                worker: request.worker.clone(),
            })
            .collect()
    }

    /// A worker was found for a lease that waits for one.
    pub(crate) fn assign_worker(&mut self, lease_id: LeaseId, worker: WorkerId, now: Instant) {
        if self.manager.assign_worker(lease_id, worker)
            && let Some(asked_at) = self.manager.asked_at(lease_id)
        {
            self.metrics.granted(now.saturating_duration_since(asked_at));
        }
    }

    /// Tells the owner of a lease which worker it has.
    pub(crate) fn grant(&mut self, lease_id: LeaseId, worker: WorkerId, pid: u32, out: &mut Outbox) {
        debug!(%lease_id, worker_id = %worker, "granted worker lease");
        let reply = self.grant_message(worker, pid);
        self.answer(lease_id, &reply, out);
    }

    pub(super) fn grant_message(&self, worker: WorkerId, pid: u32) -> RequestWorkerLeaseReply {
        RequestWorkerLeaseReply {
            failure: None,
            worker: Some((&self.node.address_of(worker)).into()),
            spillback: None,
            worker_pid: pid,
        }
    }

    /// Ends a request with a failure.
    pub(crate) fn refuse(&mut self, lease_id: LeaseId, failure: Failure, out: &mut Outbox) {
        self.metrics.refused();
        self.fail(lease_id, failure, out);
    }

    /// Ends a request and tells its owner why.
    pub(super) fn fail(&mut self, lease_id: LeaseId, failure: Failure, out: &mut Outbox) {
        self.manager.end(lease_id);
        let reply = RequestWorkerLeaseReply {
            failure: Some(failure),
            ..Default::default()
        };
        self.answer(lease_id, &reply, out);
    }

    fn answer(&mut self, lease_id: LeaseId, reply: &RequestWorkerLeaseReply, out: &mut Outbox) {
        let Some(waiting) = self.replies.remove(&lease_id) else {
            return;
        };
        for correlation in waiting.correlations {
            out.send(
                waiting.connection,
                FrameKind::RequestWorkerLeaseReply,
                correlation,
                reply,
            );
        }
    }

    /// Tells an owner, if it can be reached.
    fn tell_owner<M: prost::Message>(
        &self,
        owner: LeaseOwner,
        kind: FrameKind,
        message: &M,
        out: &mut Outbox,
    ) {
        let LeaseOwner::Worker(worker) = owner else { return };
        match self.owners.connection(worker) {
            Some(connection) => out.send(connection, kind, 0, message),
            None => out.event(Event::SendToProcess {
                worker,
                frame: Frame::new(kind, 0, message),
            }),
        }
    }

    /// A worker is gone: its lease ends, and the owner hears why.
    pub(crate) fn worker_ended(&mut self, worker: WorkerId, cause: &str, out: &mut Outbox) {
        let lease_id = self.manager.lease_of_worker(worker);
        let Some(ended) = lease_id.and_then(|lease_id| self.manager.end(lease_id)) else {
            return;
        };
        debug_assert_eq!(ended.state, LeaseState::Granted(worker));
        self.tell_broken(ended.request, cause, out);
    }

    /// A lease has ended that had a worker: the owner hears why.
    pub(super) fn tell_broken(&mut self, request: LeaseRequest, cause: &str, out: &mut Outbox) {
        self.metrics.broken();
        self.replies.remove(&request.lease_id);
        let message = LeaseBroken {
            lease_id: request.lease_id.to_vec().into(),
            cause: cause.to_owned(),
        };
        self.tell_owner(request.owner, FrameKind::LeaseBroken, &message, out);
        if let LeaseOwner::Worker(owner) = request.owner
            && !self.manager.holds_any(request.owner)
        {
            self.owners.holds_nothing(owner);
        }
    }

    /// Once the head is gone no node joins any more that could meet what none can meet now: requests that are to be
    /// refused, with the reason.
    pub(crate) fn infeasible_without_head(&self, view: &ClusterView, cause: &str) -> Vec<(LeaseId, Failure)> {
        let found = self.manager.infeasible(view).into_iter();
        let refused = found.map(|request| {
            let missing = self.manager.missing(view, &request.shape);
            let text = format!(
                "no node can meet the resources of a task ({missing}), and none joins any more, because the head of the \
                 cluster is gone ({cause}): call shutdown() and init() again"
            );
            (request.lease_id, Failure::new(ErrorCode::Unavailable, text))
        });
        refused.collect()
    }

    /// Once a second: requests for one node only that cannot meet them are refused, for that node does not come again.
    pub(crate) fn refuse_pinned_in_vain(&mut self, view: &ClusterView, out: &mut Outbox) {
        for request in self.manager.pinned_in_vain(view) {
            let Some(node) = request.shape.only_node() else {
                continue;
            };
            let missing = self.manager.missing(view, &request.shape);
            let text = format!(
                "a task cannot be scheduled: node {node}, which its scheduling_strategy names, is dead, unknown or too \
                 small ({missing}); name a node of nodes() that is alive, or use soft=True"
            );
            self.refuse(request.lease_id, Failure::new(ErrorCode::Infeasible, text), out);
        }
    }

    /// Whether this node can never meet a request.
    pub(crate) fn is_infeasible(&self, shape: &Shape) -> bool {
        self.manager.is_infeasible(shape)
    }

    /// Whether a request still waits for resources.
    pub(crate) fn is_queued(&self, lease_id: LeaseId) -> bool {
        self.manager.state(lease_id) == Some(LeaseState::Queued)
    }

    /// Whether there is a better place now for what this node cannot take at once.
    pub(crate) fn may_go_on(&self, shape: &Shape, view: &ClusterView) -> bool {
        self.manager.may_go_on(shape, view)
    }

    /// Whether a worker serves a process that asked for it; no verdict has ended that process yet.
    pub(crate) fn serves_an_owner(&self, worker: WorkerId) -> bool {
        self.manager.serves_an_owner(worker)
    }

    /// What this node has.
    pub(crate) fn total(&self) -> &ResourceSet {
        self.manager.total()
    }

    /// What is free.
    pub(crate) fn available(&self) -> &ResourceSet {
        self.manager.available()
    }

    /// Requests that wait for resources.
    pub(crate) fn queued_count(&self) -> usize {
        self.manager.queued_count()
    }

    /// Lists the leases that there are, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        into.gauges(
            "ray_scheduler_leases",
            "Leases that wait for resources, that wait for a worker, and that have one",
            "State",
            &[
                ("Queued", self.manager.queued_count() as u64),
                ("Starting", self.manager.starting().len() as u64),
                ("Granted", self.manager.granted_count() as u64),
            ],
        );
        self.metrics.list(into);
    }
}
