//! How an actor ended for good.

use prost::bytes::Bytes;

/// Why an actor is dead, as its callers are told.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Death {
    pub(crate) cause: String,
    /// The value that its constructor raised.
    pub(crate) constructor_error: Bytes,
    /// No node may ever have it.
    pub(crate) unschedulable: bool,
}

impl Death {
    /// For this reason.
    pub(crate) fn of(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            ..Self::default()
        }
    }

    /// No node may ever have it.
    pub(crate) fn unschedulable(cause: String) -> Self {
        Self {
            unschedulable: true,
            ..Self::of(cause)
        }
    }
}
