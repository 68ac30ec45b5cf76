//! Why a head does not start or ends.

use sparkray_common::ErrorCode;
use sparkray_rpc::RpcError;

/// A failure of the head as a whole.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The parent sent a configuration that cannot be used.
    #[error("the head's configuration has no usable {field}: {reason}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The listener could not be made.
    #[error("the head cannot listen on the abstract socket {name}: {source}")]
    Listen {
        /// Name of the socket, without the leading NUL.
        name: String,
        /// What the kernel said.
        source: RpcError,
    },
    /// The memory that the head shares with the raylet of its node could not be made.
    #[error("the head cannot make shared memory: {0}")]
    Clock(std::io::Error),
    /// The gRPC server ended.
    #[error("the head's gRPC server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A part that runs as long as the head ended before it.
    #[error("the head's {part} ended unexpectedly: {reason}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
}

impl HeadError {
    /// The code by which a caller may decide.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Config { .. } => ErrorCode::InvalidArgument,
            Self::Listen { .. } => ErrorCode::AlreadyExists,
            Self::Serve(_) => ErrorCode::Unavailable,
            Self::Clock(_) | Self::Part { .. } => ErrorCode::Internal,
        }
    }
}
