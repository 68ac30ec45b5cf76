//! One placement group: what it is, where its bundles are, and how it looks to others.

use std::collections::{BTreeMap, BTreeSet};

use sparkray_common::NodeId;
use sparkray_proto::{BundleRecord, PlacementGroupRecord, PlacementGroupState};

use crate::group::GroupDescription;

/// Where a group is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupPhase {
    /// Some bundles are on no node, and none of them is under way.
    Waiting,
    /// Nodes were asked to reserve those bundles.
    Reserving {
        /// Every bundle that had no node.
        asked: BTreeMap<u32, NodeId>,
        /// Those that have not answered.
        awaited: BTreeSet<NodeId>,
    },
    /// Every bundle is on its node.
    Created,
    /// For good.
    Removed,
}

/// What the head keeps of a group.
#[derive(Debug, PartialEq)]
pub(crate) struct PlacementGroup {
    pub(crate) description: GroupDescription,
    pub(crate) phase: GroupPhase,
    /// Of each bundle that is committed: its node.
    pub(crate) nodes: Vec<Option<NodeId>>,
    /// Times that nodes were asked.
    pub(crate) attempt: u64,
    /// It was complete once.
    pub(super) was_created: bool,
}

impl PlacementGroup {
    pub(super) fn new(description: &GroupDescription) -> Self {
        Self {
            description: description.clone(),
            phase: GroupPhase::Waiting,
            nodes: vec![None; description.bundles.len()],
            attempt: 0,
            was_created: false,
        }
    }

    /// The bundles that nodes were asked to reserve, and have not committed.
    pub(crate) fn asked(&self) -> Option<&BTreeMap<u32, NodeId>> {
        match &self.phase {
            GroupPhase::Reserving { asked, .. } => Some(asked),
            GroupPhase::Waiting | GroupPhase::Created | GroupPhase::Removed => None,
        }
    }

    /// Bundles that are on no node.
    pub(crate) fn homeless(&self) -> impl Iterator<Item = u32> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.is_none())
            .map(|(index, _)| index as u32)
    }

    /// For a reply; what depends on the nodes is missing.
    pub(crate) fn record(&self) -> PlacementGroupRecord {
        let description = &self.description;
        let bundles = description.bundles.iter().zip(&self.nodes);
        PlacementGroupRecord {
            placement_group_id: description.id.to_vec().into(),
            name: description.name.clone(),
            namespace: description.namespace.clone(),
            strategy: description.strategy.into(),
            state: self.state().into(),
            bundles: bundles
                .map(|(resources, node)| BundleRecord {
                    resources: Some(resources.into()),
                    node_id: node.map(|node| node.to_vec()).unwrap_or_default().into(),
                })
                .collect(),
            attempts: self.attempt,
            infeasible: false,
        }
    }

    fn state(&self) -> PlacementGroupState {
        match self.phase {
            GroupPhase::Created => PlacementGroupState::Created,
            GroupPhase::Removed => PlacementGroupState::Removed,
            GroupPhase::Waiting | GroupPhase::Reserving { .. } if self.was_created => {
                PlacementGroupState::Rescheduling
            }
            GroupPhase::Waiting | GroupPhase::Reserving { .. } => PlacementGroupState::Pending,
        }
    }
}
