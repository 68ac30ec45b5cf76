//! Running calls of others.

use bytes::Bytes;
use sparkray_common::{ActorId, ErrorCode, FunctionId, MAX_INLINE_BYTES, ObjectId, ValueFormat};
use sparkray_proto::{self as proto, location_of};

use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::io::Patience;
use crate::state::{
    ArgumentValue, CreateActorWork, IncomingTask, State, Work, stored_argument, unknown_object,
};
use crate::values::{Fetched, NewValue};

/// A call to run, or an actor to become.
#[derive(Debug)]
pub enum WorkItem {
    /// A call.
    Task(IncomingTask),
    /// An actor.
    CreateActor(Box<CreateActorWork>),
}

impl From<Work> for WorkItem {
    fn from(work: Work) -> Self {
        match work {
            Work::Task(task) => Self::Task(task),
            Work::CreateActor(work) => Self::CreateActor(work),
        }
    }
}

/// An argument that was given as a reference: index in the flat list, and its value.
type LoadedArgument = (u32, Result<Fetched, CoreError>);

impl CoreWorker {
    // ---- taking calls --------------------------------------------------------------------------------------

    /// The next call to run; `None`: this worker is to end.
    pub fn next_work<E>(
        &self,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Option<WorkItem>, WaitError<E>> {
        let outcome = self.wait_until(Patience::idle(), interrupt, |state| {
            if state.is_ending() {
                return Some(None);
            }
            state.take_work().map(Some)
        });
        match outcome {
            Ok(work) => Ok(work.map(WorkItem::from)),
            // The raylet is gone: so is the reason to live.
            Err(WaitError::Failed(error)) if error.code == ErrorCode::NotRunning => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// A call to run, if there is one now and this worker is not to end.
    pub fn try_next_work(&self) -> Option<WorkItem> {
        self.with_state(|state| {
            if state.is_ending() {
                return None;
            }
            state.take_work().map(WorkItem::from)
        })
    }

    /// Sends [`crate::Notice::Work`] whenever a call arrives or this worker is to end, and lets the helper read the
    /// sockets always: for workers whose threads belong to an event loop.
    pub fn announce_work(&self) {
        self.lead_by_helper();
        self.with_state(State::announce_work);
    }

    /// Whether this worker is to end.
    pub fn is_ending(&self) -> bool {
        self.state.lock().is_ending()
    }

    /// The actor that this process is, and its incarnation.
    pub fn current_actor(&self) -> Option<(ActorId, u64)> {
        self.state.lock().current_actor()
    }

    // ---- loading -------------------------------------------------------------------------------------------

    /// The code of a function that a caller has sent.
    pub fn function_blob(&self, function: FunctionId) -> Option<Bytes> {
        self.state.lock().function_blob(function)
    }

    /// A function is loaded: its code may be forgotten.
    pub fn function_loaded(&self, function: FunctionId) {
        self.state.lock().function_loaded(function);
    }

    /// The values of the arguments that are references. Stored ones are brought to this node.
    pub fn load_arguments<E>(
        &self,
        task: &IncomingTask,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<LoadedArgument>, WaitError<E>> {
        self.load_references(task.references.clone(), interrupt)
    }

    /// As [`CoreWorker::load_arguments`], for an actor's constructor.
    pub fn load_creation_arguments<E>(
        &self,
        work: &CreateActorWork,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<LoadedArgument>, WaitError<E>> {
        let mut references = Vec::with_capacity(work.spec.arguments.len());
        let mut inline = work.spec.inline_arguments.iter();
        for argument in &work.spec.arguments {
            let value = if argument.inline_length.is_some() {
                ArgumentValue::Inline(inline.next().cloned().unwrap_or_default())
            } else {
                stored_argument(argument)?
            };
            references.push((argument.slot, value));
        }
        self.load_references(references, interrupt)
    }

    fn load_references<E>(
        &self,
        references: Vec<(u32, ArgumentValue)>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<LoadedArgument>, WaitError<E>> {
        let mut stored: Vec<ObjectId> = Vec::new();
        // The caller pins them until the reply: an entry without registering as a borrower is enough.
        self.with_state(|state| {
            for (_, value) in &references {
                if let ArgumentValue::Stored { object, locations } = value {
                    state.hold_argument(*object, locations.clone());
                    stored.push(*object);
                }
            }
        });
        let fetched = if stored.is_empty() {
            Ok(Vec::new())
        } else {
            let fetched = self.get_all(&stored, interrupt);
            self.with_state(|state| {
                for id in &stored {
                    state.drop_ref(*id);
                }
            });
            fetched
        };
        let mut fetched = fetched?.into_iter();
        let mut values = Vec::with_capacity(references.len());
        for (slot, value) in references {
            let value = match value {
                ArgumentValue::Inline(bytes) => Ok(Fetched::Inline(bytes)),
                ArgumentValue::Stored { object, .. } => {
                    fetched.next().unwrap_or_else(|| Err(unknown_object(object)))
                }
            };
            values.push((slot, value));
        }
        Ok(values)
    }

    // ---- answering -----------------------------------------------------------------------------------------

    /// Writes one result of a call: inline, or into the local store for its caller.
    pub fn write_result<E>(
        &self,
        task: &IncomingTask,
        index: u32,
        value: &NewValue<'_>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(proto::ReturnValue, Bytes), WaitError<E>> {
        let total = value.total_len();
        let is_error = value.format == ValueFormat::Error;
        let contained = self.describe_contained(&value.contained);
        if !value.is_stored(total, MAX_INLINE_BYTES) {
            let bytes = value.to_bytes();
            let result = proto::ReturnValue {
                inline_length: Some(bytes.len() as u64),
                is_error,
                contained,
                ..Default::default()
            };
            return Ok((result, bytes));
        }
        let id = ObjectId::for_result(task.task_id, index);
        self.write_stored(id, &task.caller, total, interrupt, |target| value.write(target))?;
        let me = self.address();
        let result = proto::ReturnValue {
            inline_length: None,
            stored_length: total as u64,
            location: Some(location_of(me.node_id, &me.node_address)),
            is_error,
            contained,
        };
        Ok((result, Bytes::new()))
    }

    fn describe_contained(&self, ids: &[ObjectId]) -> Vec<proto::ObjectReference> {
        if ids.is_empty() {
            return Vec::new();
        }
        let state = self.state.lock();
        ids.iter()
            .map(|id| {
                let owner = state.objects().owner(id).unwrap_or(state.me());
                proto::ObjectReference::new(*id, owner)
            })
            .collect()
    }

    /// Frees results of a call that were written and are not answered with.
    pub fn discard_results(&self, task: &IncomingTask, results: &[(proto::ReturnValue, Bytes)]) {
        self.with_state(|state| {
            for (index, (result, _)) in results.iter().enumerate() {
                if result.location.is_some() {
                    state.free_here(ObjectId::for_result(task.task_id, index as u32));
                }
            }
        });
    }

    /// Answers a call. `pins`: references inside the results, which the caller of this function keeps until it returns.
    /// `more`: other answers follow, or [`CoreWorker::flush`]; this one may wait for them.
    pub fn finish_task(
        &self,
        task: &IncomingTask,
        results: Vec<(proto::ReturnValue, Bytes)>,
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        let mut returns = Vec::with_capacity(results.len());
        let mut values = Vec::with_capacity(results.len());
        for (result, bytes) in results {
            returns.push(result);
            values.push(bytes);
        }
        let payload: Vec<&[u8]> = values.iter().map(|bytes| &bytes[..]).collect();
        self.with_state(|state| {
            for id in &pins {
                state.add_ref(*id);
            }
            state.finish_work(task, returns, &payload, pins, more);
        });
    }

    /// Sends the answers that wait for others.
    pub fn flush(&self) {
        self.reactor.flush_dirty();
    }

    /// Answers a call that has no result, not even an error value.
    pub fn fail_task(&self, task: &IncomingTask, error: &CoreError) {
        self.with_state(|state| state.fail_work(task, error));
    }

    /// Tells the raylet what became of the actor. `error`: the pickled exception of its constructor.
    pub fn finish_create_actor(
        &self,
        work: &CreateActorWork,
        error: Option<Bytes>,
        failure: Option<CoreError>,
    ) -> Result<(), CoreError> {
        self.with_state(|state| state.finish_create_actor(work, error, failure))
    }

    /// The code of this actor wants it to end: it is not to be restarted when this process has ended.
    pub fn announce_exit(&self) {
        self.with_state(State::announce_exit);
    }

    /// Labels this worker's output with the name of what it runs.
    pub fn set_label(&self, name: &str) {
        self.with_state(|state| state.set_label(name));
    }

    /// Namespace in which this process looks up and names actors.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Tasks that were submitted and are not finished, for tests and status.
    pub fn unfinished_tasks(&self) -> usize {
        self.state.lock().unfinished_tasks()
    }
}
