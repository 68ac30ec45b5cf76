//! Workers that are lost while they run functions of this process.

use sparkray_common::{ErrorCode, LeaseId, TaskId, WorkerId};
use sparkray_proto as proto;
use tracing::warn;

use super::leases::{LeasedWorker, REQUEST_DELAY};
use super::replies::may_retry;
use super::scheduling::SchedulingClassId;
use super::submission::CallKind;
use super::timers::Timer;
use super::{State, Value};
use crate::error::CoreError;
use crate::reactor::ConnId;

/// A function whose worker could not be reached is given to another one, this often.
const MAX_MISSES: u8 = 20;

impl State {
    pub(super) fn on_lease_broken(&mut self, message: &proto::LeaseBroken) -> Result<(), CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let worker = self
            .scheduling
            .leases
            .get(&lease_id)
            .and_then(|lease| lease.worker.as_ref());
        if let Some((worker, conn)) = worker.map(|worker| (worker.address.worker_id, worker.conn)) {
            self.deaths.workers.add(worker);
            if self.is_connected(worker) {
                self.close_after_drain(conn, &message.cause);
            } else {
                self.worker_gone(worker, &message.cause);
            }
        }
        Ok(())
    }

    /// The connection to a worker of another node is lost, and the worker may live and run what it was sent: that waits
    /// for a verdict, or for the worker. False: nothing may run there.
    fn suspend_lease(&mut self, lease_id: LeaseId, unused: bool) -> bool {
        let here = self.me.node_id;
        let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
            return false;
        };
        let elsewhere = lease
            .worker
            .as_ref()
            .is_some_and(|worker| worker.address.node_id != here);
        if !elsewhere || lease.pushed.is_empty() || (unused && !lease.unsure) {
            return false;
        }
        lease.unsure = true;
        lease.suspended = true;
        true
    }

    fn suspended_leases(&self, worker: WorkerId) -> Vec<LeaseId> {
        self.scheduling
            .leases
            .iter()
            .filter(|(_, lease)| {
                let leased = lease.worker.as_ref();
                lease.suspended && leased.is_some_and(|leased| leased.address.worker_id == worker)
            })
            .map(|(lease_id, _)| *lease_id)
            .collect()
    }

    /// Whether functions wait for a worker to be reached again.
    pub(super) fn is_suspended(&self, worker: WorkerId) -> bool {
        !self.suspended_leases(worker).is_empty()
    }

    /// A worker is called again: it is sent again what it has not answered.
    pub(super) fn resume_leases(&mut self, worker: WorkerId, conn: ConnId) {
        for lease_id in self.suspended_leases(worker) {
            let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
                continue;
            };
            lease.suspended = false;
            if let Some(leased) = &mut lease.worker {
                leased.conn = conn;
            }
            let pushed = std::mem::take(&mut lease.pushed);
            if let Some(state) = self.conns.get_mut(&conn) {
                state.lease = Some(lease_id);
            }
            for task_id in pushed {
                self.push_function(lease_id, conn, task_id, true);
            }
            self.feed(lease_id);
        }
    }

    /// A worker is dead whose functions waited for it.
    pub(super) fn end_suspended_leases(&mut self, worker: WorkerId, cause: &str) {
        for lease_id in self.suspended_leases(worker) {
            let lease = self.scheduling.leases.get(&lease_id);
            let pushed = lease.map(|lease| lease.pushed.iter().copied().collect());
            self.worker_connection_lost(Some(lease_id), pushed.unwrap_or_default(), false, true, cause);
        }
    }

    /// The connection to a worker is gone; `pushed` are the tasks that were there, the first of them running.
    /// `unused`: nothing was sent over it, but perhaps over an earlier one; `gone`: the worker is dead.
    pub(super) fn worker_connection_lost(
        &mut self,
        lease_id: Option<LeaseId>,
        pushed: Vec<TaskId>,
        unused: bool,
        gone: bool,
        cause: &str,
    ) {
        if !gone && lease_id.is_some_and(|lease_id| self.suspend_lease(lease_id, unused)) {
            return;
        }
        let unsure =
            lease_id.is_some_and(|id| self.scheduling.leases.get(&id).is_some_and(|lease| lease.unsure));
        let unused = unused && !unsure;
        let mut worker = "its worker".to_owned();
        let mut class_id = None;
        if let Some((lease_id, lease)) = lease_id.and_then(|id| Some((id, self.remove_lease(id)?))) {
            class_id = Some(lease.class);
            if let Some(LeasedWorker { address, pid, .. }) = &lease.worker {
                worker = format!(
                    "worker {} (pid {pid}) on node {}",
                    address.worker_id, address.node_id
                );
            }
            // It may still run what it was sent: nobody else may have it.
            self.return_lease_message(lease.raylet, lease_id, gone || !unused);
            if unused && !gone {
                self.delay_requests(lease.class);
            }
        }
        let functions: Vec<TaskId> = pushed
            .into_iter()
            .filter(|task| {
                self.tasks
                    .get(task)
                    .is_some_and(|task| matches!(task.call.kind, CallKind::Function(_)))
            })
            .collect();
        // From the last to the first, because each goes to the front of its queue.
        for (index, task_id) in functions.iter().enumerate().rev() {
            // Answers may have been lost with an earlier connection: then any of them may have run.
            if index == 0 || unsure {
                self.retry_lost(*task_id, !unused, &worker, cause);
            } else if let Some(class) = self.tasks.get(task_id).map(|task| task.class) {
                // It waited behind the first: no attempt.
                self.queue_again(class, *task_id);
            }
        }
        if let Some(class_id) = class_id {
            self.pump(class_id, true);
        }
    }

    fn delay_requests(&mut self, class_id: SchedulingClassId) {
        let at = self.now + REQUEST_DELAY;
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            if class.retry_at.is_none() {
                class.retry_at = Some(at);
                self.timers.set(at, Timer::LeaseRequests(class_id));
            }
        }
    }

    /// The worker of a function died, or could not be reached. `ran`: it may have run the task.
    pub(super) fn retry_lost(&mut self, task_id: TaskId, ran: bool, worker: &str, cause: &str) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        let CallKind::Function(template) = &task.call.kind else {
            return;
        };
        let class = task.class;
        if !ran {
            task.misses = task.misses.saturating_add(1);
            if task.misses > MAX_MISSES {
                let message = format!(
                    "no worker could be reached for task {} ({task_id}): {cause}",
                    template.name
                );
                self.finish_task_with(
                    task_id,
                    &Value::failed(CoreError::new(ErrorCode::Unavailable, message)),
                    false,
                );
            } else {
                self.queue_again(class, task_id);
            }
            return;
        }
        if !may_retry(template.max_retries, task.attempt) {
            let tries = match task.attempt {
                0 => "once".to_owned(),
                retries => format!("{} times", retries + 1),
            };
            let message = format!(
                "{worker} died while it ran task {} ({task_id}): {cause}; the task was tried {tries}",
                template.name
            );
            self.finish_task_with(
                task_id,
                &Value::failed(CoreError::new(ErrorCode::WorkerDied, message)),
                false,
            );
            return;
        }
        task.attempt += 1;
        warn!(%task_id, name = template.name, attempt = task.attempt, "runs a task again whose worker died");
        self.queue_again(class, task_id);
    }
}
