//! The host thread: forks, reads ready lines, keeps deadlines, reaps.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{ChildStdout, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{ChildEnd, ChildSpec, ChildState, inherit, log_tail};
use crate::error::SupervisorError;

/// How often children are looked at on kernels without pidfd_open (before 5.3).
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const MAX_READY_LINE: usize = 64 * 1024;

/// Wakes the host thread out of poll.
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new(event: OwnedFd) -> Self {
        Self(event)
    }

    pub(super) fn wake(&self) {
        // The counter is full only when the thread is about to wake up anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

type Started = Result<(u64, u32, OwnedFd), SupervisorError>;
type Ready = Result<String, SupervisorError>;

pub(super) enum Command {
    Spawn {
        spec: ChildSpec,
        state: Arc<ChildState>,
        ready_at: Instant,
        started: SyncSender<Started>,
        ready: SyncSender<Ready>,
    },
    Signal {
        key: u64,
        signal: Signal,
    },
}

struct Entry {
    process: std::process::Child,
    pidfd: Option<OwnedFd>,
    stdout: Option<ChildStdout>,
    line: Vec<u8>,
    /// Who waits for the ready line, and until when; empty once it was answered.
    pending: Option<(SyncSender<Ready>, Instant)>,
    spec: ChildSpec,
    log_start: u64,
    state: Arc<ChildState>,
}

pub(super) struct PollLoop {
    queue: Receiver<Command>,
    wake: Arc<Wake>,
    children: BTreeMap<u64, Entry>,
    next_key: u64,
}

impl PollLoop {
    pub(super) fn new(queue: Receiver<Command>, wake: Arc<Wake>) -> Self {
        Self {
            queue,
            wake,
            children: BTreeMap::new(),
            next_key: 1,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            self.wait();
            self.wake.clear();
            let open = self.take_commands();
            let now = Instant::now();
            let keys: Vec<u64> = self.children.keys().copied().collect();
            for key in keys {
                self.look_at(key, now);
            }
            if !open {
                break;
            }
        }
        for entry in self.children.values_mut() {
            let _ = entry.process.kill();
        }
        for entry in self.children.values_mut() {
            let cause = entry.process.wait().map_or_else(
                |error| ChildEnd {
                    cause: error.to_string(),
                    status: None,
                },
                describe,
            );
            entry.finish(cause);
        }
    }

    fn wait(&self) {
        let now = Instant::now();
        let mut timeout: Option<Duration> = None;
        let mut sooner = |wait: Duration| timeout = Some(timeout.map_or(wait, |current| current.min(wait)));
        let mut descriptors = vec![PollFd::new(&self.wake.0, PollFlags::IN)];
        for entry in self.children.values() {
            if let Some(stdout) = &entry.stdout {
                descriptors.push(PollFd::new(stdout, PollFlags::IN));
            }
            match &entry.pidfd {
                Some(pidfd) => descriptors.push(PollFd::new(pidfd, PollFlags::IN)),
                None => sooner(LOOK_INTERVAL),
            }
            if let Some((_, deadline)) = &entry.pending {
                sooner(deadline.saturating_duration_since(now));
            }
        }
        // A millisecond more, so that the deadline has passed when the thread wakes.
        let timeout = timeout.and_then(|wait| Timespec::try_from(wait + Duration::from_millis(1)).ok());
        if let Err(errno) = poll(&mut descriptors, timeout.as_ref()) {
            if errno != rustix::io::Errno::INTR {
                tracing::error!(%errno, "cannot wait for child processes");
                std::thread::park_timeout(LOOK_INTERVAL);
            }
        }
    }

    /// False once nobody can send a command any more.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.queue.try_recv() {
                Ok(Command::Spawn {
                    spec,
                    state,
                    ready_at,
                    started,
                    ready,
                }) => {
                    let _ = started.send(self.start(spec, state, ready_at, ready));
                }
                Ok(Command::Signal { key, signal }) => self.signal(key, signal),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(
        &mut self,
        spec: ChildSpec,
        state: Arc<ChildState>,
        ready_at: Instant,
        ready: SyncSender<Ready>,
    ) -> Started {
        let refuse = |cause: io::Error| SupervisorError::Spawn {
            role: spec.role.clone(),
            binary: spec.launch.program.clone(),
            cause: cause.to_string(),
        };
        let (log, log_start) = log_tail::open(&spec.log_path).map_err(|error| {
            refuse(io::Error::new(
                error.kind(),
                format!("cannot open its log {}: {error}", spec.log_path.display()),
            ))
        })?;
        let mut command = std::process::Command::new(&spec.launch.program);
        command
            .args(&spec.launch.arguments)
            .envs(&spec.launch.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log));
        inherit::isolate(&mut command);
        let mut process = command.spawn().map_err(refuse)?;
        let pid = process.id();
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both streams were asked for as pipes");
        };
        let nonblocking =
            fcntl_getfl(&stdout).and_then(|flags| fcntl_setfl(&stdout, flags | OFlags::NONBLOCK));
        if let Err(errno) = nonblocking {
            let _ = process.kill();
            let _ = process.wait();
            return Err(refuse(errno.into()));
        }
        let pidfd = Pid::from_raw(pid as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let key = self.next_key;
        self.next_key += 1;
        self.children.insert(
            key,
            Entry {
                process,
                pidfd,
                stdout: Some(stdout),
                line: Vec::new(),
                pending: Some((ready, ready_at)),
                spec,
                log_start,
                state,
            },
        );
        Ok((key, pid, OwnedFd::from(stdin)))
    }

    fn signal(&self, key: u64, signal: Signal) {
        let Some(entry) = self.children.get(&key) else {
            return;
        };
        // Not reaped yet, so the pid is still this child's.
        if let Some(pid) = Pid::from_raw(entry.process.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    fn look_at(&mut self, key: u64, now: Instant) {
        let Some(entry) = self.children.get_mut(&key) else {
            return;
        };
        entry.read_stdout();
        let ended = match entry.process.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(describe(status)),
            // SIGCHLD is ignored in this process: the kernel has reaped it.
            Err(_) => Some(ChildEnd {
                cause: "ended with unknown status".to_owned(),
                status: None,
            }),
        };
        if let Some(cause) = ended {
            if let Some(mut entry) = self.children.remove(&key) {
                entry.read_stdout();
                entry.finish(cause);
            }
            return;
        }
        if entry
            .pending
            .as_ref()
            .is_some_and(|(_, deadline)| now >= *deadline)
        {
            let cause = format!(
                "no answer within {:.1} s",
                entry.spec.launch.ready_deadline.as_secs_f64()
            );
            entry.refuse(ChildEnd { cause, status: None });
            let _ = entry.process.kill();
        }
    }
}

impl Entry {
    /// Reads what is there; the first whole line answers the one who waits, the rest is dropped.
    fn read_stdout(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let Some(stdout) = &mut self.stdout else {
                return;
            };
            match stdout.read(&mut buffer) {
                Ok(0) => self.stdout = None,
                Ok(count) => self.take_output(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stdout = None,
            }
        }
    }

    fn take_output(&mut self, bytes: &[u8]) {
        if self.pending.is_none() {
            return;
        }
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.line[..end]).into_owned();
            self.line = Vec::new();
            if let Some((ready, _)) = self.pending.take() {
                let _ = ready.send(Ok(line));
            }
        } else if self.line.len() > MAX_READY_LINE {
            self.refuse(ChildEnd {
                cause: "it wrote something else than a ready line".to_owned(),
                status: None,
            });
            let _ = self.process.kill();
        }
    }

    fn refuse(&mut self, end: ChildEnd) {
        let Some((ready, _)) = self.pending.take() else {
            return;
        };
        self.state.stopping.store(true, Ordering::Release);
        let _ = ready.send(Err(SupervisorError::NotReady {
            role: self.spec.role.clone(),
            cause: end.cause,
            status: end.status,
            log_tail: log_tail::read(&self.spec.log_path, self.log_start),
            log_path: self.spec.log_path.clone(),
        }));
    }

    /// The child is reaped: tells whoever waits.
    fn finish(&mut self, end: ChildEnd) {
        let was_ready = self.pending.is_none();
        self.refuse(end.clone());
        let ChildEnd { cause, status } = end;
        *self.state.exit.lock() = Some(cause.clone());
        self.state.exited.notify_all();
        let stopping = self.state.stopping.load(Ordering::Acquire);
        if let (true, false, Some(on_exit)) = (was_ready, stopping, self.spec.on_exit.take()) {
            let tail = log_tail::read(&self.spec.log_path, self.log_start);
            let cause = format!(
                "{cause}; end of its log {}:\n{tail}",
                self.spec.log_path.display()
            );
            on_exit(ChildEnd { cause, status });
        }
    }
}

fn describe(status: ExitStatus) -> ChildEnd {
    use std::os::unix::process::ExitStatusExt;
    let cause = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(libc::SIGKILL)) => "was killed by SIGKILL".to_owned(),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    ChildEnd {
        cause,
        status: status.code(),
    }
}
