//! A connection of frames, for tokio.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::RpcError;
use crate::frame::{FRAME_HEADER_LEN, Frame, FrameDecoder};
use crate::reachability::{CHECK_INTERVAL, Reachability};
use crate::records::{Opener, Records, Sealer};
use crate::secured_socket::SecuredSocket;
use crate::socket::{receive_with_descriptors, register, send_with_descriptor};

/// Sendings that may wait for a reader that is slow; more mean that it does not read.
const QUEUE: usize = 64 * 1024;
/// Payloads up to this size are copied next to their headers, so that many frames leave in one write.
const COPY_LIMIT: usize = 16 * 1024;
/// Frames of a stream that may wait to be written.
const STREAM_WINDOW: usize = 8;
const BATCH_BYTES: usize = 128 * 1024;
/// Records of a large payload that are sealed ahead of one write.
const SEALED_BYTES: usize = 256 * 1024;

/// The sending half; clones share the connection. When the last is dropped, what was sent still leaves, then
/// the sending direction is closed.
#[derive(Clone, Debug)]
pub struct FrameSender {
    queue: mpsc::Sender<Sending>,
    cancel: CancellationToken,
    waiting: Arc<Waiting>,
    drained: Arc<Notify>,
}

/// One place in the queue.
#[derive(Debug)]
enum Sending {
    One(Frame),
    Many(Vec<Frame>),
}

