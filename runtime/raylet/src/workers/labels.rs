//! Whose output lines are. Pure.

use std::collections::HashMap;

use sparkray_common::{JobId, WorkerId};
use sparkray_proto::{LogBatch, LogLine};

/// What is known about the source of output lines; outlives the worker until its pipes are empty.
#[derive(Debug)]
struct Label {
    name: String,
    job: Option<JobId>,
    pid: u32,
    open_pipes: u8,
    /// The worker is gone.
    is_over: bool,
}

/// The labels of all workers whose output may still come.
#[derive(Debug, Default)]
pub(super) struct Labels {
    known: HashMap<WorkerId, Label>,
}

impl Labels {
    /// A worker will write to two pipes.
    pub(super) fn add(&mut self, worker: WorkerId) {
        let label = Label {
            name: String::new(),
            job: None,
            pid: 0,
            open_pipes: 2,
            is_over: false,
        };
        self.known.insert(worker, label);
    }

    /// A worker never had pipes.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.known.remove(&worker);
    }

    /// The pid of a worker is known.
    pub(super) fn set_pid(&mut self, worker: WorkerId, pid: u32) {
        if let Some(label) = self.known.get_mut(&worker) {
            label.pid = pid;
        }
    }

    /// A worker serves a job from now on.
    pub(super) fn set_job(&mut self, worker: WorkerId, job: JobId) {
        if let Some(label) = self.known.get_mut(&worker) {
            label.job = Some(job);
        }
    }

    /// What a worker runs.
    pub(super) fn set_name(&mut self, worker: WorkerId, name: String) {
        if let Some(label) = self.known.get_mut(&worker) {
            label.name = name;
        }
    }

    /// A worker is gone; what its pipes still hold will come.
    pub(super) fn worker_ended(&mut self, worker: WorkerId) {
        if let Some(label) = self.known.get_mut(&worker) {
            label.is_over = true;
            self.forget_when_done(worker);
        }
    }

    /// One of a worker's pipes ended.
    pub(super) fn pipe_ended(&mut self, worker: WorkerId) {
        if let Some(label) = self.known.get_mut(&worker) {
            label.open_pipes -= 1;
            self.forget_when_done(worker);
        }
    }

    fn forget_when_done(&mut self, worker: WorkerId) {
        if let Some(label) = self.known.get(&worker)
            && label.is_over
            && label.open_pipes == 0
        {
            self.known.remove(&worker);
        }
    }

    /// Lines that a worker wrote, for the driver of its job. `None`: it has no job yet.
    pub(super) fn batch(
        &self,
        worker: WorkerId,
        is_stderr: bool,
        lines: Vec<String>,
        host: &str,
    ) -> Option<LogBatch> {
        let label = self.known.get(&worker)?;
        let job = label.job?;
        let line = |text| LogLine {
            name: label.name.clone(),
            pid: label.pid,
            ip: host.to_owned(),
            text,
            is_stderr,
        };
        Some(LogBatch {
            job_id: job.to_vec().into(),
            lines: lines.into_iter().map(line).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_outlives_its_worker_until_both_pipes_are_empty() {
        let mut labels = Labels::default();
        let worker = WorkerId::random();
        labels.add(worker);
        assert_eq!(labels.batch(worker, false, vec!["early".to_owned()], "h"), None);
        labels.set_job(worker, JobId::from_array([1; 4]));
        labels.set_name(worker, "f".to_owned());
        labels.set_pid(worker, 7);
        labels.pipe_ended(worker);
        labels.worker_ended(worker);
        let batch = labels.batch(worker, true, vec!["late".to_owned()], "h").unwrap();
        let line = &batch.lines[0];
        assert_eq!((line.name.as_str(), line.pid, line.is_stderr), ("f", 7, true));
        labels.pipe_ended(worker);
        assert!(labels.known.is_empty());
    }
}
