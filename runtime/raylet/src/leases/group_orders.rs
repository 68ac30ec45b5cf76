//! What the head orders about the bundles of placement groups. Every order may come again, and then changes nothing more.

use sparkray_common::{BundleId, LeaseId, PlacementGroupId, ResourceSet};
use sparkray_proto::{self as proto, BundlesPrepared, MessageError, PrepareBundles, node_message};
use tracing::{debug, info};

use super::manager::{EndedLease, LeaseState};
use super::part::Leases;
use crate::outbox::{Event, Outbox};

impl Leases {
    /// PrepareBundles.
    pub(crate) fn prepare_bundles(
        &mut self,
        message: &PrepareBundles,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        let group = PlacementGroupId::from_slice(&message.placement_group_id)?;
        let mut bundles = Vec::with_capacity(message.bundles.len());
        for bundle in &message.bundles {
            let resources = bundle
                .resources
                .as_ref()
                .ok_or(MessageError::Missing("resources"))?;
            let id = BundleId {
                group,
                index: bundle.index,
            };
            bundles.push((id, ResourceSet::try_from(resources)?));
        }
        let prepared = self.manager.prepare_bundles(&bundles);
        debug!(placement_group_id = %group, attempt = message.attempt, prepared, "asked to reserve bundles");
        out.tell_head(node_message::Message::BundlesPrepared(BundlesPrepared {
            placement_group_id: group.to_vec().into(),
            attempt: message.attempt,
            prepared,
        }));
        out.schedule();
        Ok(())
    }

    /// CommitBundles.
    pub(crate) fn commit_bundles(
        &mut self,
        message: &proto::Bundles,
        out: &mut Outbox,
    ) -> Result<(), MessageError> {
        for id in ids_of(message)? {
            self.manager.commit_bundle(id);
        }
        out.schedule();
        Ok(())
    }

    /// ReturnBundles. The requests without a worker that ended with them: whoever asked is still to be told.
    pub(crate) fn return_bundles(
        &mut self,
        message: &proto::Bundles,
        out: &mut Outbox,
    ) -> Result<Vec<LeaseId>, MessageError> {
        let mut without_worker = Vec::new();
        for id in ids_of(message)? {
            let ended = self.manager.return_bundle(id);
            without_worker.extend(self.left_bundle(ended, &format!("bundle {id} was returned"), out));
        }
        Ok(without_worker)
    }

    /// A placement group was removed. As for [`Self::return_bundles`].
    pub(crate) fn remove_group(&mut self, group: PlacementGroupId, out: &mut Outbox) -> Vec<LeaseId> {
        self.removed_groups.remember(group);
        let ended = self.manager.remove_group(group);
        if !ended.is_empty() {
            info!(placement_group_id = %group, leases = ended.len(), "ending what ran in a placement group");
        }
        self.left_bundle(ended, &format!("placement group {group} was removed"), out)
    }

    /// Workers that ran in a bundle die with it, as in Ray.
    fn left_bundle(&mut self, ended: Vec<EndedLease>, cause: &str, out: &mut Outbox) -> Vec<LeaseId> {
        let mut without_worker = Vec::new();
        for lease in ended {
            match lease.state {
                LeaseState::Granted(worker) => {
                    self.tell_broken(lease.request, cause, out);
                    out.event(Event::KillWorker { worker });
                }
                LeaseState::Queued | LeaseState::Starting => without_worker.push(lease.request.lease_id),
            }
        }
        out.schedule();
        without_worker
    }
}

fn ids_of(message: &proto::Bundles) -> Result<Vec<BundleId>, MessageError> {
    let group = PlacementGroupId::from_slice(&message.placement_group_id)?;
    let ids = message
        .indexes
        .iter()
        .map(|index| BundleId { group, index: *index });
    Ok(ids.collect())
}
