//! Events between parts, handed on until none is left.

use std::time::Instant;

use prost::bytes::Bytes;
use sparkray_common::{JobId, WorkerKey};
use sparkray_proto::LogBatch;
use sparkray_rpc::Frame;

use super::{Changed, Router};
use crate::outbox::{Birth, Effect, Event};

impl Router {
    pub(super) fn drain_events(&mut self, now: Instant) {
        while let Some(event) = self.out.next_event() {
            self.hand_on(event, now);
        }
    }

    fn hand_on(&mut self, event: Event, now: Instant) {
        match event {
            Event::LeasesChanged => self.leases_changed(),
            Event::Notify { kind, meta } => {
                for connection in self.clients.with_notices() {
                    let frame = Frame {
                        kind,
                        correlation: 0,
                        meta: meta.clone(),
                        payload: Bytes::new(),
                        descriptor: None,
                    };
                    self.out.effect(Effect::Send { connection, frame });
                }
            }
            Event::SendToProcess { worker, frame } => {
                if let Some(connection) = self.connection_of(worker) {
                    self.out.effect(Effect::Send { connection, frame });
                }
            }
            Event::TellHead(message) => self.head.send(*message),
            Event::Log(batch) => self.log(batch),
            Event::ConnectionDropped { connection, cause } => {
                self.out.effect(Effect::Close { connection });
                self.connection_ended(connection, cause, now);
            }
            Event::WorkerReturned { worker } => self.workers.give_back(worker, now),
            Event::KillWorker { worker } => self.workers.kill(worker, now, &mut self.out),
            Event::EndWorker {
                worker,
                reason,
                grace,
            } => self.workers.end(worker, reason, grace, now, &mut self.out),
            Event::ForkWorkers { zygote, key, count } => self.fork(zygote, &key, count, now),
            Event::WorkerUnborn { connection } => {
                self.clients.remove(connection);
                self.out.effect(Effect::Release { connection });
            }
            Event::WorkerEnded {
                worker,
                connection,
                cause,
            } => self.worker_ended(worker, connection, &cause),
        }
    }

    pub(super) fn leases_changed(&mut self) {
        self.changed = self.changed.max(Changed::Leases);
    }

    fn fork(&mut self, zygote: u64, key: &WorkerKey, count: usize, now: Instant) {
        let mut births = Vec::with_capacity(count);
        for _ in 0..count {
            let worker = self.ids.next_worker();
            let birth = Birth {
                worker,
                connection: self.clients.connected(true, Some(worker), now),
                key: key.clone(),
                zygote,
            };
            self.workers.add(&birth, now);
            births.push(birth);
        }
        self.out.effect(Effect::Fork { births });
    }

    /// Lines for a job's driver: on this node, or by way of the head.
    pub(super) fn log(&mut self, batch: LogBatch) {
        if let Some(batch) = self.log_here(batch) {
            self.head.send_log(batch);
        }
    }

    /// Lines for a driver of this node; they are returned when it is not here.
    pub(super) fn log_here(&mut self, batch: LogBatch) -> Option<LogBatch> {
        let job = JobId::from_slice(&batch.job_id).ok()?;
        let Some((connection, driver)) = self.clients.driver_of(job) else {
            return Some(batch);
        };
        if driver.log_to_driver {
            self.out.effect(Effect::SendLog { connection, batch });
        }
        None
    }
}
