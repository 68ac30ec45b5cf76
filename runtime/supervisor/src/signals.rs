//! Threads that take no signals: those belong to the JVM or to Python.
#![allow(unsafe_code, reason = "signal masks have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with all asynchronous signals blocked, from its first instruction.
pub fn spawn_quiet_thread<F>(name: &str, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let previous = block_asynchronous_signals();
    let outcome = Builder::new().name(name.to_owned()).spawn(body);
    set_mask(&previous);
    outcome
}

/// Blocks every signal but those that report a fault of the running thread itself. Returns the mask before.
fn block_asynchronous_signals() -> libc::sigset_t {
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    let mut previous = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for writes; `sigfillset` initialises the first before it is read, and
    // `pthread_sigmask` initialises the second.
    unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
        ] {
            libc::sigdelset(blocked.as_mut_ptr(), signal);
        }
        libc::sigemptyset(previous.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), previous.as_mut_ptr());
        previous.assume_init()
    }
}

fn set_mask(mask: &libc::sigset_t) {
    // SAFETY: `mask` is an initialised set; the old mask is not asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut());
    }
}
