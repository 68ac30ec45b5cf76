//! Spawning and reaping of heads and nodes.
//!
//! Invariants:
//! 1. Every child is forked by one permanent thread, because PR_SET_PDEATHSIG follows the forking thread.
//! 2. A child inherits its three standard streams and nothing else: JVM sockets and files lack O_CLOEXEC.
//! 3. A child stays in its parent's process group, so that YARN's signals reach it.
//! 4. A child's standard input is a leash: when [`Child`] is dropped, or this process ends, it closes and the child ends.
//! 5. Only the host thread reaps, and it signals a child only while it has not reaped it: no pid is ever reused under us.

mod inherit;
mod log_tail;
mod poll_loop;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;
use sparkray_common::sync::{Condvar, Mutex};

use crate::error::SupervisorError;
use crate::signals::spawn_quiet_thread;
use poll_loop::{Command, PollLoop, Wake};

pub(crate) use inherit::isolate;

/// Commands that may wait for the host thread; it takes them at once.
const COMMAND_QUEUE: usize = 64;
/// How long `stop` waits for the kernel to end a process after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// A program, and what it is told first. May hold a token: it has no `Debug`.
pub(crate) struct Launch {
    /// Its path.
    pub(crate) program: PathBuf,
    /// Its arguments, which everybody on the machine can read.
    pub(crate) arguments: Vec<String>,
    /// Additions to this process's own environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Written to its standard input as one line.
    pub(crate) configuration: String,
    /// Time in which it must write its ready line.
    pub(crate) ready_deadline: Duration,
}

/// What to run, and what for.
pub(crate) struct ChildSpec {
    /// `head` or `raylet`, for messages.
    pub(crate) role: String,
    pub(crate) launch: Launch,
    /// Receives its standard error; appended to, readable by the owner only.
    pub(crate) log_path: PathBuf,
    /// Called once, on the host thread, when a child that was ready ends without having been told to. The text says
    /// how it ended, with the end of its log. Must return at once.
    pub(crate) on_exit: Option<Box<dyn FnOnce(ChildEnd) + Send>>,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChildEnd {
    /// In words.
    pub(crate) cause: String,
    /// Its exit status, when it ended by itself.
    pub(crate) status: Option<i32>,
}

/// How a child stands; shared between its owner and the host thread.
#[derive(Default)]
struct ChildState {
    exit: Mutex<Option<String>>,
    exited: Condvar,
    stopping: AtomicBool,
}

/// Owner of the thread that spawns and reaps children. Clones share the thread; it ends, and kills what is left,
/// when the last clone and the last [`Child`] are dropped.
#[derive(Clone)]
pub struct ChildHost {
    link: Arc<Link>,
}

/// The way to the host thread; its end ends the thread.
struct Link {
    commands: Option<SyncSender<Command>>,
    wake: Arc<Wake>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.commands = None;
        self.wake.wake();
    }
}

impl ChildHost {
    /// Starts the thread.
    pub fn start() -> Result<Self, SupervisorError> {
        let refuse = |cause: io::Error| SupervisorError::Spawn {
            role: "child host thread".to_owned(),
            binary: PathBuf::new(),
            cause: cause.to_string(),
        };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| refuse(errno.into()))?;
        let wake = Arc::new(Wake::new(event));
        let (commands, queue) = sync_channel(COMMAND_QUEUE);
        let poll_loop = PollLoop::new(queue, Arc::clone(&wake));
        spawn_quiet_thread("sparkray-children", move || poll_loop.run()).map_err(refuse)?;
        Ok(Self {
            link: Arc::new(Link {
                commands: Some(commands),
                wake,
            }),
        })
    }

    /// Runs a child and waits until it has written its ready line. A child that fails to do so is killed, and the
    /// error carries the end of its log.
    pub(crate) fn spawn(&self, spec: ChildSpec) -> Result<Child, SupervisorError> {
        self.begin(spec)?.wait()
    }

    /// Runs a child and returns at once; [`Starting::wait`] waits for its ready line.
    pub(crate) fn begin(&self, mut spec: ChildSpec) -> Result<Starting, SupervisorError> {
        let state = Arc::new(ChildState::default());
        let (started_sender, started) = sync_channel(1);
        let (ready_sender, ready) = sync_channel(1);
        let ready_at = Instant::now() + spec.launch.ready_deadline;
        let mut configuration = std::mem::take(&mut spec.launch.configuration);
        configuration.push('\n');
        self.command(Command::Spawn {
            spec,
            state: Arc::clone(&state),
            ready_at,
            started: started_sender,
            ready: ready_sender,
        })?;
        let (key, pid, stdin) = started.recv().map_err(|_| SupervisorError::HostStopped)??;
        let stdin = Some(File::from(stdin));
        let child = Child {
            host: self.clone(),
            key,
            pid,
            stdin,
            ready_line: String::new(),
            state,
        };
        Ok(Starting {
            child,
            configuration,
            ready,
        })
    }

    fn command(&self, command: Command) -> Result<(), SupervisorError> {
        let commands = self.link.commands.as_ref().ok_or(SupervisorError::HostStopped)?;
        commands.send(command).map_err(|_| SupervisorError::HostStopped)?;
        self.link.wake.wake();
        Ok(())
    }
}

