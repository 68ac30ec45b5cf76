//! Whose output lines are, and to whom they go.

use sparkray_common::{JobId, WorkerId};
use sparkray_proto::{FrameKind, LogBatch, LogLine, WorkerLabel};
use sparkray_rpc::{Frame, RpcError};

use crate::raylet::Raylet;

/// What is known about the source of output lines; outlives the worker until its pipes are empty.
#[derive(Debug, Default)]
pub(crate) struct OutputLabel {
    pub(crate) name: String,
    pub(crate) job: Option<JobId>,
    pub(crate) pid: u32,
    pub(crate) open_pipes: u8,
}

impl Raylet {
    /// WorkerLabel: what a worker runs, for its output.
    pub(crate) fn worker_label(&mut self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let message: WorkerLabel = frame.decode()?;
        if let Some(client) = self.clients.client(connection)
            && let Some(label) = self.workers.labels.get_mut(&client.worker_id)
        {
            label.name = message.name;
            if let Ok(job) = JobId::from_slice(&message.job_id) {
                label.job = Some(job);
            }
        }
        Ok(())
    }

    /// Lines that a worker wrote go to its job's driver.
    pub(crate) fn worker_output(&mut self, worker: WorkerId, is_stderr: bool, lines: Vec<String>) {
        let Some(label) = self.workers.labels.get(&worker) else {
            return;
        };
        let Some(job) = label.job else { return };
        let line = |text| LogLine {
            name: label.name.clone(),
            pid: label.pid,
            ip: self.node.host.clone(),
            text,
            is_stderr,
        };
        let lines = lines.into_iter().map(line).collect();
        self.send_log(LogBatch {
            job_id: job.to_vec().into(),
            lines,
        });
    }

    /// A line of the raylet itself for a job's driver.
    pub(crate) fn tell_driver(&self, job: JobId, text: String) {
        let line = LogLine {
            name: "raylet".to_owned(),
            pid: std::process::id(),
            ip: self.node.host.clone(),
            text,
            is_stderr: true,
        };
        self.send_log(LogBatch {
            job_id: job.to_vec().into(),
            lines: vec![line],
        });
    }

    fn send_log(&self, batch: LogBatch) {
        let Ok(job) = JobId::from_slice(&batch.job_id) else {
            return;
        };
        match self.clients.driver_of(job) {
            Some((connection, driver)) if driver.log_to_driver => {
                self.clients.send(connection, FrameKind::LogBatch, 0, &batch);
            }
            Some(_) => {}
            None => self.head.send_log(batch),
        }
    }

    /// Lines from other nodes for a driver of this one.
    pub(crate) fn log_from_head(&self, batch: &LogBatch) {
        let Ok(job) = JobId::from_slice(&batch.job_id) else {
            return;
        };
        if let Some((connection, driver)) = self.clients.driver_of(job)
            && driver.log_to_driver
        {
            self.clients.send(connection, FrameKind::LogBatch, 0, batch);
        }
    }
}
