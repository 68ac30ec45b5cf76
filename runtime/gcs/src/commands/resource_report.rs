//! A node reports what it has. That is no record: it is said again twice a second, and nobody acts on an old one.

use sparkray_common::{NodeId, ResourceSet};
use sparkray_proto::{MessageError, ResourceReport, Resources};

use super::place_actors;
use crate::change::Change;
use crate::live::Report;

/// Takes over what a living node reports.
pub(crate) fn report(
    change: &mut Change<'_>,
    node: NodeId,
    report: ResourceReport,
) -> Result<(), MessageError> {
    let report = Report {
        available: read_amounts(report.available.as_ref())?,
        queued_leases: report.queued_leases,
        store: report.store,
    };
    change.live.nodes.report(change.now(), node, report);
    place_actors::place_pending(change);
    Ok(())
}

/// Amounts from a message; those below 0, of a node whose blocked workers run again, count as 0.
pub(super) fn read_amounts(message: Option<&Resources>) -> Result<ResourceSet, MessageError> {
    let Some(message) = message else {
        return Ok(ResourceSet::default());
    };
    let units = message
        .units
        .iter()
        .map(|(name, amount)| (name.clone(), amount.max(0.0)));
    Ok(ResourceSet::from_units(units)?)
}
