//! Calls of an actor by this process: their order, and what happens to them when a connection breaks.
//!
//! Calls of one caller to one incarnation are numbered. The worker starts them in that order, once each, and keeps
//! its answers until they are acknowledged: with later calls, or by AcknowledgeReplies when there are none.
//!
//! They are numbered when they are sent: in the order in which they were made, and for actors that run several calls at
//! a time, in the order in which their arguments are there.

use std::collections::VecDeque;
use std::sync::Arc;

use sparkray_common::{ActorId, TaskId};
use sparkray_proto::{self as proto, ActorState, FrameKind};

use super::{ActorClient, Actors, Route, head_error};
use crate::hash::IdSet;
use crate::state::base::Base;
use crate::state::limits::{CONCURRENT_WINDOW, CallWindow, ORDERED_WINDOW};
use crate::state::links::{ConnId, Links, Timer};
use crate::state::objects::{Objects, Value};
use crate::state::tasks::{ActorMethod, CallKind, Place, PushPrefix, Task, TaskQueue, Tasks};

/// An actor whose connection broke is called again after this time, in microseconds, unless its death is known.
const RECONNECT_DELAY: u64 = 100_000;
/// Answers are acknowledged by the next call, or after this time, in microseconds.
const ACKNOWLEDGE_DELAY: u64 = 20_000;
/// So many answers that came out of order are acknowledged at once.
const MAX_UNACKNOWLEDGED: usize = 64;
/// Methods whose encoded fields are kept.
const KEPT_PREFIXES: usize = 16;

/// The calls of one actor.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Not sent, in order.
    queue: TaskQueue,
    /// Not sent, and out of the queue until their arguments are there.
    waiting: IdSet<TaskId>,
    /// Sent, by sequence from `first`; `None`: answered.
    sent: VecDeque<Option<TaskId>>,
    /// Those that are sent and not answered, and what was sent for them.
    in_flight: usize,
    in_flight_bytes: usize,
    /// All calls before it are answered.
    first: u64,
    /// What was announced of `first` to the worker.
    announced: u64,
    /// Calls after `first` that are answered, which was not announced to the worker.
    unannounced: Vec<u64>,
    /// A timer will tell the worker.
    timed: bool,
    prefixes: Vec<PushPrefix<ActorMethod>>,
}

impl Calls {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.waiting.is_empty() && self.sent.is_empty()
    }

    /// For another incarnation: nothing is sent.
    pub(super) fn restart(&mut self) {
        *self = Self {
            queue: std::mem::take(&mut self.queue),
            waiting: std::mem::take(&mut self.waiting),
            timed: self.timed,
            ..Self::default()
        };
    }

    pub(super) fn take_sent(&mut self) -> Vec<TaskId> {
        let sent = std::mem::take(&mut self.sent);
        (self.in_flight, self.in_flight_bytes) = (0, 0);
        self.first += sent.len() as u64;
        sent.into_iter().flatten().collect()
    }

    /// Those that are not sent.
    pub(super) fn take_queue(&mut self) -> VecDeque<TaskId> {
        let mut queue = self.queue.take();
        queue.extend(std::mem::take(&mut self.waiting));
        queue
    }

    /// A call that is not sent has ended.
    pub(super) fn one_ended(&mut self, tasks: &Tasks, task: TaskId) {
        if !self.waiting.remove(&task) {
            self.queue.one_ended(tasks);
        }
    }

    /// Whether another call may be sent. One always may.
    fn has_room(&self, window: CallWindow) -> bool {
        self.in_flight == 0 || (self.in_flight < window.calls && self.in_flight_bytes < window.bytes)
    }

    fn add(&mut self, task: TaskId) -> u64 {
        self.in_flight += 1;
        self.sent.push_back(Some(task));
        self.first + self.sent.len() as u64 - 1
    }

    /// A call was answered. One that is not awaited changes nothing.
    fn answered(&mut self, sequence: u64, bytes: u32) {
        let Some(index) = sequence.checked_sub(self.first) else {
            return;
        };
        match self.sent.get_mut(index as usize) {
            Some(place) if place.is_some() => *place = None,
            _ => return,
        }
        self.in_flight -= 1;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes as usize);
        if index > 0 {
            self.unannounced.push(sequence);
            return;
        }
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.first += 1;
        }
    }

    fn unanswered(&self) -> Vec<(u64, TaskId)> {
        let sequences = self.first..;
        sequences
            .zip(&self.sent)
            .filter_map(|(sequence, task)| Some((sequence, (*task)?)))
            .collect()
    }

    /// The encoded fields that calls of one method share.
    fn prefix(
        &mut self,
        method: &Arc<ActorMethod>,
        task: &Task,
        message: impl FnOnce() -> proto::PushTask,
    ) -> usize {
        let (job_id, num_returns) = (task.job_id(), task.num_returns());
        let mut prefixes = self.prefixes.iter();
        if let Some(index) = prefixes.position(|prefix| prefix.fits(method, job_id, num_returns)) {
            return index;
        }
        if self.prefixes.len() >= KEPT_PREFIXES {
            self.prefixes.clear();
        }
        self.prefixes
            .push(PushPrefix::new(method, job_id, num_returns, message()));
        self.prefixes.len() - 1
    }

    pub(super) fn knows(&self, task: TaskId, place: Place) -> bool {
        let queued = self.queue.iter().any(|queued| *queued == task) || self.waiting.contains(&task);
        let index = match place {
            Place::ActorQueue => return queued,
            Place::Sent { sequence, .. } => sequence.wrapping_sub(self.first) as usize,
            _ => return false,
        };
        !queued && self.sent.get(index) == Some(&Some(task))
    }

    pub(super) fn check(&self, tasks: &Tasks) {
        assert!(
            self.sent.front() != Some(&None),
            "the first call is answered: {self:?}"
        );
        assert_eq!(self.in_flight, self.sent.iter().flatten().count(), "{self:?}");
        assert!(self.announced <= self.first, "{self:?}");
        self.queue.check(tasks);
        for task in self.sent.iter().flatten().chain(&self.waiting) {
            assert!(
                tasks.contains(task),
                "call {task} is finished and awaited: {self:?}"
            );
        }
    }
}

