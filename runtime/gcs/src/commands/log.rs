//! Lines for a driver: what workers of its job print, and what the head has to say.

use sparkray_common::JobId;
use sparkray_proto::head_message::Message;
use sparkray_proto::{LogBatch, LogLine, MessageError};

use crate::change::Change;

/// Passes on what workers print; lines of a job that is over are lost.
pub(crate) fn forward(change: &mut Change<'_>, batch: LogBatch) -> Result<(), MessageError> {
    let job = JobId::from_slice(&batch.job_id)?;
    send_to_driver(change, job, Message::Log(batch));
    Ok(())
}

/// Adds a line of the head, whose process this is, to what the job's driver prints.
pub(super) fn tell_driver(change: &mut Change<'_>, head_pid: u32, job: JobId, text: String) {
    let line = LogLine {
        name: "head".to_owned(),
        pid: head_pid,
        ip: String::new(),
        text,
        is_stderr: true,
    };
    let batch = LogBatch {
        job_id: job.to_vec().into(),
        lines: vec![line],
    };
    send_to_driver(change, job, Message::Log(batch));
}

/// For the job's driver, by way of its node; lost when the job is over.
pub(super) fn send_to_driver(change: &mut Change<'_>, job: JobId, message: Message) {
    let driver = change.tables().jobs.running(job).map(|job| job.driver.node_id);
    if let Some(node) = driver {
        change.effects.send(node, message);
    }
}
