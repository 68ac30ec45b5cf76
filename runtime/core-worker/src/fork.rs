//! Forks by user code. A child has a copy of everything but the threads: locks that they held stay held for ever, and
//! sockets are shared with the parent. So it must leave a core worker that it inherited alone.

use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// To be called in a forked child, before anything else of this crate.
pub fn note_fork() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
}

/// Counts the forks between this process and the first.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}
