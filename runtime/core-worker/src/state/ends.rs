//! Ends of connections, processes, nodes, the head and this process's own part, and what follows from them in each part.
//!
//! A connection may break while both processes live: what it was used for goes on over another one (`links::unreachable`).
//! Only a death ends it.

use sparkray_common::{ErrorCode, JobId, NodeId, WorkerAddress, WorkerId};
use sparkray_proto as proto;
use tracing::warn;

use super::leases::Loss;
use super::links::{
    CloseCause, ClosedLink, ConnId, PeerKey, Pending, RAYLET_CONN, SlotResult, lost_connection,
};
use super::outbox::Notice;
use super::{Base, State};
use crate::error::CoreError;

impl State {
    // ---- connections ---------------------------------------------------------------------------------------

    /// A connection is gone.
    pub(crate) fn on_closed(&mut self, conn: ConnId, cause: &CloseCause) {
        if let Some(closed) = self.base.links.close(conn, cause) {
            self.connection_lost(conn, closed, cause);
        }
        self.drain_events();
    }

    /// This side closes a connection.
    pub(super) fn hang_up(&mut self, conn: ConnId, cause: &CloseCause) {
        if let Some(closed) = self.base.links.hang_up(conn, cause) {
            self.connection_lost(conn, closed, cause);
        }
    }

    fn connection_lost(&mut self, conn: ConnId, mut closed: ClosedLink, cause: &CloseCause) {
        let message = std::mem::take(&mut closed.message);
        if conn == RAYLET_CONN {
            self.leave(CoreError::new(
                ErrorCode::NotRunning,
                format!("the raylet of this node is gone ({message}): call shutdown() and init() again"),
            ));
        }
        let links = &mut self.base.links;
        if let Some(worker) = closed.worker() {
            // Without a head nobody will say whether it died: the broken connection must do.
            if cause.gone || links.process.head_lost.is_some() {
                links.deaths.add_worker(worker);
            }
        }
        let remote = closed.remote.take();
        let gone = remote.as_ref().is_some_and(|remote| links.deaths.is_dead(remote));
        self.execution.connection_lost(conn);
        for pending in std::mem::take(&mut closed.pending) {
            self.request_lost(pending, &message);
        }
        if let Some(PeerKey::Raylet(node)) = closed.peer {
            self.leases.raylet_lost(&mut self.base.links, node, cause.gone);
        }
        let loss = Loss {
            unused: cause.unused,
            gone,
            cause: &message,
        };
        self.leases.worker_lost(&mut self.base, closed.lease, loss);
        if let Some(remote) = remote.filter(|remote| !remote.worker_id.is_nil()) {
            if !gone {
                self.peer_lost(&remote);
            } else if !self.base.links.is_connected(remote.worker_id) {
                self.worker_gone(remote.worker_id, &message);
            }
        }
        self.actors.connection_lost(&mut self.base, conn);
    }

    /// The answer to a request will not come, because its connection broke.
    fn request_lost(&mut self, pending: Pending, cause: &str) {
        let Base { links, objects, .. } = &mut self.base;
        match pending {
            Pending::Register => {
                if self.registered.is_none() {
                    self.registered = Some(Err(lost_connection(cause)));
                    links.out.news();
                }
            }
            Pending::Lease(lease) => self.leases.request_lost(&mut self.base, lease),
            // Functions are put right with the lease of their worker, calls of actors are sent again.
            Pending::Push(_) => {}
            Pending::Fetch(object) => objects.fetch_lost(links, object),
            Pending::Read(ids) => objects.reads_failed(links, ids, &lost_connection(cause)),
            Pending::Create { slot, .. }
            | Pending::Head(slot)
            | Pending::Metrics(slot)
            | Pending::Cancel(slot)
            | Pending::Done(slot) => {
                links.fill_slot(slot, SlotResult::Failed(lost_connection(cause)));
            }
            Pending::Creation(actor) => {
                self.actors
                    .refused(&mut self.base, actor, lost_connection(cause), true);
            }
            Pending::Borrow { settles, owner, .. } => objects.borrows_lost(links, owner, settles),
        }
    }

    pub(super) fn give_up_unanswered(&mut self, conn: ConnId) {
        if !self.base.links.is_registered(conn) {
            self.hang_up(conn, &CloseCause::new("the other side did not answer in time"));
        }
    }

    /// What a process sent before it died has been read.
    pub(super) fn close_dead(&mut self, conn: ConnId) {
        self.hang_up(conn, &CloseCause::death(""));
    }

    // ---- processes that cannot be reached ------------------------------------------------------------------

    fn has_ties(&self, worker: WorkerId) -> bool {
        self.base.objects.has_ties(worker) || self.leases.is_suspended(worker)
    }

    /// The connection to a process is lost; its death is not known.
    pub(super) fn peer_lost(&mut self, remote: &WorkerAddress) {
        let worker = remote.worker_id;
        self.base.objects.unsettle(worker);
        let is_needed = self.base.links.process.broken.is_none() && self.has_ties(worker);
        if is_needed {
            self.base.links.call_later(remote);
        } else {
            self.base.links.forget_unreachable(worker);
        }
    }

