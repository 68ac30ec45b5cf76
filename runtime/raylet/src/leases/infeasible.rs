//! What the head is told of requests that no node can meet: those that are alike together.

use std::collections::BTreeMap;

use sparkray_common::JobId;
use sparkray_proto::InfeasibleLeases;

use super::manager::{LeaseOwner, LeaseRequest};
use super::part::Leases;
use crate::cluster_view::ClusterView;
use crate::shape::Shape;

/// Kinds of requests that are told; others wait their turn.
const MAX_KINDS: usize = 64;

impl Leases {
    /// Tasks' requests that no node can ever meet, as far as the view tells, and that wait until one joins that can.
    pub(crate) fn infeasible(&self, view: &ClusterView) -> Vec<InfeasibleLeases> {
        let mut kinds: BTreeMap<(JobId, &Shape, &str), u32> = BTreeMap::new();
        for request in self.manager.infeasible(view) {
            if waits_for_a_node(request) {
                let kind = (request.job_id, &request.shape, request.task_name.as_str());
                *kinds.entry(kind).or_insert(0) += 1;
            }
        }
        let messages = kinds
            .into_iter()
            .take(MAX_KINDS)
            .map(|((job, shape, name), count)| InfeasibleLeases {
                job_id: job.to_vec().into(),
                resources: Some((&shape.resources).into()),
                strategy: Some((&shape.strategy).into()),
                task_name: name.to_owned(),
                count,
            });
        messages.collect()
    }
}

/// Of actors the head knows by itself; what is pinned to one node is refused; a bundle may be reserved yet.
fn waits_for_a_node(request: &LeaseRequest) -> bool {
    let shape = &request.shape;
    matches!(request.owner, LeaseOwner::Worker(_))
        && shape.only_node().is_none()
        && shape.strategy.bundle().is_none()
}
