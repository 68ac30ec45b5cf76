//! How an event loop hears of calls.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use sparkray_core_worker::CoreWorker;

/// A descriptor that is readable when calls have arrived.
#[derive(Default)]
pub(crate) struct EventSignal {
    descriptor: OnceLock<OwnedFd>,
    raised: AtomicBool,
}

impl EventSignal {
    /// Makes the descriptor readable.
    pub(crate) fn raise(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            if !self.raised.swap(true, Ordering::AcqRel) {
                // A full counter means that it is readable already.
                let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
            }
        }
    }

    /// Makes it not readable; whatever came is to be fetched afterwards.
    pub(crate) fn clear(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            let mut counter = [0; 8];
            // Nothing to read means that it is clear.
            let _ = rustix::io::read(descriptor, &mut counter);
            self.raised.store(false, Ordering::Release);
        }
    }

    /// Whether somebody looks at the descriptor.
    pub(crate) fn is_started(&self) -> bool {
        self.descriptor.get().is_some()
    }

    /// The descriptor; from the first call on, arrivals are announced.
    pub(crate) fn start(&self, core: &CoreWorker) -> std::io::Result<i32> {
        if let Some(descriptor) = self.descriptor.get() {
            return Ok(descriptor.as_raw_fd());
        }
        let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let descriptor = self.descriptor.get_or_init(|| made).as_raw_fd();
        core.announce_work();
        Ok(descriptor)
    }
}
