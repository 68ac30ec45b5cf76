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

use super::actors::{Link, head_error};
use super::submission::{ActorMethod, Arguments, CallKind, PushPrefix};
use super::timers::Timer;
use super::{State, Value};
use crate::hash::IdSet;
use crate::reactor::ConnId;

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
    queue: VecDeque<TaskId>,
    /// Not sent, and out of the queue until their arguments are there.
    waiting: IdSet<TaskId>,
    /// Sent, by sequence from `first`; `None`: answered.
    sent: VecDeque<Option<TaskId>>,
    /// All calls before it are answered.
    first: u64,
    /// What the worker has been told of `first`.
    told: u64,
    /// Calls after `first` that are answered, and of which the worker has not been told.
    untold: Vec<u64>,
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
        self.first += sent.len() as u64;
        sent.into_iter().flatten().collect()
    }

    /// Those that are not sent.
    pub(super) fn take_queue(&mut self) -> VecDeque<TaskId> {
        let mut queue = std::mem::take(&mut self.queue);
        queue.extend(std::mem::take(&mut self.waiting));
        queue
    }

    fn add(&mut self, task: TaskId) -> u64 {
        self.sent.push_back(Some(task));
        self.first + self.sent.len() as u64 - 1
    }

    /// False: it was not awaited.
    fn answered(&mut self, sequence: u64) -> bool {
        let Some(index) = sequence.checked_sub(self.first) else {
            return false;
        };
        match self.sent.get_mut(index as usize) {
            Some(place) if place.is_some() => *place = None,
            _ => return false,
        }
        if index > 0 {
            self.untold.push(sequence);
            return true;
        }
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.first += 1;
        }
        true
    }

    fn unanswered(&self) -> Vec<(u64, TaskId)> {
        let sequences = self.first..;
        sequences
            .zip(&self.sent)
            .filter_map(|(sequence, task)| Some((sequence, (*task)?)))
            .collect()
    }
}

