//! The router: one input goes in, the part that it concerns decides, and what parts have to say to each other is handed on
//! until none has anything to say. Then the effects leave. Without I/O.
//!
//! Invariants:
//! 1. Parts never call each other through the router: they push events. What needs several parts at once (the end of a
//!    worker, a lease that needs one) is decided here, by their narrow methods.
//! 2. After each batch of inputs leases are decided on, when something changed that could matter to them, and then the
//!    store's wishes are collected.

mod clients;
mod ends;
mod events;
mod frames;
mod from_head;
mod metrics;
mod scheduling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{ResourceSet, WorkerId};
use sparkray_proto::{ResourceReport, StoreStats};
use tracing::warn;

use crate::actors::Actors;
use crate::cluster_view::ClusterView;
use crate::error::RayletError;
use crate::gateway::Clients;
use crate::head::Head;
use crate::ids::Ids;
use crate::input::{HeadEvent, Input};
use crate::leases::Leases;
use crate::node_info::NodeInfo;
use crate::objects::Objects;
use crate::outbox::{Effect, ObjectEffect, Outbox};
use crate::workers::Workers;

/// Whether leases are to be decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Nothing,
    /// Resources, workers or requests.
    Leases,
    /// Other nodes too.
    View,
}

/// The parts that decide.
pub(crate) struct Parts {
    pub(crate) clients: Clients,
    pub(crate) leases: Leases,
    pub(crate) workers: Workers,
    pub(crate) actors: Actors,
    pub(crate) objects: Objects,
    pub(crate) head: Head,
}

/// The parts, and what is under way between them.
pub(crate) struct Router {
    node: Arc<NodeInfo>,
    clients: Clients,
    leases: Leases,
    workers: Workers,
    actors: Actors,
    objects: Objects,
    head: Head,
    view: ClusterView,
    /// Of workers.
    ids: Ids,
    out: Outbox,
    changed: Changed,
    /// Set when the raylet cannot go on.
    failure: Option<RayletError>,
}

impl Router {
    /// `view`: the nodes, as the head told them when this one joined.
    pub(crate) fn new(node: Arc<NodeInfo>, parts: Parts, view: ClusterView, ids: Ids) -> Self {
        Self {
            view,
            ids,
            node,
            clients: parts.clients,
            leases: parts.leases,
            workers: parts.workers,
            actors: parts.actors,
            objects: parts.objects,
            head: parts.head,
            out: Outbox::default(),
            // Workers are wanted before anybody asks.
            changed: Changed::Leases,
            failure: None,
        }
    }