impl Actors {
    // ---- sending -------------------------------------------------------------------------------------------

    pub(in crate::state) fn enqueue(&mut self, base: &mut Base, actor_id: ActorId, task_id: TaskId) {
        if let Some(value) = self.why_not_callable(actor_id) {
            base.finish_task(task_id, &value);
            return;
        }
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.calls.queue.push_back(task_id);
            if client.calls.queue.len() == 1 {
                self.push_calls(base, actor_id);
            }
        }
    }

    /// The arguments of a call are there.
    pub(in crate::state) fn call_ready(&mut self, base: &mut Base, actor_id: ActorId, task_id: TaskId) {
        if let Some(client) = self.clients.get_mut(&actor_id) {
            if client.calls.waiting.remove(&task_id) {
                client.calls.queue.push_back(task_id);
            }
        }
        self.push_calls(base, actor_id);
    }

    /// Sends queued calls, in order, up to the first whose arguments are not there; without those, when the actor runs
    /// several at a time.
    pub(super) fn push_calls(&mut self, base: &mut Base, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        let window = if client.out_of_order {
            CONCURRENT_WINDOW
        } else {
            ORDERED_WINDOW
        };
        while client.state == ActorState::Alive && client.route != Route::Broken {
            let calls = &mut client.calls;
            if !calls.has_room(window) {
                return;
            }
            let Some(task_id) = calls.queue.front() else {
                return;
            };
            let Some(task) = base.tasks.get_mut(task_id) else {
                calls.queue.pop_front();
                calls.queue.passed_over();
                continue;
            };
            if task.waits_for_arguments() {
                if !client.out_of_order {
                    return;
                }
                calls.queue.pop_front();
                calls.waiting.insert(task_id);
                continue;
            }
            if let Some(value) = base.objects.first_failure(task.argument_ids()) {
                calls.queue.pop_front();
                base.fail_for_argument(task_id, &value);
                continue;
            }
            let Some(conn) = client.connect(&mut base.links) else {
                return;
            };
            client.calls.queue.pop_front();
            let sequence = client.calls.add(task_id);
            let to = (actor_id, conn, task_id);
            self.metrics.pushed();
            let bytes = client.send(&base.objects, &mut base.links, to, task, sequence);
            client.calls.in_flight_bytes += bytes as usize;
            task.set_place(Place::Sent { sequence, bytes });
        }
    }

    // ---- answers -------------------------------------------------------------------------------------------

    pub(in crate::state) fn answered(
        &mut self,
        base: &mut Base,
        actor_id: ActorId,
        sequence: u64,
        bytes: u32,
    ) {
        let links = &mut base.links;
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        let calls = &mut client.calls;
        calls.answered(sequence, bytes);
        let is_waited_for = !calls.queue.is_empty();
        if calls.unannounced.len() >= MAX_UNACKNOWLEDGED {
            self.announce(links, actor_id);
        } else if !calls.timed {
            calls.timed = true;
            let at = links.process.now + ACKNOWLEDGE_DELAY;
            links.timers.set(at, Timer::AcknowledgeReplies(actor_id));
        }
        if is_waited_for {
            // There is room in its window.
            self.push_calls(base, actor_id);
        }
        self.end_if_unreachable(&mut base.links, actor_id);
    }

    pub(in crate::state) fn acknowledge(&mut self, links: &mut Links, actor_id: ActorId) {
        if let Some(client) = self.clients.get_mut(&actor_id) {
            client.calls.timed = false;
            self.announce(links, actor_id);
        }
    }

    /// Tells the worker which answers it need not keep.
    fn announce(&mut self, links: &mut Links, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        let calls = &mut client.calls;
        calls.unannounced.retain(|sequence| *sequence >= calls.first);
        let Route::Connected(conn) = client.route else {
            return;
        };
        if calls.announced == calls.first && calls.unannounced.is_empty() {
            return;
        }
        calls.announced = calls.first;
        let message = proto::AcknowledgeReplies {
            actor_id: actor_id.to_vec().into(),
            incarnation: client.incarnation,
            acknowledged: calls.first,
            sequences: std::mem::take(&mut calls.unannounced),
        };
        links.send(conn, FrameKind::AcknowledgeReplies, 0, &message, &[], false);
    }

    // ---- broken connections --------------------------------------------------------------------------------

    pub(in crate::state) fn connection_lost(&mut self, base: &mut Base, conn: ConnId) {
        let clients = self.clients.iter();
        let lost = clients.filter(|(_, client)| client.route == Route::Connected(conn));
        let lost: Vec<ActorId> = lost.map(|(id, _)| *id).collect();
        for actor_id in lost {
            if let Some(error) = base.links.process.broken.clone() {
                self.died(base, actor_id, Value::failed(error));
            } else if let Some(cause) = base.links.process.head_lost.clone() {
                // Nobody will say whether it died: the broken connection must do.
                self.died(base, actor_id, head_error(actor_id, &cause));
            } else if let Some(client) = self.clients.get_mut(&actor_id) {
                client.break_route(&mut base.links, actor_id);
            }
        }
    }

    /// Calls an actor again whose connection broke and whose death is not known: the calls that are not answered
    /// are sent again, and the worker recognises those that it has.
    pub(in crate::state) fn reconnect(&mut self, base: &mut Base, actor_id: ActorId) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        if client.route != Route::Broken {
            return;
        }
        client.route = Route::Idle;
        if client.state != ActorState::Alive || client.calls.is_idle() {
            return;
        }
        let unanswered = client.calls.unanswered();
        if let Some(conn) = client.connect(&mut base.links) {
            self.metrics.reconnected();
            for (sequence, task_id) in unanswered {
                if let Some(task) = base.tasks.get(task_id) {
                    let to = (actor_id, conn, task_id);
                    self.metrics.pushed_again();
                    client.send(&base.objects, &mut base.links, to, task, sequence);
                    client.tell_of_cancellation(&mut base.links, task_id, task);
                }
            }
            self.push_calls(base, actor_id);
        }
    }
}

