//! The sockets of clients, and the tasks that read from them.
//!
//! A task for each connection reads frames and hands them to the loop. A client's death is the end of its socket; a
//! child that user code forked may hold that socket open, so the process itself is watched too: when it is gone, what
//! the socket still holds is read, and then the connection is over.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};
use sparkray_proto::{FrameKind, LogBatch};
use sparkray_rpc::{Frame, FrameReceiver, FrameSender, SecuredSocket, frame_connection, register};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::driver_log::{self, DriverLog};
use crate::input::Input;
use crate::node_info::NodeInfo;
use crate::tasks::Tasks;

/// The socket of a process that is gone has nothing more to say after this silence.
const DRAIN_SILENCE: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Connection {
    sender: FrameSender,
    /// Ends the reading once the socket is drained.
    drain: CancellationToken,
    /// The process of a local client that is no child of this one; readable once it has ended.
    process: Option<Arc<AsyncFd<OwnedFd>>>,
    log: DriverLog,
}

/// All sockets of clients.
#[derive(Debug)]
pub(crate) struct Connections {
    open: HashMap<u64, Connection>,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
}

impl Connections {
    pub(crate) fn new(inputs: mpsc::Sender<Input>, tasks: Tasks) -> Self {
        Self {
            open: HashMap::new(),
            inputs,
            tasks,
        }
    }

    /// Begins to read from a socket.
    pub(crate) fn serve(&mut self, id: u64, socket: impl Into<SecuredSocket>) -> std::io::Result<()> {
        let (sender, receiver) = frame_connection(socket)?;
        let drain = CancellationToken::new();
        self.tasks
            .spawn(read_frames(id, receiver, self.inputs.clone(), drain.clone()));
        let connection = Connection {
            sender,
            drain,
            process: None,
            log: DriverLog::default(),
        };
        self.open.insert(id, connection);
        Ok(())
    }

    /// For a task that answers over a connection.
    pub(crate) fn sender(&self, id: u64) -> Option<FrameSender> {
        Some(self.open.get(&id)?.sender.clone())
    }

    /// Sends; a client that is gone, or does not read, is noticed by its reading task.
    pub(crate) fn send(&self, id: u64, frame: Frame) {
        if let Some(connection) = self.open.get(&id)
            && let Err(error) = connection.sender.send(frame)
        {
            debug!(connection = id, %error, "cannot send to a client");
        }
    }

    /// Sends frames that belong together.
    pub(crate) fn send_all(&self, id: u64, frames: Vec<Frame>) {
        if let Some(connection) = self.open.get(&id)
            && let Err(error) = connection.sender.send_all(frames)
        {
            debug!(connection = id, %error, "cannot send to a client");
        }
    }

    /// Lines for a driver. One that is stopped does not read: its lines are dropped, not its connection, and it hears how
    /// many.
    pub(crate) fn send_log(&mut self, id: u64, mut batch: LogBatch, node: &NodeInfo) {
        let Some(driver) = self.open.get_mut(&id) else {
            return;
        };
        let (frames, bytes) = (driver.sender.queued(), driver.sender.queued_bytes());
        let Some(lost) = driver.log.takes(batch.lines.len(), frames, bytes) else {
            return;
        };
        if lost > 0 {
            let text =
                format!("{lost} lines of workers' output were dropped: the driver did not read them in time");
            batch.lines.insert(0, node.log_line(text));
        }
        self.send(id, Frame::new(FrameKind::LogBatch, 0, &batch));
    }

    /// Something for a driver, unless it is stopped and does not read.
    pub(crate) fn send_if_read(&self, id: u64, frame: Frame) {
        if let Some(driver) = self.open.get(&id)
            && driver_log::reads(driver.sender.queued(), driver.sender.queued_bytes())
        {
            self.send(id, frame);
        }
    }

    /// Closes both directions.
    pub(crate) fn close(&self, id: u64) {
        if let Some(connection) = self.open.get(&id) {
            connection.sender.close();
        }
    }

