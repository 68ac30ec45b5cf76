//! A node reports what it has. That is no record: it is said again twice a second, and nobody acts on an old one.

use sparkray_common::{JobId, NodeId, ResourceSet};
use sparkray_proto::{InfeasibleLeases, MessageError, ResourceReport, Resources, SchedulingStrategy};

use super::place_actors;
use crate::change::Change;
use crate::live::{Kind, Report, Shape, Waiting};

/// Kinds of requests of one node that no node can meet; others are not looked at while there are so many.
const MAX_INFEASIBLE: usize = 64;

/// Takes over what a living node reports.
pub(crate) fn report(
    change: &mut Change<'_>,
    node: NodeId,
    report: ResourceReport,
) -> Result<(), MessageError> {
    let total = report.total.as_ref().map(ResourceSet::try_from).transpose()?;
    let report = Report {
        total,
        available: read_amounts(report.available.as_ref())?,
        queued_leases: report.queued_leases,
        store: report.store,
        infeasible: read_infeasible(&report.infeasible)?,
    };
    change.live.nodes.report(change.now(), node, report);
    place_actors::place_pending(change);
    Ok(())
}

fn read_infeasible(messages: &[InfeasibleLeases]) -> Result<Vec<Waiting>, MessageError> {
    let mut waiting = Vec::new();
    for message in messages.iter().take(MAX_INFEASIBLE) {
        waiting.push(Waiting {
            job: JobId::from_slice(&message.job_id)?,
            shape: Shape {
                needs: read_amounts(message.resources.as_ref())?,
                strategy: SchedulingStrategy::read(message.strategy.as_ref())?,
                cause: String::new(),
            },
            kind: Kind::Task,
            name: message.task_name.clone(),
            count: message.count,
        });
    }
    Ok(waiting)
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
