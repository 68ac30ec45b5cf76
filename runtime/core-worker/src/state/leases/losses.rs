//! Workers that are lost while they run functions of this process.

use sparkray_common::{ErrorCode, LeaseId, TaskId, WorkerId};
use sparkray_proto as proto;
use tracing::warn;

use super::{LeasedWorker, Leases};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::links::ConnId;
use crate::state::objects::Value;
use crate::state::tasks::{CallKind, Place};

/// A function whose worker could not be reached is given to another one, this often.
const MAX_MISSES: u8 = 20;

/// How the connection to a worker was lost.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Loss<'a> {
    /// Nothing was sent over it, but perhaps over an earlier one.
    pub(in crate::state) unused: bool,
    /// The worker is dead.
    pub(in crate::state) gone: bool,
    /// For people.
    pub(in crate::state) cause: &'a str,
}

impl Leases {
    /// The raylet took a lease away. Which worker it was, and the connection to it.
    pub(in crate::state) fn on_lease_broken(
        &self,
        message: &proto::LeaseBroken,
    ) -> Result<Option<(WorkerId, ConnId)>, CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let lease = self.leases.get(&lease_id);
        let worker = lease.and_then(|lease| lease.worker.as_ref());
        Ok(worker.map(|worker| (worker.address.worker_id, worker.conn)))
    }

    // ---- workers that may be there again -------------------------------------------------------------------

    /// The connection to a worker of another node is lost, and the worker may live and run what it was sent: that waits
    /// for a verdict, or for the worker. False: nothing may run there.
    fn suspend(&mut self, base: &Base, lease_id: LeaseId, unused: bool) -> bool {
        let here = base.links.process.me.node_id;
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return false;
        };
        let worker = lease.worker.as_ref();
        let elsewhere = worker.is_some_and(|worker| worker.address.node_id != here);
        if !elsewhere || lease.pushed.is_empty() || (unused && !lease.unsure) {
            return false;
        }
        lease.unsure = true;
        lease.suspended = true;
        true
    }

    fn suspended(&self, worker: WorkerId) -> Vec<LeaseId> {
        let leases = self.leases.iter();
        let theirs = leases.filter(|(_, lease)| lease.suspended && lease.is_of(worker));
        theirs.map(|(lease_id, _)| *lease_id).collect()
    }

    /// Whether functions wait for a worker to be reached again.
    pub(in crate::state) fn is_suspended(&self, worker: WorkerId) -> bool {
        !self.suspended(worker).is_empty()
    }

    /// A worker is called again: it is sent again what it has not answered.
    pub(in crate::state) fn resume(&mut self, base: &mut Base, worker: WorkerId, conn: ConnId) {
        for lease_id in self.suspended(worker) {
            let Some(lease) = self.leases.get_mut(&lease_id) else {
                continue;
            };
            lease.suspended = false;
            if let Some(leased) = &mut lease.worker {
                leased.conn = conn;
            }
            let pushed = std::mem::take(&mut lease.pushed);
            lease.pushed_bytes = 0;
            base.links.set_lease(conn, Some(lease_id));
            for task_id in pushed {
                self.push(base, lease_id, conn, task_id, true);
                self.tell_of_cancellation(base, lease_id, task_id);
            }
            self.dispatch(base, lease_id);
        }
    }

    /// A worker is dead whose functions waited for it.
    pub(in crate::state) fn end_suspended(&mut self, base: &mut Base, worker: WorkerId, cause: &str) {
        for lease_id in self.suspended(worker) {
            let loss = Loss {
                unused: false,
                gone: true,
                cause,
            };
            self.worker_lost(base, Some(lease_id), loss);
        }
    }

    // ---- workers that are lost -----------------------------------------------------------------------------

    /// The connection to a worker is gone. Of the tasks that were there, the first ran.
    pub(in crate::state) fn worker_lost(
        &mut self,
        base: &mut Base,
        lease_id: Option<LeaseId>,
        loss: Loss<'_>,
    ) {
        let Some(lease_id) = lease_id else { return };
        if !loss.gone && self.suspend(base, lease_id, loss.unused) {
            return;
        }
        let Some(lease) = self.remove(base, lease_id) else {
            return;
        };
        let unused = loss.unused && !lease.unsure;
        // It may still run what it was sent: nobody else may have it.
        Self::return_lease(base, lease.raylet, lease_id, loss.gone || !unused);
        if unused && !loss.gone {
            self.delay_requests(base, lease.class);
        }
        // From the last to the first, because each goes to the front of its queue.
        for (index, task_id) in lease.pushed.iter().enumerate().rev() {
            // Answers may have been lost with an earlier connection: then any of them may have run.
            if index == 0 || lease.unsure {
                self.retry_lost(base, *task_id, !unused, lease.worker.as_ref(), loss.cause);
            } else if base.tasks.contains(task_id) {
                // It waited behind the first: no attempt.
                self.queue_again(base, lease.class, *task_id);
            }
        }
        self.pump(base, lease.class, true);
    }

    /// A task was not sent, because its connection had closed.
    pub(in crate::state) fn push_lost(&mut self, base: &mut Base, task_id: TaskId) {
        let place = base.tasks.get(task_id).map(|task| task.place());
        let Some(Place::Pushed { class, lease, bytes }) = place else {
            // An actor's call stays among those that are not answered, and is sent again.
            return;
        };
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.leave(task_id, bytes);
        }
        self.retry_lost(base, task_id, false, None, "the connection is closed");
        self.pump(base, class, false);
    }

    /// The worker of a function died, or could not be reached. `ran`: it may have run the task. One that is to end is not
    /// tried again.
    fn retry_lost(
        &mut self,
        base: &mut Base,
        task_id: TaskId,
        ran: bool,
        worker: Option<&LeasedWorker>,
        cause: &str,
    ) {
        let Some(task) = base.tasks.get_mut(task_id) else {
            return;
        };
        if task.is_cancelled() {
            Self::end_cancelled(base, task_id, worker);
            return;
        }
        let (CallKind::Function(template), Place::Pushed { class, .. }) = (task.kind(), task.place()) else {
            return;
        };
        let (name, max_retries) = (template.name.clone(), template.max_retries);
        let failure = if !ran {
            (task.missed() > MAX_MISSES).then(|| {
                let message = format!("no worker could be reached for task {name} ({task_id}): {cause}");
                CoreError::new(ErrorCode::Unavailable, message)
            })
        } else if task.try_again(max_retries) {
            warn!(%task_id, name, attempt = task.attempt(), "runs a task again whose worker died");
            base.tasks.note_retry();
            None
        } else {
            let tries = match task.attempt() {
                0 => "once".to_owned(),
                retries => format!("{} times", retries + 1),
            };
            let worker = match worker {
                Some(LeasedWorker { address, pid, .. }) => format!(
                    "worker {} (pid {pid}) on node {}",
                    address.worker_id, address.node_id
                ),
                None => "its worker".to_owned(),
            };
            let message = format!(
                "{worker} died while it ran task {name} ({task_id}): {cause}; the task was tried {tries}"
            );
            Some(CoreError::new(ErrorCode::WorkerDied, message))
        };
        match failure {
            None => self.queue_again(base, class, task_id),
            Some(error) => base.finish_task(task_id, &Value::failed(error)),
        }
    }
}
