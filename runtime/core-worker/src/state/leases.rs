//! Leases of workers: asking raylets for them, feeding them with tasks, giving them back.

use std::collections::VecDeque;
use std::sync::Arc;

use sparkray_common::{ErrorCode, LeaseId, NodeId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::Frame;

use super::scheduling::{SHORT_TASK, SchedulingClassId};
use super::submission::{Arguments, CallKind, PushPrefix, TaskTemplate};
use super::timers::Timer;
use super::{Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::{ConnId, RAYLET_CONN};

/// An idle lease is kept this long for the next task of its class, in microseconds.
const LEASE_LINGER: u64 = 20_000;
/// A lease that others wait for goes back when it has been held for this long, in microseconds.
const LEASE_SLICE: u64 = 100_000;
/// A class whose request was lost with a node asks again after this time, in microseconds.
pub(super) const REQUEST_DELAY: u64 = 100_000;
/// Failures of other nodes, one after the other, that do not yet fail the tasks of a class.
const MAX_REQUEST_FAILURES: u8 = 5;

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) class: SchedulingClassId,
    /// `None` while it is asked for.
    pub(super) worker: Option<LeasedWorker>,
    /// The raylet that was asked, or granted it.
    pub(super) raylet: ConnId,
    pub(super) pushed: VecDeque<TaskId>,
    /// Its connection broke once: what was pushed may run, or have run.
    pub(super) unsure: bool,
    /// There is no connection: nothing is pushed.
    pub(super) suspended: bool,
    granted_at: u64,
    idle_since: u64,
    /// A timer will look whether it is idle.
    timed: bool,
    /// Others wait for it.
    wanted: bool,
    prefix: Option<PushPrefix<TaskTemplate>>,
}

#[derive(Debug)]
pub(super) struct LeasedWorker {
    pub(super) address: WorkerAddress,
    pub(super) conn: ConnId,
    pub(super) pid: u32,
}

impl State {
    // ---- asking for leases ---------------------------------------------------------------------------------

