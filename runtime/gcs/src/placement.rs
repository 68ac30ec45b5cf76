//! Where an actor goes: a pure choice over the head's view of the nodes.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use sparkray_common::{Labels, NodeId, ResourceSet, SchedulingStrategy};

use crate::spec::Demand;

/// What is known of one living node when an actor is placed.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) labels: Arc<Labels>,
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
    /// None will: the only node that may have it is gone, or too small.
    Unschedulable,
}

impl Candidate {
    /// Whether this node can ever have the actor.
    pub(crate) fn can_have(&self, demand: &Demand) -> bool {
        demand.is_met_by(self.node, &self.labels, &self.total)
    }

    fn comes_first(&self, demand: &Demand) -> bool {
        demand.strategy.prefers(self.node, &self.labels)
    }
}

/// Chooses a node that has all of what is needed, free or not: of those that the strategy prefers the least utilized one with
/// room, else of the others, else the least loaded one whose total is large enough. A strategy that names a node waits for it.
/// Nodes in `avoid` have just refused and are left out.
/// Nodes without CPUs, such as the driver's, come last: what asks for nothing should not gather there.
pub(crate) fn choose_node(view: &[Candidate], demand: &Demand, avoid: &[NodeId]) -> Choice {
    let mut feasible: Vec<&Candidate> = view
        .iter()
        .filter(|candidate| candidate.can_have(demand))
        .collect();
    if feasible.is_empty() {
        let names_a_node = matches!(
            demand.strategy,
            SchedulingStrategy::NodeAffinity { soft: false, .. }
        );
        return if names_a_node {
            Choice::Unschedulable
        } else {
            Choice::Infeasible
        };
    }
    if let SchedulingStrategy::NodeAffinity { .. } = demand.strategy
        && feasible.iter().any(|candidate| candidate.comes_first(demand))
    {
        feasible.retain(|candidate| candidate.comes_first(demand));
    }
    let willing = || {
        feasible
            .iter()
            .filter(|candidate| !avoid.contains(&candidate.node))
    };
    let with_room = || willing().filter(|candidate| candidate.available.covers(&demand.held));
    let first = |left: &&&Candidate, right: &&&Candidate| {
        let comes_after = |candidate: &Candidate| !candidate.comes_first(demand);
        comes_after(left)
            .cmp(&comes_after(right))
            .then_with(|| compare(left, right, demand))
    };
    if let Some(candidate) = with_room().min_by(first) {
        return Choice::Room(candidate.node);
    }
    match willing().min_by(first) {
        Some(candidate) => Choice::Busy(candidate.node),
        None => Choice::Refused,
    }
}

fn compare(left: &Candidate, right: &Candidate, demand: &Demand) -> Ordering {
    let without_cpu = |candidate: &Candidate| candidate.total.get("CPU") <= 0.0;
    let utilization_after = |candidate: &Candidate| {
        let mut available = candidate.available.clone();
        available.subtract(&demand.held);
        available.utilization(&candidate.total)
    };
    let by_actors = left.actors.cmp(&right.actors);
    let spread = match demand.strategy {
        SchedulingStrategy::Spread => by_actors,
        _ => Ordering::Equal,
    };
    without_cpu(left)
        .cmp(&without_cpu(right))
        .then(spread)
        .then_with(|| utilization_after(left).total_cmp(&utilization_after(right)))
        .then(by_actors)
        .then_with(|| left.queued_leases.cmp(&right.queued_leases))
        .then_with(|| left.node.cmp(&right.node))
}

/// Names what no node has, for a warning: "CPU: needs 8, the largest node has 4".
pub(crate) fn describe_missing(view: &[Candidate], demand: &Demand) -> String {
    if view.is_empty() {
        return "the cluster has no nodes".to_owned();
    }
    if let SchedulingStrategy::Bundle(choice) = demand.strategy {
        let bundle = choice.request(&ResourceSet::default());
        if !view.iter().any(|candidate| candidate.total.covers(&bundle)) {
            return format!("no node has {choice} yet");
        }
    }
    let mut missing = Vec::new();
    for (name, needed) in demand.needs.to_units() {
        let largest = view
            .iter()
            .map(|candidate| candidate.total.get(&name))
            .fold(0.0, f64::max);
        if largest < needed {
            missing.push(format!("{name}: needs {needed}, the largest node has {largest}"));
        }
    }
    if missing.is_empty() {
        return match &demand.strategy {
            SchedulingStrategy::Default | SchedulingStrategy::Spread | SchedulingStrategy::Bundle(_) => {
                "no single node has all of it together".to_owned()
            }
            strategy => format!("it may only be on {strategy}"),
        };
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
