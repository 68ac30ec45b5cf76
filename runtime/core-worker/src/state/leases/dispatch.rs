//! Pushing tasks to leased workers, and giving leases back.

use std::sync::Arc;

use sparkray_common::{LeaseId, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::{Lease, Leases, SHORT_TASK};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::events::Event;
use crate::state::ids::SchedulingClassId;
use crate::state::limits::MAX_PUSHED_BYTES;
use crate::state::links::{ConnId, Timer};
use crate::state::tasks::{CallKind, Outcome, Place, PushPrefix};

/// An idle lease is kept this long for the next task of its class, in microseconds.
const LEASE_LINGER: u64 = 20_000;
/// A lease that others wait for goes back when it has been held for this long, in microseconds.
const LEASE_SLICE: u64 = 100_000;

impl Leases {
    // ---- pushing -------------------------------------------------------------------------------------------

    /// Pushes queued tasks to one leased worker, or finds that it is idle.
    pub(super) fn dispatch(&mut self, base: &mut Base, lease_id: LeaseId) {
        loop {
            let Some(lease) = self.leases.get_mut(&lease_id) else {
                return;
            };
            if lease.suspended {
                return;
            }
            let (Some(class), Some(worker)) = (self.classes.get_mut(&lease.class), lease.worker.as_ref())
            else {
                return;
            };
            let conn = worker.conn;
            // Others wait, and this process has had its time.
            let spent = lease.wanted && base.now() >= lease.granted_at + LEASE_SLICE;
            if class.queue.is_empty() || spent {
                break;
            }
            // An even share for each worker, so that the last tasks do not all wait behind one of them.
            let share = class.queue.len().div_ceil(class.leases.len().max(1));
            let is_full = !lease.pushed.is_empty() && lease.pushed_bytes >= MAX_PUSHED_BYTES;
            if is_full || lease.pushed.len() >= class.depth().min(share.max(1)) {
                return;
            }
            let Some(task_id) = class.queue.pop_front() else {
                break;
            };
            let Some(task) = base.tasks.get(task_id) else {
                class.queue.passed_over();
                continue;
            };
            // A value may have been lost since the task was queued.
            if let Some(value) = base.objects.first_failure(task.argument_ids()) {
                base.fail_for_argument(task_id, &value);
                continue;
            }
            self.push(base, lease_id, conn, task_id, false);
        }
        self.rest(base, lease_id);
    }

    /// `again`: the worker may have it.
    pub(super) fn push(
        &mut self,
        base: &mut Base,
        lease_id: LeaseId,
        conn: ConnId,
        task_id: TaskId,
        again: bool,
    ) {
        let Some(task) = base.tasks.get_mut(task_id) else {
            return;
        };
        let CallKind::Function(template) = task.kind() else {
            return;
        };
        let (template, job_id) = (Arc::clone(template), task.job_id());
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return;
        };
        let Some(worker) = &lease.worker else { return };
        self.metrics.pushed();
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
                    bundle: template.strategy.bundle().as_ref().map(Into::into),
                    ..Default::default()
                };
                PushPrefix::new(&template, job_id, num_returns, message)
            }
        };
        let (is_first, acknowledged) = base.links.carry_function(conn, template.function_id);
        let message = proto::PushTask {
            again,
            acknowledged,
            ..Default::default()
        };
        let blob = is_first.then_some(&template.function_blob);
        let links = &mut base.links;
        let to = (conn, task_id);
        let sent = task.push(&base.objects, links, to, prefix.bytes(), blob, message);
        let bytes = sent.unwrap_or_else(|_| {
            links.out.event(Event::PushLost(task_id));
            0
        });
        lease.pushed_bytes += bytes as usize;
        task.set_place(Place::Pushed {
            class: lease.class,
            lease: lease_id,
            bytes,
        });
        lease.prefix = Some(prefix);
    }

    /// A pushed function was answered: its worker has room.
    pub(in crate::state) fn answered(
        &mut self,
        base: &mut Base,
        (conn, correlation): (ConnId, u64),
        class_id: SchedulingClassId,
        task_id: TaskId,
        outcome: Outcome,
        bytes: u32,
    ) {
        let lease_id = base.links.lease_of(conn);
        if let Some(lease) = lease_id.and_then(|lease_id| self.leases.get_mut(&lease_id)) {
            lease.leave(task_id, bytes);
        }
        let measured = match outcome {
            Outcome::Done(micros) | Outcome::Raised(micros) => Some(micros),
            Outcome::Returned | Outcome::Refused => None,
        };
        if measured.is_some() {
            base.links.function_answered(conn, correlation);
        }
        if matches!(outcome, Outcome::Raised(_) | Outcome::Returned) {
            self.queue_again(base, class_id, task_id);
        }
        if let Some(class) = self.classes.get_mut(&class_id) {
            if let Some(run_micros) = measured {
                class.measure(run_micros);
            } else if outcome == Outcome::Returned {
                // The task before it runs long, or waits: nothing is pushed ahead until tasks are measured short again.
                class.run_micros = class.run_micros.max(SHORT_TASK * 2.0);
            }
        }
        if let Some(lease_id) = lease_id {
            self.dispatch(base, lease_id);
        }
        if measured.is_none() {
            self.pump(base, class_id, true);
        }
    }

    // ---- giving back ---------------------------------------------------------------------------------------

    /// There is no task for a lease: it goes back at once when others wait for it, else a little later.
    fn rest(&mut self, base: &mut Base, lease_id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return;
        };
        let class_id = lease.class;
        if lease.pushed.is_empty() {
            if lease.wanted {
                self.give_back(base, lease_id);
            } else {
                lease.idle_since = base.now();
                lease.look_later(base, lease_id, lease.idle_since + LEASE_LINGER);
            }
        }
        let class = self.classes.get(&class_id);
        if class.is_some_and(|class| class.queue.is_empty()) {
            self.cancel_requests(base, class_id);
        }
    }

    pub(in crate::state) fn may_be_idle(&mut self, base: &mut Base, lease_id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return;
        };
        lease.timed = false;
        if !lease.pushed.is_empty() {
            // It rests again when they are answered.
            return;
        }
        let at = lease.idle_since + LEASE_LINGER;
        if at <= base.now() {
            self.give_back(base, lease_id);
        } else {
            lease.look_later(base, lease_id, at);
        }
    }

    pub(in crate::state) fn on_lease_wanted(
        &mut self,
        base: &mut Base,
        message: &proto::LeaseWanted,
    ) -> Result<(), CoreError> {
        let lease_id = LeaseId::from_slice(&message.lease_id)?;
        let Some(lease) = self.leases.get_mut(&lease_id) else {
            return Ok(());
        };
        lease.wanted = true;
        if lease.worker.is_some() && lease.pushed.is_empty() {
            self.give_back(base, lease_id);
        }
        Ok(())
    }

    fn give_back(&mut self, base: &mut Base, lease_id: LeaseId) {
        if let Some(lease) = self.remove(base, lease_id) {
            Self::return_lease(base, lease.raylet, lease_id, false);
            // What is queued needs another one.
            self.pump(base, lease.class, false);
        }
    }

    pub(super) fn remove(&mut self, base: &mut Base, lease_id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&lease_id)?;
        if let Some(class) = self.classes.get_mut(&lease.class) {
            class.leases.retain(|other| *other != lease_id);
        }
        if let Some(worker) = &lease.worker {
            base.links.set_lease(worker.conn, None);
        }
        Some(lease)
    }

    pub(super) fn return_lease(base: &mut Base, raylet: ConnId, lease_id: LeaseId, worker_failed: bool) {
        let message = proto::ReturnWorkerLease {
            lease_id: lease_id.to_vec().into(),
            worker_failed,
        };
        let kind = FrameKind::ReturnWorkerLease;
        base.links.send(raylet, kind, 0, &message, &[], false);
    }
}

impl Lease {
    /// A task is not at the worker any more.
    pub(super) fn leave(&mut self, task_id: TaskId, bytes: u32) {
        self.pushed_bytes = self.pushed_bytes.saturating_sub(bytes as usize);
        if self.pushed.front() == Some(&task_id) {
            self.pushed.pop_front();
        } else {
            self.pushed.retain(|pushed| *pushed != task_id);
        }
    }

    /// Has a timer look whether the lease is idle.
    fn look_later(&mut self, base: &mut Base, lease_id: LeaseId, at: u64) {
        if !self.timed {
            self.timed = true;
            base.links.timers.set(at, Timer::IdleLease(lease_id));
        }
    }
}