/// What is in the queue.
#[derive(Debug, Default)]
struct Waiting {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    fn add(&self, frames: usize, bytes: usize) {
        self.frames.fetch_add(frames, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove(&self, frames: usize, bytes: usize) {
        self.frames.fetch_sub(frames, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

fn size_of(frame: &Frame) -> usize {
    FRAME_HEADER_LEN + frame.meta.len() + frame.payload.len()
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReceiver {
    socket: Arc<AsyncFd<OwnedFd>>,
    decoder: FrameDecoder,
    opener: Option<Opener>,
    /// Frames that came in one read of records.
    ready: VecDeque<Frame>,
    cancel: CancellationToken,
}

/// Makes a connection from a non-blocking socket past the handshake. Must be called inside tokio.
pub fn frame_connection(socket: impl Into<SecuredSocket>) -> std::io::Result<(FrameSender, FrameReceiver)> {
    let SecuredSocket { socket, records } = socket.into();
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = Arc::new(register(socket)?);
    let (sealer, opener) = match records {
        Some(Records { sealer, opener }) => (Some(sealer), Some(opener)),
        None => (None, None),
    };
    let cancel = CancellationToken::new();
    let (queue, frames) = mpsc::channel(QUEUE);
    let waiting = Arc::new(Waiting::default());
    let drained = Arc::new(Notify::new());
    let sender = FrameSender {
        queue,
        cancel: cancel.clone(),
        waiting: Arc::clone(&waiting),
        drained: Arc::clone(&drained),
    };
    let receiver = FrameReceiver {
        socket: Arc::clone(&socket),
        decoder: FrameDecoder::default(),
        opener,
        ready: VecDeque::new(),
        cancel: cancel.clone(),
    };
    let mut reachability = Reachability::default();
    reachability.check(socket.get_ref().as_fd(), Instant::now());
    if !reachability.is_exempt() {
        tokio::spawn(watch(Arc::downgrade(&socket), reachability, cancel.clone()));
    }
    let sink = Sink { socket, sealer };
    tokio::spawn(write_loop(sink, frames, cancel, waiting, drained));
    Ok((sender, receiver))
}

impl FrameSender {
    /// Sends without waiting. Fails when the connection is closed; closes it when the other side does not read.
    pub fn send(&self, frame: Frame) -> Result<(), RpcError> {
        let bytes = size_of(&frame);
        self.enqueue(Sending::One(frame), 1, bytes)
    }

    /// As [`Self::send`], for frames that belong together, however many: they take one place in the queue.
    pub fn send_all(&self, frames: Vec<Frame>) -> Result<(), RpcError> {
        let (count, bytes) = (frames.len(), frames.iter().map(size_of).sum());
        if count == 0 {
            return Ok(());
        }
        self.enqueue(Sending::Many(frames), count, bytes)
    }

    fn enqueue(&self, sending: Sending, frames: usize, bytes: usize) -> Result<(), RpcError> {
        // Counted first: the writer may take it at once.
        self.waiting.add(frames, bytes);
        let Err(error) = self.queue.try_send(sending) else {
            return Ok(());
        };
        self.waiting.remove(frames, bytes);
        match error {
            mpsc::error::TrySendError::Closed(_) => Err(RpcError::Closed),
            mpsc::error::TrySendError::Full(_) => {
                self.cancel.cancel();
                Err(RpcError::Overflow {
                    queued: self.queued(),
                })
            }
        }
    }

    /// Frames that wait to be written.
    pub fn queued(&self) -> usize {
        self.waiting.frames.load(Ordering::Acquire)
    }

    /// Their bytes.
    pub fn queued_bytes(&self) -> usize {
        self.waiting.bytes.load(Ordering::Acquire)
    }

    /// Sends once at most [`STREAM_WINDOW`] frames wait, for streams of large payloads.
    pub async fn send_wait(&self, frame: Frame) -> Result<(), RpcError> {
        loop {
            // Registered before the check, so that no wake-up between them is missed.
            let drained = self.drained.notified();
            if self.cancel.is_cancelled() || self.queue.is_closed() {
                return Err(RpcError::Closed);
            }
            if self.queued() <= STREAM_WINDOW {
                return self.send(frame);
            }
            tokio::select! {
                () = drained => {}
                () = self.cancel.cancelled() => return Err(RpcError::Closed),
            }
        }
    }

    /// Closes both directions; frames that wait are dropped.
    pub fn close(&self) {
        self.cancel.cancel();
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.cancel.is_cancelled() || self.queue.is_closed()
    }
}

impl FrameReceiver {
    /// The next frame; `None` when the other side closed, or this side called [`FrameSender::close`].
    /// Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Frame>, RpcError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let Self {
                socket,
                decoder,
                opener,
                ready,
                cancel,
            } = self;
            let read = tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                read = socket.async_io(Interest::READABLE, |fd| match opener {
                    Some(opener) => read_records(fd, opener),
                    None => read_some(fd, decoder),
                }) => read,
            };
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    if let Some(opener) = opener {
                        open_records(opener, decoder, ready)?;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(RpcError::io("read from", "a peer", error)),
            }
        }
    }
}

fn read_some(fd: &OwnedFd, decoder: &mut FrameDecoder) -> std::io::Result<usize> {
    let mut descriptors = Vec::new();
    let slot = decoder.read_slot();
    let slot_len = slot.len();
    let outcome = receive_with_descriptors(fd.as_fd(), slot, |descriptor| descriptors.push(descriptor));
    decoder.advance(slot_len, *outcome.as_ref().unwrap_or(&0));
    for descriptor in descriptors {
        decoder.push_descriptor(descriptor);
    }
    outcome
}

/// Closes a TCP connection whose other end cannot be reached any more. Ends with the connection.
async fn watch(socket: Weak<AsyncFd<OwnedFd>>, mut reachability: Reachability, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
        let Some(socket) = socket.upgrade() else {
            return;
        };
        if !reachability.check(socket.get_ref().as_fd(), Instant::now()) {
            debug!("closed a connection whose other end cannot be reached");
            cancel.cancel();
            return;
        }
    }
}

fn read_records(fd: &OwnedFd, opener: &mut Opener) -> std::io::Result<usize> {
    let read = rustix::io::read(fd, opener.read_slot())?;
    opener.advance(read);
    Ok(read)
}

/// Frames are taken out between records, so that a large one is known as such before its rest comes.
fn open_records(
    opener: &mut Opener,
    decoder: &mut FrameDecoder,
    frames: &mut VecDeque<Frame>,
) -> Result<(), RpcError> {
    while let Some(len) = opener.ready()? {
        let opened = opener.open(decoder.record_slot(len))?;
        decoder.advance(len, opened);
        while let Some(frame) = decoder.next_frame()? {
            frames.push_back(frame);
        }
    }
    Ok(())
}

/// Where frames leave.
struct Sink {
    socket: Arc<AsyncFd<OwnedFd>>,
    sealer: Option<Sealer>,
}

async fn write_loop(
    mut sink: Sink,
    frames: mpsc::Receiver<Sending>,
    cancel: CancellationToken,
    waiting: Arc<Waiting>,
    drained: Arc<Notify>,
) {
    let mut queue = Queue {
        sendings: frames,
        begun: Vec::new().into_iter(),
        waiting,
    };
    loop {
        let frame = tokio::select! {
            () = cancel.cancelled() => break,
            frame = queue.next() => frame,
        };
        let Some(frame) = frame else { break };
        let outcome = tokio::select! {
            () = cancel.cancelled() => break,
            outcome = write_batch(&mut sink, frame, &mut queue) => outcome,
        };
        if let Err(error) = outcome {
            debug!(%error, "cannot write to a peer");
            cancel.cancel();
            break;
        }
        drained.notify_waiters();
    }
    drained.notify_waiters();
    // Closing only the sending direction lets the receiver drain what the other side still says.
    let how = if cancel.is_cancelled() {
        rustix::net::Shutdown::Both
    } else {
        rustix::net::Shutdown::Write
    };
    let _ = rustix::net::shutdown(sink.socket.get_ref(), how);
}

/// The frames that wait, one after the other.
struct Queue {
    sendings: mpsc::Receiver<Sending>,
    /// The rest of a sending of many.
    begun: std::vec::IntoIter<Frame>,
    waiting: Arc<Waiting>,
}

impl Queue {
    /// Waits for a frame; safe to cancel.
    async fn next(&mut self) -> Option<Frame> {
        if let Some(frame) = self.begun.next() {
            return Some(frame);
        }
        let sending = self.sendings.recv().await?;
        self.begin(sending)
    }

