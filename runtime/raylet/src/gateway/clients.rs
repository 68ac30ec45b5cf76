//! The connections of this raylet: drivers, workers and executor JVMs of this node, owners and raylets of others.
//!
//! A task for each connection reads frames and hands them to the loop. A client's death is the end of its socket; a
//! child that user code forked may hold that socket open, so the process itself is watched too: when it is gone, what
//! the socket still holds is read, and then the connection is over.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use rustix::process::{Pid, PidfdFlags};
use sparkray_common::{ActorId, JobId, NodeId, WorkerId};
use sparkray_proto::{ClientKind, FrameKind};
use sparkray_rpc::{Frame, FrameReceiver, FrameSender, register};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::input::Event;

/// A caller registers by then.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
/// The socket of a process that is gone has nothing more to say after this silence.
const DRAIN_SILENCE: Duration = Duration::from_millis(20);

/// Who a registered client is.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) kind: ClientKind,
    pub(crate) worker_id: WorkerId,
    /// The node of a remote client.
    pub(crate) node_id: Option<NodeId>,
    pub(crate) pid: u32,
    /// Drivers only.
    pub(crate) job_id: Option<JobId>,
    pub(crate) log_to_driver: bool,
    /// Lines of output that it was too slow for, until it is told.
    pub(crate) lost_lines: usize,
    pub(crate) watched: HashSet<ActorId>,
}

/// More frames, or bytes, than this in a driver's queue: it does not read, and its output is dropped.
const MAX_QUEUED_FRAMES: usize = 1024;
const MAX_QUEUED_BYTES: usize = 32 << 20;

impl Client {
    /// Whether a driver gets so many lines of output while that much waits for it; then also how many it has missed
    /// since the last time.
    pub(crate) fn takes_output(
        &mut self,
        lines: usize,
        queued_frames: usize,
        queued_bytes: usize,
    ) -> Option<usize> {
        if !self.log_to_driver {
            return None;
        }
        if queued_frames > MAX_QUEUED_FRAMES || queued_bytes > MAX_QUEUED_BYTES {
            self.lost_lines += lines;
            return None;
        }
        Some(std::mem::take(&mut self.lost_lines))
    }

    /// Whether it runs on this node and is a process that owns objects.
    pub(crate) fn is_local(&self) -> bool {
        self.kind != ClientKind::Remote
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: FrameSender,
    /// Over a Unix socket, which carries descriptors.
    pub(crate) local: bool,
    /// Ends the reading once the socket is drained.
    pub(crate) drain: CancellationToken,
    /// Set by RegisterClient.
    pub(crate) client: Option<Client>,
    /// A worker that the zygote was asked for: nobody else may register here.
    pub(crate) expected: Option<WorkerId>,
    /// The process of a local client that is no child of this one; readable once it has ended.
    pub(crate) process: Option<Arc<AsyncFd<OwnedFd>>>,
    since: Instant,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    connections: HashMap<u64, Connection>,
    by_worker: HashMap<WorkerId, u64>,
    last: u64,
}

impl Clients {
    /// Takes a connection in and begins to read from it.
    pub(crate) fn add(
        &mut self,
        sender: FrameSender,
        receiver: FrameReceiver,
        local: bool,
        expected: Option<WorkerId>,
        events: &mpsc::Sender<Event>,
    ) -> u64 {
        self.last += 1;
        let id = self.last;
        let drain = CancellationToken::new();
        tokio::spawn(read_frames(id, receiver, events.clone(), drain.clone()));
        self.connections.insert(
            id,
            Connection {
                sender,
                local,
                drain,
                client: None,
                expected,
                process: None,
                since: Instant::now(),
            },
        );
        id
    }

