//! Objects between nodes: chunks from the mapped range to the socket, and from the socket into the range.

use std::time::Duration;

use bytes::Bytes;
use sparkray_common::{ErrorCode, NodeId, ObjectId, WorkerAddress};
use sparkray_object_store::{MappedRange, PullTicket, PushBytes, PushSource};
use sparkray_proto::{Failure, FrameKind, ObjectChunk, ObjectLocation, PullObject};
use sparkray_rpc::{Frame, FrameSender, RpcError};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::event::Event;
use crate::peers::{PeerConnection, Peers, next_frame};

/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;
/// A node that sends nothing for this long is given up. The first chunk may wait for a restore from disk.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);

/// Sends an object to the raylet that asked for it. What it does not take is not sent.
pub(crate) async fn push(
    sender: FrameSender,
    correlation: u64,
    object: ObjectId,
    source: PushSource,
    events: mpsc::Sender<Event>,
) {
    let PushSource { ticket, size, owner, bytes } = source;
    let mut sent = 0;
    loop {
        let chunk = match read_chunk(&bytes, sent).await {
            Ok(chunk) => chunk,
            Err(reason) => {
                let failure = Failure::new(ErrorCode::ObjectLost, format!("object {object} cannot be read: {reason}"));
                refuse_pull(&sender, correlation, object, failure);
                break;
            }
        };
        let len = chunk.len() as u64;
        if len == 0 && sent < size {
            let failure = Failure::new(ErrorCode::ObjectLost, format!("object {object} ends after {sent} of {size} bytes"));
            refuse_pull(&sender, correlation, object, failure);
            break;
        }
        let meta = ObjectChunk {
            object_id: object.to_vec().into(),
            failure: None,
            size,
            offset: sent,
            owner: Some((&owner).into()),
        };
        let frame = Frame::new(FrameKind::ObjectChunk, correlation, &meta).with_payload(chunk);
        if let Err(error) = sender.send_wait(frame).await {
            debug!(%object, %error, "a node stopped taking an object");
            break;
        }
        sent += len;
        if sent >= size {
            break;
        }
    }
    // The receiver is gone only when the raylet ends.
    let _ = events.send(Event::PushEnded { ticket, bytes: sent }).await;
}

async fn read_chunk(bytes: &PushBytes, offset: u64) -> std::io::Result<Bytes> {
    if !bytes.blocks() {
        return bytes.read(offset, CHUNK);
    }
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || bytes.read(offset, CHUNK)).await.map_err(std::io::Error::other)?
}

/// Answers a pull that cannot be met.
pub(crate) fn refuse_pull(sender: &FrameSender, correlation: u64, object: ObjectId, failure: Failure) {
    let meta =
        ObjectChunk { object_id: object.to_vec().into(), failure: Some(failure), ..ObjectChunk::default() };
    // A connection that is closed needs no answer.
    let _ = sender.send(Frame::new(FrameKind::ObjectChunk, correlation, &meta));
}

/// Why one location did not give the object.
enum PullError {
    /// Another location may have it.
    Location(String),
    /// There is no room here: other locations do not help.
    NoRoom(Failure),
}

/// Fetches an object from one of its locations, one after the other, and reports the outcome to the loop.
pub(crate) async fn pull(
    peers: Peers,
    ticket: PullTicket,
    object: ObjectId,
    locations: Vec<ObjectLocation>,
    events: mpsc::Sender<Event>,
) {
    let mut room = None;
    let outcome = pull_from_any(&peers, ticket, object, &locations, &events, &mut room).await;
    let outcome = outcome.and_then(|()| {
        room.ok_or_else(|| Failure::new(ErrorCode::Internal, format!("object {object} was fetched into no range")))
    });
    // The receiver is gone only when the raylet ends.
    let _ = events.send(Event::PullEnded { ticket, object, outcome }).await;
}

async fn pull_from_any(
    peers: &Peers,
    ticket: PullTicket,
    object: ObjectId,
    locations: &[ObjectLocation],
    events: &mpsc::Sender<Event>,
    room: &mut Option<MappedRange>,
) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    for location in locations {
        let address = &location.node_address;
        let outcome = match NodeId::from_slice(&location.node_id) {
            Ok(node) => pull_from(peers, node, address, ticket, object, events, room).await,
            Err(error) => Err(PullError::Location(error.to_string())),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(PullError::NoRoom(failure)) => return Err(failure),
            Err(PullError::Location(reason)) => {
                debug!(%object, node_address = address, reason, "cannot fetch an object from a node");
                reasons.push(format!("{address}: {reason}"));
            }
        }
    }
    let reasons = if reasons.is_empty() { "no node is known to have it".to_owned() } else { reasons.join("; ") };
    Err(Failure::new(ErrorCode::ObjectLost, format!("object {object} is lost: no node that had a copy can give it ({reasons})")))
}

