//! A node joins, or goes on over another stream.

use std::sync::Arc;
use std::time::Duration;

use sparkray_common::{ErrorCode, LONGEST_SILENCE, NODE_SILENCE, NodeId, VERSION};
use sparkray_proto::{Failure, RegisterNode};
use tracing::info;

use super::resource_report::read_amounts;
use super::{malformed, place_actors, place_groups};
use crate::change::Change;
use crate::record::{NodeDescription, Record};

/// Admits a node, or says why not. One that is alive attaches again when its stream broke: nothing about it changes. One
/// that was declared dead begins anew with another id.
pub(crate) fn attach(
    change: &mut Change<'_>,
    head_epoch: u64,
    request: RegisterNode,
) -> Result<NodeId, Failure> {
    change.live.runs(change.now());
    let id = NodeId::from_slice(&request.node_id).map_err(malformed)?;
    check_software(id, head_epoch, &request)?;
    if let Some(known) = change.tables().nodes.get(id) {
        if !known.alive {
            return Err(Failure::new(
                ErrorCode::Stale,
                format!(
                    "node {id} was declared dead and its id is used up: start the raylet anew with another node id"
                ),
            ));
        }
        info!(node_id = %id, address = request.address, hostname = request.hostname, "node attaches again");
        change.live.node_metrics.attached_again();
        change.live.nodes.heard(change.now(), id);
        return Ok(id);
    }
    let total = read_amounts(request.total.as_ref()).map_err(malformed)?;
    info!(node_id = %id, address = request.address, hostname = request.hostname, "node joined");
    change.commit(Record::NodeJoined(Box::new(NodeDescription {
        id,
        address: request.address,
        hostname: request.hostname,
        pid: request.pid,
        labels: Arc::new(request.labels),
        total,
        silence: silence_of(request.silence_seconds),
    })));
    place_groups::place_waiting(change);
    place_actors::place_pending(change);
    Ok(id)
}

fn check_software(id: NodeId, head_epoch: u64, request: &RegisterNode) -> Result<(), Failure> {
    if request.sparkray_version != VERSION {
        return Err(Failure::new(
            ErrorCode::VersionMismatch,
            format!(
                "node {id} on {} runs sparkray {}, the cluster's head runs {VERSION}: install the same version on \
                 all nodes",
                request.hostname, request.sparkray_version
            ),
        ));
    }
    if request.head_epoch != head_epoch {
        return Err(Failure::new(
            ErrorCode::Stale,
            format!(
                "node {id} wants to join head epoch {}, this head has epoch {head_epoch}: start the raylet anew with \
                 the present epoch",
                request.head_epoch
            ),
        ));
    }
    Ok(())
}

/// The silence that a node asks for, in seconds; 0: it asks for none.
fn silence_of(asked: u32) -> Duration {
    match asked {
        0 => NODE_SILENCE,
        seconds => Duration::from_secs(u64::from(seconds)).clamp(NODE_SILENCE, LONGEST_SILENCE),
    }
}