    /// Closes connections whose other end has proved that it knows the token, and has not said who it is in time.
    pub(crate) fn close_unregistered(&self, now: Instant) {
        for (id, connection) in &self.connections {
            // Workers that the zygote was asked for take as long as their imports.
            let waits = connection.client.is_none() && connection.expected.is_none();
            if waits && now.saturating_duration_since(connection.since) >= REGISTER_DEADLINE {
                warn!(
                    connection = id,
                    "closing a connection whose other end has not registered"
                );
                connection.sender.close();
            }
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// The client of a connection, when it registered.
    pub(crate) fn client(&self, id: u64) -> Option<&Client> {
        self.connections.get(&id)?.client.as_ref()
    }

    /// Notes who speaks on a connection.
    pub(crate) fn register(&mut self, id: u64, client: Client) {
        if client.is_local() {
            self.by_worker.insert(client.worker_id, id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.client = Some(client);
        }
    }

    /// The connection of a process of this node.
    pub(crate) fn of_worker(&self, worker: WorkerId) -> Option<u64> {
        self.by_worker.get(&worker).copied()
    }

    /// Forgets a connection; what was sent still leaves.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        // Ends the tasks that read from it and watch its process.
        connection.drain.cancel();
        if let Some(client) = &connection.client
            && self.by_worker.get(&client.worker_id) == Some(&id)
        {
            self.by_worker.remove(&client.worker_id);
        }
        Some(connection)
    }

    /// Sends; a client that is gone, or does not read, is noticed by its reading task.
    pub(crate) fn send<M: Message>(&self, id: u64, kind: FrameKind, correlation: u64, message: &M) {
        self.send_frame(id, Frame::new(kind, correlation, message));
    }

    /// Sends a frame as it is.
    pub(crate) fn send_frame(&self, id: u64, frame: Frame) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if let Err(error) = connection.sender.send(frame) {
            debug!(connection = id, %error, "cannot send to a client");
        }
    }

    /// Sends to every registered client of this node that has a use for notices. Store clients have none and may not
    /// read for a long time.
    pub(crate) fn broadcast<M: Message>(&self, kind: FrameKind, message: &M) {
        for (id, connection) in &self.connections {
            let wants_notices = |client: &Client| client.is_local() && client.kind != ClientKind::Store;
            if connection.client.as_ref().is_some_and(wants_notices) {
                self.send(*id, kind, 0, message);
            }
        }
    }

    /// The driver of a job, when it runs on this node.
    pub(crate) fn driver_of(&self, job: JobId) -> Option<(u64, &Client)> {
        self.clients().find(|(_, client)| client.job_id == Some(job))
    }

    /// Connections from another node.
    pub(crate) fn of_node(&self, node: NodeId) -> impl Iterator<Item = (u64, &Connection)> {
        let from = move |connection: &Connection| {
            connection
                .client
                .as_ref()
                .is_some_and(|client| !client.is_local() && client.node_id == Some(node))
        };
        self.connections
            .iter()
            .filter(move |(_, connection)| from(connection))
            .map(|(id, connection)| (*id, connection))
    }

    /// Registered clients and their connections.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (u64, &Client)> {
        self.connections
            .iter()
            .filter_map(|(id, connection)| Some((*id, connection.client.as_ref()?)))
    }
}

/// Reads frames until the socket ends, or is drained after the process is gone.
async fn read_frames(
    id: u64,
    mut receiver: FrameReceiver,
    events: mpsc::Sender<Event>,
    drain: CancellationToken,
) {
    let cause = loop {
        let next = tokio::select! {
            next = receiver.next() => next,
            () = drain.cancelled() => break drain_frames(id, &mut receiver, &events).await,
        };
        match next {
            Ok(Some(frame)) => {
                if events
                    .send(Event::Frame {
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
    let _ = events
        .send(Event::Closed {
            connection: id,
            cause,
        })
        .await;
}

async fn drain_frames(id: u64, receiver: &mut FrameReceiver, events: &mpsc::Sender<Event>) -> String {
    while let Ok(Ok(Some(frame))) = tokio::time::timeout(DRAIN_SILENCE, receiver.next()).await {
        if events
            .send(Event::Frame {
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

/// Watches a process that is not a child of this one; when it is gone, its connection is drained.
pub(crate) fn watch_process(pid: u32, drain: CancellationToken) -> std::io::Result<Arc<AsyncFd<OwnedFd>>> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    let pidfd: OwnedFd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    let process = Arc::new(register(pidfd)?);
    let watched = Arc::clone(&process);
    tokio::spawn(async move {
        tokio::select! {
            // Readable once the process has ended; a failure to watch leaves the socket as the only sign.
            _ = watched.readable() => drain.cancel(),
            () = drain.cancelled() => {}
        }
    });
    Ok(process)
}

/// Tells the loop when the process behind a connection that is over has ended.
pub(crate) async fn await_end(
    connection: u64,
    process: Arc<AsyncFd<OwnedFd>>,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = process.readable() => {
            // The receiver is gone only when the raylet ends.
            let _ = events.send(Event::ProcessEnded { connection }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use sparkray_rpc::frame_connection;

    use super::*;

    #[tokio::test]
    async fn who_does_not_register_is_closed_in_time() {
        let (events, mut gone) = mpsc::channel(8);
        let mut clients = Clients::default();
        let mut ends = Vec::new();
        for expected in [None, Some(WorkerId::random()), None] {
            let (near, far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let (sender, receiver) = frame_connection(OwnedFd::from(near)).unwrap();
            clients.add(sender, receiver, true, expected, &events);
            ends.push(far);
        }
        let driver = Client {
            kind: ClientKind::Driver,
            worker_id: WorkerId::random(),
            node_id: None,
            pid: 1,
            job_id: None,
            log_to_driver: false,
            lost_lines: 0,
            watched: HashSet::new(),
        };
        clients.register(3, driver);
        clients.close_unregistered(Instant::now());
        assert!(gone.try_recv().is_err(), "nobody is late yet");
        clients.close_unregistered(Instant::now() + REGISTER_DEADLINE);
        ends[0].set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut end = ends.remove(0);
        let closed = tokio::task::spawn_blocking(move || end.read(&mut [0; 1]).unwrap());
        assert_eq!(closed.await.unwrap(), 0);
        for end in ends {
            end.set_nonblocking(true).unwrap();
            assert!((&end).read(&mut [0; 1]).is_err(), "still open");
        }
    }

    #[test]
    fn output_for_a_driver_that_does_not_read_is_dropped_and_counted() {
        let mut driver = Client {
            kind: ClientKind::Driver,
            worker_id: WorkerId::NIL,
            node_id: None,
            pid: 1,
            job_id: None,
            log_to_driver: true,
            lost_lines: 0,
            watched: HashSet::new(),
        };
        assert_eq!(driver.takes_output(5, 0, 0), Some(0));
        assert_eq!(driver.takes_output(5, MAX_QUEUED_FRAMES + 1, 0), None);
        assert_eq!(driver.takes_output(7, 1, MAX_QUEUED_BYTES + 1), None);
        assert_eq!(driver.takes_output(1, 0, 0), Some(12));
        assert_eq!(driver.takes_output(1, 0, 0), Some(0));
        driver.log_to_driver = false;
        assert_eq!(driver.takes_output(1, 0, 0), None);
    }
}