    /// Reads what the socket still holds and no more.
    pub(crate) fn drain(&self, id: u64) {
        if let Some(connection) = self.open.get(&id) {
            connection.drain.cancel();
        }
    }

    /// Watches the process behind a connection; when it is gone, the connection is drained.
    pub(crate) fn watch_process(&mut self, id: u64, pid: u32) {
        let Some(connection) = self.open.get_mut(&id) else {
            return;
        };
        match open_process(pid) {
            Ok(process) => {
                let drain = connection.drain.clone();
                connection.process = Some(Arc::clone(&process));
                self.tasks.spawn(async move {
                    tokio::select! {
                        // Readable once the process has ended; a failure to watch leaves the socket as the only sign.
                        _ = process.readable() => drain.cancel(),
                        () = drain.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                debug!(pid, %error, "cannot watch a client; only the end of its connection tells that it died");
            }
        }
    }

    /// Tells the loop when the process behind a connection that is over has ended. `Some`: none is watched.
    pub(crate) fn await_process(&self, id: u64) -> Option<Input> {
        let ended = Input::ProcessEnded { connection: id };
        let Some(process) = self
            .open
            .get(&id)
            .and_then(|connection| connection.process.clone())
        else {
            return Some(ended);
        };
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            // An error too is an end of the watching.
            let _ = process.readable().await;
            // The receiver is gone only when the raylet ends.
            let _ = inputs.send(ended).await;
        });
        None
    }

    /// Forgets a connection; what was sent still leaves.
    pub(crate) fn release(&mut self, id: u64) {
        if let Some(connection) = self.open.remove(&id) {
            // Ends the tasks that read from it and watch its process.
            connection.drain.cancel();
        }
    }
}

/// Reads frames until the socket ends, or is drained after the process is gone.
async fn read_frames(
    id: u64,
    mut receiver: FrameReceiver,
    inputs: mpsc::Sender<Input>,
    drain: CancellationToken,
) {
    let cause = loop {
        let next = tokio::select! {
            next = receiver.next() => next,
            () = drain.cancelled() => break drain_frames(id, &mut receiver, &inputs).await,
        };
        match next {
            Ok(Some(frame)) => {
                if inputs
                    .send(Input::Frame {
                        connection: id,
                        frame,
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Ok(None) => break "its connection closed".to_owned(),
            Err(error) => break format!("its connection broke: {error}"),
        }
    };
    // The receiver is gone only when the raylet ends.
    let _ = inputs
        .send(Input::Closed {
            connection: id,
            cause,
        })
        .await;
}

async fn drain_frames(id: u64, receiver: &mut FrameReceiver, inputs: &mpsc::Sender<Input>) -> String {
    while let Ok(Ok(Some(frame))) = tokio::time::timeout(DRAIN_SILENCE, receiver.next()).await {
        if inputs
            .send(Input::Frame {
                connection: id,
                frame,
            })
            .await
            .is_err()
        {
            break;
        }
    }
    "its process ended".to_owned()
}

/// A handle of a process that is not a child of this one.
fn open_process(pid: u32) -> std::io::Result<Arc<AsyncFd<OwnedFd>>> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    let pidfd: OwnedFd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    Ok(Arc::new(register(pidfd)?))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_other_end_sees_a_connection_close() {
        let (inputs, _inbox) = mpsc::channel(8);
        let mut connections = Connections::new(inputs, Tasks::new(CancellationToken::new()));
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        connections.serve(1, OwnedFd::from(near)).unwrap();
        far.set_nonblocking(true).unwrap();
        assert!(far.read(&mut [0; 1]).is_err(), "still open");
        connections.close(1);
        far.set_nonblocking(false).unwrap();
        far.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let closed = tokio::task::spawn_blocking(move || far.read(&mut [0; 1]).unwrap());
        assert_eq!(closed.await.unwrap(), 0);
    }
}
