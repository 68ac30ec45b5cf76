//! Calls of actors: order, reconnection, restarts and deaths.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, ObjectId, TaskId, ValueFormat, ValueHeader, WorkerAddress};
use sparkray_proto::{self as proto, ActorState, FrameKind};

use super::{Pending, State, Value};
use crate::error::CoreError;
use crate::reactor::ConnId;

/// An actor whose connection broke is called again after this time, in microseconds, unless its death is known.
const RECONNECT_DELAY: u64 = 100_000;

/// What a caller knows of an actor.
pub(crate) struct ActorClient {
    state: ActorState,
    incarnation: u64,
    address: Option<WorkerAddress>,
    conn: Option<ConnId>,
    reconnect_at: Option<u64>,
    /// Why it is dead.
    death: Option<(Value, bool)>,
    next_sequence: u64,
    /// Calls that are not sent, in order.
    queue: VecDeque<TaskId>,
    /// Calls that are not answered, by sequence.
    sent: BTreeMap<u64, TaskId>,
    /// Handles in this process.
    handles: u32,
    /// A handle left this process, or the actor is named or of another creator: it does not end with the handles.
    pub(crate) escaped: bool,
    /// References that its creation needs, for restarts.
    pins: Vec<ObjectId>,
    kill_sent: bool,
}

impl ActorClient {
    fn new() -> Self {
        Self {
            state: ActorState::Pending,
            incarnation: 0,
            address: None,
            conn: None,
            reconnect_at: None,
            death: None,
            next_sequence: 0,
            queue: VecDeque::new(),
            sent: BTreeMap::new(),
            handles: 0,
            escaped: false,
            pins: Vec::new(),
            kill_sent: false,
        }
    }
}

impl State {
    /// One more handle of an actor; the first begins to watch it. `created`: this process creates it.
    pub(crate) fn add_actor_handle(&mut self, actor_id: ActorId, created: bool) {
        let head_lost = self.head_lost.clone();
        let known = self.actors.contains_key(&actor_id);
        let client = self.actors.entry(actor_id).or_insert_with(ActorClient::new);
        client.handles += 1;
        if known {
            return;
        }
        client.escaped = !created;
        if let Some(cause) = head_lost {
            client.state = ActorState::Dead;
            client.death = Some((Value::Failed(head_error(actor_id, &cause)), false));
            return;
        }
        if !created {
            self.watch_actor(actor_id);
        }
    }

    pub(crate) fn watch_actor(&mut self, actor_id: ActorId) {
        let message = proto::WatchActor {
            actor_id: actor_id.to_vec().into(),
        };
        self.tell_raylet(FrameKind::WatchActor, &message, true);
    }