async fn pull_from(
    peers: &Peers,
    node: NodeId,
    address: &str,
    ticket: PullTicket,
    object: ObjectId,
    events: &mpsc::Sender<Event>,
    room: &mut Option<MappedRange>,
) -> Result<(), PullError> {
    let from_rpc = |error: RpcError| PullError::Location(error.to_string());
    let mut connection = peers.connect(node, address).await.map_err(from_rpc)?;
    let first = match first_chunk(&mut connection, object, address).await {
        // A kept connection may have been closed by the other side meanwhile.
        Err(RpcError::Closed) => {
            connection = peers.connect(node, address).await.map_err(from_rpc)?;
            first_chunk(&mut connection, object, address).await
        }
        outcome => outcome,
    };
    let mut frame = first.map_err(from_rpc)?;
    let mut filled = 0;
    loop {
        let chunk: ObjectChunk = frame.decode().map_err(from_rpc)?;
        if let Some(failure) = chunk.failure {
            peers.give_back(connection);
            return Err(PullError::Location(failure.message));
        }
        if chunk.object_id != object.as_bytes()[..] || chunk.offset != filled {
            return Err(PullError::Location("its chunks are out of order".to_owned()));
        }
        match room {
            None => *room = Some(ask_for_room(ticket, &chunk, events).await?),
            Some(range) if range.len() as u64 == chunk.size => {}
            Some(_) => return Err(PullError::Location("its copy has another size".to_owned())),
        }
        let len = frame.payload.len() as u64;
        let end = filled.checked_add(len).filter(|end| *end <= chunk.size);
        let Some(end) = end else {
            return Err(PullError::Location("it sent more bytes than the object has".to_owned()));
        };
        let range = room.take().ok_or_else(|| PullError::Location("the range was lost".to_owned()))?;
        *room = Some(write_chunk(range, filled as usize, frame.payload).await?);
        filled = end;
        if filled == chunk.size {
            peers.give_back(connection);
            return Ok(());
        }
        if len == 0 {
            return Err(PullError::Location("it sent an empty chunk".to_owned()));
        }
        frame = next_frame(&mut connection.receiver, CHUNK_DEADLINE, address).await.map_err(from_rpc)?;
    }
}

async fn first_chunk(connection: &mut PeerConnection, object: ObjectId, address: &str) -> Result<Frame, RpcError> {
    let request = PullObject { object_id: object.to_vec().into() };
    connection.sender.send(Frame::new(FrameKind::PullObject, 2, &request))?;
    next_frame(&mut connection.receiver, CHUNK_DEADLINE, address).await
}

async fn ask_for_room(
    ticket: PullTicket,
    chunk: &ObjectChunk,
    events: &mpsc::Sender<Event>,
) -> Result<MappedRange, PullError> {
    let broken = |reason: &str| PullError::Location(reason.to_owned());
    let owner = chunk.owner.as_ref().ok_or_else(|| broken("it did not name the object's owner"))?;
    let owner = WorkerAddress::try_from(owner).map_err(|error| PullError::Location(error.to_string()))?;
    let (answer, room) = oneshot::channel();
    let event = Event::PullNeedsRoom { ticket, size: chunk.size, owner, room: answer };
    let ends = || PullError::NoRoom(Failure::new(ErrorCode::Cancelled, "the raylet ends"));
    events.send(event).await.map_err(|_| ends())?;
    room.await.map_err(|_| ends())?.map_err(PullError::NoRoom)
}

/// Copies a chunk on a blocking thread: the first touch of the pages is slow.
async fn write_chunk(mut range: MappedRange, offset: usize, payload: Bytes) -> Result<MappedRange, PullError> {
    let copy = tokio::task::spawn_blocking(move || {
        range.as_mut_slice()[offset..offset + payload.len()].copy_from_slice(&payload);
        range
    });
    copy.await.map_err(|error| PullError::Location(format!("the copy failed: {error}")))
}
