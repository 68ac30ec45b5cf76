//! Workers that are lost while they run functions of this process.

use sparkray_common::{ErrorCode, LeaseId, TaskId};
use sparkray_proto as proto;
use tracing::warn;

use super::leases::{LeasedWorker, REQUEST_DELAY};
use super::replies::may_retry;
use super::scheduling::ClassId;
use super::submission::CallKind;
use super::timers::Timer;
use super::{State, Value};
use crate::error::CoreError;

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
                self.worker_gone(worker);
            }
        }
        Ok(())
    }

    /// The connection to a worker is gone; `pushed` are the tasks that were there, the first of them running.
    /// `unused`: nothing was sent over it; `gone`: the worker is dead.
    pub(super) fn worker_connection_lost(
        &mut self,
        lease_id: Option<LeaseId>,
        pushed: Vec<TaskId>,
        unused: bool,
        gone: bool,
        cause: &str,
    ) {
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
            if index == 0 {
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

    fn delay_requests(&mut self, class_id: ClassId) {
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
