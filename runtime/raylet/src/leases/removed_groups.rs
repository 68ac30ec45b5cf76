//! Placement groups that were removed: who asks for one afterwards (a task that is tried again, a request that was under
//! way) is refused, and does not wait for what never comes. Pure.

use std::collections::{HashSet, VecDeque};

use sparkray_common::{PlacementGroupId, ResourceSet, group_named_in};

/// Groups that are remembered; the oldest ones are forgotten. Requests that are late by more wait, and are named as infeasible.
const REMEMBERED: usize = 1024;

/// The groups that were removed last.
#[derive(Debug, Default)]
pub(super) struct RemovedGroups {
    known: HashSet<PlacementGroupId>,
    /// Oldest first.
    order: VecDeque<PlacementGroupId>,
}

impl RemovedGroups {
    /// A group was removed.
    pub(super) fn remember(&mut self, group: PlacementGroupId) {
        if !self.known.insert(group) {
            return;
        }
        self.order.push_back(group);
        if self.order.len() > REMEMBERED
            && let Some(forgotten) = self.order.pop_front()
        {
            self.known.remove(&forgotten);
        }
    }

    /// The removed group that a request asks for.
    pub(super) fn named_in(&self, request: &ResourceSet) -> Option<PlacementGroupId> {
        if self.known.is_empty() {
            return None;
        }
        group_named_in(request).filter(|group| self.known.contains(group))
    }
}

#[cfg(test)]
mod tests {
    use sparkray_common::group_request;

    use super::*;

    #[test]
    fn the_groups_that_were_removed_last_are_known() {
        let mut removed = RemovedGroups::default();
        let groups: Vec<PlacementGroupId> = (0..=REMEMBERED).map(|_| PlacementGroupId::random()).collect();
        let request = |index: usize| group_request(groups[index], &ResourceSet::default());
        assert_eq!(removed.named_in(&request(0)), None);
        for group in &groups {
            removed.remember(*group);
            removed.remember(*group);
        }
        assert_eq!(removed.named_in(&request(0)), None, "the oldest one is forgotten");
        assert_eq!(removed.named_in(&request(1)), Some(groups[1]));
        assert_eq!(removed.named_in(&ResourceSet::default()), None);
    }
}
