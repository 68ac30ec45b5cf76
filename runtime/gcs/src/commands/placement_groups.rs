//! Clients create, remove and ask for placement groups.

use sparkray_common::{ErrorCode, JobId, PlacementGroupId, is_group_named_in};
use sparkray_proto::head_message::Message;
use sparkray_proto::{
    CreatePlacementGroup, Failure, GetPlacementGroup, PlacementGroupList, PlacementGroupRecord,
};
use tracing::info;

use super::{jobs, lifecycle, malformed, place_groups};
use crate::change::Change;
use crate::death::Death;
use crate::group::GroupDescription;
use crate::live::Live;
use crate::placement::Candidate;
use crate::record::Record;
use crate::tables::Tables;
use crate::tables::group::{GroupPhase, PlacementGroup};

/// Bundles that one group may have: it is placed as a whole, within one event of the head.
const MAX_BUNDLES: usize = 1000;

/// Takes a new group, whose job runs. The same id again changes nothing.
pub(crate) fn create(change: &mut Change<'_>, request: CreatePlacementGroup) -> Result<(), Failure> {
    let job = JobId::from_slice(&request.job_id).map_err(malformed)?;
    let namespace = jobs::namespace_of(change.tables(), job)?;
    let description = GroupDescription::read(request, namespace).map_err(malformed)?;
    if change.tables().groups.get(description.id).is_some() {
        return Ok(());
    }
    check_new(change.tables(), &description)?;
    change.commit(Record::GroupRegistered(Box::new(description)));
    place_groups::place_waiting(change);
    Ok(())
}

fn check_new(tables: &Tables, description: &GroupDescription) -> Result<(), Failure> {
    let GroupDescription {
        id, name, namespace, ..
    } = description;
    let bundles = &description.bundles;
    if bundles.is_empty() || bundles.len() > MAX_BUNDLES || bundles.iter().any(|bundle| bundle.is_empty()) {
        let text = format!(
            "placement group {id} cannot have {} bundles: use 1 to {MAX_BUNDLES}, and an amount above 0 in each",
            bundles.len()
        );
        return Err(Failure::new(ErrorCode::InvalidArgument, text));
    }
    if !name.is_empty()
        && let Some(holder) = tables.groups.named(namespace, name)
    {
        let text = format!(
            "the placement group name '{name}' in namespace '{namespace}' is taken by group {}: choose another name, or get \
             the existing group by this one",
            holder.description.id
        );
        return Err(Failure::new(ErrorCode::AlreadyExists, text));
    }
    Ok(())
}

/// Removes a group, unless it is removed: its actors end, and so does what else runs in it.
pub(crate) fn remove(change: &mut Change<'_>, id: PlacementGroupId) {
    let known = change.tables().groups.get(id);
    if known.is_none_or(|group| group.phase == GroupPhase::Removed) {
        return;
    }
    info!(placement_group_id = %id, "placement group is removed");
    let actors = &change.tables().actors;
    let inside = actors.living_where(|actor| is_group_named_in(id, &actor.parts.demand.needs));
    for actor in inside {
        let cause = format!("its placement group {id} was removed");
        let actors = &change.tables().actors;
        // As in Ray: one that has never lived could not be scheduled.
        let has_lived = actors
            .get(actor)
            .is_some_and(|actor| actor.incarnation > 0 || actor.node().is_some());
        let death = if has_lived {
            Death::of(cause)
        } else {
            Death::unschedulable(cause)
        };
        lifecycle::end_actor(change, actor, death, false);
    }
    change.commit(Record::GroupRemoved { group: id });
    change.send_to_all(&Message::PlacementGroupRemoved(id.to_vec().into()));
}

/// The groups of a job that is over go with it.
pub(super) fn job_over(change: &mut Change<'_>, job: JobId) {
    let of_job = change.tables().groups.living().filter(|group| {
        let description = &group.description;
        description.job == job && !description.detached
    });
    let ids: Vec<PlacementGroupId> = of_job.map(|group| group.description.id).collect();
    for id in ids {
        remove(change, id);
    }
}

/// A group by its id, or by its name among those that are not removed.
pub(crate) fn get(
    tables: &Tables,
    live: &Live,
    request: &GetPlacementGroup,
) -> Result<PlacementGroupRecord, Failure> {
    let groups = &tables.groups;
    let record = |group: &PlacementGroup| describe(group, &live.nodes.candidates(tables));
    if !request.placement_group_id.is_empty() {
        let id = PlacementGroupId::from_slice(&request.placement_group_id).map_err(malformed)?;
        let unknown = || {
            let text = format!(
                "placement group {id} is not known to the head: it was never created, or it was removed long ago"
            );
            Failure::new(ErrorCode::NotFound, text)
        };
        return groups.get(id).map(record).ok_or_else(unknown);
    }
    let found = groups.named(&request.namespace, &request.name);
    found.map(record).ok_or_else(|| {
        let text = format!(
            "no placement group is named '{}' in namespace '{}': check name and namespace; it may also have been removed",
            request.name, request.namespace
        );
        Failure::new(ErrorCode::NotFound, text)
    })
}

/// All groups, removed ones too.
pub(crate) fn list(tables: &Tables, live: &Live) -> PlacementGroupList {
    let view = live.nodes.candidates(tables);
    let groups = tables.groups.all();
    PlacementGroupList {
        placement_groups: groups.map(|group| describe(group, &view)).collect(),
    }
}

fn describe(group: &PlacementGroup, view: &[Candidate]) -> PlacementGroupRecord {
    let mut record = group.record();
    record.infeasible = group.phase == GroupPhase::Waiting && !place_groups::could_be_placed(view, group);
    record
}