    /// Calls a process again, and puts both sides right.
    pub(super) fn call_again(&mut self, worker: WorkerId) {
        let Some(address) = self.base.links.is_to_be_called(worker) else {
            return;
        };
        if !self.has_ties(worker) {
            self.base.links.forget_unreachable(worker);
            return;
        }
        let conn = self.base.links.conn_to_worker(&address);
        if self.base.links.is_registered(conn) {
            // It came back by itself.
            self.base.links.forget_unreachable(worker);
        }
        self.base.objects.register_again(&mut self.base.links, worker);
        self.leases.resume(&mut self.base, worker, conn);
        self.base.objects.remind(&mut self.base.links, worker, conn);
    }

    // ---- deaths --------------------------------------------------------------------------------------------

    pub(super) fn on_worker_died(&mut self, message: &proto::WorkerDied) -> Result<(), CoreError> {
        let worker = WorkerId::from_slice(&message.worker_id)?;
        let Base { links, objects, .. } = &mut self.base;
        links.deaths.add_worker(worker);
        self.execution.caller_died(worker);
        objects.owner_died(links, worker);
        let conns = links.conns_of_worker(worker);
        if conns.is_empty() {
            self.worker_gone(worker, &message.cause);
            return Ok(());
        }
        for conn in conns {
            links.close_after_drain(conn, &message.cause);
        }
        Ok(())
    }

    pub(super) fn on_lease_broken(&mut self, message: &proto::LeaseBroken) -> Result<(), CoreError> {
        if let Some((worker, conn)) = self.leases.on_lease_broken(message)? {
            self.base.links.deaths.add_worker(worker);
            if self.base.links.is_connected(worker) {
                self.base.links.close_after_drain(conn, &message.cause);
            } else {
                self.worker_gone(worker, &message.cause);
            }
        }
        Ok(())
    }

    pub(super) fn on_node_died(&mut self, message: &proto::NodeDied) -> Result<(), CoreError> {
        let node = NodeId::from_slice(&message.node_id)?;
        let Base { links, objects, .. } = &mut self.base;
        links.deaths.add_node(node);
        let me = &links.process.me;
        objects.node_lost((me.node_id, &me.node_address), node, &message.cause);
        // A node that vanished does not close its connections.
        for conn in links.conns_of_node(node) {
            self.hang_up(conn, &CloseCause::death(message.cause.clone()));
        }
        let mut workers = self.base.objects.tied_workers_on(node);
        workers.extend(self.leases.workers_on(node));
        for worker in workers {
            self.worker_gone(worker, &message.cause);
        }
        Ok(())
    }

    /// A process is dead, and all that it has sent was read: nothing is kept for it any more.
    fn worker_gone(&mut self, worker: WorkerId, cause: &str) {
        self.base.links.forget_unreachable(worker);
        self.leases.end_suspended(&mut self.base, worker, cause);
        self.execution.caller_gone(worker);
        self.base.objects.worker_gone(&mut self.base.links, worker);
    }

    // ---- the head, and this process ------------------------------------------------------------------------

    pub(crate) fn on_head_lost(&mut self, cause: String) {
        if self.head_lost().is_some() {
            return;
        }
        warn!(cause, "the head is gone");
        self.actors.head_lost(&mut self.base, &cause);
        let links = &mut self.base.links;
        let message = format!("the head of the cluster is gone ({cause}): call shutdown() and init() again");
        links.fail_head_requests(&CoreError::new(ErrorCode::Unavailable, message));
        links.process.head_lost = Some(cause.clone());
        // Nobody will say whether they died.
        for worker in links.unreachable_workers() {
            self.base.links.deaths.add_worker(worker);
            self.worker_gone(worker, &cause);
        }
        self.base.links.hurry_unanswered();
    }

    /// The job in which this process takes part is over. The process lives on, and may take part in another one.
    pub(crate) fn on_job_finished(&mut self, job: JobId) {
        if job == self.job_id() {
            let message =
                format!("job {job}, in which this process took part, is over: its driver has left or ended");
            self.leave(CoreError::new(ErrorCode::NotRunning, message));
        }
    }

    /// Takes no more part in the cluster: whatever is waited for ends with `error`.
    pub(crate) fn leave(&mut self, error: CoreError) {
        let Base {
            links,
            objects,
            tasks,
        } = &mut self.base;
        self.execution.exit(links);
        if links.process.broken.is_some() {
            return;
        }
        links.process.broken = Some(error.clone());
        links.out.notify(Notice::Left);
        links.fail_slots(&error);
        tasks.fail_all(objects, links, &error);
        objects.fail_unresolved(links, &error);
    }

    /// What reads the sockets has failed, perhaps in the middle of a change: nothing of the state is to be relied on but
    /// this.
    pub(crate) fn break_down(&mut self, error: CoreError) {
        self.process_mut().broken = Some(error);
    }
}
