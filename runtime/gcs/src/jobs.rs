//! The table of jobs: one for each driver program.

use std::collections::{BTreeMap, VecDeque};

use sparkray_common::{ErrorCode, JobId, NodeId, WorkerAddress, WorkerId};
use sparkray_proto::{Failure, RegisterJob};

/// Finished jobs that are still known; older ones are forgotten.
const KEPT_FINISHED_JOBS: usize = 1024;

#[derive(Debug)]
struct Job {
    driver: WorkerAddress,
    namespace: String,
    running: bool,
}

/// All jobs.
#[derive(Debug, Default)]
pub(crate) struct JobTable {
    jobs: BTreeMap<JobId, Job>,
    /// Oldest first.
    finished: VecDeque<JobId>,
}

impl JobTable {
    /// Begins a job. The same request again changes nothing.
    pub(crate) fn register(&mut self, request: RegisterJob) -> Result<(), Failure> {
        let malformed = |error: String| Failure::new(ErrorCode::InvalidArgument, error);
        let id = JobId::from_slice(&request.job_id).map_err(|error| malformed(error.to_string()))?;
        let driver = request
            .driver
            .as_ref()
            .ok_or_else(|| malformed(format!("job {id} has no driver address")))?;
        let driver = WorkerAddress::try_from(driver).map_err(|error| malformed(error.to_string()))?;
        match self.jobs.get(&id) {
            None => {
                self.jobs.insert(
                    id,
                    Job {
                        driver,
                        namespace: request.namespace,
                        running: true,
                    },
                );
                Ok(())
            }
            Some(job) if !job.running => Err(over(id)),
            Some(job) if job.driver.worker_id == driver.worker_id => Ok(()),
            Some(job) => Err(Failure::new(
                ErrorCode::AlreadyExists,
                format!(
                    "job {id} belongs to driver {}: choose another job id",
                    job.driver.worker_id
                ),
            )),
        }
    }

    /// The namespace of a running job.
    pub(crate) fn running(&self, id: JobId) -> Result<&str, Failure> {
        match self.jobs.get(&id) {
            Some(job) if job.running => Ok(&job.namespace),
            Some(_) => Err(over(id)),
            None => Err(Failure::new(
                ErrorCode::NotRunning,
                format!("job {id} is not known to the head: its driver registers it first"),
            )),
        }
    }

    /// The node of a running job's driver.
    pub(crate) fn driver_node(&self, id: JobId) -> Option<NodeId> {
        self.jobs
            .get(&id)
            .filter(|job| job.running)
            .map(|job| job.driver.node_id)
    }

    /// Ends a job; `false` when it was not running.
    pub(crate) fn finish(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.running) else {
            return false;
        };
        job.running = false;
        self.finished.push_back(id);
        if self.finished.len() > KEPT_FINISHED_JOBS {
            if let Some(forgotten) = self.finished.pop_front() {
                self.jobs.remove(&forgotten);
            }
        }
        true
    }

    /// Running jobs whose driver is on this node.
    pub(crate) fn with_driver_on(&self, node: NodeId) -> Vec<JobId> {
        self.running_where(|job| job.driver.node_id == node)
    }

    /// Running jobs whose driver is this process.
    pub(crate) fn with_driver(&self, driver: WorkerId) -> Vec<JobId> {
        self.running_where(|job| job.driver.worker_id == driver)
    }

    fn running_where(&self, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.running && wanted(job))
            .map(|(id, _)| *id)
            .collect()
    }
}

fn over(id: JobId) -> Failure {
    Failure::new(
        ErrorCode::NotRunning,
        format!("job {id} is over: connect again to begin a new one"),
    )
}
