//! Calls of functions and actors.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, ObjectId, TaskId};
use sparkray_proto::{self as proto, head_reply, head_request};

use super::check_running;
use super::head::{HEAD_DEADLINE, head_is_silent};
use crate::dropped::HandleKind;
use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::io::Patience;
use crate::state::{ActorMethod, CallKind, Creation, NewTask, TaskTemplate};
use crate::values::inline_limit;

/// The arguments of a call.
#[derive(Debug, Default)]
pub struct CallArguments {
    /// The arguments value; empty: none.
    pub value: Bytes,
    /// Names of the keyword arguments, the last of the flat list.
    pub keyword_names: Vec<String>,
    /// Arguments that are references: index in the flat list, and the object.
    pub references: Vec<(u32, ObjectId)>,
    /// References inside the value. The caller keeps them until the call is submitted.
    pub contained: Vec<ObjectId>,
    /// The call that this process runs and that makes this one, which may be cancelled with it.
    pub parent: Option<TaskId>,
}

impl CallArguments {
    fn into_task(self, kind: CallKind, num_returns: u32) -> NewTask {
        NewTask {
            kind,
            num_returns,
            parent: self.parent,
            arguments: self.value,
            keyword_names: self.keyword_names,
            slots: self.references,
            contained: self.contained,
        }
    }
}

impl CoreWorker {
    /// How many bytes the arguments of a call may have to travel with it; longer ones go to the store.
    pub fn inline_limit(&self) -> usize {
        inline_limit(self.state.lock().objects().inline_bytes())
    }

