//! What can go wrong in the store.

use std::io;

use sparkray_common::{ErrorCode, IdError, ObjectId};
use sparkray_proto::{Failure, MessageError};

/// A failure of the store or of its client.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A message that breaks the protocol.
    #[error("store message cannot be used: {0}")]
    Message(#[from] MessageError),
    /// The kernel refused memory, a mapping or a descriptor.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection to the raylet failed.
    #[error("connection to the raylet failed: {0}")]
    Connection(String),
    /// The wait ended before the answer came.
    #[error("no answer from the object store about {what} within the deadline")]
    Deadline {
        /// What was waited for.
        what: String,
    },
    /// A range that does not fit its segment, or a segment whose descriptor never came.
    #[error("range of object {object} cannot be mapped: {reason}")]
    BadRange {
        /// The object.
        object: ObjectId,
        /// What is wrong with it.
        reason: String,
    },
    /// The store answered with a failure.
    #[error("{message}")]
    Refused {
        /// What a caller may decide on.
        code: ErrorCode,
        /// The store's sentence.
        message: String,
    },
}

impl StoreError {
    /// What a caller may decide on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Message(_) | Self::BadRange { .. } => ErrorCode::InvalidArgument,
            Self::Os { .. } => ErrorCode::Internal,
            Self::Connection(_) => ErrorCode::Unavailable,
            Self::Deadline { .. } => ErrorCode::DeadlineExceeded,
            Self::Refused { code, .. } => *code,
        }
    }

    pub(crate) fn os(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os {
            action: action.into(),
            source: source.into(),
        }
    }
}

impl From<IdError> for StoreError {
    fn from(error: IdError) -> Self {
        Self::Message(error.into())
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self::Refused {
            code: failure.error_code(),
            message: failure.message,
        }
    }
}
