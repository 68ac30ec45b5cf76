//! What a child takes over from the JVM or Python process that forks it: nothing but its standard streams.
#![allow(unsafe_code, reason = "runs between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const FIRST_CLOSED: libc::c_uint = 3;
/// Kernels before 5.11 close one by one, up to the limit of open files, which may be absurdly high.
const HIGHEST_CLOSED_ONE_BY_ONE: libc::rlim_t = 1 << 20;

/// Makes the command's process start with default signal handling and without inherited descriptors.
pub(crate) fn isolate(command: &mut Command) {
    // SAFETY: `prepare` allocates nothing, takes no lock and calls async-signal-safe functions only.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn prepare() -> io::Result<()> {
    // SAFETY: an empty set is initialised before it is installed; the dispositions are the kernel's defaults.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in [libc::SIGCHLD, libc::SIGPIPE, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    // Close-on-exec, not closed: the standard library still reports a failed exec over a pipe.
    // SAFETY: the call touches flags of this process's descriptors only.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_CLOSED,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if outcome == 0 {
        return Ok(());
    }
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = limit.rlim_cur.min(HIGHEST_CLOSED_ONE_BY_ONE) as libc::c_int;
    for descriptor in FIRST_CLOSED as libc::c_int..end {
        // SAFETY: an unused number is refused with EBADF, which changes nothing.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
