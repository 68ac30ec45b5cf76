//! Objects between nodes: chunks from the mapped range to the socket, and from the socket into the range.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::{ErrorCode, NodeId, ObjectId, WorkerAddress};
use sparkray_object_store::{MappedRange, PullTicket, PushBytes, PushSource};
use sparkray_proto::{Failure, FrameKind, ObjectChunk, ObjectLocation, PullObject};
use sparkray_rpc::{Frame, FrameSender, RpcError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::event::Event;
use crate::peers::{Lane, PeerConnection, Peers};

/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;
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
    events: mpsc::Sender<Event>,
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
                refuse_pull(
                    &sender,
                    correlation,
                    object,
                    Failure::new(ErrorCode::ObjectLost, message),
                );
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
            debug!(%object, %error, "a node stopped taking an object");
            break Ok(sent);
        }
        sent += len;
        if sent >= size {
            break Ok(sent);
        }
    };
    drop(bytes);
    // The receiver is gone only when the raylet ends.
    let _ = events.send(Event::PushEnded { ticket, outcome }).await;
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

/// Answers a pull that cannot be met.
pub(crate) fn refuse_pull(sender: &FrameSender, correlation: u64, object: ObjectId, failure: Failure) {
    let meta = ObjectChunk {
        object_id: object.to_vec().into(),
        failure: Some(failure),
        ..ObjectChunk::default()
    };
    // A connection that is closed needs no answer.
    let _ = sender.send(Frame::new(FrameKind::ObjectChunk, correlation, &meta));
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
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) {
    let mut fetch = Fetch {
        peers,
        ticket,
        object,
        events,
        cancel,
        room: None,
        heard: Instant::now(),
    };
    let outcome = match fetch.fetch_from_any(&locations).await {
        Ok(()) => fetch.room.take().ok_or_else(|| {
            Failure::new(
                ErrorCode::Internal,
                format!("object {object} was fetched into no range"),
            )
        }),
        Err(failure) => Err(failure),
    };
    let Fetch { events, room, .. } = fetch;
    // The store may use the memory for something else as soon as it hears of a failure.
    drop(room);
    // The receiver is gone only when the raylet ends.
    let _ = events
        .send(Event::PullEnded {
            ticket,
            object,
            outcome,
        })
        .await;
}

/// One fetch.
struct Fetch {
    peers: Peers,
    ticket: PullTicket,
    object: ObjectId,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
    /// Where the bytes go, once the size is known.
    room: Option<MappedRange>,
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
                    debug!(%object, node_address = address, reason, "cannot fetch an object from a node");
                    reasons.push(format!("{address}: {reason}"));
                }
                Err(PullError::Unreachable(reason)) => {
                    debug!(%object, node_address = address, reason, "cannot reach a node that has an object");
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
        let mut range = match self.room.take() {
            Some(range) => range,
            None => self.ask_for_room(&chunk).await?,
        };
        if range.len() as u64 != chunk.size {
            self.room = Some(range);
            return Err(broken("its copy has another size"));
        }
        // On a blocking thread: the first touch of the pages is slow.
        let copy = tokio::task::spawn_blocking(move || {
            let start = filled as usize;
            range.as_mut_slice()[start..start + payload.len()].copy_from_slice(&payload);
            range
        });
        self.room = Some(
            copy.await
                .map_err(|error| PullError::Location(format!("the copy failed: {error}")))?,
        );
        Ok(end)
    }

    async fn ask_for_room(&self, chunk: &ObjectChunk) -> Result<MappedRange, PullError> {
        let owner = chunk
            .owner
            .as_ref()
            .ok_or_else(|| PullError::Location("it did not name the owner".to_owned()))?;
        let owner = WorkerAddress::try_from(owner).map_err(|error| PullError::Location(error.to_string()))?;
        let (answer, room) = oneshot::channel();
        let event = Event::PullNeedsRoom {
            ticket: self.ticket,
            size: chunk.size,
            owner,
            room: answer,
        };
        self.events.send(event).await.map_err(|_| cancelled())?;
        tokio::select! {
            () = self.cancel.cancelled() => Err(cancelled()),
            room = room => room.map_err(|_| cancelled())?.map_err(PullError::Over),
        }
    }
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
mod tests {
    use sparkray_common::TaskId;
    use sparkray_object_store::{ClientId, ObjectStore, StoreConfig, StoreEvent};
    use sparkray_proto::{GetObjectEntry, GetObjects, location_of};
    use sparkray_rpc::Protection;

    use super::*;
    use crate::test_support::{OtherNode, PATIENCE};

