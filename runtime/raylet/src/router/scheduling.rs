//! Leases that need workers: where leases, actors and workers meet.

use std::time::Instant;

use sparkray_common::{ErrorCode, LeaseId, WorkerId, WorkerKey};
use sparkray_proto::Failure;

use super::{Changed, Router};
use crate::leases::Waiting;

impl Router {
    /// Decides on leases, when something changed. To be called after each batch of inputs.
    pub(crate) fn schedule(&mut self, now: Instant) {
        let changed = std::mem::replace(&mut self.changed, Changed::Nothing);
        if changed == Changed::Nothing {
            return;
        }
        let view_changed = changed == Changed::View;
        self.leases
            .decide(&mut self.view, view_changed, now, &mut self.out);
        self.find_workers(now);
        self.refuse_infeasible_without_head();
        self.drain_events(now);
    }

    /// Collects what the store asks for; false when that is nothing. To be called after each batch, until it is.
    pub(crate) fn collect_store_events(&mut self) -> bool {
        let clients = &self.clients;
        self.objects
            .collect(|worker| clients.of_worker(worker), &mut self.out)
    }

    /// Sends what the store answers. To be called once it asks for nothing more.
    pub(crate) fn send_store_replies(&mut self) {
        self.objects.send_replies(&mut self.out);
    }

    fn find_workers(&mut self, now: Instant) {
        // In the order of the leases.
        let mut missing: Vec<(WorkerKey, usize)> = Vec::new();
        for lease in self.leases.waiting() {
            if let Some(failure) = self.why_not_here(&lease) {
                self.fail(lease.lease_id, failure);
                continue;
            }
            match self
                .workers
                .take_idle(&lease.worker, lease.job, lease.lease_id, now)
            {
                Some(worker) => self.give_worker(lease.lease_id, worker, now),
                None => match missing.iter_mut().find(|(key, _)| *key == lease.worker) {
                    Some((_, count)) => *count += 1,
                    None => missing.push((lease.worker, 1)),
                },
            }
        }
        self.workers.fork_missing(&missing, now, &mut self.out);
        if self.workers.is_any_hopeless() {
            self.refuse_hopeless();
        }
    }

    /// Those who wait for workers that will not come are told.
    fn refuse_hopeless(&mut self) {
        for lease in self.leases.waiting() {
            let Some(cause) = self.workers.hopeless(&lease.worker) else {
                continue;
            };
            let environment = &lease.worker.environment;
            let address = &self.node.address;
            let (code, text) = if environment.is_default() {
                let text = format!("node {address} cannot start Python workers: {cause}");
                (ErrorCode::Unavailable, text)
            } else {
                // Their values may be secrets.
                let names: Vec<&str> = environment.variables().keys().map(String::as_str).collect();
                let text = format!(
                    "node {address} cannot start Python workers with the variables {} of their runtime_env: {cause}",
                    names.join(", ")
                );
                (ErrorCode::RuntimeEnvSetup, text)
            };
            self.fail(lease.lease_id, Failure::new(code, text));
        }
        self.workers.forget_hopeless(&mut self.out);
    }

    fn why_not_here(&self, lease: &Waiting) -> Option<Failure> {
        let (job, wanted) = (lease.job, lease.python_version.as_str());
        let here = self.workers.python_version()?;
        if wanted.is_empty() || wanted == here {
            return None;
        }
        Some(Failure::new(
            ErrorCode::VersionMismatch,
            format!(
                "job {job} runs Python {wanted}, but node {} has Python {here}: use the same Python on the driver and on \
                 all nodes",
                self.node.address
            ),
        ))
    }

    fn give_worker(&mut self, lease_id: LeaseId, worker: WorkerId, now: Instant) {
        self.leases.assign_worker(lease_id, worker, now);
        match self.actors.by_lease(lease_id) {
            Some(actor) => self.actors.create(actor, worker, &mut self.out),
            None => {
                let pid = self.workers.pid_of(worker);
                self.leases.grant(lease_id, worker, pid, &mut self.out);
            }
        }
    }

    fn refuse_infeasible_without_head(&mut self) {
        let Some(cause) = self.head.lost() else { return };
        for (lease_id, failure) in self.leases.infeasible_without_head(&self.view, cause) {
            self.fail(lease_id, failure);
        }
    }

    /// A request cannot be met.
    pub(super) fn fail(&mut self, lease_id: LeaseId, failure: Failure) {
        match self.actors.by_lease(lease_id) {
            Some(actor) => self
                .actors
                .cannot_start(actor, failure, &mut self.leases, &mut self.out),
            None => self.leases.refuse(lease_id, failure, &mut self.out),
        }
    }
}
