//! The reasons that the verdict byte at the end of the handshake carries.

use sparkray_common::ErrorCode;

/// Why a caller that proved itself was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's proof is wrong.
    #[error("the token is wrong")]
    WrongToken,
    /// Another cluster.
    #[error("it belongs to another cluster")]
    OtherCluster,
    /// Another head epoch.
    #[error("it follows another head")]
    OtherHead,
    /// Another start of the raylet, or a worker of another node.
    #[error("the node was restarted and has a new id")]
    OtherNode,
    /// No such process here.
    #[error("the process that was asked for is not there")]
    NoSuchTarget,
    /// The process shuts down.
    #[error("it is shutting down")]
    ShuttingDown,
    /// Too many callers at once.
    #[error("too many connections wait")]
    Busy,
    /// Another version of the handshake.
    #[error("it speaks another version of the protocol")]
    OtherVersion,
    /// The head ran here and has ended.
    #[error("the head has ended")]
    HeadEnded,
}

impl Refusal {
    pub(crate) const ALL: [Self; 9] = [
        Self::WrongToken,
        Self::OtherCluster,
        Self::OtherHead,
        Self::OtherNode,
        Self::NoSuchTarget,
        Self::ShuttingDown,
        Self::Busy,
        Self::OtherVersion,
        Self::HeadEnded,
    ];

    pub(crate) fn number(self) -> u8 {
        Self::ALL
            .iter()
            .position(|other| *other == self)
            .map_or(u8::MAX, |index| index as u8 + 1)
    }

    /// Reads the verdict byte; `None` lets the caller in.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => None,
            other => Some(
                Self::ALL
                    .get(other as usize - 1)
                    .copied()
                    .unwrap_or(Self::NoSuchTarget),
            ),
        }
    }

    /// What a caller may decide on.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::WrongToken | Self::OtherCluster => ErrorCode::Unauthenticated,
            Self::OtherHead | Self::OtherNode => ErrorCode::Stale,
            Self::NoSuchTarget | Self::HeadEnded => ErrorCode::NotFound,
            Self::ShuttingDown | Self::Busy => ErrorCode::Unavailable,
            Self::OtherVersion => ErrorCode::VersionMismatch,
        }
    }
}
