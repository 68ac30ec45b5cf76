//! What can happen to the head, one file for each kind: a request, a word of a node, a death, time. A command checks first
//! and refuses without a trace; then it makes records, and the effects that follow from them.

pub(crate) mod actor_report;
pub(crate) mod attach_node;
mod infeasible_demand;
mod infeasible_groups;
pub(crate) mod jobs;
pub(crate) mod kill_actor;
pub(crate) mod kv;
mod lifecycle;
pub(crate) mod log;
pub(crate) mod node_death;
pub(crate) mod place_actors;
pub(crate) mod place_groups;
pub(crate) mod placement_groups;
pub(crate) mod queries;
pub(crate) mod register_actor;
pub(crate) mod resource_report;
pub(crate) mod tick;
pub(crate) mod watch_actor;
pub(crate) mod worker_death;

use sparkray_common::{ActorId, ErrorCode, WorkerAddress};
use sparkray_proto::{Failure, MessageError};

use crate::tables::Tables;

/// The answer to a message that cannot be read.
pub(crate) fn malformed(error: impl Into<MessageError>) -> Failure {
    let error: MessageError = error.into();
    Failure::new(ErrorCode::InvalidArgument, error.to_string())
}

fn unknown_actor(id: ActorId) -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        format!("actor {id} is not known to the head: it was never created, or it died long ago"),
    )
}

/// A request and the news of its sender's death come by different ways, in any order.
fn check_lives(tables: &Tables, process: &WorkerAddress, role: &str) -> Result<(), Failure> {
    let WorkerAddress {
        worker_id, node_id, ..
    } = process;
    let dead = if tables.dead_workers.contains(*worker_id) {
        format!("{role} {worker_id} is dead")
    } else if !tables.nodes.is_alive(*node_id) {
        format!("node {node_id} of {role} {worker_id} is not part of the cluster: it died or has not joined")
    } else {
        return Ok(());
    };
    Err(Failure::new(
        ErrorCode::Stale,
        format!("{dead}; connect again from a new process"),
    ))
}
