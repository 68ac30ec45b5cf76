//! Failures of the supervisor.

use std::path::PathBuf;

use sparkray_common::ErrorCode;
use sparkray_proto::Failure;

/// What the supervisor could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SupervisorError {
    /// The binary could not be started at all.
    #[error("cannot start {role} ({}): {cause}", binary.display())]
    Spawn {
        /// `head` or `raylet`.
        role: String,
        /// The file that was to be run.
        binary: PathBuf,
        /// What the operating system said.
        cause: String,
    },
    /// The child ended, or kept silent, before it said that it serves.
    #[error("{role} did not become ready: {cause}; end of its log {}:\n{log_tail}", log_path.display())]
    NotReady {
        /// `head` or `raylet`.
        role: String,
        /// How it ended, or that the deadline passed.
        cause: String,
        /// Its exit status, when it ended by itself.
        status: Option<i32>,
        /// Where its standard error goes.
        log_path: PathBuf,
        /// The last lines that this child wrote there.
        log_tail: String,
    },
    /// The thread that owns the children is gone: the process is shutting down.
    #[error("no process can be started any more: this process is shutting down")]
    HostStopped,
    /// A failure that a caller may decide on by its code.
    #[error("{message}")]
    Refused {
        /// The kind of failure.
        code: ErrorCode,
        /// One sentence.
        message: String,
    },
}

impl SupervisorError {
    /// A failure with its code and one sentence.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// The exit status of a child that ended by itself before it was ready.
    pub(crate) fn exit_status(&self) -> Option<i32> {
        match self {
            Self::NotReady { status, .. } => *status,
            Self::Spawn { .. } | Self::HostStopped | Self::Refused { .. } => None,
        }
    }

    /// The code that other languages see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Spawn { .. } | Self::NotReady { .. } => ErrorCode::Unavailable,
            Self::HostStopped => ErrorCode::NotRunning,
            Self::Refused { code, .. } => *code,
        }
    }
}

impl From<&SupervisorError> for Failure {
    fn from(error: &SupervisorError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Failure> for SupervisorError {
    fn from(failure: Failure) -> Self {
        Self::Refused {
            code: failure.error_code(),
            message: failure.message,
        }
    }
}