    /// Keeps what the actor's creation needs.
    pub(crate) fn pin_for_actor(&mut self, actor_id: ActorId, objects: Vec<ObjectId>) {
        for id in &objects {
            self.add_ref(*id);
        }
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.pins = objects;
        }
    }

    /// The creation failed before the head knew the actor.
    pub(crate) fn actor_refused(&mut self, actor_id: ActorId, error: CoreError) {
        self.actor_died(actor_id, Value::Failed(error), false);
    }

    /// One handle less. The last one ends an actor that nobody else can call, once its calls are answered.
    pub(crate) fn drop_actor_handle(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        client.handles = client.handles.saturating_sub(1);
        self.end_unreachable_actor(actor_id);
    }

    fn end_unreachable_actor(&mut self, actor_id: ActorId) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        let idle = client.queue.is_empty() && client.sent.is_empty();
        if client.handles > 0
            || client.escaped
            || !idle
            || client.kill_sent
            || client.state == ActorState::Dead
        {
            return;
        }
        client.kill_sent = true;
        let kill = proto::KillActor {
            actor_id: actor_id.to_vec().into(),
            no_restart: true,
            cause: "all handles of the actor are gone".to_owned(),
        };
        let request = proto::HeadRequest {
            request: Some(proto::head_request::Request::KillActor(kill)),
        };
        let slot = self.ask_raylet(Pending::Head, FrameKind::HeadRequest, &request);
        // Nobody waits for the answer.
        self.slots.remove(&slot);
    }

    pub(super) fn enqueue_actor_call(&mut self, actor_id: ActorId, task_id: TaskId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            if client.state != ActorState::Dead {
                client.queue.push_back(task_id);
                self.push_actor_calls(actor_id);
                return;
            }
        }
        let death = self.actors.get(&actor_id).and_then(|client| client.death.clone());
        let (value, is_error) = death.unwrap_or_else(|| {
            let message = format!("actor {actor_id} is not known in this process: get a handle first");
            (Value::Failed(CoreError::new(ErrorCode::NotFound, message)), false)
        });
        self.finish_task_with(task_id, &value, is_error);
    }

    /// Sends queued calls, in order, up to the first whose arguments are not there.
    pub(super) fn push_actor_calls(&mut self, actor_id: ActorId) {
        loop {
            let Some(client) = self.actors.get(&actor_id) else {
                return;
            };
            if client.state != ActorState::Alive {
                return;
            }
            let Some(task_id) = client.queue.front().copied() else {
                return;
            };
            let Some(task) = self.task(task_id) else {
                if let Some(client) = self.actors.get_mut(&actor_id) {
                    client.queue.pop_front();
                }
                continue;
            };
            if task.missing > 0 {
                return;
            }
            if let Some((value, is_error)) = self.argument_error(task_id) {
                if let Some(client) = self.actors.get_mut(&actor_id) {
                    client.queue.pop_front();
                }
                self.finish_task_with(task_id, &value, is_error);
                continue;
            }
            if self.actor_conn(actor_id).is_none() {
                return;
            }
            let Some(client) = self.actors.get_mut(&actor_id) else {
                return;
            };
            client.queue.pop_front();
            let sequence = client.next_sequence;
            client.next_sequence += 1;
            client.sent.insert(sequence, task_id);
            if let Some(task) = self.task_mut(task_id) {
                task.sequence = sequence;
            }
            self.send_actor_call(actor_id, task_id, sequence);
        }
    }

    fn send_actor_call(&mut self, actor_id: ActorId, task_id: TaskId, sequence: u64) {
        let Some(client) = self.actors.get(&actor_id) else {
            return;
        };
        let (Some(conn), Some(address)) = (client.conn, &client.address) else {
            return;
        };
        let acknowledged = client.sent.keys().next().copied().unwrap_or(client.next_sequence);
        let worker_id: Bytes = address.worker_id.to_vec().into();
        let incarnation = client.incarnation;
        self.push_task(
            conn,
            worker_id,
            task_id,
            Some((incarnation, sequence, acknowledged)),
        );
    }

    /// The connection to an actor that is alive; `None` while it waits to be made again.
    fn actor_conn(&mut self, actor_id: ActorId) -> Option<ConnId> {
        let client = self.actors.get(&actor_id)?;
        if client.conn.is_some() {
            return client.conn;
        }
        if client.reconnect_at.is_some() {
            return None;
        }
        let address = client.address.clone()?;
        let conn = self.conn_to_worker(&address);
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.conn = Some(conn);
        }
        Some(conn)
    }

    pub(super) fn actor_call_finished(&mut self, actor_id: ActorId, sequence: u64) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.sent.remove(&sequence);
        }
        self.end_unreachable_actor(actor_id);
    }

    pub(super) fn on_actor_update(&mut self, update: &proto::ActorUpdate) -> Result<(), CoreError> {
        let actor_id = ActorId::from_slice(&update.actor_id)?;
        let address = update.address.as_ref().map(WorkerAddress::try_from).transpose()?;
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return Ok(());
        };
        if client.state == ActorState::Dead || update.incarnation < client.incarnation {
            return Ok(());
        }
        let state = update.state();
        let replaced = client.state == ActorState::Alive
            && (state != ActorState::Alive || update.incarnation > client.incarnation);
        if replaced {
            let cause = if update.cause.is_empty() {
                "its worker died"
            } else {
                &update.cause
            };
            let message = format!(
                "actor {actor_id} ({}) restarts: {cause}; this call may have run",
                update.class_name
            );
            self.fail_sent_calls(
                actor_id,
                &CoreError::new(ErrorCode::ActorUnavailable, message),
                state == ActorState::Dead,
            );
        }
        match state {
            ActorState::Dead => {
                if update.constructor_error.is_empty() {
                    let cause = if update.cause.is_empty() {
                        "it was not found"
                    } else {
                        &update.cause
                    };
                    let message = format!("actor {actor_id} ({}) is dead: {cause}", update.class_name);
                    self.actor_died(
                        actor_id,
                        Value::Failed(CoreError::new(ErrorCode::ActorDied, message)),
                        false,
                    );
                } else {
                    let error = ValueHeader::encode(ValueFormat::Error, &update.constructor_error);
                    self.actor_died(actor_id, Value::Inline(error.into()), true);
                }
            }
            ActorState::Alive => {
                let Some(client) = self.actors.get_mut(&actor_id) else {
                    return Ok(());
                };
                client.state = ActorState::Alive;
                if update.incarnation != client.incarnation || client.address != address {
                    client.incarnation = update.incarnation;
                    client.address = address;
                    client.conn = None;
                    client.reconnect_at = None;
                    client.next_sequence = 0;
                }
                self.push_actor_calls(actor_id);
            }
            ActorState::Pending | ActorState::Restarting => {
                let Some(client) = self.actors.get_mut(&actor_id) else {
                    return Ok(());
                };
                client.state = state;
                client.incarnation = update.incarnation;
                client.conn = None;
                client.reconnect_at = None;
                client.address = None;
                client.next_sequence = 0;
            }
        }
        Ok(())
    }

    /// Calls that were under way at an incarnation that is gone. `dead`: they fail with the death's cause later.
    fn fail_sent_calls(&mut self, actor_id: ActorId, error: &CoreError, dead: bool) {
        if dead {
            return;
        }
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        let sent = std::mem::take(&mut client.sent);
        for task in sent.into_values() {
            self.finish_task_with(task, &Value::Failed(error.clone()), false);
        }
    }

    fn actor_died(&mut self, actor_id: ActorId, death: Value, is_error: bool) {
        let Some(client) = self.actors.get_mut(&actor_id) else {
            return;
        };
        client.state = ActorState::Dead;
        client.death = Some((death.clone(), is_error));
        client.conn = None;
        client.reconnect_at = None;
        let sent = std::mem::take(&mut client.sent);
        let queued = std::mem::take(&mut client.queue);
        let pins = std::mem::take(&mut client.pins);
        for task in sent.into_values().chain(queued) {
            self.finish_task_with(task, &death, is_error);
        }
        for id in pins {
            self.drop_ref(id);
        }
    }

    pub(super) fn fail_actors_without_head(&mut self, cause: &str) {
        // Actors that run go on; those that wait for the head would wait for ever.
        let waiting: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, client)| matches!(client.state, ActorState::Pending | ActorState::Restarting))
            .map(|(id, _)| *id)
            .collect();
        for actor_id in waiting {
            self.actor_died(actor_id, Value::Failed(head_error(actor_id, cause)), false);
        }
    }

    pub(super) fn actor_connection_lost(&mut self, conn: ConnId, _calls: &[TaskId]) {
        let at = self.now + RECONNECT_DELAY;
        let head_lost = self.head_lost.clone();
        let broken = self.broken.clone();
        let lost: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, client)| client.conn == Some(conn))
            .map(|(id, _)| *id)
            .collect();
        for actor_id in lost {
            if let Some(error) = &broken {
                self.actor_died(actor_id, Value::Failed(error.clone()), false);
                continue;
            }
            if let Some(cause) = &head_lost {
                // Nobody will say whether it died: the broken connection must do.
                self.actor_died(actor_id, Value::Failed(head_error(actor_id, cause)), false);
                continue;
            }
            if let Some(client) = self.actors.get_mut(&actor_id) {
                client.conn = None;
                client.reconnect_at = Some(at);
            }
        }
    }

    /// Calls actors again whose connection broke and whose death is not known: the calls that are not answered
    /// are sent again, and the worker recognises those that it has.
    pub(super) fn reconnect_actors(&mut self) {
        let now = self.now;
        let due: Vec<ActorId> = self
            .actors
            .iter()
            .filter(|(_, client)| client.reconnect_at.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for actor_id in due {
            let Some(client) = self.actors.get_mut(&actor_id) else {
                continue;
            };
            client.reconnect_at = None;
            if client.state != ActorState::Alive {
                continue;
            }
            if client.sent.is_empty() && client.queue.is_empty() {
                // Connects with the next call.
                continue;
            }
            let unanswered: Vec<(u64, TaskId)> = client.sent.iter().map(|(at, task)| (*at, *task)).collect();
            if self.actor_conn(actor_id).is_some() {
                for (sequence, task_id) in unanswered {
                    self.send_actor_call(actor_id, task_id, sequence);
                }
                self.push_actor_calls(actor_id);
            }
        }
    }

    pub(super) fn next_actor_deadline(&self) -> Option<u64> {
        self.actors
            .values()
            .filter_map(|client| client.reconnect_at)
            .min()
    }

    /// A handle is about to leave this process.
    pub(crate) fn actor_escapes(&mut self, actor_id: ActorId) {
        if let Some(client) = self.actors.get_mut(&actor_id) {
            client.escaped = true;
        }
    }
}

fn head_error(actor_id: ActorId, cause: &str) -> CoreError {
    CoreError::new(
        ErrorCode::ActorUnavailable,
        format!(
            "actor {actor_id} cannot be reached: the head of the cluster is gone ({cause}); start the cluster again"
        ),
    )
}