impl ActorClient {
    /// The connection to an actor that is alive.
    fn connect(&mut self, links: &mut Links) -> Option<ConnId> {
        if let Route::Connected(conn) = self.route {
            return Some(conn);
        }
        let conn = links.conn_to_worker(self.address.as_ref()?);
        self.route = Route::Connected(conn);
        Some(conn)
    }

    /// Sends a call that has its number; gives the bytes that travel beside its message.
    fn send(
        &mut self,
        objects: &Objects,
        links: &mut Links,
        (actor_id, conn, task_id): (ActorId, ConnId, TaskId),
        task: &Task,
        sequence: u64,
    ) -> u32 {
        let Some(address) = &self.address else {
            return 0;
        };
        let CallKind::Actor { method, .. } = task.kind() else {
            return 0;
        };
        let index = self.calls.prefix(method, task, || proto::PushTask {
            worker_id: address.worker_id.to_vec().into(),
            actor_id: actor_id.to_vec().into(),
            incarnation: self.incarnation,
            method: method.method.clone(),
            name: method.name.clone(),
            ..Default::default()
        });
        self.calls.announced = self.calls.first;
        let message = proto::PushTask {
            sequence,
            acknowledged: self.calls.first,
            ..Default::default()
        };
        let prefix = self.calls.prefixes[index].bytes();
        let sent = task.push(objects, links, (conn, task_id), prefix, None, message);
        sent.unwrap_or_else(|_| {
            // It is among those that are not answered, and is sent again.
            self.break_route(links, actor_id);
            0
        })
    }

    /// The connection is lost, and a timer connects again.
    fn break_route(&mut self, links: &mut Links, actor_id: ActorId) {
        self.route = Route::Broken;
        let at = links.process.now + RECONNECT_DELAY;
        links.timers.set(at, Timer::ReconnectActor(actor_id));
    }
}
