//! Objects between nodes: chunks from the mapped range to the socket, and from the socket into the range.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::{ErrorCode, NodeId, ObjectId, WorkerAddress};
use sparkray_object_store::{MappedRange, PullTicket, PushBytes, PushSource};
use sparkray_proto::{Failure, FrameKind, ObjectChunk, ObjectLocation, PullObject};
use sparkray_rpc::{Frame, FrameSender, RpcError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::messages::pull_refused;
use crate::gateway::{Lane, PeerConnection, Peers};
use crate::input::Input;

/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;
/// Bytes of memory that are brought in at a time, ahead of the chunks: several times as fast as a fault for each page.
const PREPARED: usize = 16 << 20;
/// A node that sends nothing for this long is given up. The first chunk may wait for a restore from disk.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
/// A fetch begins no further attempt when nothing was heard of the object for so long. With the time of one attempt to
/// connect this is below the 15 s in which whoever waits hears of it.
const UNREACHABLE_PATIENCE: Duration = Duration::from_secs(9);
/// Between two attempts: the other side may refuse at once.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// Sends an object to the raylet that asked for it. What it does not take is not sent.
pub(crate) async fn push(
    sender: FrameSender,
    correlation: u64,
    object: ObjectId,
    source: PushSource,
    inputs: mpsc::Sender<Input>,
) {
    let PushSource {
        ticket,
        size,
        owner,
        bytes,
    } = source;
    let mut sent = 0;
    let outcome = loop {
        let chunk = match read_chunk(&bytes, sent).await {
            Ok(chunk) if chunk.is_empty() && sent < size => {
                Err(format!("it ends after {sent} of {size} bytes"))
            }
            Ok(chunk) => Ok(chunk),
            Err(error) => Err(error.to_string()),
        };
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(reason) => {
                let message = format!("object {object} cannot be read: {reason}");
                let failure = Failure::new(ErrorCode::ObjectLost, message);
                // A connection that is closed needs no answer.
                let _ = sender.send(pull_refused(correlation, object, failure));
                break Err(reason);
            }
        };
        let len = chunk.len() as u64;
        let meta = ObjectChunk {
            object_id: object.to_vec().into(),
            failure: None,
            size,
            offset: sent,
            owner: Some((&owner).into()),
        };
        let frame = Frame::new(FrameKind::ObjectChunk, correlation, &meta).with_payload(chunk);
        if let Err(error) = sender.send_wait(frame).await {
            debug!(object_id = %object, %error, "a node stopped taking an object");
            break Ok(sent);
        }
        sent += len;
        if sent >= size {
            break Ok(sent);
        }
    };
    drop(bytes);
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(Input::PushEnded { ticket, outcome }).await;
}

async fn read_chunk(bytes: &PushBytes, offset: u64) -> std::io::Result<Bytes> {
    if !bytes.blocks() {
        return bytes.read(offset, CHUNK);
    }
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || bytes.read(offset, CHUNK))
        .await
        .map_err(std::io::Error::other)?
}

/// Why one location did not give the object.
enum PullError {
    /// Another location may have it.
    Location(String),
    /// The connection failed, and the node is not known to be dead: the network may come back.
    Unreachable(String),
    /// There is no room here, or nobody wants the object: other locations do not help.
    Over(Failure),
}

/// Fetches an object from one of its locations, one after the other, and reports the outcome to the loop. A location that
/// cannot be reached is tried again until it is known to be dead, or for [`UNREACHABLE_PATIENCE`].
pub(crate) async fn pull(
    peers: Peers,
    ticket: PullTicket,
    object: ObjectId,
    locations: Vec<ObjectLocation>,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let begun = Instant::now();
    let mut fetch = Fetch {
        peers,
        ticket,
        object,
        inputs,
        cancel,
        room: None,
        heard: begun,
    };
    let outcome = fetch.fetch_from_any(&locations).await;
    // Also of a failure the store hears only when nobody writes to the memory any more: it may use it for something else.
    let room = fetch.take_room().await;
    let outcome = match (outcome, room) {
        (Ok(()), Ok(Some(range))) => Ok(range),
        (Ok(()), Ok(None)) => Err(Failure::new(
            ErrorCode::Internal,
            format!("object {object} was fetched into no range"),
        )),
        (Ok(()), Err(reason)) => Err(Failure::new(ErrorCode::Internal, reason)),
        (Err(failure), _) => Err(failure),
    };
    let inputs = fetch.inputs;
    // The receiver is gone only when the raylet ends.
    let _ = inputs
        .send(Input::PullEnded {
            ticket,
            object,
            took: begun.elapsed(),
            outcome,
        })
        .await;
}

