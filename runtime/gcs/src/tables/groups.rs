//! The table of placement groups.

use std::collections::{BTreeMap, VecDeque};

use sparkray_common::{NodeId, PlacementGroupId};

use super::group::{GroupPhase, PlacementGroup};
use crate::group::GroupDescription;

/// Removed groups that are still known; older ones are forgotten.
const KEPT_REMOVED_GROUPS: usize = 1024;

/// All placement groups.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct GroupTable {
    groups: BTreeMap<PlacementGroupId, PlacementGroup>,
    /// Those that wait for nodes, by their tickets: oldest first.
    waiting: BTreeMap<u64, PlacementGroupId>,
    last_ticket: u64,
    /// Oldest first.
    removed: VecDeque<PlacementGroupId>,
}

impl GroupTable {
    /// A group, also a removed one.
    pub(crate) fn get(&self, id: PlacementGroupId) -> Option<&PlacementGroup> {
        self.groups.get(&id)
    }

    /// All groups, removed ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PlacementGroup> {
        self.groups.values()
    }

    /// Those that are not removed.
    pub(crate) fn living(&self) -> impl Iterator<Item = &PlacementGroup> {
        self.all().filter(|group| group.phase != GroupPhase::Removed)
    }

    /// Who has a name.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<&PlacementGroup> {
        self.living().find(|group| {
            let description = &group.description;
            description.name == name && description.namespace == namespace
        })
    }

    /// Those that wait for nodes, oldest first.
    pub(crate) fn waiting(&self) -> Vec<PlacementGroupId> {
        self.waiting.values().copied().collect()
    }

    /// Those whose present attempt the death of this node would end.
    pub(crate) fn reserving_with(&self, node: NodeId) -> Vec<PlacementGroupId> {
        let hit = self.all().filter(|group| {
            let asked = group.asked();
            let is_asked = asked.is_some_and(|asked| asked.values().any(|asked| *asked == node));
            is_asked || (asked.is_some() && group.nodes.contains(&Some(node)))
        });
        hit.map(|group| group.description.id).collect()
    }

    pub(super) fn register(&mut self, description: &GroupDescription) {
        self.groups
            .insert(description.id, PlacementGroup::new(description));
        self.wait(description.id);
    }

    pub(super) fn reserve(&mut self, id: PlacementGroupId, bundles: &[(u32, NodeId)]) {
        self.waiting.retain(|_, waiting| *waiting != id);
        if let Some(group) = self.groups.get_mut(&id) {
            group.attempt += 1;
            group.phase = GroupPhase::Reserving {
                asked: bundles.iter().copied().collect(),
                awaited: bundles.iter().map(|(_, node)| *node).collect(),
            };
        }
    }

    pub(super) fn reserved(&mut self, id: PlacementGroupId, node: NodeId) {
        if let Some(group) = self.groups.get_mut(&id)
            && let GroupPhase::Reserving { awaited, .. } = &mut group.phase
        {
            awaited.remove(&node);
        }
    }

    pub(super) fn refuse(&mut self, id: PlacementGroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.phase = GroupPhase::Waiting;
            self.wait(id);
        }
    }

    pub(super) fn create(&mut self, id: PlacementGroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let GroupPhase::Reserving { asked, .. } = std::mem::replace(&mut group.phase, GroupPhase::Created)
        {
            for (index, node) in asked {
                group.nodes[index as usize] = Some(node);
            }
        }
        group.was_created = true;
    }

    pub(super) fn remove(&mut self, id: PlacementGroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.phase = GroupPhase::Removed;
        group.nodes.fill(None);
        self.waiting.retain(|_, waiting| *waiting != id);
        self.removed.push_back(id);
        if self.removed.len() > KEPT_REMOVED_GROUPS
            && let Some(forgotten) = self.removed.pop_front()
        {
            self.groups.remove(&forgotten);
        }
    }

    /// Bundles on a dead node are on none, and an attempt that counts on the node, or is short of these bundles, is over.
    pub(super) fn node_died(&mut self, node: NodeId) {
        let mut again = Vec::new();
        for (id, group) in &mut self.groups {
            let mut is_hit = group
                .asked()
                .is_some_and(|asked| asked.values().any(|asked| *asked == node));
            for place in &mut group.nodes {
                if *place == Some(node) {
                    *place = None;
                    is_hit = true;
                }
            }
            if is_hit {
                if group.phase != GroupPhase::Waiting {
                    again.push(*id);
                }
                group.phase = GroupPhase::Waiting;
            }
        }
        for id in again {
            self.wait(id);
        }
    }

    fn wait(&mut self, id: PlacementGroupId) {
        self.last_ticket += 1;
        self.waiting.insert(self.last_ticket, id);
    }
}
