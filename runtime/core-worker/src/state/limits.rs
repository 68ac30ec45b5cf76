//! Limits of what is under way. A caller that reaches one waits or queues; nothing is dropped. Windows are narrow in this
//! crate's tests, so that the simulation reaches their ends.

/// Functions that a caller may have at one worker, and answers that the worker may have to keep for it.
pub(super) const MAX_PUSHED_AHEAD: usize = 128;
/// Bytes that a caller may have sent to one leased worker for functions that are not answered.
pub(super) const MAX_PUSHED_BYTES: usize = if cfg!(test) { 64 } else { 16 << 20 };

/// What a caller may have sent to one actor that is not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallWindow {
    pub(super) calls: usize,
    pub(super) bytes: usize,
}

/// An actor that runs one call after another: what waits here would wait there.
pub(super) const ORDERED_WINDOW: CallWindow = CallWindow {
    calls: if cfg!(test) { 3 } else { 8 * 1024 },
    bytes: if cfg!(test) { 100 } else { 16 << 20 },
};
/// An actor that runs many calls at a time: those that were sent may wait for one that is not.
pub(super) const CONCURRENT_WINDOW: CallWindow = CallWindow {
    calls: 1 << 20,
    bytes: 256 << 20,
};

/// Bytes of arguments that travel with calls that are not finished: who submits another call waits.
pub(super) const MAX_INLINE_ARGUMENTS: usize = 384 << 20;
/// Bytes of long arguments of such calls, which lie in stores and, when those are full, on disk.
pub(super) const MAX_STORED_ARGUMENTS: u64 = 8 << 30;
/// Calls that are not finished.
pub(super) const MAX_UNFINISHED_TASKS: usize = 8 << 20;