/// One fetch.
struct Fetch {
    peers: Peers,
    ticket: PullTicket,
    object: ObjectId,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
    /// Where the bytes go, once the size is known, and the last chunk is in it: that is copied while the next one comes.
    room: Option<JoinHandle<MappedRange>>,
    /// When the last chunk came, or the fetch began.
    heard: Instant,
}

impl Fetch {
    async fn fetch_from_any(&mut self, locations: &[ObjectLocation]) -> Result<(), Failure> {
        loop {
            let failure = match self.attempt(locations).await {
                Err(failure) if failure.error_code() == ErrorCode::FetchTimedOut => failure,
                outcome => return outcome,
            };
            if self.heard.elapsed() >= UNREACHABLE_PATIENCE {
                return Err(failure);
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(nobody_needs_it()),
                () = tokio::time::sleep(ATTEMPT_PAUSE) => {}
            }
        }
    }

    /// Asks each location once.
    async fn attempt(&mut self, locations: &[ObjectLocation]) -> Result<(), Failure> {
        let object = self.object;
        let mut reasons = Vec::new();
        let mut code = ErrorCode::ObjectLost;
        for location in locations {
            let address = &location.node_address;
            let outcome = match NodeId::from_slice(&location.node_id) {
                Ok(node) => self.fetch_from(node, address).await,
                Err(error) => Err(PullError::Location(error.to_string())),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(PullError::Over(failure)) => return Err(failure),
                Err(PullError::Location(reason)) => {
                    debug!(object_id = %object, node_address = address, reason, "cannot fetch an object from a node");
                    reasons.push(format!("{address}: {reason}"));
                }
                Err(PullError::Unreachable(reason)) => {
                    debug!(object_id = %object, node_address = address, reason, "cannot reach a node that has an object");
                    reasons.push(format!("{address}: {reason}"));
                    code = ErrorCode::FetchTimedOut;
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("no node is known to have it".to_owned());
        }
        Err(Failure::new(code, reasons.join("; ")))
    }

    async fn fetch_from(&mut self, node: NodeId, address: &str) -> Result<(), PullError> {
        match self.fetch_over_connection(node, address).await {
            // What is dead is not waited for.
            Err(PullError::Unreachable(reason)) if self.peers.is_dead(node) => {
                Err(PullError::Location(reason))
            }
            outcome => outcome,
        }
    }

    async fn fetch_over_connection(&mut self, node: NodeId, address: &str) -> Result<(), PullError> {
        let mut connection = self.connect(node, address).await?;
        let mut frame = match self.first_chunk(&mut connection, address).await? {
            Ok(frame) => frame,
            // A kept connection may have been closed by the other side meanwhile: then a second one is made, once the
            // first one has given its place back.
            Err(RpcError::Closed) => {
                drop(connection);
                connection = self.connect(node, address).await?;
                self.first_chunk(&mut connection, address)
                    .await?
                    .map_err(location_error)?
            }
            Err(error) => return Err(location_error(error)),
        };
        let mut filled = 0;
        loop {
            self.heard = Instant::now();
            let chunk: ObjectChunk = frame.decode().map_err(location_error)?;
            if let Some(failure) = chunk.failure {
                self.peers.give_back(connection);
                return Err(PullError::Location(failure.message));
            }
            let payload = frame.payload;
            let len = payload.len() as u64;
            filled = self.take_chunk(chunk.clone(), payload, filled).await?;
            if filled == chunk.size {
                self.peers.give_back(connection);
                return Ok(());
            }
            if len == 0 {
                return Err(PullError::Location("it sent an empty chunk".to_owned()));
            }
            let next = connection.next(CHUNK_DEADLINE, address);
            frame = self.unless_cancelled(next).await?;
        }
    }

    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, PullError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(cancelled()),
            outcome = work => outcome.map_err(location_error),
        }
    }

