//! Ends: of connections, processes and jobs.

use std::time::Instant;

use sparkray_common::{JobId, WorkerId};
use sparkray_proto::{ClientKind, FrameKind, JobFinished, WorkerDeath, WorkerDied, node_message};
use tracing::{debug, info};

use super::Router;
use crate::outbox::Effect;

impl Router {
    /// A connection ended and everything that came over it was handled.
    pub(super) fn connection_ended(&mut self, connection: u64, cause: &str, now: Instant) {
        let Some(departed) = self.clients.remove(connection) else {
            return;
        };
        // What a worker had is taken back when it has ended.
        if self.objects.client_left(connection) && departed.expected.is_none() {
            self.out.effect(Effect::AwaitProcess { connection });
        }
        self.out.effect(Effect::Release { connection });
        if let Some(client) = &departed.client {
            if client.is_local() {
                self.leases.end_of_owner(client.worker_id, &mut self.out);
            } else {
                let head_is_lost = self.head.lost().is_some();
                self.leases
                    .owner_disconnected(connection, client.worker_id, head_is_lost, &mut self.out);
            }
        }
        self.head.client_left(connection, &mut self.out);
        if let Some(worker) = departed.expected {
            self.workers.closed(worker, now, &mut self.out);
            return;
        }
        let Some(client) = departed.client else { return };
        debug!(connection, kind = ?client.kind, worker_id = %client.worker_id, cause, "client is gone");
        if client.kind == ClientKind::Remote {
            // Of another node's client nothing but leases lasts: its fetches it begins again, and what it adopts or
            // frees it repeats until that was acknowledged.
            return;
        }
        let kind = match client.kind {
            ClientKind::Driver => "driver",
            ClientKind::Participant => "participant",
            _ => "store client",
        };
        let cause = format!(
            "{kind} {} (pid {}) on {}: {cause}",
            client.worker_id, client.pid, self.node.host
        );
        let ended_job = client.job_id.filter(|_| client.kind == ClientKind::Driver);
        if let Some(job) = ended_job {
            info!(job_id = %job, pid = client.pid, "driver is gone");
            self.finish_job(job, now);
        }
        self.process_ended(client.worker_id, &cause, ended_job);
    }

    /// A worker is gone for good: everybody who depended on it hears why.
    pub(super) fn worker_ended(&mut self, worker: WorkerId, connection: u64, cause: &str) {
        self.objects.client_gone(connection);
        self.leases.worker_ended(worker, cause, &mut self.out);
        self.actors
            .worker_ended(worker, cause, &mut self.leases, &mut self.out);
        self.process_ended(worker, cause, None);
        self.leases_changed();
    }

    /// A client, worker or driver of this node is gone: its objects, and everybody who knew it.
    fn process_ended(&mut self, worker: WorkerId, cause: &str, job: Option<JobId>) {
        self.out.effect(Effect::CloseRoute { worker });
        self.out
            .tell_head(node_message::Message::WorkerDeath(WorkerDeath {
                worker_id: worker.to_vec().into(),
                cause: cause.to_owned(),
                job_id: job.map(|job| job.to_vec().into()).unwrap_or_default(),
            }));
        self.objects.owner_gone(worker);
        let message = WorkerDied {
            worker_id: worker.to_vec().into(),
            node_id: self.node.node_id.to_vec().into(),
            cause: cause.to_owned(),
        };
        self.out.notify(FrameKind::WorkerDied, &message);
    }

    /// A job is over: its workers and objects go. Actors that outlive it stay, with the leases that they hold: a lease
    /// ends with its owner, whose end follows for all others.
    pub(super) fn finish_job(&mut self, job: JobId, now: Instant) {
        self.actors.job_finished(job, &mut self.leases, &mut self.out);
        for worker in self.workers.of_job(job) {
            if !self.actors.is_detached(worker) && !self.leases.serves_an_owner(worker) {
                self.workers.kill(worker, now, &mut self.out);
            }
        }
        for participant in self.clients.job_finished(job) {
            self.tell_job_finished(participant, job);
        }
        self.leases_changed();
    }

    /// A participant hears that the job which it takes part in is over. Its process lives on.
    pub(super) fn tell_job_finished(&mut self, participant: u64, job: JobId) {
        let message = JobFinished {
            job_id: job.to_vec().into(),
        };
        self.out.send(participant, FrameKind::JobFinished, 0, &message);
    }
}