impl State {
    pub(super) fn enqueue_actor_call(&mut self, actor_id: ActorId, task_id: TaskId) {
        if let Some((value, is_error)) = self.why_not_callable(actor_id) {
            self.finish_task_with(task_id, &value, is_error);
            return;
        }
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.calls.queue.push_back(task_id);
            if client.calls.queue.len() == 1 {
                self.push_actor_calls(actor_id);
            }
        }
    }

    /// The arguments of a call are there.
    pub(super) fn actor_call_ready(&mut self, actor_id: ActorId, task_id: TaskId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            if client.calls.waiting.remove(&task_id) {
                client.calls.queue.push_back(task_id);
            }
        }
        self.push_actor_calls(actor_id);
    }

    /// Sends queued calls, in order, up to the first whose arguments are not there; without those, when the actor runs
    /// several at a time.
    pub(super) fn push_actor_calls(&mut self, actor_id: ActorId) {
        loop {
            let Some(client) = self.actors.get(&actor_id) else {
                return;
            };
            if client.state != ActorState::Alive || matches!(client.link, Link::Broken) {
                return;
            }
            let Some(task_id) = client.calls.queue.front().copied() else {
                return;
            };
            let arguments = match self.tasks.get(&task_id) {
                Some(task) if task.missing > 0 => {
                    if !client.out_of_order {
                        return;
                    }
                    self.unqueue_actor_call(actor_id);
                    if let Some(client) = self.actors.get_mut(&actor_id) {
                        client.calls.waiting.insert(task_id);
                    }
                    continue;
                }
                Some(task) => self.arguments_of(task),
                None => {
                    self.unqueue_actor_call(actor_id);
                    continue;
                }
            };
            if let Arguments::Failed(value, is_error) = arguments {
                self.unqueue_actor_call(actor_id);
                self.fail_for_argument(task_id, &value, is_error);
                continue;
            }
            let Some(conn) = self.actor_conn(actor_id) else {
                return;
            };
            if let Some(client) = self.actors.get_mut(&actor_id) {
                client.calls.queue.pop_front();
                let sequence = client.calls.add(task_id);
                if let Some(task) = self.tasks.get_mut(&task_id) {
                    task.sequence = sequence;
                }
                self.send_actor_call(actor_id, conn, task_id, sequence);
            }
        }
    }

    fn unqueue_actor_call(&mut self, actor_id: ActorId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.calls.queue.pop_front();
        }
    }

    fn send_actor_call(&mut self, actor_id: ActorId, conn: ConnId, task_id: TaskId, sequence: u64) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let CallKind::Actor { method, .. } = &task.call.kind else {
            return;
        };
        let (method, job_id, num_returns) = (Arc::clone(method), task.job_id, task.call.num_returns);
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        let Some(address) = &client.address else { return };
        let mut prefixes = std::mem::take(&mut client.calls.prefixes);
        client.calls.told = client.calls.first;
        let message = proto::PushTask {
            sequence,
            acknowledged: client.calls.first,
            ..Default::default()
        };
        let found = prefixes
            .iter()
            .position(|prefix| prefix.fits(&method, job_id, num_returns));
        let index = found.unwrap_or_else(|| {
            if prefixes.len() >= KEPT_PREFIXES {
                prefixes.clear();
            }
            let same = proto::PushTask {
                worker_id: address.worker_id.to_vec().into(),
                actor_id: actor_id.to_vec().into(),
                incarnation: client.incarnation,
                method: method.method.clone(),
                name: method.name.clone(),
                ..Default::default()
            };
            prefixes.push(PushPrefix::new(&method, job_id, num_returns, same));
            prefixes.len() - 1
        });
        self.push(conn, task_id, &prefixes[index].bytes, None, message);
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.calls.prefixes = prefixes;
        }
    }

    /// The connection to an actor that is alive.
    fn actor_conn(&mut self, actor_id: ActorId) -> Option<ConnId> {
        let client = self.actors.get(&actor_id)?;
        if let Link::Connected(conn) = client.link {
            return Some(conn);
        }
        let address = client.address.clone()?;
        let conn = self.conn_to_worker(&address);
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.link = Link::Connected(conn);
        }
        Some(conn)
    }

    pub(super) fn actor_call_finished(&mut self, actor_id: ActorId, sequence: u64) {
        let now = self.now;
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        let calls = &mut client.calls;
        calls.answered(sequence);
        if calls.untold.len() >= MAX_UNACKNOWLEDGED {
            self.tell_acknowledged(actor_id);
        } else if !calls.timed {
            calls.timed = true;
            self.timers
                .set(now + ACKNOWLEDGE_DELAY, Timer::AcknowledgeReplies(actor_id));
        }
        self.end_unreachable_actor(actor_id);
    }

    pub(super) fn acknowledge_replies(&mut self, actor_id: ActorId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.calls.timed = false;
            self.tell_acknowledged(actor_id);
        }
    }

    /// Tells the worker which answers it need not keep.
    fn tell_acknowledged(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        let calls = &mut client.calls;
        calls.untold.retain(|sequence| *sequence >= calls.first);
        let Link::Connected(conn) = client.link else {
            return;
        };
        if calls.told == calls.first && calls.untold.is_empty() {
            return;
        }
        calls.told = calls.first;
        let message = proto::AcknowledgeReplies {
            actor_id: actor_id.to_vec().into(),
            incarnation: client.incarnation,
            acknowledged: calls.first,
            sequences: std::mem::take(&mut calls.untold),
        };
        self.send(conn, FrameKind::AcknowledgeReplies, 0, &message, &[], false);
    }

    pub(super) fn actor_connection_lost(&mut self, conn: ConnId) {
        let lost: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, client)| matches!(client.link, Link::Connected(other) if other == conn))
            .map(|(id, _)| *id)
            .collect();
        for actor_id in lost {
            if let Some(error) = self.broken.clone() {
                self.actor_died(actor_id, Value::failed(error), false);
            } else if let Some(cause) = self.head_lost.clone() {
                // Nobody will say whether it died: the broken connection must do.
                let error = head_error(actor_id, &cause);
                self.actor_died(actor_id, Value::failed(error), false);
            } else if let Some(client) = self.actors.get_mut(&actor_id) {
                client.link = Link::Broken;
                self.timers
                    .set(self.now + RECONNECT_DELAY, Timer::ReconnectActor(actor_id));
            }
        }
    }

    /// Calls an actor again whose connection broke and whose death is not known: the calls that are not answered
    /// are sent again, and the worker recognises those that it has.
    pub(super) fn reconnect_actor(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        if !matches!(client.link, Link::Broken) {
            return;
        }
        client.link = Link::Idle;
        if client.state != ActorState::Alive || client.calls.is_idle() {
            return;
        }
        let unanswered = client.calls.unanswered();
        let Some(conn) = self.actor_conn(actor_id) else {
            return;
        };
        for (sequence, task_id) in unanswered {
            self.send_actor_call(actor_id, conn, task_id, sequence);
        }
        self.push_actor_calls(actor_id);
    }
}