    async fn connect(&self, node: NodeId, address: &str) -> Result<PeerConnection, PullError> {
        self.unless_cancelled(self.peers.connect(node, address, Lane::Fetches))
            .await
    }

    /// The inner error is the connection's.
    async fn first_chunk(
        &self,
        connection: &mut PeerConnection,
        address: &str,
    ) -> Result<Result<Frame, RpcError>, PullError> {
        let request = PullObject {
            object_id: self.object.to_vec().into(),
        };
        let frame = Frame::new(FrameKind::PullObject, 2, &request);
        if let Err(error) = connection.sender.send(frame) {
            return Ok(Err(error));
        }
        tokio::select! {
            () = self.cancel.cancelled() => Err(cancelled()),
            answer = connection.next(CHUNK_DEADLINE, address) => Ok(answer),
        }
    }

    /// Puts one chunk into its place; returns how many bytes are there now.
    async fn take_chunk(
        &mut self,
        chunk: ObjectChunk,
        payload: Bytes,
        filled: u64,
    ) -> Result<u64, PullError> {
        let broken = |reason: &str| PullError::Location(reason.to_owned());
        if chunk.object_id != self.object.as_bytes()[..] || chunk.offset != filled {
            return Err(broken("its chunks are out of order"));
        }
        let end = filled
            .checked_add(payload.len() as u64)
            .filter(|end| *end <= chunk.size);
        let end = end.ok_or_else(|| broken("it sent more bytes than the object has"))?;
        let mut range = match self.take_room().await.map_err(PullError::Location)? {
            Some(range) => range,
            None => self.ask_for_room(&chunk).await?,
        };
        let fits = range.len() as u64 == chunk.size;
        // On a blocking thread: bringing in memory is slow.
        self.room = Some(tokio::task::spawn_blocking(move || {
            if fits {
                put_chunk(&mut range, filled as usize, &payload);
            }
            range
        }));
        if !fits {
            return Err(broken("its copy has another size"));
        }
        Ok(end)
    }

    /// The range, once the last chunk is in it.
    async fn take_room(&mut self) -> Result<Option<MappedRange>, String> {
        let Some(room) = self.room.take() else {
            return Ok(None);
        };
        let range = room.await.map_err(|error| format!("the copy failed: {error}"))?;
        Ok(Some(range))
    }

    async fn ask_for_room(&self, chunk: &ObjectChunk) -> Result<MappedRange, PullError> {
        let owner = chunk
            .owner
            .as_ref()
            .ok_or_else(|| PullError::Location("it did not name the owner".to_owned()))?;
        let owner = WorkerAddress::try_from(owner).map_err(|error| PullError::Location(error.to_string()))?;
        let (answer, room) = oneshot::channel();
        let event = Input::PullNeedsRoom {
            ticket: self.ticket,
            size: chunk.size,
            owner,
            room: answer,
        };
        self.inputs.send(event).await.map_err(|_| cancelled())?;
        tokio::select! {
            () = self.cancel.cancelled() => Err(cancelled()),
            room = room => room.map_err(|_| cancelled())?.map_err(PullError::Over),
        }
    }
}

/// Copies a chunk to `start`. Blocks.
fn put_chunk(range: &mut MappedRange, start: usize, chunk: &[u8]) {
    let end = start + chunk.len();
    let mut unprepared = start.next_multiple_of(PREPARED);
    while unprepared < end {
        range.prepare_part_for_writing(unprepared, PREPARED);
        unprepared += PREPARED;
    }
    range.as_mut_slice()[start..end].copy_from_slice(chunk);
}

fn nobody_needs_it() -> Failure {
    Failure::new(ErrorCode::Cancelled, "nobody needs the object any more")
}

fn cancelled() -> PullError {
    PullError::Over(nobody_needs_it())
}

fn location_error(error: RpcError) -> PullError {
    let reason = error.to_string();
    match error {
        // Its host answers, and its raylet, which listens for as long as it lives, is gone.
        RpcError::Io { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
            PullError::Location(reason)
        }
        RpcError::Io { .. } | RpcError::Closed | RpcError::Deadline { .. } => PullError::Unreachable(reason),
        _ => PullError::Location(reason),
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
