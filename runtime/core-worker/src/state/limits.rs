//! Limits that two parts have to agree on.

/// Functions that a caller may have at one worker, and answers that the worker may have to keep for it.
pub(super) const MAX_PUSHED_AHEAD: usize = 128;