    fn try_next(&mut self) -> Option<Frame> {
        if let Some(frame) = self.begun.next() {
            return Some(frame);
        }
        let sending = self.sendings.try_recv().ok()?;
        self.begin(sending)
    }

    fn begin(&mut self, sending: Sending) -> Option<Frame> {
        match sending {
            Sending::One(frame) => Some(frame),
            Sending::Many(frames) => {
                self.begun = frames.into_iter();
                self.begun.next()
            }
        }
    }
}

/// Writes `first` and what waits behind it, as far as it fits one buffer.
async fn write_batch(sink: &mut Sink, first: Frame, frames: &mut Queue) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    let mut next = Some(first);
    while let Some(frame) = next.take() {
        frames.waiting.remove(1, size_of(&frame));
        if frame.descriptor.is_some() && !buffer.is_empty() {
            write_parts(sink, &buffer, &Bytes::new(), None).await?;
            buffer.clear();
        }
        buffer.extend_from_slice(&frame.header().encode());
        buffer.extend_from_slice(&frame.meta);
        if frame.payload.len() <= COPY_LIMIT {
            buffer.extend_from_slice(&frame.payload);
        }
        if frame.payload.len() > COPY_LIMIT {
            write_parts(sink, &buffer, &frame.payload, frame.descriptor).await?;
            buffer.clear();
        } else if frame.descriptor.is_some() {
            write_parts(sink, &buffer, &Bytes::new(), frame.descriptor).await?;
            buffer.clear();
        }
        if buffer.len() < BATCH_BYTES {
            next = frames.try_next();
        }
    }
    if !buffer.is_empty() {
        write_parts(sink, &buffer, &Bytes::new(), None).await?;
    }
    Ok(())
}

async fn write_parts(
    sink: &mut Sink,
    head: &[u8],
    payload: &Bytes,
    mut descriptor: Option<OwnedFd>,
) -> std::io::Result<()> {
    let Sink { socket, sealer } = sink;
    if let Some(sealer) = sealer {
        return write_sealed(socket, sealer, head, payload).await;
    }
    let total = head.len() + payload.len();
    let mut written = 0;
    while written < total {
        let count = socket
            .async_io(Interest::WRITABLE, |fd| {
                let head_rest = &head[written.min(head.len())..];
                let payload_rest = &payload[written.saturating_sub(head.len())..];
                let parts = [IoSlice::new(head_rest), IoSlice::new(payload_rest)];
                send_with_descriptor(fd.as_fd(), &parts, descriptor.as_ref().map(AsFd::as_fd))
            })
            .await?;
        // The descriptor left with the first byte.
        descriptor = None;
        written += count;
    }
    Ok(())
}

