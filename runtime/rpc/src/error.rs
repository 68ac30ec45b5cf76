//! What can go wrong on a connection.

use std::io;

use sparkray_common::ErrorCode;
use sparkray_proto::MessageError;

use crate::refusal::Refusal;

/// A failure of a connection. After any of them the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The operating system refused.
    #[error("cannot {action} {peer}: {source}")]
    Io {
        /// What was tried, for example "connect to".
        action: &'static str,
        /// The address, or what is known of it.
        peer: String,
        /// The reason.
        source: io::Error,
    },
    /// The other side refused the handshake.
    #[error("{peer} refused the connection: {refusal}")]
    Refused {
        /// The address.
        peer: String,
        /// Why.
        refusal: Refusal,
    },
    /// The other side does not know the token.
    #[error("{peer} does not know the token of this cluster; is it a process of another cluster?")]
    WrongToken {
        /// The address.
        peer: String,
    },
    /// Nothing was heard in time.
    #[error("no answer from {peer} within {seconds:.1} s")]
    Deadline {
        /// The address.
        peer: String,
        /// The time waited.
        seconds: f64,
    },
    /// The other side closed the connection.
    #[error("connection closed")]
    Closed,
    /// The sender's queue is full: the other side does not read.
    #[error("the other side does not read: {queued} messages wait")]
    Overflow {
        /// Messages that wait.
        queued: usize,
    },
    /// Bytes that are not a frame.
    #[error("broken frame: {0}")]
    BadFrame(String),
    /// Bytes that are not what the other end sealed, or another end.
    #[error("the connection is not to be trusted: {0}")]
    NotSecure(String),
    /// A message that breaks the protocol.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl RpcError {
    /// What a caller may decide on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { .. } | Self::Closed | Self::Overflow { .. } | Self::NotSecure(_) => {
                ErrorCode::Unavailable
            }
            Self::Refused { refusal, .. } => refusal.code(),
            Self::WrongToken { .. } => ErrorCode::Unauthenticated,
            Self::Deadline { .. } => ErrorCode::DeadlineExceeded,
            Self::BadFrame(_) | Self::Message(_) => ErrorCode::Internal,
        }
    }

    pub(crate) fn io(action: &'static str, peer: impl ToString, source: io::Error) -> Self {
        Self::Io {
            action,
            peer: peer.to_string(),
            source,
        }
    }
}