    pub(super) fn request_lease(&mut self, class_id: SchedulingClassId) {
        let Some(class) = self.scheduling.classes.get(&class_id) else {
            return;
        };
        let conn = match &class.key.near {
            Some((node, address)) if class.asks_near && !address.is_empty() => {
                let (node, address) = (*node, address.clone());
                self.conn_to_raylet(node, &address)
            }
            _ => RAYLET_CONN,
        };
        let lease_id = self.ids.next_lease();
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.requested.push(lease_id);
        }
        let lease = Lease {
            class: class_id,
            worker: None,
            raylet: conn,
            pushed: VecDeque::new(),
            unsure: false,
            suspended: false,
            granted_at: 0,
            idle_since: 0,
            timed: false,
            wanted: false,
            prefix: None,
        };
        self.scheduling.leases.insert(lease_id, lease);
        self.send_lease_request(lease_id, false);
    }

    fn send_lease_request(&mut self, lease_id: LeaseId, spilled: bool) {
        let Some(lease) = self.scheduling.leases.get(&lease_id) else {
            return;
        };
        let Some(class) = self.scheduling.classes.get(&lease.class) else {
            return;
        };
        let conn = lease.raylet;
        let message = proto::RequestWorkerLease {
            lease_id: lease_id.to_vec().into(),
            job_id: class.key.job_id.to_vec().into(),
            resources: Some((&class.key.resources).into()),
            spilled,
            backlog: class.queue.len() as u32,
            pinned_to_node: class.key.pinned,
            owner: Some(self.me_message.clone()),
            python_version: self.python_version.clone(),
        };
        self.request(
            conn,
            Pending::Lease(lease_id),
            FrameKind::RequestWorkerLease,
            &message,
        );
    }

    fn forget_request(&mut self, lease_id: LeaseId) -> Option<SchedulingClassId> {
        let lease = self.scheduling.leases.get(&lease_id)?;
        if lease.worker.is_some() {
            return None;
        }
        let class_id = lease.class;
        self.scheduling.leases.remove(&lease_id);
        let class = self.scheduling.classes.get_mut(&class_id)?;
        class.requested.retain(|other| *other != lease_id);
        Some(class_id)
    }

    pub(super) fn on_lease_reply(&mut self, conn: ConnId, frame: &Frame) -> Result<(), CoreError> {
        let Some(Pending::Lease(lease_id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let outcome = frame
            .decode()
            .map_err(CoreError::from)
            .and_then(|reply| self.take_lease_reply(conn, lease_id, &reply));
        if outcome.is_err() {
            self.lease_request_lost(lease_id);
        }
        outcome
    }

    fn take_lease_reply(
        &mut self,
        conn: ConnId,
        lease_id: LeaseId,
        reply: &proto::RequestWorkerLeaseReply,
    ) -> Result<(), CoreError> {
        let Some(class_id) = self.scheduling.leases.get(&lease_id).map(|lease| lease.class) else {
            // Cancelled meanwhile; the raylet may have granted it before it heard that.
            if reply.worker.is_some() {
                self.return_lease_message(conn, lease_id, false);
            }
            return Ok(());
        };
        if let Some(failure) = &reply.failure {
            self.lease_refused(conn, lease_id, failure.into());
            return Ok(());
        }
        if let Some(location) = &reply.spillback {
            let node = NodeId::from_slice(&location.node_id)?;
            let conn = self.conn_to_raylet(node, &location.node_address);
            if let Some(lease) = self.scheduling.leases.get_mut(&lease_id) {
                lease.raylet = conn;
            }
            self.send_lease_request(lease_id, true);
            return Ok(());
        }
        let worker = reply
            .worker
            .as_ref()
            .ok_or(proto::MessageError::Missing("worker"))?;
        let address = WorkerAddress::try_from(worker)?;
        self.lease_granted(lease_id, class_id, address, reply.worker_pid);
        Ok(())
    }

    fn lease_granted(
        &mut self,
        lease_id: LeaseId,
        class_id: SchedulingClassId,
        address: WorkerAddress,
        pid: u32,
    ) {
        let conn = self.conn_to_worker(&address);
        if let Some(state) = self.conns.get_mut(&conn) {
            state.lease = Some(lease_id);
        }
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.requested.retain(|other| *other != lease_id);
            class.leases.push(lease_id);
            class.failures = 0;
        }
        if let Some(lease) = self.scheduling.leases.get_mut(&lease_id) {
            lease.worker = Some(LeasedWorker { address, conn, pid });
            lease.granted_at = self.now;
            lease.idle_since = self.now;
        }
        self.feed(lease_id);
    }

    /// A raylet cannot give a lease: the tasks that wait for it fail, unless another node may do better.
    fn lease_refused(&mut self, conn: ConnId, lease_id: LeaseId, error: CoreError) {
        let Some(class_id) = self.scheduling.leases.get(&lease_id).map(|lease| lease.class) else {
            return;
        };
        let elsewhere = conn != RAYLET_CONN
            && matches!(
                error.code,
                ErrorCode::Unavailable | ErrorCode::Cancelled | ErrorCode::NotRunning
            );
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.failures = class.failures.saturating_add(1);
            if elsewhere && !class.key.pinned && class.failures < MAX_REQUEST_FAILURES {
                self.lease_request_lost(lease_id);
                return;
            }
        }
        self.forget_request(lease_id);
        self.fail_queue(class_id, error);
    }

    fn fail_queue(&mut self, class_id: SchedulingClassId, error: CoreError) {
        let Some(class) = self.scheduling.classes.get_mut(&class_id) else {
            return;
        };
        let queued = std::mem::take(&mut class.queue);
        let failed = Value::failed(error);
        for task in queued {
            self.finish_task_with(task, &failed, false);
        }
        self.cancel_lease_requests(class_id);
    }

    /// A request was lost with the node that was asked: this node's raylet is asked for another, a little later,
    /// because it may not know of the death yet.
    pub(super) fn lease_request_lost(&mut self, lease_id: LeaseId) {
        let Some(class_id) = self.forget_request(lease_id) else {
            return;
        };
        if let Some(cause) = &self.head_lost {
            // No raylet will hear that the node is dead: the request would be sent there again and again.
            let message = format!(
                "a node of the cluster cannot be reached, and its head is gone ({cause}): call shutdown() and init() again"
            );
            self.fail_queue(class_id, CoreError::new(ErrorCode::Unavailable, message));
            return;
        }
        let at = self.now + REQUEST_DELAY;
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.asks_near = false;
            if class.retry_at.is_none() {
                class.retry_at = Some(at);
                self.timers.set(at, Timer::LeaseRequests(class_id));
            }
        }
    }

    pub(super) fn ask_for_leases_again(&mut self, class_id: SchedulingClassId) {
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            class.retry_at = None;
            self.pump(class_id, true);
        }
    }

    fn cancel_lease_requests(&mut self, class_id: SchedulingClassId) {
        let Some(class) = self.scheduling.classes.get_mut(&class_id) else {
            return;
        };
        for lease_id in std::mem::take(&mut class.requested) {
            if let Some(lease) = self.scheduling.leases.remove(&lease_id) {
                let message = proto::CancelWorkerLease {
                    lease_id: lease_id.to_vec().into(),
                };
                self.send(
                    lease.raylet,
                    FrameKind::CancelWorkerLease,
                    0,
                    &message,
                    &[],
                    false,
                );
            }
        }
    }

    // ---- using leases --------------------------------------------------------------------------------------

    /// Pushes queued tasks to one leased worker, or finds that it is idle.
    pub(super) fn feed(&mut self, lease_id: LeaseId) {
        loop {
            let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
                return;
            };
            if lease.suspended {
                return;
            }
            let (Some(class), Some(worker)) = (
                self.scheduling.classes.get_mut(&lease.class),
                lease.worker.as_ref(),
            ) else {
                return;
            };
            let conn = worker.conn;
            // Others wait, and this process has had its time.
            let spent = lease.wanted && self.now >= lease.granted_at + LEASE_SLICE;
            if class.queue.is_empty() || spent {
                break;
            }
            // An even share for each worker, so that the last tasks do not all wait behind one of them.
            let share = class.queue.len().div_ceil(class.leases.len().max(1));
            if lease.pushed.len() >= class.depth().min(share.max(1)) {
                return;
            }
            let Some(task_id) = class.queue.pop_front() else {
                break;
            };
            let Some(task) = self.tasks.get(&task_id) else {
                continue;
            };
            if let Arguments::Failed(value, is_error) = self.arguments_of(task) {
                self.fail_for_argument(task_id, &value, is_error);
                continue;
            }
            self.push_function(lease_id, conn, task_id, false);
        }
        self.rest(lease_id);
    }

    /// `again`: the worker may have it.
    pub(super) fn push_function(&mut self, lease_id: LeaseId, conn: ConnId, task_id: TaskId, again: bool) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let CallKind::Function(template) = &task.call.kind else {
            return;
        };
        let (template, job_id) = (Arc::clone(template), task.job_id);
        let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
            return;
        };
        let Some(worker) = &lease.worker else { return };
        lease.pushed.push_back(task_id);
        let num_returns = template.num_returns;
        let prefix = match lease.prefix.take() {
            Some(prefix) if prefix.fits(&template, job_id, num_returns) => prefix,
            _ => {
                let message = proto::PushTask {
                    worker_id: worker.address.worker_id.to_vec().into(),
                    function_id: template.function_id.to_vec().into(),
                    name: template.name.clone(),
                    num_threads: template.num_threads(),
                    ..Default::default()
                };
                PushPrefix::new(&template, job_id, num_returns, message)
            }
        };
        let mut first = false;
        let mut message = proto::PushTask {
            again,
            ..Default::default()
        };
        if let Some(state) = self.conns.get_mut(&conn) {
            first = state.functions_sent.insert(template.function_id);
            message.acknowledged = state.answered;
        }
        let blob = first.then_some(&template.function_blob);
        self.push(conn, task_id, &prefix.bytes, blob, message);
        if let Some(lease) = self.scheduling.leases.get_mut(&lease_id) {
            lease.prefix = Some(prefix);
        }
    }

    /// There is no task for a lease: it goes back at once when others wait for it, else a little later.
    fn rest(&mut self, lease_id: LeaseId) {
        let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
            return;
        };
        let class_id = lease.class;
        if lease.pushed.is_empty() {
            if lease.wanted {
                self.give_lease_back(lease_id);
            } else {
                lease.idle_since = self.now;
                if !lease.timed {
                    lease.timed = true;
                    self.timers
                        .set(self.now + LEASE_LINGER, Timer::IdleLease(lease_id));
                }
            }
        }
        let empty = self
            .scheduling
            .classes
            .get(&class_id)
            .is_some_and(|class| class.queue.is_empty());
        if empty {
            self.cancel_lease_requests(class_id);
        }
    }

    pub(super) fn lease_may_be_idle(&mut self, lease_id: LeaseId) {
        let now = self.now;
        let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
            return;
        };
        lease.timed = false;
        if !lease.pushed.is_empty() {
            // It rests again when they are answered.
            return;
        }
        let at = lease.idle_since + LEASE_LINGER;
        if at <= now {
            self.give_lease_back(lease_id);
        } else {
            lease.timed = true;
            self.timers.set(at, Timer::IdleLease(lease_id));
        }
    }

    fn give_lease_back(&mut self, lease_id: LeaseId) {
        if let Some(lease) = self.remove_lease(lease_id) {
            self.return_lease_message(lease.raylet, lease_id, false);
            // What is queued needs another one.
            self.pump(lease.class, false);
        }
    }

    pub(super) fn remove_lease(&mut self, lease_id: LeaseId) -> Option<Lease> {
        let lease = self.scheduling.leases.remove(&lease_id)?;
        if let Some(class) = self.scheduling.classes.get_mut(&lease.class) {
            class.leases.retain(|other| *other != lease_id);
        }
        if let Some(worker) = &lease.worker {
            if let Some(state) = self.conns.get_mut(&worker.conn) {
                state.lease = None;
            }
        }
        Some(lease)
    }

    pub(super) fn return_lease_message(&mut self, raylet: ConnId, lease_id: LeaseId, worker_failed: bool) {
        let message = proto::ReturnWorkerLease {
            lease_id: lease_id.to_vec().into(),
            worker_failed,
        };
        self.send(raylet, FrameKind::ReturnWorkerLease, 0, &message, &[], false);
    }

    /// A worker gave a task back that waited behind another one: it runs something long, or waits.
    pub(super) fn task_came_back(&mut self, class_id: SchedulingClassId, task_id: TaskId) {
        if let Some(class) = self.scheduling.classes.get_mut(&class_id) {
            // Nothing is pushed ahead until tasks are measured short again.
            class.run_micros = class.run_micros.max(SHORT_TASK * 2.0);
            class.queue.push_front(task_id);
        }
    }

    /// A pushed function was answered: its worker has room. `done`: with results, to the call of this correlation id.
    pub(super) fn push_answered(
        &mut self,
        conn: ConnId,
        class_id: SchedulingClassId,
        task_id: TaskId,
        done: Option<u64>,
        run_micros: u64,
    ) {
        if let (Some(_), Some(class)) = (done, self.scheduling.classes.get_mut(&class_id)) {
            let run_micros = run_micros as f64;
            class.run_micros = if class.run_micros < 0.0 {
                run_micros
            } else {
                class.run_micros * 0.9 + run_micros * 0.1
            };
        }
        let lease_id = self.conns.get_mut(&conn).and_then(|state| {
            let far = state
                .remote
                .as_ref()
                .is_some_and(|remote| remote.node_id != self.me.node_id);
            if let (true, Some(correlation)) = (far, done) {
                state.answered = correlation;
            }
            state.lease
        });
        if let Some(lease_id) = lease_id {
            if let Some(lease) = self.scheduling.leases.get_mut(&lease_id) {
                if lease.pushed.front() == Some(&task_id) {
                    lease.pushed.pop_front();
                } else {
                    lease.pushed.retain(|pushed| *pushed != task_id);
                }
            }
            self.feed(lease_id);
        }
        if done.is_none() {
            self.pump(class_id, true);
        }
    }

    pub(super) fn on_lease_wanted(&mut self, message: &proto::LeaseWanted) -> Result<(), CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let Some(lease) = self.scheduling.leases.get_mut(&lease_id) else {
            return Ok(());
        };
        lease.wanted = true;
        if lease.worker.is_some() && lease.pushed.is_empty() {
            self.give_lease_back(lease_id);
        }
        Ok(())
    }
}
