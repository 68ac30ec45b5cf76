//! How one thread makes another one return from epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd, written to only when somebody sleeps on it.
///
/// Invariants:
/// 1. A request is noted before the sleeper is looked at, and the sleeper says that it sleeps before it looks at the
///    requests: one of the two sees the other.
/// 2. The eventfd is drained before the requests are looked at: none is lost with it.
#[derive(Debug)]
pub(crate) struct Kick {
    eventfd: OwnedFd,
    written: AtomicBool,
    sleeping: AtomicBool,
    now: AtomicBool,
    later: AtomicBool,
}

impl Kick {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            written: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            now: AtomicBool::new(false),
            later: AtomicBool::new(false),
        })
    }

    /// The sleeper is to return at once.
    pub(crate) fn now(&self) {
        self.now.store(true, Ordering::SeqCst);
        self.write();
    }

    /// Something waits that may wait a little more: the sleeper is to take it along soon.
    pub(crate) fn later(&self) {
        self.later.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            self.write();
        }
    }

    fn write(&self) {
        if !self.written.swap(true, Ordering::SeqCst) {
            // A full counter means that it is readable already.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// The sleeper is about to take along what waits.
    pub(crate) fn take_later(&self) {
        self.later.store(false, Ordering::SeqCst);
    }

    /// The sleeper is about to sleep. True: something waits already.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        self.later.load(Ordering::SeqCst)
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Empties the eventfd.
    pub(crate) fn drain(&self) {
        let mut counter = [0; 8];
        // Nothing to read means that it is empty.
        let _ = rustix::io::read(&self.eventfd, &mut counter);
        self.written.store(false, Ordering::SeqCst);
    }

    /// Whether the sleeper was asked to return at once.
    pub(crate) fn take_now(&self) -> bool {
        self.now.swap(false, Ordering::SeqCst)
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