/// A child that runs but has not said yet that it serves.
pub(crate) struct Starting {
    child: Child,
    configuration: String,
    ready: Receiver<Result<String, SupervisorError>>,
}

impl Starting {
    /// Ends the child from another thread, upon which `wait` returns an error.
    pub(crate) fn killer(&self) -> Killer {
        Killer {
            host: self.child.host.clone(),
            key: self.child.key,
        }
    }

    /// Hands the child its configuration and waits for its ready line.
    pub(crate) fn wait(mut self) -> Result<Child, SupervisorError> {
        if let Some(stdin) = &mut self.child.stdin {
            // A child that dies early breaks the pipe; its log, which the answer below carries, says why.
            if let Err(error) = stdin.write_all(self.configuration.as_bytes()) {
                tracing::debug!(pid = self.child.pid, %error, "child did not read its configuration");
            }
        }
        self.child.ready_line = self.ready.recv().map_err(|_| SupervisorError::HostStopped)??;
        Ok(self.child)
    }
}

/// Kills one child.
#[derive(Clone)]
pub(crate) struct Killer {
    host: ChildHost,
    key: u64,
}

impl Killer {
    /// Sends SIGKILL, unless the child has ended.
    pub(crate) fn kill(&self) {
        // Fails only when the host thread has ended, and then it has killed every child.
        let _ = self.host.command(Command::Signal {
            key: self.key,
            signal: Signal::KILL,
        });
    }
}

/// A child that serves. Dropping it closes its leash, upon which it ends by itself; [`Child::stop`] waits for that.
pub struct Child {
    host: ChildHost,
    key: u64,
    pid: u32,
    stdin: Option<File>,
    ready_line: String,
    state: Arc<ChildState>,
}

impl Child {
    /// Its process id. What serves may be a process below it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The line with which it said that it serves.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> Option<String> {
        self.state.exit.lock().clone()
    }

    /// Tells it one line, over its leash. One that has ended hears nothing.
    pub(crate) fn tell(&self, line: &str) {
        let Some(mut stdin) = self.stdin.as_ref() else {
            return;
        };
        if let Err(error) = stdin.write_all(format!("{line}\n").as_bytes()) {
            tracing::debug!(pid = self.pid, %error, "a child does not hear its parent's notice");
        }
    }

    /// Ends it: closes its leash and sends SIGTERM, sends SIGKILL after `grace`, and returns when it is reaped.
    /// Its `on_exit` is not called.
    pub fn stop(mut self, grace: Duration) {
        self.state.stopping.store(true, Ordering::Release);
        self.stdin = None;
        self.signal(Signal::TERM);
        if self.wait(Instant::now() + grace) {
            return;
        }
        self.signal(Signal::KILL);
        if !self.wait(Instant::now() + KILL_DEADLINE) {
            tracing::error!(pid = self.pid, "child did not end after SIGKILL");
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails only when the host thread has ended, and then it has killed every child.
        let _ = self.host.command(Command::Signal {
            key: self.key,
            signal,
        });
    }

    fn wait(&self, deadline: Instant) -> bool {
        let mut exit = self.state.exit.lock();
        while exit.is_none() {
            let timed_out;
            (exit, timed_out) = self.state.exited.wait_until(exit, deadline);
            if timed_out {
                return exit.is_some();
            }
        }
        true
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Release);
        self.stdin = None;
    }
}

#[cfg(test)]
mod tests;
