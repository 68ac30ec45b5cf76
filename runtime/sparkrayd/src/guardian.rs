//! The raylet's guardian: the process that `sparkrayd raylet` starts as. It starts the raylet proper below itself, and
//! when that ends, in whatever way, it ends all that is left of the node.
//!
//! Workers end with the raylet by the kernel's hand, but what tasks started does not: such processes know neither
//! raylet nor worker, and may have a session of their own and an environment without our marks. They have only
//! ancestors, so one of these must outlive the raylet.
//!
//! Invariants:
//! 1. Every process of the node is a descendant of this one, its subreaper, until it has ended.
//! 2. When the process that started it ends, or says SIGTERM or SIGHUP, the raylet is told to end and is killed after
//!    [`GRACE`], should it hang or be stopped.
//! 3. It ends after the raylet, when no descendant is left, and as the raylet did: its parent sees the raylet's status.
//! 4. It has a session of its own: SIGKILL for a whole process group, with which YARN ends a container, takes the
//!    parent and the raylet, and this process clears up after them.
//! 5. When it is killed itself, the raylet ends in its orderly way, which kills everything below too.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use sparkray_raylet::kill_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::warn;

use crate::process::close_inherited_descriptors;

/// Less than the time after which a manager kills a raylet that it stopped: see `STOP_GRACE` in `supervisor::native_engine`.
const GRACE: Duration = Duration::from_secs(3);
/// The kernel needs a moment to end processes, more when they are many or wait for a disk.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the raylet and ends as it does.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot ask the kernel to tell of the parent's end")?;
    // Read after the request: when the parent had ended before, the raylet finds that this is another one.
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    close_inherited_descriptors().context("cannot close the descriptors that the parent left open")?;
    sparkray_common::init_tracing("info");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the subreaper of the raylet's processes")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let status = runtime.block_on(guard(parent))?;
    if !kill_all(KILL_DEADLINE) {
        warn!("some processes that tasks started could not be killed in time");
    }
    Ok(end_like(status))
}

async fn guard(parent: i32) -> anyhow::Result<ExitStatus> {
    // Before the raylet is there: neither its end nor an order is missed.
    let mut children = signal(SignalKind::child()).context("cannot watch for the raylet's end")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    // Never looked at: Ctrl-C is for the user's program, which then ends its cluster.
    let _interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut raylet = start_raylet(parent).context("cannot start the raylet")?;
    if let Err(error) = leave_parent() {
        warn!(%error, "the raylet's guardian keeps its parent's session or streams");
    }
    let mut kill_at: Option<Instant> = None;
    loop {
        if let Some(status) = raylet.try_wait().context("cannot wait for the raylet")? {
            return Ok(status);
        }
        let must_end = tokio::select! {
            _ = children.recv() => false,
            _ = terminate.recv() => true,
            _ = hang_up.recv() => true,
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                warn!("the raylet did not end within {} ms of being told to and is killed", GRACE.as_millis());
                kill_at = None;
                send(&raylet, Signal::KILL);
                false
            }
        };
        if must_end {
            send(&raylet, Signal::TERM);
            kill_at = Some(Instant::now() + GRACE);
        }
    }
}

fn start_raylet(parent: i32) -> io::Result<Child> {
    let arguments = [
        "raylet".to_owned(),
        format!("--guardian={}", std::process::id()),
        format!("--parent={parent}"),
    ];
    let name = std::env::args_os().next().unwrap_or_else(|| "sparkrayd".into());
    let start = |path: &std::path::Path| Command::new(path).arg0(&name).args(&arguments).spawn();
    match start(&std::env::current_exe()?) {
        // The file was replaced or deleted meanwhile; this link still names what runs here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => start("/proc/self/exe".as_ref()),
        outcome => outcome,
    }
}

/// Leaves the parent's process group, and the streams that are between it and the raylet.
fn leave_parent() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::process::setsid()?;
    Ok(())
}

/// The raylet has not been waited for, so its pid is still its own.
fn send(raylet: &Child, signal: Signal) {
    // It may have ended meanwhile.
    let _ = kill_process(Pid::from_child(raylet), signal);
}

/// The status of this process: the raylet's. When a signal ended the raylet, it ends this process too.
fn end_like(status: ExitStatus) -> ExitCode {
    if status.signal() == Some(Signal::KILL.as_raw()) {
        // Fails never: every process may kill itself.
        let _ = kill_process(rustix::process::getpid(), Signal::KILL);
    }
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