/// No descriptor travels over TCP.
async fn write_sealed(
    socket: &AsyncFd<OwnedFd>,
    sealer: &mut Sealer,
    head: &[u8],
    payload: &Bytes,
) -> std::io::Result<()> {
    let mut wire = Vec::with_capacity(head.len() + payload.len().min(SEALED_BYTES) + 1024);
    sealer.seal(head, &mut wire);
    let mut parts = payload.chunks(SEALED_BYTES);
    loop {
        match parts.next() {
            Some(part) => sealer.seal(part, &mut wire),
            None if wire.is_empty() => return Ok(()),
            None => {}
        }
        crate::exact_io::write_all(socket, &wire).await?;
        wire.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sparkray_common::{ClusterId, ClusterToken, NodeId};
    use sparkray_proto::{FrameKind, WorkerLabel};

    use super::*;
    use crate::{Endpoint, Identity, Listener, Protection, Target, accept_loop, dial};

    fn label(name: &str) -> Frame {
        Frame::new(
            FrameKind::WorkerLabel,
            1,
            &WorkerLabel {
                name: name.to_owned(),
                job_id: Bytes::new(),
            },
        )
    }

    struct Pair {
        near: (FrameSender, FrameReceiver),
        far: (FrameSender, FrameReceiver),
        identity: Identity,
        endpoint: Endpoint,
        _stop: tokio_util::sync::DropGuard,
    }

    async fn pair(unix: bool) -> Pair {
        protected_pair(if unix {
            Protection::Plain
        } else {
            Protection::Sealed
        })
        .await
    }

    async fn protected_pair(protection: Protection) -> Pair {
        let unix = protection == Protection::Plain;
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let node = NodeId::random();
        let (listener, endpoint) = if unix {
            let name = format!("sparkray-test-{node}");
            (Listener::bind_abstract(&name).unwrap(), Endpoint::Abstract(name))
        } else {
            let listener = Listener::bind_tcp("127.0.0.1", 0, protection).await.unwrap();
            let port = listener.local_port();
            (listener, Endpoint::Tcp(format!("127.0.0.1:{port}")))
        };
        let cancel = CancellationToken::new();
        let (accepted, mut arrivals) = mpsc::channel(4);
        tokio::spawn(accept_loop(
            listener,
            identity.clone(),
            cancel.clone(),
            |_| Ok(()),
            accepted,
        ));
        let target = Target::Raylet(node);
        let near = dial(&identity, &endpoint, target, Duration::from_secs(5))
            .await
            .unwrap();
        let far = arrivals.recv().await.unwrap();
        assert_eq!(far.target, target);
        Pair {
            near: frame_connection(near).unwrap(),
            far: frame_connection(far.socket).unwrap(),
            identity,
            endpoint,
            _stop: cancel.drop_guard(),
        }
    }

    #[tokio::test]
    async fn frames_and_descriptors_arrive_in_order() {
        for protection in [Protection::Plain, Protection::Checked, Protection::Sealed] {
            let unix = protection == Protection::Plain;
            let mut pair = protected_pair(protection).await;
            for index in 0..200_usize {
                let mut frame =
                    label(&index.to_string()).with_payload(Bytes::from(vec![index as u8; index * 500]));
                if unix && index % 10 == 3 {
                    frame = frame.with_descriptor(OwnedFd::from(tempfile::tempfile().unwrap()));
                }
                pair.near.0.send_wait(frame).await.unwrap();
                let frame = pair.far.1.next().await.unwrap().unwrap();
                assert_eq!(frame.decode::<WorkerLabel>().unwrap().name, index.to_string());
                assert_eq!(frame.payload.len(), index * 500);
                assert!(frame.payload.iter().all(|byte| *byte == index as u8));
                assert_eq!(frame.descriptor.is_some(), unix && index % 10 == 3);
            }
        }
    }

    #[tokio::test]
    async fn what_was_sent_arrives_before_the_end() {
        let mut pair = pair(true).await;
        for index in 0..50 {
            pair.near.0.send(label(&index.to_string())).unwrap();
        }
        drop(pair.near);
        let mut seen = 0;
        while pair.far.1.next().await.unwrap().is_some() {
            seen += 1;
        }
        assert_eq!(seen, 50);
    }

    #[tokio::test]
    async fn any_number_of_frames_that_belong_together_is_sent_at_once() {
        let mut pair = pair(true).await;
        let count = QUEUE + 1000;
        let mut frames: Vec<Frame> = (0..count).map(|index| label(&index.to_string())).collect();
        let file = tempfile::tempfile().unwrap();
        frames[1] = label("1").with_descriptor(OwnedFd::from(file));
        pair.near.0.send_all(frames).unwrap();
        pair.near.0.send(label("last")).unwrap();
        assert_eq!(pair.near.0.queued(), count + 1);
        assert!(pair.near.0.queued_bytes() > count * FRAME_HEADER_LEN);
        for index in 0..count {
            let frame = pair.far.1.next().await.unwrap().unwrap();
            assert_eq!(frame.decode::<WorkerLabel>().unwrap().name, index.to_string());
            assert_eq!(frame.descriptor.is_some(), index == 1);
        }
        let last = pair.far.1.next().await.unwrap().unwrap();
        assert_eq!(last.decode::<WorkerLabel>().unwrap().name, "last");
        assert_eq!((pair.near.0.queued(), pair.near.0.queued_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_wrong_token_is_noticed_by_the_caller() {
        let pair = pair(false).await;
        let stranger = Identity {
            token: ClusterToken::random(),
            ..pair.identity.clone()
        };
        let error = dial(&stranger, &pair.endpoint, Target::Head, Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(matches!(error, RpcError::WrongToken { .. }), "{error}");
    }
}