    /// Tickets of so many fetches, as a store hands them out.
    fn fetches(count: u32, node: NodeId, address: &str) -> Vec<(PullTicket, ObjectId, Vec<ObjectLocation>)> {
        let config = StoreConfig::new(
            sparkray_common::ClusterId::random(),
            NodeId::random(),
            1 << 20,
            false,
        );
        let mut store = ObjectStore::new(config, std::time::Instant::now());
        let entry = |index| GetObjectEntry {
            object_id: ObjectId::for_result(TaskId::next(), index).to_vec().into(),
            locations: vec![location_of(node, address)],
        };
        let objects = (0..count).map(entry).collect();
        store.get(ClientId(1), 1, &GetObjects { objects }).unwrap();
        let started = store.drain_events().into_iter().filter_map(|event| match event {
            StoreEvent::StartPull {
                ticket,
                object,
                locations,
            } => Some((ticket, object, locations)),
            _ => None,
        });
        started.collect()
    }

    #[tokio::test]
    async fn fetches_from_a_node_that_dies_end_however_many_there_are() {
        let mut other = OtherNode::start().await;
        let peers = Peers::new(NodeId::random(), other.identity.clone());
        let (events, mut news) = mpsc::channel(64);
        let fetches = fetches(20, other.id, &other.address);
        let count = fetches.len();
        assert_eq!(count, 20);
        for (ticket, object, locations) in fetches {
            let cancel = CancellationToken::new();
            tokio::spawn(pull(
                peers.clone(),
                ticket,
                object,
                locations,
                events.clone(),
                cancel,
            ));
        }
        let mut asked = Vec::new();
        while asked.len() < 8 {
            let (sender, mut receiver) = other.callers.recv().await.unwrap();
            assert_eq!(
                receiver.next().await.unwrap().unwrap().kind,
                FrameKind::PullObject
            );
            asked.push((sender, receiver));
        }
        // While all places are taken by fetches, messages go through.
        let tell = peers.tell(
            other.id,
            &other.address,
            Frame::new(FrameKind::FreeObjects, 0, &sparkray_proto::FreeObjects::default()),
        );
        tokio::time::timeout(PATIENCE, tell).await.unwrap().unwrap();
        drop((asked, other));
        for _ in 0..count {
            let event = tokio::time::timeout(PATIENCE, news.recv())
                .await
                .expect("each fetch ends");
            let Some(Event::PullEnded { outcome, .. }) = event else {
                panic!("{event:?}");
            };
            assert_eq!(outcome.unwrap_err().error_code(), ErrorCode::ObjectLost);
        }
    }

