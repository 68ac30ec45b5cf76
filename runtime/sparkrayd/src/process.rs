//! What every process of the runtime does at its start and end, so that none outlives what it depends on.
//!
//! Invariants:
//! 1. The kernel ends this process when the thread that started it ends (PR_SET_PDEATHSIG): a head by SIGKILL, a
//!    raylet by SIGTERM, because it has children to end first. A parent that was gone before is noticed by its pid,
//!    which the configuration names.
//! 2. Standard input is a leash: when the parent closes it, the process ends in an orderly way, as with SIGTERM. Lines of
//!    JSON on it, after the configuration, are the parent's notices.
//! 3. No descriptor but 0, 1 and 2 is taken over from the parent.
//! 4. The runtime has one thread, the main thread, so that the children of this process can use
//!    PR_SET_PDEATHSIG in their turn.
//! 5. A panic anywhere ends the process: half a raylet or head is worse than none.
//! 6. The order to end is obeyed within [`END_DEADLINE`].

use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sparkray_common::ParentNotice;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The parent writes the configuration right after it started this process.
const CONFIG_DEADLINE: Duration = Duration::from_secs(30);
const MAX_CONFIG_BYTES: usize = 1 << 20;
/// What still runs this long after the order to end is abandoned.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// Notices that may wait, and their length in all: a parent has few.
const NOTICES: usize = 16;
const MAX_NOTICE_BYTES: u64 = 1 << 20;
/// Exit status after a panic, as the standard library has it.
const PANIC_STATUS: i32 = 101;

/// Who started this process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartedBy {
    /// The process that the configuration names as the parent.
    Parent,
    /// A guardian, which was started by the process that the configuration names.
    Guardian { guardian: u32, parent: u32 },
}

/// Runs `work` as a process of the runtime, with the configuration from standard input.
pub(crate) fn run<C, F>(
    started_by: StartedBy,
    parent_pid: impl FnOnce(&C) -> u32,
    work: impl FnOnce(C, mpsc::Receiver<ParentNotice>, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    C: DeserializeOwned,
    F: Future<Output = anyhow::Result<()>>,
{
    let death_signal = match started_by {
        StartedBy::Parent => rustix::process::Signal::KILL,
        StartedBy::Guardian { .. } => rustix::process::Signal::TERM,
    };
    rustix::process::set_parent_process_death_signal(Some(death_signal))
        .context("cannot ask the kernel to end this process with its parent")?;
    close_inherited_descriptors().context("cannot close the descriptors that the parent left open")?;
    sparkray_common::init_tracing("info");
    end_on_panic();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let outcome = runtime.block_on(async {
        // First, so that Ctrl-C in the parent's terminal does not end this process.
        let signals = Signals::install().context("cannot handle signals")?;
        let config: C = read_config(io::stdin().as_fd())?;
        check_parent(started_by, parent_pid(&config))?;
        let cancel = CancellationToken::new();
        let leash = watch_leash()?;
        let (to_work, notices) = mpsc::channel(NOTICES);
        tokio::select! {
            outcome = work(config, notices, cancel.clone()) => outcome,
            outcome = end_on_order(leash, to_work, signals, &cancel) => outcome,
        }
    });
    // Disk operations that hang must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// A callback that writes the ready line. Without a parent that reads it, the process ends.
pub(crate) fn announcer<R: Serialize>(cancel: &CancellationToken) -> impl FnOnce(R) + use<R> {
    let cancel = cancel.clone();
    move |ready| {
        let written = serde_json::to_string(&ready)
            .map_err(io::Error::from)
            .and_then(|line| {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{line}")?;
                stdout.flush()
            });
        if let Err(error) = written {
            tracing::error!(%error, "cannot tell the parent that this process is ready");
            cancel.cancel();
        }
    }
}

#[allow(
    unsafe_code,
    reason = "closing a descriptor by its number has no safe interface"
)]
pub(crate) fn close_inherited_descriptors() -> io::Result<()> {
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        inherited.extend(number.filter(|number| *number > 2));
    }
    for number in inherited {
        // SAFETY: this is the process's only thread and nothing has been opened yet, so nobody owns the descriptor.
        // The listing's own one is closed already: the kernel refuses that and nothing changes.
        unsafe { rustix::io::close(number) };
    }
    Ok(())
}

fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(PANIC_STATUS);
    }));
}

fn check_parent(started_by: StartedBy, expected: u32) -> anyhow::Result<()> {
    let own = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    let actual = match started_by {
        StartedBy::Parent => own,
        StartedBy::Guardian { guardian, parent } => {
            ensure!(own == guardian, "the guardian of this process, {guardian}, ended");
            parent
        }
    };
    ensure!(
        actual == expected,
        "the parent of this process is {actual}, its configuration names {expected}: the parent ended, or another process \
         started this one"
    );
    Ok(())
}

/// Reads one line of JSON.
fn read_config<C: DeserializeOwned>(input: BorrowedFd<'_>) -> anyhow::Result<C> {
    let line = read_line(input, Instant::now() + CONFIG_DEADLINE)?;
    serde_json::from_slice(&line).context("the configuration on standard input cannot be used")
}

fn read_line(input: BorrowedFd<'_>, deadline: Instant) -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("the time left is not a timeout")?;
        let mut poll = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Ok(0) => bail!(
                "no configuration on standard input within {} s: sparkrayd is started by sparkray, not by hand",
                CONFIG_DEADLINE.as_secs()
            ),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).context("cannot wait for the configuration on standard input"),
        }
        let read = match rustix::io::read(input, &mut buffer) {
            Ok(read) => read,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(error) => return Err(error).context("cannot read the configuration from standard input"),
        };
        ensure!(
            read > 0,
            "standard input was closed before the configuration's end: one line of JSON was expected"
        );
        if let Some(end) = buffer[..read].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&buffer[..end]);
            return Ok(line);
        }
        line.extend_from_slice(&buffer[..read]);
        ensure!(
            line.len() <= MAX_CONFIG_BYTES,
            "the configuration on standard input is longer than 1 MiB"
        );
    }
}

/// The signals that a process of the runtime treats in its own way.
struct Signals {
    terminate: Signal,
    hang_up: Signal,
    /// Never looked at: Ctrl-C is for the user's program, which then ends its cluster.
    _interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            _interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

fn watch_leash() -> anyhow::Result<pipe::Receiver> {
    let stdin = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot watch standard input")?;
    pipe::Receiver::from_owned_fd(stdin).context("standard input must be a pipe that the parent holds open")
}

/// Passes the parent's notices on; ends when the parent has closed the leash.
async fn leash_closed(leash: pipe::Receiver, notices: mpsc::Sender<ParentNotice>) {
    let mut lines = BufReader::new(leash.take(MAX_NOTICE_BYTES)).lines();
    loop {
        match lines.next_line().await {
            Ok(None) => return,
            Ok(Some(line)) => match serde_json::from_str(&line) {
                // Who does not read it needs none.
                Ok(notice) => drop(notices.try_send(notice)),
                Err(error) => tracing::warn!(%error, "the parent sent a notice that is not understood"),
            },
            Err(error) => {
                tracing::error!(%error, "cannot read standard input: treated as closed");
                return;
            }
        }
    }
}

/// Waits for the order to end, passes it on, and gives up on what does not obey.
async fn end_on_order(
    leash: pipe::Receiver,
    notices: mpsc::Sender<ParentNotice>,
    mut signals: Signals,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = leash_closed(leash, notices) => info!("ends: the parent closed standard input"),
        _ = signals.terminate.recv() => info!("ends: SIGTERM"),
        _ = signals.hang_up.recv() => info!("ends: SIGHUP"),
    }
    cancel.cancel();
    tokio::time::sleep(END_DEADLINE).await;
    bail!("did not end within {} s of being told to", END_DEADLINE.as_secs())
}