    /// Whether another call may be submitted at once. False is rare, and then [`CoreWorker::wait_for_room`] is to be called
    /// first, by a thread that may wait.
    pub fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
    }

    /// Waits until calls of this process have finished, because the arguments of those that have not are all that it may
    /// hold.
    pub fn wait_for_room<E>(
        &self,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let patience = Patience::until(deadline).lending();
        self.wait_until(patience, interrupt, |state| state.has_room().then_some(()))
    }

    /// Submits a call of a function; the caller holds one reference of each result.
    pub fn submit(
        &self,
        template: &Arc<TaskTemplate>,
        arguments: CallArguments,
    ) -> Result<Vec<ObjectId>, CoreError> {
        let kind = CallKind::Function(Arc::clone(template));
        self.with_state(|state| {
            check_running(state)?;
            Ok(state.submit(arguments.into_task(kind, template.num_returns)))
        })
    }

    /// Submits a call of an actor's method.
    pub fn submit_actor(
        &self,
        actor_id: ActorId,
        method: &Arc<ActorMethod>,
        num_returns: u32,
        arguments: CallArguments,
    ) -> Result<Vec<ObjectId>, CoreError> {
        let kind = CallKind::Actor {
            actor_id,
            method: Arc::clone(method),
        };
        self.with_state(|state| {
            check_running(state)?;
            Ok(state.submit(arguments.into_task(kind, num_returns)))
        })
    }

    /// Registers an actor with the head, which places it once its arguments are there. The caller holds one handle. For an
    /// actor with a name, which may be taken, the head's answer is waited for.
    pub fn create_actor<E>(
        &self,
        mut spec: proto::ActorSpec,
        arguments: CallArguments,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<ActorId, WaitError<E>> {
        let actor_id = ActorId::random();
        let waits = !spec.name.is_empty() || spec.detached;
        let request = self.with_state(|state| {
            check_running(state)?;
            if let Some(cause) = state.head_lost() {
                return Err(CoreError::new(
                    ErrorCode::Unavailable,
                    format!("no actor can be created: the head of the cluster is gone ({cause})"),
                ));
            }
            spec.actor_id = actor_id.to_vec().into();
            spec.job_id = state.job_id().to_vec().into();
            spec.owner = Some(state.me_message().clone());
            spec.arguments_value.clone_from(&arguments.value);
            spec.keyword_names.clone_from(&arguments.keyword_names);
            state.python_version().clone_into(&mut spec.python_version);
            state.add_actor_handle(actor_id, true);
            if spec.detached {
                state.actor_escapes(actor_id);
            }
            let mut pins: Vec<ObjectId> = arguments.references.iter().map(|(_, id)| *id).collect();
            pins.extend(&arguments.contained);
            state.pin_for_actor(actor_id, pins);
            let creation = Creation {
                spec,
                references: arguments.references,
            };
            if !waits {
                state.register_actor(actor_id, creation);
                return Ok(None);
            }
            let (message, ready) = state.registration(&creation);
            Ok(message
                .request
                .map(|request| (request, (!ready).then_some(creation))))
        })?;
        let Some((request, creation)) = request else {
            return Ok(actor_id);
        };
        match self.ask_head(request, interrupt) {
            Ok(_) => {
                self.with_state(|state| {
                    state.actor_registered(actor_id);
                    if let Some(creation) = creation {
                        state.create_actor_later(actor_id, creation);
                    }
                });
                Ok(actor_id)
            }
            Err(error) => {
                let (reason, unsure) = match &error {
                    WaitError::Failed(error) => (error.clone(), error.code == ErrorCode::Unavailable),
                    _ => (
                        CoreError::new(ErrorCode::Cancelled, "the creation of the actor was interrupted"),
                        true,
                    ),
                };
                self.with_state(|state| {
                    state.actor_refused(actor_id, reason, unsure);
                    // The caller gets the error and no handle.
                    state.drop_actor_handle(actor_id, HandleKind::Counted);
                });
                Err(error)
            }
        }
    }

    /// A handle of an actor that another process made.
    pub fn add_actor_handle(&self, actor_id: ActorId) {
        self.with_state(|state| state.add_actor_handle(actor_id, false));
    }

    /// A handle of an actor that was looked up by its name. It does not keep the actor alive, as in Ray.
    pub fn add_weak_actor_handle(&self, actor_id: ActorId) {
        self.with_state(|state| state.add_weak_actor_handle(actor_id));
    }

    /// The actor of a handle runs several calls at a time: those whose arguments are late do not hold up others.
    pub fn call_out_of_order(&self, actor_id: ActorId) {
        self.with_state(|state| state.call_out_of_order(actor_id));
    }

    /// One handle less. May be called anywhere, finalizers included.
    pub fn drop_actor_handle(&self, actor_id: ActorId, kind: HandleKind) {
        self.dropped
            .add(|dropped| dropped.actor_handles.push((actor_id, kind)));
    }

    /// A handle is about to leave this process: the actor no longer ends with the handles that are here, and whoever gets
    /// it is to find the actor at the head.
    pub fn actor_escapes<E>(
        &self,
        actor_id: ActorId,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        self.state.lock().actor_escapes(actor_id);
        self.wait_for_registration(actor_id, interrupt)
    }

    fn wait_for_registration<E>(
        &self,
        actor_id: ActorId,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let patience = Patience::until(Some(Instant::now() + HEAD_DEADLINE));
        let outcome = self.wait_until(patience, interrupt, |state| {
            (!state.is_registering(actor_id)).then_some(())
        });
        match outcome {
            Err(WaitError::Deadline) => Err(head_is_silent().into()),
            other => other,
        }
    }

    /// Looks an actor up by name.
    pub fn get_actor<E>(
        &self,
        name: &str,
        namespace: &str,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<proto::ActorRecord, WaitError<E>> {
        let request = proto::GetActor {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            actor_id: Bytes::new(),
        };
        match self.ask_head(head_request::Request::GetActor(request), interrupt)? {
            head_reply::Reply::Actor(record) => Ok(record),
            _ => Err(CoreError::new(ErrorCode::Internal, "the head gave another answer").into()),
        }
    }

    /// Ends an actor.
    pub fn kill_actor<E>(
        &self,
        actor_id: ActorId,
        no_restart: bool,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        self.wait_for_registration(actor_id, interrupt)?;
        let cause = "it was killed by kill()".to_owned();
        let request = proto::KillActor {
            actor_id: actor_id.to_vec().into(),
            no_restart,
            cause,
            graceful: false,
        };
        self.ask_head(head_request::Request::KillActor(request), interrupt)?;
        if no_restart {
            // The head has recorded the death; its notice may still be on the way.
            self.with_state(|state| state.actor_killed(actor_id));
        }
        Ok(())
    }
}
