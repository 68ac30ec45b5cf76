//! Gives waiting placement groups their nodes, in two phases: nodes reserve the bundles, and when all have, they commit.
//!
//! Orders to a node arrive in their order and once, or the node is dead. So a commit needs no answer, and a bundle that is
//! returned is free before the node is asked again.

use std::collections::BTreeMap;

use sparkray_common::{NodeId, PlacementGroupId};
use sparkray_proto::head_message::Message;
use sparkray_proto::{Bundle, Bundles, BundlesPrepared, MessageError, PrepareBundles};
use tracing::{debug, info};

use crate::bundle_placement::{Wanted, choose_nodes};
use crate::change::Change;
use crate::placement::Candidate;
use crate::record::Record;
use crate::tables::group::{GroupPhase, PlacementGroup};

/// Tries all that wait, oldest first.
pub(crate) fn place_waiting(change: &mut Change<'_>) {
    let waiting = change.tables().groups.waiting();
    if waiting.is_empty() {
        return;
    }
    let mut view = change.candidates();
    for id in waiting {
        let Some(group) = change.tables().groups.get(id) else {
            continue;
        };
        let of_index = |index: u32| (index, &group.description.bundles[index as usize]);
        let wanted = Wanted {
            strategy: group.description.strategy,
            bundles: group.homeless().map(of_index).collect(),
            others: group.nodes.iter().flatten().copied().collect(),
        };
        if let Some(bundles) = choose_nodes(&view, &wanted) {
            reserve(change, id, bundles);
            // Without what this one takes.
            view = change.candidates();
        }
    }
}

/// Whether the nodes could have all bundles of a group if nothing else was there.
pub(super) fn could_be_placed(view: &[Candidate], group: &PlacementGroup) -> bool {
    let empty = |candidate: &Candidate| Candidate {
        available: candidate.total.clone(),
        ..candidate.clone()
    };
    let empty: Vec<Candidate> = view.iter().map(empty).collect();
    let description = &group.description;
    let bundles = description.bundles.iter().enumerate();
    let wanted = Wanted {
        strategy: description.strategy,
        bundles: bundles
            .map(|(index, resources)| (index as u32, resources))
            .collect(),
        others: Vec::new(),
    };
    choose_nodes(&empty, &wanted).is_some()
}

fn reserve(change: &mut Change<'_>, id: PlacementGroupId, bundles: Vec<(u32, NodeId)>) {
    change.commit(Record::GroupReserving { group: id, bundles });
    let Some(group) = change.tables().groups.get(id) else {
        return;
    };
    let mut orders = Vec::new();
    for (node, indexes) in by_node(group) {
        let bundle = |index: u32| Bundle {
            index,
            resources: Some((&group.description.bundles[index as usize]).into()),
        };
        let order = PrepareBundles {
            placement_group_id: id.to_vec().into(),
            attempt: group.attempt,
            bundles: indexes.into_iter().map(bundle).collect(),
        };
        orders.push((node, order));
    }
    debug!(placement_group_id = %id, attempt = group.attempt, nodes = orders.len(), "reserving bundles");
    for (node, order) in orders {
        change.effects.send(node, Message::PrepareBundles(order));
    }
}

/// A node has reserved its bundles or has no room. What it says of an earlier attempt counts no more: those bundles were
/// returned.
pub(crate) fn answered(
    change: &mut Change<'_>,
    node: NodeId,
    answer: &BundlesPrepared,
) -> Result<(), MessageError> {
    let id = PlacementGroupId::from_slice(&answer.placement_group_id)?;
    let Some(group) = change.tables().groups.get(id) else {
        return Ok(());
    };
    let is_awaited = matches!(&group.phase, GroupPhase::Reserving { awaited, .. } if awaited.contains(&node));
    if group.attempt != answer.attempt || !is_awaited {
        return Ok(());
    }
    if !answer.prepared {
        debug!(placement_group_id = %id, node_id = %node, "a node has no room for bundles");
        give_back(change, id);
        change.commit(Record::GroupRefused { group: id });
        return Ok(());
    }
    change.commit(Record::BundlesReserved { group: id, node });
    let Some(group) = change.tables().groups.get(id) else {
        return Ok(());
    };
    let is_complete = matches!(&group.phase, GroupPhase::Reserving { awaited, .. } if awaited.is_empty());
    if is_complete {
        info!(placement_group_id = %id, "placement group is created");
        for (node, bundles) in orders(group) {
            change.effects.send(node, Message::CommitBundles(bundles));
        }
        change.commit(Record::GroupCreated { group: id });
    }
    Ok(())
}

/// Returns what nodes were asked to reserve for a group, whether they have or not.
pub(super) fn give_back(change: &mut Change<'_>, id: PlacementGroupId) {
    let Some(group) = change.tables().groups.get(id) else {
        return;
    };
    for (node, bundles) in orders(group) {
        if change.tables().nodes.is_alive(node) {
            change.effects.send(node, Message::ReturnBundles(bundles));
        }
    }
}

fn orders(group: &PlacementGroup) -> Vec<(NodeId, Bundles)> {
    let orders = by_node(group).into_iter().map(|(node, indexes)| {
        let bundles = Bundles {
            placement_group_id: group.description.id.to_vec().into(),
            indexes,
        };
        (node, bundles)
    });
    orders.collect()
}

fn by_node(group: &PlacementGroup) -> BTreeMap<NodeId, Vec<u32>> {
    let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    for (index, node) in group.asked().into_iter().flatten() {
        by_node.entry(*node).or_default().push(*index);
    }
    by_node
}
