//! The bundles of placement groups that this node holds. Pure.
//!
//! Invariant: a bundle is prepared (its amounts are reserved), or committed (they are offered under the bundle's names), or
//! not here.

use std::collections::BTreeMap;

use sparkray_common::{BundleId, PlacementGroupId, ResourceSet};

/// One bundle.
#[derive(Debug)]
pub(super) struct Bundle {
    id: BundleId,
    amounts: ResourceSet,
    committed: bool,
}

impl Bundle {
    /// What was reserved for it.
    pub(super) fn amounts(&self) -> &ResourceSet {
        &self.amounts
    }

    /// What the node has more because of it.
    pub(super) fn offered(&self) -> Option<ResourceSet> {
        self.committed.then(|| self.id.node_resources(&self.amounts))
    }
}

/// All bundles of this node.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    held: BTreeMap<BundleId, Bundle>,
}

impl Bundles {
    pub(super) fn holds(&self, id: BundleId) -> bool {
        self.held.contains_key(&id)
    }

    /// Whether any bundle of the group is here.
    pub(super) fn holds_any(&self, group: PlacementGroupId) -> bool {
        self.held.keys().any(|id| id.group == group)
    }

    pub(super) fn of_group(&self, group: PlacementGroupId) -> Vec<BundleId> {
        let of_group = self.held.keys().filter(|id| id.group == group);
        of_group.copied().collect()
    }

    /// The amounts are reserved.
    pub(super) fn prepare(&mut self, id: BundleId, amounts: ResourceSet) {
        let bundle = Bundle {
            id,
            amounts,
            committed: false,
        };
        self.held.insert(id, bundle);
    }

    /// What the node has more from now on; `None`: the bundle is not here, or was committed before.
    pub(super) fn commit(&mut self, id: BundleId) -> Option<ResourceSet> {
        let bundle = self.held.get_mut(&id).filter(|bundle| !bundle.committed)?;
        bundle.committed = true;
        bundle.offered()
    }

    /// The bundle is here no more.
    pub(super) fn take(&mut self, id: BundleId) -> Option<Bundle> {
        self.held.remove(&id)
    }

    /// What all of them reserve.
    pub(super) fn reserved(&self) -> ResourceSet {
        let mut reserved = ResourceSet::default();
        for bundle in self.held.values() {
            reserved.add(&bundle.amounts);
        }
        reserved
    }
}
