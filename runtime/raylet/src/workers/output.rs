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
    pub(crate) fn tell_driver(&mut self, job: JobId, text: String) {
        let line = self.own_line(text);
        self.send_log(LogBatch {
            job_id: job.to_vec().into(),
            lines: vec![line],
        });
    }

    fn own_line(&self, text: String) -> LogLine {
        LogLine {
            name: "raylet".to_owned(),
            pid: std::process::id(),
            ip: self.node.host.clone(),
            text,
            is_stderr: true,
        }
    }

    fn send_log(&mut self, batch: LogBatch) {
        let Ok(job) = JobId::from_slice(&batch.job_id) else {
            return;
        };
        match self.clients.driver_of(job) {
            Some((connection, _)) => self.log_to_driver(connection, batch),
            None => self.head.send_log(batch),
        }
    }

    /// Lines from other nodes for a driver of this one.
    pub(crate) fn log_from_head(&mut self, batch: LogBatch) {
        let Ok(job) = JobId::from_slice(&batch.job_id) else {
            return;
        };
        if let Some((connection, _)) = self.clients.driver_of(job) {
            self.log_to_driver(connection, batch);
        }
    }

    /// A driver that is stopped does not read: its lines are dropped, not its connection, and it hears how many.
    fn log_to_driver(&mut self, connection: u64, mut batch: LogBatch) {
        let Some(known) = self.clients.get_mut(connection) else {
            return;
        };
        let (frames, bytes) = (known.sender.queued(), known.sender.queued_bytes());
        let Some(driver) = known.client.as_mut() else {
            return;
        };
        let Some(lost) = driver.takes_output(batch.lines.len(), frames, bytes) else {
            return;
        };
        if lost > 0 {
            let text =
                format!("{lost} lines of workers' output were dropped: the driver did not read them in time");
            let line = self.own_line(text);
            batch.lines.insert(0, line);
        }
        self.clients.send(connection, FrameKind::LogBatch, 0, &batch);
    }
}
