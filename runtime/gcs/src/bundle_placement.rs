//! Where the bundles of a placement group go: a pure choice over the head's view of the nodes, all bundles or none.

#[cfg(test)]
mod tests;

use std::cmp::{Ordering, Reverse};

use sparkray_common::{NodeId, ResourceSet};
use sparkray_proto::PlacementStrategy;

use crate::placement::Candidate;

/// So many of the next bundles of a packed group are looked at to find the node where most of them fit: the head does
/// nothing else meanwhile.
const LOOKAHEAD: usize = 16;

/// The bundles of one group that need a node.
pub(crate) struct Wanted<'a> {
    pub(crate) strategy: PlacementStrategy,
    /// Their places in the group's list, and what they hold.
    pub(crate) bundles: Vec<(u32, &'a ResourceSet)>,
    /// Nodes of the group's other bundles, once for each.
    pub(crate) others: Vec<NodeId>,
}

/// A node for each bundle, such that all have room at once; `None`: the nodes have none now. The largest bundle chooses
/// first.
pub(crate) fn choose_nodes(view: &[Candidate], wanted: &Wanted<'_>) -> Option<Vec<(u32, NodeId)>> {
    // Most groups that wait do so because the cluster is full: that is to be seen without trying each bundle.
    let free = sum(view.iter().map(|candidate| &candidate.available));
    if !free.covers(&sum(wanted.bundles.iter().map(|(_, resources)| *resources))) {
        return None;
    }
    let mut bundles = wanted.bundles.clone();
    bundles.sort_by(|(_, left), (_, right)| compare_sizes(right, left));
    let mut view = view.to_vec();
    match wanted.strategy {
        PlacementStrategy::StrictPack => on_one_node(&view, &bundles, &wanted.others),
        PlacementStrategy::Pack => {
            on_one_node(&view, &bundles, &wanted.others).or_else(|| one_by_one(&mut view, &bundles, wanted))
        }
        PlacementStrategy::Spread | PlacementStrategy::StrictSpread => {
            one_by_one(&mut view, &bundles, wanted)
        }
    }
}

/// All on one node, which is that of the others.
fn on_one_node(
    view: &[Candidate],
    bundles: &[(u32, &ResourceSet)],
    others: &[NodeId],
) -> Option<Vec<(u32, NodeId)>> {
    let together = sum(bundles.iter().map(|(_, resources)| *resources));
    let fitting = view.iter().filter(|candidate| {
        candidate.available.covers(&together) && others.iter().all(|other| *other == candidate.node)
    });
    let chosen = fitting.min_by(|left, right| compare_use(left, right, &together))?;
    Some(bundles.iter().map(|(index, _)| (*index, chosen.node)).collect())
}

fn one_by_one(
    view: &mut [Candidate],
    bundles: &[(u32, &ResourceSet)],
    wanted: &Wanted<'_>,
) -> Option<Vec<(u32, NodeId)>> {
    let mut taken = wanted.others.clone();
    let mut chosen = Vec::with_capacity(bundles.len());
    for (position, (index, resources)) in bundles.iter().enumerate() {
        let count = |node: NodeId| taken.iter().filter(|other| **other == node).count();
        let fitting = view.iter_mut().filter(|candidate| {
            let is_free = wanted.strategy != PlacementStrategy::StrictSpread || count(candidate.node) == 0;
            is_free && candidate.available.covers(resources)
        });
        let best = fitting.min_by(|left, right| {
            let by_group = if wanted.strategy == PlacementStrategy::Pack {
                let room = |candidate: &Candidate| Reverse(how_many_fit(candidate, &bundles[position..]));
                let is_new = |candidate: &Candidate| count(candidate.node) == 0;
                (is_new(left), room(left)).cmp(&(is_new(right), room(right)))
            } else {
                count(left.node).cmp(&count(right.node))
            };
            by_group.then_with(|| compare_use(left, right, resources))
        })?;
        best.available.subtract(resources);
        taken.push(best.node);
        chosen.push((*index, best.node));
    }
    Some(chosen)
}

fn sum<'a>(amounts: impl Iterator<Item = &'a ResourceSet>) -> ResourceSet {
    let mut sum = ResourceSet::default();
    for resources in amounts {
        sum.add(resources);
    }
    sum
}

/// How many of the next bundles the node could have together.
fn how_many_fit(candidate: &Candidate, bundles: &[(u32, &ResourceSet)]) -> usize {
    let mut available = candidate.available.clone();
    let mut count = 0;
    for (_, resources) in bundles.iter().take(LOOKAHEAD) {
        if available.covers(resources) {
            available.subtract(resources);
            count += 1;
        }
    }
    count
}

/// The less utilized node first, once it has this too.
fn compare_use(left: &Candidate, right: &Candidate, more: &ResourceSet) -> Ordering {
    let utilization = |candidate: &Candidate| {
        let mut available = candidate.available.clone();
        available.subtract(more);
        available.utilization(&candidate.total)
    };
    utilization(left)
        .total_cmp(&utilization(right))
        .then_with(|| left.node.cmp(&right.node))
}

/// Bundles with more kinds of resources are harder to place, then larger ones.
fn compare_sizes(left: &ResourceSet, right: &ResourceSet) -> Ordering {
    let size = |resources: &ResourceSet| {
        let units = resources.to_units();
        (units.len(), units.values().sum::<f64>())
    };
    let ((left_kinds, left_sum), (right_kinds, right_sum)) = (size(left), size(right));
    left_kinds
        .cmp(&right_kinds)
        .then_with(|| left_sum.total_cmp(&right_sum))
}
