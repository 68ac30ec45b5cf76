//! The table of jobs: one for each driver program.

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
    /// The largest id that the head has given, as a number. Ids count, so that no two jobs ever have the same.
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

    /// The id for a job whose driver chose none. It follows the one that was given last, but for those that drivers chose.
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

    fn running_where(&self, wanted: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.running && wanted(job))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn begin(&mut self, id: JobId, driver: &WorkerAddress, namespace: &str) {
        if id == self.next_id() {
            self.last_given = u32::from_be_bytes(*id.as_bytes());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u32) -> JobId {
        JobId::from_array(number.to_be_bytes())
    }

    fn driver() -> WorkerAddress {
        WorkerAddress {
            node_id: NodeId::random(),
            worker_id: WorkerId::random(),
            node_address: String::new(),
        }
    }

    #[test]
    fn given_ids_count_pass_by_those_that_drivers_chose_and_never_come_again() {
        let mut table = JobTable::default();
        let driver = driver();
        table.begin(numbered(2), &driver, "space");
        table.begin(numbered(70), &driver, "space");
        for expected in [1, 3, 4] {
            let id = table.next_id();
            assert_eq!(id, numbered(expected));
            table.begin(id, &driver, "space");
        }
        for number in 1..=4 {
            table.end(numbered(number));
        }
        for _ in 0..=KEPT_FINISHED_JOBS {
            let id = table.next_id();
            table.begin(id, &driver, "space");
            table.end(id);
        }
        assert!(table.get(numbered(1)).is_none(), "it is forgotten");
        assert!(table.next_id() > numbered(1000), "{}", table.next_id());
        table.last_given = u32::MAX;
        assert_ne!(table.next_id(), JobId::NIL);
    }

    #[test]
    fn jobs_that_are_over_are_known_until_there_are_too_many() {
        let mut table = JobTable::default();
        let driver = driver();
        let ids: Vec<_> = (0..=KEPT_FINISHED_JOBS as u32).map(numbered).collect();
        for id in &ids {
            table.begin(*id, &driver, "space");
        }
        assert_eq!(table.with_driver(driver.worker_id), ids);
        assert_eq!(table.with_driver_on(driver.node_id), ids);
        for id in &ids {
            table.end(*id);
            table.end(*id);
            assert!(table.running(*id).is_none());
        }
        assert!(table.get(ids[0]).is_none());
        assert!(table.get(ids[1]).is_some_and(|job| !job.running));
    }
}