    /// Handles one input. Its effects are [`Self::next_effect`]'s then.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) {
        self.take(input, now);
        self.drain_events(now);
    }

    /// The next thing to do.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.out.next_effect()
    }

    /// Why the raylet cannot go on.
    pub(crate) fn take_failure(&mut self) -> Option<RayletError> {
        self.failure.take()
    }

    fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::Accepted { accepted, local } => self.accepted(accepted, local, now),
            Input::Frame { connection, frame } => self.frame(connection, &frame, now),
            Input::Closed { connection, cause } => self.connection_ended(connection, &cause, now),
            Input::ProcessEnded { connection } => self.objects.client_gone(connection),
            Input::ChildrenEnded(ends) => self.workers.children_ended(ends, now, &mut self.out),
            Input::NotForked { births, error } => {
                self.workers.not_forked(births, error, now, &mut self.out);
            }
            Input::Zygote { zygote, event } => {
                self.workers.zygote_event(zygote, event, now, &mut self.out);
            }
            Input::Output {
                worker_id,
                is_stderr,
                lines,
            } => self.workers.output(worker_id, is_stderr, lines, &mut self.out),
            Input::OutputEnded { worker_id } => self.workers.output_ended(worker_id),
            Input::KillWorker { worker_id } => self.workers.kill(worker_id, now, &mut self.out),
            Input::Head(event) => self.head_event(event, now),
            Input::HeadStall {
                asked,
                answered,
                stall,
            } => self.head.stall_answered(asked, answered, stall),
            Input::Tick { clock, head_stall } => self.tick(clock, head_stall, now),
            Input::PullNeedsRoom {
                ticket,
                size,
                owner,
                room,
            } => {
                self.out.effect(ObjectEffect::AwaitRoom { ticket, room });
                self.objects.pull_room(ticket, size, owner);
            }
            Input::PullEnded {
                ticket,
                object,
                took,
                outcome,
            } => {
                self.out.effect(ObjectEffect::ForgetPull { ticket });
                self.objects.pull_ended(ticket, object, took, outcome);
            }
            Input::FeedSettled(message) => self.objects.feed_settled(&message),
            Input::FreesTold { node, left } => {
                let is_alive = self.view.get(node).is_some();
                self.objects.frees_told(node, left, is_alive);
            }
            Input::PushEnded { ticket, outcome } => self.objects.push_ended(ticket, outcome),
            Input::StoreIo(outcome) => self.objects.io_done(outcome),
        }
    }

    fn head_event(&mut self, event: HeadEvent, now: Instant) {
        match event {
            HeadEvent::Message(message) => {
                if let Err(error) = self.head_message(*message, now) {
                    warn!(%error, "the head sent a message that cannot be used");
                }
            }
            HeadEvent::JobAnswered {
                connection,
                correlation,
                reply,
            } => self.job_answered(connection, correlation, &reply),
            HeadEvent::Acknowledged { sent } => self.head.acknowledged(sent),
            HeadEvent::Refused(failure) => {
                self.failure = Some(RayletError::Refused {
                    code: failure.error_code(),
                    message: failure.message,
                });
            }
            HeadEvent::Lost { cause } => self.head_lost(cause),
        }
    }

    /// Ten times a second: what is due.
    fn tick(&mut self, clock: Duration, head_stall: Option<Duration>, now: Instant) {
        if self.failure.is_none() {
            let checked = self
                .head
                .check_lease(clock, head_stall, &self.view, &mut self.out);
            self.failure = checked.err();
        }
        self.objects.tick(now);
        for connection in self.clients.overdue(now) {
            warn!(
                connection,
                "closing a connection whose other end has not registered"
            );
            self.out.effect(Effect::Close { connection });
        }
        self.workers.tick(now, &mut self.out);
        let has_more_room = self.view.forget_old_notes(now);
        if self.leases.queued_count() > 0 {
            // Time alone can change what fits.
            self.changed = self.changed.max(if has_more_room {
                Changed::View
            } else {
                Changed::Leases
            });
        }
        self.actors.tick(&mut self.leases, &self.view, now, &mut self.out);
        self.objects.tell_others(&mut self.out);
        if self.head.is_second_over(now) {
            self.leases.refuse_pinned_in_vain(&self.view, &mut self.out);
        }
        // What this tick had to tell goes first.
        self.drain_events(now);
        self.report(now);
    }

    fn report(&mut self, now: Instant) {
        let report = ResourceReport {
            available: Some(self.leases.available().into()),
            queued_leases: self.leases.queued_count() as u32,
            store: Some(self.objects.stats()),
            infeasible: self.leases.infeasible(&self.view),
            total: Some(self.leases.total().into()),
        };
        self.head.report(report, now);
    }

    /// What no lease holds, and how many requests wait.
    pub(crate) fn free(&self) -> (&ResourceSet, usize) {
        (self.leases.available(), self.leases.queued_count())
    }

    /// What the store holds and did.
    pub(crate) fn store(&self) -> StoreStats {
        self.objects.stats()
    }

    /// The connection of a process of this node.
    pub(crate) fn connection_of(&self, worker: WorkerId) -> Option<u64> {
        self.clients.of_worker(worker)
    }
}

#[cfg(test)]
mod tests;
