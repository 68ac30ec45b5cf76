//! Clients ask and change nothing.

use sparkray_common::{ActorId, ErrorCode};
use sparkray_proto::{ActorList, ActorRecord, Failure, GetActor, NodeList};

use super::{malformed, unknown_actor};
use crate::live::Live;
use crate::tables::Tables;

/// An actor by its id, or by its name among the living.
pub(crate) fn get_actor(tables: &Tables, request: &GetActor) -> Result<ActorRecord, Failure> {
    let actors = &tables.actors;
    if !request.actor_id.is_empty() {
        let id = ActorId::from_slice(&request.actor_id).map_err(malformed)?;
        let actor = actors.get(id).ok_or_else(|| unknown_actor(id))?;
        return Ok(actor.record());
    }
    let found = actors
        .named(&request.namespace, &request.name)
        .and_then(|id| actors.get(id));
    let actor = found.ok_or_else(|| {
        Failure::new(
            ErrorCode::NotFound,
            format!(
                "no living actor is named '{}' in namespace '{}': check name and namespace; it may also have died",
                request.name, request.namespace
            ),
        )
    })?;
    Ok(actor.record())
}

/// All actors, dead ones too.
pub(crate) fn list_actors(tables: &Tables) -> ActorList {
    ActorList {
        actors: tables.actors.all().map(|actor| actor.record()).collect(),
    }
}

/// All nodes, dead ones too.
pub(crate) fn list_nodes(tables: &Tables, live: &Live) -> NodeList {
    NodeList {
        nodes: live.nodes.views(&tables.nodes),
    }
}
