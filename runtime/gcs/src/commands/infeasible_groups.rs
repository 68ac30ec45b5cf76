//! What keeps placement groups from ever being placed on the nodes that there are.

use sparkray_common::{ResourceSet, SchedulingStrategy};
use sparkray_proto::PlacementStrategy;

use super::place_groups::could_be_placed;
use crate::group::GroupDescription;
use crate::live::{Kind, Shape, Waiting};
use crate::placement::Candidate;
use crate::tables::Tables;

/// Groups that are looked at, oldest first: the head does nothing else meanwhile.
const MAX_GROUPS: usize = 64;
/// Of an id, for a group without a name.
const ID_DIGITS: usize = 8;

/// Groups that the nodes could not have even if nothing else was there.
pub(super) fn waiting_in_vain(tables: &Tables, view: &[Candidate]) -> Vec<Waiting> {
    let waiting = tables.groups.waiting().into_iter().take(MAX_GROUPS);
    let groups = waiting.filter_map(|id| tables.groups.get(id));
    groups
        .filter(|group| !could_be_placed(view, group))
        .map(|group| waiting_group(&group.description, view))
        .collect()
}

fn waiting_group(group: &GroupDescription, view: &[Candidate]) -> Waiting {
    let (needs, cause) = obstacle(group, view);
    Waiting {
        job: group.job,
        shape: Shape {
            needs,
            strategy: SchedulingStrategy::Default,
            cause,
        },
        kind: Kind::PlacementGroup,
        name: if group.name.is_empty() {
            group.id.to_string()[..ID_DIGITS].to_owned()
        } else {
            format!("'{}'", group.name)
        },
        count: 1,
    }
}

/// What no node has, or all that the group needs and why the nodes cannot give it.
fn obstacle(group: &GroupDescription, view: &[Candidate]) -> (ResourceSet, String) {
    let is_on_no_node = |needs: &ResourceSet| !view.iter().any(|candidate| candidate.total.covers(needs));
    if let Some(bundle) = group.bundles.iter().find(|bundle| is_on_no_node(bundle)) {
        return (bundle.clone(), String::new());
    }
    let mut all = ResourceSet::default();
    for bundle in &group.bundles {
        all.add(bundle);
    }
    let count = group.bundles.len();
    let cause = match group.strategy {
        // No node has all of it.
        PlacementStrategy::StrictPack => String::new(),
        PlacementStrategy::StrictSpread => format!(
            "each of its {count} bundles goes to a node of its own (STRICT_SPREAD), and there are not as many nodes with \
             room for one"
        ),
        PlacementStrategy::Pack | PlacementStrategy::Spread => {
            format!("its {count} bundles have no room on all nodes together, even if nothing else was there")
        }
    };
    (all, cause)
}
