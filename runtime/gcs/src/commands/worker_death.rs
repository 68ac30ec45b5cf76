//! A process ended: actors that it hosted restart or end, actors that it owned end, and so does its job.

use sparkray_common::{NodeId, WorkerId};
use sparkray_proto::head_message::Message;
use sparkray_proto::{MessageError, WorkerDeath, WorkerDeathNotice};

use super::{jobs, lifecycle, place_actors};
use crate::change::Change;
use crate::record::Record;

/// A node says that one of its processes has ended; it is told once.
pub(crate) fn worker_died(
    change: &mut Change<'_>,
    node: NodeId,
    death: &WorkerDeath,
) -> Result<(), MessageError> {
    let worker = WorkerId::from_slice(&death.worker_id)?;
    if change.tables().dead_workers.contains(worker) {
        return Ok(());
    }
    change.commit(Record::WorkerDied { worker });
    change.send_to_all(&Message::WorkerDeath(WorkerDeathNotice {
        worker_id: death.worker_id.clone(),
        node_id: node.to_vec().into(),
        cause: death.cause.clone(),
    }));
    // The job of a driver, also when the raylet does not know which one it was.
    for job in change.tables().jobs.with_driver(worker) {
        jobs::finish(change, job);
    }
    let cause = &death.cause;
    let owned = change
        .tables()
        .actors
        .living_where(|actor| actor.parts.owner.worker_id == worker && actor.is_bound());
    for id in owned {
        lifecycle::die(change, id, &format!("its owner, worker {worker}, died: {cause}"));
    }
    let ran = change
        .tables()
        .actors
        .living_where(|actor| actor.worker() == Some(worker));
    for id in ran {
        lifecycle::process_gone(change, id, &format!("its worker died: {cause}"));
    }
    place_actors::place_pending(change);
    Ok(())
}
