//! Jobs begin with their driver's request, and end with another one or with the driver.

use sparkray_common::{ErrorCode, JobId, WorkerAddress};
use sparkray_proto::head_message::Message;
use sparkray_proto::{Failure, JobFinished, JoinJob, MessageError, RegisterJob, RegisterJobReply};
use tracing::info;

use super::{check_lives, lifecycle, malformed, place_actors, placement_groups};
use crate::change::Change;
use crate::record::Record;
use crate::tables::Tables;

/// Begins a driver's job, and says the id that it got. A driver whose job runs is told that one's id again.
pub(crate) fn register(change: &mut Change<'_>, request: RegisterJob) -> Result<JobId, Failure> {
    let driver = request
        .driver
        .as_ref()
        .ok_or_else(|| malformed(MessageError::Missing("driver")))?;
    let driver = WorkerAddress::try_from(driver).map_err(malformed)?;
    check_lives(change.tables(), &driver, "driver")?;
    let jobs = &change.tables().jobs;
    if let Some(known) = jobs.with_driver(driver.worker_id).first() {
        return Ok(*known);
    }
    let job = jobs.next_id();
    change.commit(Record::JobBegun {
        job,
        driver,
        namespace: request.namespace,
    });
    Ok(job)
}

/// The job that a participant takes part in: that which began last of those that run.
pub(crate) fn join(tables: &Tables, request: &JoinJob) -> Result<RegisterJobReply, Failure> {
    let participant = request
        .participant
        .as_ref()
        .ok_or_else(|| malformed(MessageError::Missing("participant")))?;
    let participant = WorkerAddress::try_from(participant).map_err(malformed)?;
    check_lives(tables, &participant, "participant")?;
    let newest = tables.jobs.newest_running();
    let (id, job) = newest.ok_or_else(|| {
        Failure::new(
            ErrorCode::NotRunning,
            "no driver is connected to this cluster, so there is no job to take part in: call init() in the driver again",
        )
    })?;
    Ok(RegisterJobReply {
        job_id: id.to_vec().into(),
        driver: Some((&job.driver).into()),
    })
}

/// Ends a job, unless it is over: its actors end, but for detached ones.
pub(crate) fn finish(change: &mut Change<'_>, job: JobId) {
    if change.tables().jobs.running(job).is_none() {
        return;
    }
    info!(job_id = %job, "job is over");
    change.commit(Record::JobOver { job });
    let ended = change
        .tables()
        .actors
        .living_where(|actor| actor.parts.job == job && actor.is_bound());
    for id in ended {
        lifecycle::die(change, id, "its job is over");
    }
    placement_groups::job_over(change, job);
    place_actors::place_pending(change);
    change.send_to_all(&Message::JobFinished(JobFinished {
        job_id: job.to_vec().into(),
    }));
}

/// The namespace of a running job.
pub(super) fn namespace_of(tables: &Tables, job: JobId) -> Result<&str, Failure> {
    match tables.jobs.get(job) {
        Some(known) if known.running => Ok(&known.namespace),
        Some(_) => Err(over(job)),
        None => Err(Failure::new(
            ErrorCode::NotRunning,
            format!("job {job} is not known to the head: its driver registers it first"),
        )),
    }
}

fn over(job: JobId) -> Failure {
    Failure::new(
        ErrorCode::NotRunning,
        format!("job {job} is over: connect again to begin a new one"),
    )
}
