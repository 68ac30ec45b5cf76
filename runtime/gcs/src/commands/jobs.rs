//! Jobs begin with their driver's request, and end with another one or with the driver.

use sparkray_common::{ErrorCode, JobId, WorkerAddress};
use sparkray_proto::head_message::Message;
use sparkray_proto::{Failure, JobFinished, MessageError, RegisterJob};
use tracing::info;

use super::{check_lives, lifecycle, malformed, place_actors};
use crate::change::Change;
use crate::record::Record;
use crate::tables::Tables;

/// Begins a job, and says its id: the one that its driver chose, or else one that the head gives. The same request again
/// changes nothing.
pub(crate) fn register(change: &mut Change<'_>, request: RegisterJob) -> Result<JobId, Failure> {
    let driver = request
        .driver
        .as_ref()
        .ok_or_else(|| malformed(MessageError::Missing("driver")))?;
    let driver = WorkerAddress::try_from(driver).map_err(malformed)?;
    check_lives(change.tables(), &driver, "driver")?;
    let jobs = &change.tables().jobs;
    let job = if request.job_id.is_empty() {
        let known = jobs.with_driver(driver.worker_id).first().copied();
        known.unwrap_or_else(|| jobs.next_id())
    } else {
        JobId::from_slice(&request.job_id).map_err(malformed)?
    };
    match jobs.get(job) {
        None => change.commit(Record::JobBegun {
            job,
            driver,
            namespace: request.namespace,
        }),
        Some(known) if !known.running => return Err(over(job)),
        Some(known) if known.driver.worker_id == driver.worker_id => {}
        Some(known) => {
            return Err(Failure::new(
                ErrorCode::AlreadyExists,
                format!(
                    "job {job} belongs to driver {}: choose another job id",
                    known.driver.worker_id
                ),
            ));
        }
    }
    Ok(job)
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
