//! The table of jobs: one for each driver program.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use sparkray_common::{JobId, NodeId, WorkerAddress, WorkerId};

/// Finished jobs that are still known; older ones are forgotten.
const KEPT_FINISHED_JOBS: usize = 1024;

/// One job.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) driver: WorkerAddress,
    pub(crate) namespace: String,
    pub(crate) running: bool,
}

/// All jobs.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct JobTable {
    jobs: BTreeMap<JobId, Job>,
    /// Oldest first.
    finished: VecDeque<JobId>,
    /// The id that was given last, as a number. Ids count, so that no two jobs have the same.
    last_given: u32,
}

impl JobTable {
    /// A job, running or over.
    pub(crate) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// A job that is not over.
    pub(crate) fn running(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).filter(|job| job.running)
    }

    /// The id for the next job. It follows the one that was given last, and passes by those that are in use when the
    /// numbers begin again.
    pub(crate) fn next_id(&self) -> JobId {
        let mut number = self.last_given;
        loop {
            number = number.wrapping_add(1);
            let id = JobId::from_array(number.to_be_bytes());
            if id != JobId::NIL && !self.jobs.contains_key(&id) {
                return id;
            }
        }
    }

    /// Running jobs whose driver is on this node.
    pub(crate) fn with_driver_on(&self, node: NodeId) -> Vec<JobId> {
        self.running_where(|job| job.driver.node_id == node)
    }

    /// Running jobs whose driver is this process.
    pub(crate) fn with_driver(&self, driver: WorkerId) -> Vec<JobId> {
        self.running_where(|job| job.driver.worker_id == driver)
    }

    /// The running job that began last.
    pub(crate) fn newest_running(&self) -> Option<(JobId, &Job)> {
        // How long ago an id was given: numbers may have begun again.
        let age = |id: JobId| self.last_given.wrapping_sub(u32::from_be_bytes(*id.as_bytes()));
        let running = self.jobs.iter().filter(|(_, job)| job.running);
        running.map(|(id, job)| (*id, job)).min_by_key(|(id, _)| age(*id))
    }

    fn running_where(&self, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.running && wanted(job))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn begin(&mut self, id: JobId, driver: &WorkerAddress, namespace: &str) {
        self.last_given = u32::from_be_bytes(*id.as_bytes());
        let job = Job {
            driver: driver.clone(),
            namespace: namespace.to_owned(),
            running: true,
        };
        self.jobs.insert(id, job);
    }

    pub(super) fn end(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.running) else {
            return;
        };
        job.running = false;
        self.finished.push_back(id);
        if self.finished.len() > KEPT_FINISHED_JOBS
            && let Some(forgotten) = self.finished.pop_front()
        {
            self.jobs.remove(&forgotten);
        }
    }
}
