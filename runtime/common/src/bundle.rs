//! Bundles of placement groups, and the resources that a node has more while it holds one. The names are Ray's.
//!
//! A node that holds a bundle offers its amounts under two names each: one of the bundle (`CPU_group_0_<group>`), one of all
//! bundles of the group on this node (`CPU_group_<group>`), for those who take any. A marker (`bundle_group_...`) is there
//! even for who asks for no resource.

use crate::resources::GROUP_INFIX;
use crate::{PlacementGroupId, ResourceSet};

const MARKER: &str = "bundle";
/// Of each marker a bundle has so much; whoever runs in it takes [`MARKER_TAKEN`].
const MARKER_UNITS: f64 = 1000.0;
const MARKER_TAKEN: f64 = 0.001;

/// One bundle of a placement group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleId {
    /// The group.
    pub group: PlacementGroupId,
    /// Its place in the group's list, from 0.
    pub index: u32,
}

impl BundleId {
    /// What a node has more while it holds this bundle, of which `amounts` were reserved.
    pub fn node_resources(&self, amounts: &ResourceSet) -> ResourceSet {
        let mut amounts = amounts.clone();
        amounts.add(&marker(MARKER_UNITS));
        self.named(&amounts)
    }

    /// What to ask for, so that a request for `amounts` is met by this bundle alone.
    pub fn request(&self, amounts: &ResourceSet) -> ResourceSet {
        let mut amounts = amounts.clone();
        amounts.add(&marker(MARKER_TAKEN));
        self.named(&amounts)
    }

    /// Whether a request can only be met by this bundle.
    pub fn is_named_in(&self, request: &ResourceSet) -> bool {
        request.get(&self.name(MARKER)) > 0.0
    }

    fn named(&self, amounts: &ResourceSet) -> ResourceSet {
        let mut named = amounts.renamed(|name| self.name(name));
        named.add(&amounts.renamed(|name| group_name(self.group, name)));
        named
    }

    fn name(&self, resource: &str) -> String {
        format!("{resource}{GROUP_INFIX}{}_{}", self.index, self.group)
    }
}

impl std::fmt::Display for BundleId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of placement group {}", self.index, self.group)
    }
}

/// Which bundles of a placement group a task or an actor may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleChoice {
    /// The group.
    pub group: PlacementGroupId,
    /// One bundle; `None`: any of them.
    pub index: Option<u32>,
    /// What is called from there goes into the group too, unless it says where it wants to be.
    pub captures_child_tasks: bool,
}

impl BundleChoice {
    /// What to ask for, so that a request for `amounts` is met in such a bundle alone.
    pub fn request(&self, amounts: &ResourceSet) -> ResourceSet {
        match self.index {
            Some(index) => BundleId {
                group: self.group,
                index,
            }
            .request(amounts),
            None => group_request(self.group, amounts),
        }
    }
}

impl std::fmt::Display for BundleChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(formatter, "bundle {index} of placement group {}", self.group),
            None => write!(formatter, "any bundle of placement group {}", self.group),
        }
    }
}

/// What to ask for, so that a request for `amounts` is met by any bundle of the group.
pub fn group_request(group: PlacementGroupId, amounts: &ResourceSet) -> ResourceSet {
    let mut amounts = amounts.clone();
    amounts.add(&marker(MARKER_TAKEN));
    amounts.renamed(|name| group_name(group, name))
}

/// Whether a request can only be met by bundles of this group.
pub fn is_group_named_in(group: PlacementGroupId, request: &ResourceSet) -> bool {
    request.get(&group_name(group, MARKER)) > 0.0
}

/// The placement group that a request can only be met by.
pub fn group_named_in(request: &ResourceSet) -> Option<PlacementGroupId> {
    let prefix = format!("{MARKER}{GROUP_INFIX}");
    let units = request.to_units();
    let mut groups = units.keys().filter_map(|name| name.strip_prefix(&prefix));
    groups.find_map(|group| PlacementGroupId::from_hex(group).ok())
}

fn group_name(group: PlacementGroupId, resource: &str) -> String {
    format!("{resource}{GROUP_INFIX}{group}")
}

fn marker(units: f64) -> ResourceSet {
    ResourceSet::from_units([(MARKER.to_owned(), units)]).expect("the marker's amounts are above 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(amount: f64) -> ResourceSet {
        ResourceSet::from_units([("CPU".to_owned(), amount)]).unwrap()
    }

    fn bundle(group: u8, index: u32) -> BundleId {
        BundleId {
            group: PlacementGroupId::from_array([group; 16]),
            index,
        }
    }

    #[test]
    fn the_names_are_rays() {
        let id = bundle(1, 2);
        let hex = "01".repeat(16);
        let units = id.node_resources(&cpus(3.0)).to_units();
        let expected = [
            (format!("CPU_group_2_{hex}"), 3.0),
            (format!("CPU_group_{hex}"), 3.0),
            (format!("bundle_group_2_{hex}"), 1000.0),
            (format!("bundle_group_{hex}"), 1000.0),
        ];
        assert_eq!(units, expected.into());
    }

    #[test]
    fn a_request_is_met_by_its_bundle_and_by_no_other() {
        let (first, second) = (bundle(1, 0), bundle(1, 1));
        let request = first.request(&cpus(1.0));
        assert!(first.node_resources(&cpus(1.0)).covers(&request));
        assert!(!second.node_resources(&cpus(1.0)).covers(&request));
        let any = group_request(first.group, &cpus(1.0));
        assert!(first.node_resources(&cpus(1.0)).covers(&any));
        assert!(second.node_resources(&cpus(1.0)).covers(&any));
        assert!(!bundle(2, 0).node_resources(&cpus(1.0)).covers(&any));
    }

    #[test]
    fn who_asks_for_nothing_still_names_the_bundle() {
        let id = bundle(1, 0);
        let request = id.request(&ResourceSet::default());
        assert!(id.is_named_in(&request) && is_group_named_in(id.group, &request));
        assert!(!bundle(1, 1).is_named_in(&request));
        assert_eq!(group_named_in(&request), Some(id.group));
        assert_eq!(group_named_in(&cpus(1.0)), None);
        let any = group_request(id.group, &ResourceSet::default());
        assert_eq!(group_named_in(&any), Some(id.group));
        assert!(!id.is_named_in(&any) && is_group_named_in(id.group, &any));
    }
}
