//! What ends a raylet, and what ends a connection.

use std::io;

use sparkray_common::{ErrorCode, IdError, NodeId, ResourceError};
use sparkray_object_store::StoreError;
use sparkray_proto::{FrameKind, MessageError};
use sparkray_rpc::RpcError;

/// A failure that ends the raylet; its supervisor starts another one.
#[derive(Debug, thiserror::Error)]
pub enum RayletError {
    /// The configuration cannot be used.
    #[error("raylet configuration: {0}")]
    Config(String),
    /// The kernel refused something that the raylet cannot do without.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The listeners, or the first connection to the head.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The store cannot start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head does not take this node.
    #[error("the head refused this node: {message}")]
    Refused {
        /// What a supervisor may decide on.
        code: ErrorCode,
        /// The head's sentence.
        message: String,
    },
    /// The head could not be reached for so long that it may give this node's actors to others.
    #[error(
        "node {node} was cut off: the head at {head} has acknowledged nothing for {seconds:.1} s, so its workers were ended \
         before others take their place"
    )]
    CutOff {
        /// This node.
        node: NodeId,
        /// Its address.
        head: String,
        /// Age of the newest message that it has acknowledged.
        seconds: f64,
    },
    /// The head takes none of this node's messages, of which none may be lost.
    #[error(
        "node {node} ends: the head at {head} is alive but has left {messages} messages of this node waiting; it is \
         overloaded, or its network is"
    )]
    Overrun {
        /// This node.
        node: NodeId,
        /// Its address.
        head: String,
        /// How many wait.
        messages: usize,
    },
    /// The head cannot be reached at the start.
    #[error("the head at {head} did not answer within {seconds} s: {cause}")]
    HeadUnreachable {
        /// Its address.
        head: String,
        /// The time waited.
        seconds: u64,
        /// The last failure.
        cause: String,
    },
}

impl RayletError {
    /// What a supervisor may decide on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Config(_) => ErrorCode::InvalidArgument,
            Self::Os { .. } => ErrorCode::Internal,
            Self::Rpc(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Refused { code, .. } => *code,
            Self::CutOff { .. } | Self::Overrun { .. } | Self::HeadUnreachable { .. } => {
                ErrorCode::Unavailable
            }
        }
    }

    /// Whether another raylet, as another node, may do what this one cannot, when the network is well again.
    pub fn may_be_started_anew(&self) -> bool {
        match self {
            Self::CutOff { .. } | Self::Overrun { .. } | Self::HeadUnreachable { .. } => true,
            Self::Refused { code, .. } => *code == ErrorCode::Stale,
            _ => false,
        }
    }

    pub(crate) fn os(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os {
            action: action.into(),
            source: source.into(),
        }
    }
}

impl From<IdError> for RayletError {
    fn from(error: IdError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<ResourceError> for RayletError {
    fn from(error: ResourceError) -> Self {
        Self::Config(error.to_string())
    }
}

/// A frame that breaks the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0:?} is not for this connection")]
    NotHere(FrameKind),
}

impl From<MessageError> for FrameError {
    fn from(error: MessageError) -> Self {
        Self::Rpc(error.into())
    }
}