    /// A way to `address` on which one bit of each answer is changed, far behind handshake and keys.
    fn damaged_way_to(address: String) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let way = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let mut near = near.unwrap();
                let mut far = std::net::TcpStream::connect(&address).unwrap();
                let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    let mut passed = 0;
                    while let Ok(read @ 1..) = far.read(&mut buffer) {
                        if (passed..passed + read).contains(&100_000) {
                            buffer[100_000 - passed] ^= 4;
                        }
                        passed += read;
                        if near.write_all(&buffer[..read]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        way
    }

    #[tokio::test]
    async fn a_fetch_whose_bytes_are_changed_on_the_way_is_lost_with_the_reason() {
        for protection in [Protection::Sealed, Protection::Checked] {
            let mut other = OtherNode::start_with(protection).await;
            let peers = Peers::new(NodeId::random(), other.identity.clone());
            let (events, mut news) = mpsc::channel(64);
            let way = damaged_way_to(other.address.clone());
            let (ticket, object, locations) = fetches(1, other.id, &way).remove(0);
            let cancel = CancellationToken::new();
            tokio::spawn(pull(peers, ticket, object, locations, events, cancel));
            let (sender, mut receiver) = other.callers.recv().await.unwrap();
            let request = receiver.next().await.unwrap().unwrap();
            assert_eq!(request.kind, FrameKind::PullObject);
            let chunk = ObjectChunk {
                object_id: object.to_vec().into(),
                size: CHUNK as u64,
                ..ObjectChunk::default()
            };
            let frame = Frame::new(FrameKind::ObjectChunk, request.correlation, &chunk);
            sender.send(frame.with_payload(vec![7; CHUNK].into())).unwrap();
            let event = tokio::time::timeout(PATIENCE, news.recv())
                .await
                .expect("the fetch ends");
            let Some(Event::PullEnded { outcome, .. }) = event else {
                panic!("a changed chunk was taken: {event:?}");
            };
            let failure = outcome.unwrap_err();
            assert_eq!(failure.error_code(), ErrorCode::ObjectLost);
            assert!(failure.message.contains("changed"), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn fetches_under_way_end_when_their_node_is_declared_dead() {
        let mut other = OtherNode::start().await;
        let peers = Peers::new(NodeId::random(), other.identity.clone());
        let (events, mut news) = mpsc::channel(64);
        for (ticket, object, locations) in fetches(3, other.id, &other.address) {
            let cancel = CancellationToken::new();
            tokio::spawn(pull(
                peers.clone(),
                ticket,
                object,
                locations,
                events.clone(),
                cancel,
            ));
        }
        // The node is asked, and says nothing more; its connections stay open.
        let mut asked = Vec::new();
        for _ in 0..3 {
            let (sender, mut receiver) = other.callers.recv().await.unwrap();
            receiver.next().await.unwrap().unwrap();
            asked.push((sender, receiver));
        }
        peers.forget(other.id);
        for _ in 0..3 {
            let event = tokio::time::timeout(CHUNK_DEADLINE / 2, news.recv()).await;
            let Ok(Some(Event::PullEnded { outcome, .. })) = event else {
                panic!("a fetch waits for a node that is dead: {event:?}");
            };
            assert_eq!(outcome.unwrap_err().error_code(), ErrorCode::ObjectLost);
        }
    }

    /// A fetch of one object from `node` at `address`, and what it reports.
    fn fetch_of_one(
        node: NodeId,
        address: &str,
        identity: &sparkray_rpc::Identity,
    ) -> (Peers, mpsc::Receiver<Event>) {
        let peers = Peers::new(NodeId::random(), identity.clone());
        let (events, news) = mpsc::channel(64);
        for (ticket, object, locations) in fetches(1, node, address) {
            let cancel = CancellationToken::new();
            tokio::spawn(pull(
                peers.clone(),
                ticket,
                object,
                locations,
                events.clone(),
                cancel,
            ));
        }
        (peers, news)
    }

    async fn code_of_end(news: &mut mpsc::Receiver<Event>) -> ErrorCode {
        let event = tokio::time::timeout(PATIENCE, news.recv()).await;
        let Ok(Some(Event::PullEnded { outcome, .. })) = event else {
            panic!("the fetch has not ended: {event:?}");
        };
        outcome.unwrap_err().error_code()
    }

    #[tokio::test]
    async fn a_fetch_outlasts_connections_that_break() {
        let mut other = OtherNode::start().await;
        // On the way: breaks the first two connections, and lets the others through.
        let between = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = between.local_addr().unwrap().to_string();
        let target = other.address.clone();
        tokio::spawn(async move {
            for count in 0.. {
                let (mut near, _) = between.accept().await.unwrap();
                if count >= 2 {
                    let mut far = tokio::net::TcpStream::connect(&target).await.unwrap();
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                }
            }
        });
        let (_peers, _news) = fetch_of_one(other.id, &address, &other.identity);
        let (_sender, mut receiver) = tokio::time::timeout(PATIENCE, other.callers.recv())
            .await
            .expect("the fetch goes on")
            .unwrap();
        assert_eq!(
            receiver.next().await.unwrap().unwrap().kind,
            FrameKind::PullObject
        );
    }

    #[tokio::test]
    async fn what_cannot_be_reached_is_not_lost_unless_its_node_is_dead() {
        let other = OtherNode::start().await;
        // Connections are made, and nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let started = Instant::now();
        let (_peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
        assert_eq!(code_of_end(&mut news).await, ErrorCode::FetchTimedOut);
        assert!(started.elapsed() >= UNREACHABLE_PATIENCE);

        let (peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
        peers.forget(other.id);
        assert_eq!(code_of_end(&mut news).await, ErrorCode::ObjectLost);
        drop(silent);
        // Its raylet is gone from where it listened.
        let (_peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
        assert_eq!(code_of_end(&mut news).await, ErrorCode::ObjectLost);
    }

    #[tokio::test]
    async fn who_waits_for_a_place_hears_of_the_death_of_the_node() {
        let other = OtherNode::start().await;
        let peers = Peers::new(NodeId::random(), other.identity.clone());
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(
                peers
                    .connect(other.id, &other.address, Lane::Fetches)
                    .await
                    .unwrap(),
            );
        }
        let waiting = peers.connect(other.id, &other.address, Lane::Fetches);
        let mut waiting = Box::pin(waiting);
        assert!(futures_poll(waiting.as_mut()).is_none());
        peers.forget(other.id);
        let outcome = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
        assert!(matches!(outcome, Err(RpcError::Closed)));
        let later = peers.connect(other.id, &other.address, Lane::Fetches).await;
        assert!(matches!(later, Err(RpcError::Closed)));
    }

    fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
