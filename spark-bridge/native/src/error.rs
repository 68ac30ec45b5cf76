//! What a native method may fail with; Java sees `org.sparkray.SparkRayException` with the code and the message.

use sparkray_common::ErrorCode;
use sparkray_object_store::StoreError;
use sparkray_proto::MessageError;
use sparkray_supervisor::SupervisorError;

use crate::columns::ColumnError;

/// A failure of a native method.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// A call into the JVM failed; when a Java exception is pending, that one is thrown.
    #[error("call into the JVM failed: {0}")]
    Jni(#[from] jni::errors::Error),
    /// A failure of the manager.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// A failure of the object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Bytes from Java that are not the message that was agreed on, or a message with something impossible in it.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A failure that a caller may decide on by its code.
    #[error("{message}")]
    Refused {
        /// The kind of failure.
        code: ErrorCode,
        /// One sentence.
        message: String,
    },
}

impl NativeError {
    /// A failure with its code and one sentence.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// The code that Java sees.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Jni(_) => ErrorCode::Internal,
            Self::Supervisor(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Message(_) => ErrorCode::InvalidArgument,
            Self::Refused { code, .. } => *code,
        }
    }
}

impl From<ColumnError> for NativeError {
    fn from(error: ColumnError) -> Self {
        Self::refused(error.code(), error.to_string())
    }
}
