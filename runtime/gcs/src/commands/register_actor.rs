//! A client registers an actor, or brings the arguments that were to follow.

use sparkray_common::{ErrorCode, JobId, WorkerAddress, group_named_in};
use sparkray_proto::{ActorSpec, Failure, MessageError, RegisterActor};

use super::{check_lives, jobs, malformed, place_actors};
use crate::change::Change;
use crate::record::Record;
use crate::spec::SpecParts;
use crate::tables::Tables;
use crate::tables::actor::Phase;
use crate::tables::group::GroupPhase;

/// Takes a new actor, whose job runs and whose owner lives. The same id again changes nothing, but for the arguments that
/// were to follow, which may also come first.
pub(crate) fn register(change: &mut Change<'_>, request: RegisterActor) -> Result<(), Failure> {
    let arguments_follow = request.arguments_follow;
    let mut spec = request
        .spec
        .ok_or_else(|| malformed(MessageError::Missing("spec")))?;
    let job = JobId::from_slice(&spec.job_id).map_err(malformed)?;
    let namespace = jobs::namespace_of(change.tables(), job)?;
    let owner = spec
        .owner
        .as_ref()
        .ok_or_else(|| malformed(MessageError::Missing("owner")))?;
    let owner = WorkerAddress::try_from(owner).map_err(malformed)?;
    check_lives(change.tables(), &owner, "owner")?;
    let parts = SpecParts::read(&spec).map_err(malformed)?;
    let id = parts.id;
    if let Some(actor) = change.tables().actors.get(id) {
        if actor.phase == Phase::Unready && !arguments_follow {
            spec.namespace.clone_from(&actor.spec.namespace);
            let spec = Box::new(spec);
            change.commit(Record::ActorReady { actor: id, spec });
            place_actors::place_pending(change);
        }
        return Ok(());
    }
    if spec.namespace.is_empty() {
        namespace.clone_into(&mut spec.namespace);
    }
    check_new(change.tables(), &parts, &spec)?;
    change.commit(Record::ActorRegistered {
        spec: Box::new(spec),
        parts: Box::new(parts),
        arguments_follow,
    });
    change.publish(id);
    if !arguments_follow {
        place_actors::place_pending(change);
    }
    Ok(())
}

fn check_new(tables: &Tables, parts: &SpecParts, spec: &ActorSpec) -> Result<(), Failure> {
    if spec.max_restarts < -1 {
        return Err(Failure::new(
            ErrorCode::InvalidArgument,
            format!(
                "actor {} cannot have max_restarts={}: use -1 for no limit, or 0 or more",
                parts.id, spec.max_restarts
            ),
        ));
    }
    if let Some(group) = group_named_in(&parts.demand.needs)
        && let known = tables.groups.get(group)
        && known.is_none_or(|known| known.phase == GroupPhase::Removed)
    {
        return Err(Failure::new(
            ErrorCode::ActorPlacementGroupRemoved,
            format!(
                "actor {} asks for placement group {group}, which was removed: create another one",
                parts.id
            ),
        ));
    }
    if spec.name.is_empty() {
        return Ok(());
    }
    let Some(holder) = tables.actors.named(&spec.namespace, &spec.name) else {
        return Ok(());
    };
    Err(Failure::new(
        ErrorCode::AlreadyExists,
        format!(
            "the actor name '{}' in namespace '{}' is taken by actor {holder}: choose another name, or get the \
             existing actor with get_actor('{}', namespace='{}')",
            spec.name, spec.namespace, spec.name, spec.namespace
        ),
    ))
}
