//! What the head, or the end of a connection, says of an actor's life.

use sparkray_common::{ActorId, ErrorCode, ValueFormat, ValueHeader, WorkerAddress};
use sparkray_proto::{self as proto, ActorState};

use super::{Actors, Route, head_error};
use crate::error::CoreError;
use crate::state::base::Base;
use crate::state::objects::Value;

impl Actors {
    /// Why calls of an actor cannot be queued; `None`: they can.
    pub(super) fn why_not_callable(&self, actor_id: ActorId) -> Option<Value> {
        let Some(client) = self.clients.get(&actor_id) else {
            let message = format!("actor {actor_id} is not known in this process: get a handle first");
            let error = CoreError::new(ErrorCode::NotFound, message);
            return Some(Value::failed(error.of_actor(actor_id)));
        };
        client.death.clone()
    }

    pub(in crate::state) fn on_update(
        &mut self,
        base: &mut Base,
        update: &proto::ActorUpdate,
    ) -> Result<(), CoreError> {
        let actor_id = ActorId::from_slice(&update.actor_id)?;
        let address = update.address.as_ref().map(WorkerAddress::try_from).transpose()?;
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return Ok(());
        };
        if client.state == ActorState::Dead || update.incarnation < client.incarnation {
            return Ok(());
        }
        let state = update.state();
        if state == ActorState::Dead {
            self.died(base, actor_id, death_of(actor_id, update));
            return Ok(());
        }
        let moved = update.incarnation != client.incarnation || client.address != address;
        client.state = state;
        if moved {
            let unanswered = client.calls.take_sent();
            client.reset(update.incarnation, address);
            if !unanswered.is_empty() {
                let failed = restarts(actor_id, update);
                for task in unanswered {
                    base.finish_task(task, &failed);
                }
            }
        }
        if state == ActorState::Alive {
            self.push_calls(base, actor_id);
        }
        self.end_if_unreachable(&mut base.links, actor_id);
        Ok(())
    }

    /// This process had the actor killed for good.
    pub(in crate::state) fn killed(&mut self, base: &mut Base, actor_id: ActorId) {
        let message = format!("actor {actor_id} is dead: it was killed by kill()");
        let error = CoreError::new(ErrorCode::ActorDied, message);
        self.died(base, actor_id, Value::failed(error.of_actor(actor_id)));
    }

    /// An actor is dead: its calls end with `death`.
    pub(in crate::state) fn died(&mut self, base: &mut Base, actor_id: ActorId, death: Value) {
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        if client.state != ActorState::Dead {
            self.metrics.died();
        }
        client.state = ActorState::Dead;
        base.links.out.news();
        client.death = Some(death.clone());
        client.route = Route::Idle;
        client.address = None;
        client.creation = None;
        let mut calls = client.calls.take_sent();
        calls.extend(client.calls.take_queue());
        let pins = std::mem::take(&mut client.pins);
        for task in calls {
            base.finish_task(task, &death);
        }
        base.objects.drop_refs(&mut base.links, pins);
        self.end_if_unreachable(&mut base.links, actor_id);
    }

    /// The head is gone. Actors that run go on; those that wait for the head would wait for ever.
    pub(in crate::state) fn head_lost(&mut self, base: &mut Base, cause: &str) {
        let waiting = self.clients.iter().filter(|(_, client)| {
            matches!(client.state, ActorState::Pending | ActorState::Restarting)
                || client.route == Route::Broken
        });
        let waiting: Vec<ActorId> = waiting.map(|(id, _)| *id).collect();
        for actor_id in waiting {
            self.died(base, actor_id, head_error(actor_id, cause));
        }
    }
}

/// The error of calls that an incarnation did not answer.
fn restarts(actor_id: ActorId, update: &proto::ActorUpdate) -> Value {
    let cause = match &update.cause[..] {
        "" => "its worker died",
        cause => cause,
    };
    let message = format!(
        "actor {actor_id} ({}) restarts: {cause}; this call may have run",
        update.class_name
    );
    let error = CoreError::new(ErrorCode::ActorUnavailable, message);
    Value::failed(error.of_actor(actor_id))
}

/// Why an actor is dead, as its callers are told.
fn death_of(actor_id: ActorId, update: &proto::ActorUpdate) -> Value {
    if !update.constructor_error.is_empty() {
        let error = ValueHeader::encode(ValueFormat::Error, &update.constructor_error);
        return Value::Raised(error.into());
    }
    let cause = match &update.cause[..] {
        "" => "it was not found",
        cause => cause,
    };
    let (code, what) = if update.unschedulable {
        (ErrorCode::ActorUnschedulable, "cannot be scheduled")
    } else {
        (ErrorCode::ActorDied, "is dead")
    };
    let message = format!("actor {actor_id} ({}) {what}: {cause}", update.class_name);
    let error = CoreError::new(code, message);
    Value::failed(error.of_actor(actor_id))
}
