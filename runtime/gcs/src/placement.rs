//! Where an actor goes: a pure choice over the head's view of the nodes.

#[cfg(test)]
mod tests;

use sparkray_common::{NodeId, ResourceSet};

/// What is known of one living node when an actor is placed.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) total: ResourceSet,
    /// As the node reported it, less what was promised to actors since.
    pub(crate) available: ResourceSet,
    /// Leases that wait there.
    pub(crate) queued_leases: u32,
    /// Actors that are there or on their way.
    pub(crate) actors: usize,
}

/// The outcome of [`choose_node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This node has room now.
    Room(NodeId),
    /// No node has room now; this one is the least loaded of those that can have it. Its raylet may ask owners
    /// for idle leases.
    Busy(NodeId),
    /// Every node that can have room has just refused.
    Refused,
    /// No node of the cluster can ever have room.
    Infeasible,
}

/// Chooses a node that has all of `needs`, free or not, for `request`, what will be taken there: the preferred one if it has room, else the least utilized one with room, else
/// the least loaded one whose total is large enough. Nodes in `avoid` have just refused and are left out.
/// Nodes without CPUs, such as the driver's, come last: what asks for nothing should not gather there.
pub(crate) fn choose_node(
    view: &[Candidate],
    request: &ResourceSet,
    needs: &ResourceSet,
    preferred: Option<NodeId>,
    avoid: &[NodeId],
) -> Choice {
    let feasible = || view.iter().filter(|candidate| candidate.total.covers(needs));
    let willing = || feasible().filter(|candidate| !avoid.contains(&candidate.node));
    let with_room = || willing().filter(|candidate| candidate.available.covers(request));

    if let Some(candidate) = with_room().find(|candidate| Some(candidate.node) == preferred) {
        return Choice::Room(candidate.node);
    }
    if let Some(candidate) = with_room().min_by(|left, right| compare(left, right, request)) {
        return Choice::Room(candidate.node);
    }
    if let Some(candidate) = willing().min_by(|left, right| compare(left, right, request)) {
        return Choice::Busy(candidate.node);
    }
    if feasible().next().is_some() {
        Choice::Refused
    } else {
        Choice::Infeasible
    }
}

fn compare(left: &Candidate, right: &Candidate, request: &ResourceSet) -> std::cmp::Ordering {
    let without_cpu = |candidate: &Candidate| candidate.total.get("CPU") <= 0.0;
    let utilization_after = |candidate: &Candidate| {
        let mut available = candidate.available.clone();
        available.subtract(request);
        available.utilization(&candidate.total)
    };
    without_cpu(left)
        .cmp(&without_cpu(right))
        .then_with(|| utilization_after(left).total_cmp(&utilization_after(right)))
        .then_with(|| left.actors.cmp(&right.actors))
        .then_with(|| left.queued_leases.cmp(&right.queued_leases))
        .then_with(|| left.node.cmp(&right.node))
}

/// Names what no node has, for a warning: "CPU: needs 8, the largest node has 4".
pub(crate) fn describe_missing(view: &[Candidate], request: &ResourceSet) -> String {
    if view.is_empty() {
        return "the cluster has no nodes".to_owned();
    }
    let mut missing = Vec::new();
    for (name, needed) in request.to_units() {
        let largest = view
            .iter()
            .map(|candidate| candidate.total.get(&name))
            .fold(0.0, f64::max);
        if largest < needed {
            missing.push(format!("{name}: needs {needed}, the largest node has {largest}"));
        }
    }
    if missing.is_empty() {
        return "no single node has all of it together".to_owned();
    }
    missing.join("; ")
}

/// Resources for people: `{CPU: 1, memory: 2}`.
pub(crate) fn describe(request: &ResourceSet) -> String {
    let units: Vec<_> = request
        .to_units()
        .into_iter()
        .map(|(name, amount)| format!("{name}: {amount}"))
        .collect();
    format!("{{{}}}", units.join(", "))
}
