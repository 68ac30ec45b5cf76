//! Asking raylets for leases, and what they answer.

use sparkray_common::{ErrorCode, LeaseId, NodeId, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::Frame;
use tracing::{Span, debug_span};

use super::{Lease, LeasedWorker, Leases};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::events::Event;
use crate::state::ids::SchedulingClassId;
use crate::state::links::{ConnId, Pending, RAYLET_CONN, Timer};
use crate::state::objects::Value;

/// A class whose request was lost with a node asks again after this time, in microseconds.
const REQUEST_DELAY: u64 = 100_000;
/// Failures of other nodes, one after the other, that do not yet fail the tasks of a class.
const MAX_REQUEST_FAILURES: u8 = 5;

impl Leases {
    // ---- asking --------------------------------------------------------------------------------------------

    pub(super) fn request_lease(&mut self, base: &mut Base, class_id: SchedulingClassId) {
        let Some(class) = self.classes.get(&class_id) else {
            return;
        };
        let conn = match &class.key.locality {
            Some((node, address)) if class.asks_locality && !address.is_empty() => {
                let (node, address) = (*node, address.clone());
                self.conn_to_raylet(base, node, &address)
            }
            _ => RAYLET_CONN,
        };
        let lease_id = base.links.process.ids.next_lease();
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.requested.push(lease_id);
            self.metrics.requested();
            let asking = debug_span!("request_lease", %lease_id);
            let lease = Lease::requested(class_id, conn, base.now(), asking);
            self.leases.insert(lease_id, lease);
            self.send_lease_request(base, lease_id, false);
        }
    }

    fn send_lease_request(&mut self, base: &mut Base, lease_id: LeaseId, spilled: bool) {
        let Some(lease) = self.leases.get(&lease_id) else {
            return;
        };
        let Some(class) = self.classes.get(&lease.class) else {
            return;
        };
        let first = class.queue.iter().find_map(|task| base.tasks.get(*task));
        let process = &base.links.process;
        let message = proto::RequestWorkerLease {
            lease_id: lease_id.to_vec().into(),
            job_id: class.key.job_id.to_vec().into(),
            resources: Some((&class.key.resources).into()),
            spilled,
            strategy: Some((&class.key.strategy).into()),
            owner: Some(process.me_message.clone()),
            python_version: process.python_version.clone(),
            worker: Some((&class.key.worker).into()),
            task_name: first.map_or_else(String::new, |task| task.kind().name().to_owned()),
        };
        let pending = Pending::Lease(lease_id);
        let kind = FrameKind::RequestWorkerLease;
        if base.links.request(lease.raylet, pending, kind, &message).is_err() {
            base.links.out.event(Event::LeaseRequestLost(lease_id));
        }
    }

    pub(in crate::state) fn ask_again(&mut self, base: &mut Base, class_id: SchedulingClassId) {
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.retry_at = None;
            self.pump(base, class_id, true);
        }
    }

    /// A class asks again, but a little later.
    pub(super) fn delay_requests(&mut self, base: &mut Base, class_id: SchedulingClassId) {
        let at = base.now() + REQUEST_DELAY;
        if let Some(class) = self.classes.get_mut(&class_id) {
            if class.retry_at.is_none() {
                class.retry_at = Some(at);
                base.links.timers.set(at, Timer::LeaseRequests(class_id));
            }
        }
    }

    pub(super) fn cancel_requests(&mut self, base: &mut Base, class_id: SchedulingClassId) {
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        for lease_id in std::mem::take(&mut class.requested) {
            if let Some(lease) = self.leases.remove(&lease_id) {
                self.metrics.cancelled();
                let message = proto::CancelWorkerLease {
                    lease_id: lease_id.to_vec().into(),
                };
                let kind = FrameKind::CancelWorkerLease;
                base.links.send(lease.raylet, kind, 0, &message, &[], false);
            }
        }
    }

    // ---- answers -------------------------------------------------------------------------------------------

    /// A raylet has answered a request.
    pub(in crate::state) fn take_reply(
        &mut self,
        base: &mut Base,
        conn: ConnId,
        lease_id: LeaseId,
        frame: &Frame,
    ) -> Result<(), CoreError> {
        let outcome = frame
            .decode()
            .map_err(CoreError::from)
            .and_then(|reply| self.take_message(base, conn, lease_id, &reply));
        if outcome.is_err() {
            self.request_lost(base, lease_id);
        }
        outcome
    }

    fn take_message(
        &mut self,
        base: &mut Base,
        conn: ConnId,
        lease_id: LeaseId,
        reply: &proto::RequestWorkerLeaseReply,
    ) -> Result<(), CoreError> {
        let Some(class_id) = self.leases.get(&lease_id).map(|lease| lease.class) else {
            // Cancelled meanwhile; the raylet may have granted it before it heard that.
            if reply.worker.is_some() {
                Self::return_lease(base, conn, lease_id, false);
            }
            return Ok(());
        };
        if let Some(failure) = &reply.failure {
            self.metrics.refused();
            self.refused(base, conn, lease_id, failure.into());
            return Ok(());
        }
        if let Some(location) = &reply.spillback {
            self.metrics.spilled();
            let node = NodeId::from_slice(&location.node_id)?;
            let conn = self.conn_to_raylet(base, node, &location.node_address);
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.raylet = conn;
            }
            self.send_lease_request(base, lease_id, true);
            return Ok(());
        }
        let worker = reply
            .worker
            .as_ref()
            .ok_or(proto::MessageError::Missing("worker"))?;
        let address = WorkerAddress::try_from(worker)?;
        self.granted(base, lease_id, class_id, address, reply.worker_pid);
        Ok(())
    }

    fn granted(
        &mut self,
        base: &mut Base,
        lease_id: LeaseId,
        class_id: SchedulingClassId,
        address: WorkerAddress,
        pid: u32,
    ) {
        let conn = base.links.conn_to_worker(&address);
        base.links.set_lease(conn, Some(lease_id));
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.requested.retain(|other| *other != lease_id);
            class.leases.push(lease_id);
            class.failures = 0;
        }
        if let Some(lease) = self.leases.get_mut(&lease_id) {
            lease.worker = Some(LeasedWorker { address, conn, pid });
            self.metrics.granted(base.now().saturating_sub(lease.asked_at));
            lease.granted_at = base.now();
            lease.asking = Span::none();
            lease.idle_since = base.now();
        }
        self.dispatch(base, lease_id);
    }

    /// A raylet cannot give a lease: the tasks that wait for it fail, unless another node may do better.
    fn refused(&mut self, base: &mut Base, conn: ConnId, lease_id: LeaseId, error: CoreError) {
        let Some(class_id) = self.leases.get(&lease_id).map(|lease| lease.class) else {
            return;
        };
        let elsewhere = conn != RAYLET_CONN
            && matches!(
                error.code,
                ErrorCode::Unavailable | ErrorCode::Cancelled | ErrorCode::NotRunning
            );
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.failures = class.failures.saturating_add(1);
            if elsewhere && class.failures < MAX_REQUEST_FAILURES {
                self.request_lost(base, lease_id);
                return;
            }
        }
        self.forget_request(lease_id);
        self.fail_queue(base, class_id, error);
    }

    /// A request was lost with the node that was asked: this node's raylet is asked for another, a little later,
    /// because it may not know of the death yet.
    pub(in crate::state) fn request_lost(&mut self, base: &mut Base, lease_id: LeaseId) {
        let Some(class_id) = self.forget_request(lease_id) else {
            return;
        };
        if let Some(cause) = &base.links.process.head_lost {
            // No raylet will hear that the node is dead: the request would be sent there again and again.
            let message = format!(
                "a node of the cluster cannot be reached, and its head is gone ({cause}): call shutdown() and init() again"
            );
            self.fail_queue(base, class_id, CoreError::new(ErrorCode::Unavailable, message));
            return;
        }
        if let Some(class) = self.classes.get_mut(&class_id) {
            class.asks_locality = false;
        }
        self.delay_requests(base, class_id);
    }

    fn forget_request(&mut self, lease_id: LeaseId) -> Option<SchedulingClassId> {
        let lease = self.leases.get(&lease_id)?;
        if lease.worker.is_some() {
            return None;
        }
        let class_id = lease.class;
        self.leases.remove(&lease_id);
        let class = self.classes.get_mut(&class_id)?;
        class.requested.retain(|other| *other != lease_id);
        Some(class_id)
    }

    fn fail_queue(&mut self, base: &mut Base, class_id: SchedulingClassId, error: CoreError) {
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        let queued = class.queue.take();
        let failed = Value::failed(error);
        for task in queued {
            base.finish_task(task, &failed);
        }
        self.cancel_requests(base, class_id);
    }
}
