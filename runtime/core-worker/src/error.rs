//! Failures of the core worker: a code that callers decide on, and a sentence for people.

use sparkray_common::{ActorId, ErrorCode, TaskId};
use sparkray_proto::Failure;
use sparkray_rpc::RpcError;

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CoreError {
    /// What callers decide on.
    pub code: ErrorCode,
    /// What happened, to which id, and what to do.
    pub message: String,
    /// The actor that it is about, where this process knows it.
    pub actor: Option<ActorId>,
    /// The task that it is about, likewise.
    pub task: Option<TaskId>,
}

impl CoreError {
    /// A failure with this code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            actor: None,
            task: None,
        }
    }

    /// The same failure, which is about this actor.
    pub fn of_actor(self, actor: ActorId) -> Self {
        Self {
            actor: Some(actor),
            ..self
        }
    }

    /// The same failure, which is about this task.
    pub fn of_task(self, task: TaskId) -> Self {
        Self {
            task: Some(task),
            ..self
        }
    }

    /// The same failure, as a message carries it.
    pub(crate) fn to_failure(&self) -> Failure {
        Failure::new(self.code, self.message.clone())
    }
}

impl From<&Failure> for CoreError {
    fn from(failure: &Failure) -> Self {
        Self::new(failure.error_code(), failure.message.clone())
    }
}

impl From<RpcError> for CoreError {
    fn from(error: RpcError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A wait that ended without its answer.
#[derive(Debug)]
pub enum WaitError<E> {
    /// The deadline passed.
    Deadline,
    /// The operation failed.
    Failed(CoreError),
    /// The caller's own check asked to stop, for example a signal in Python.
    Interrupted(E),
}

impl<E> From<CoreError> for WaitError<E> {
    fn from(error: CoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<sparkray_proto::MessageError> for CoreError {
    fn from(error: sparkray_proto::MessageError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

impl From<sparkray_common::IdError> for CoreError {
    fn from(error: sparkray_common::IdError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}
