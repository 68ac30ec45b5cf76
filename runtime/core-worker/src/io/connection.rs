//! One connection of frames, driven by the reactor.
//!
//! Invariants:
//! 1. Bytes are appended to `outgoing` under the state's lock, so frames leave in the order of decisions.
//! 2. Only the thread that holds `writing` writes; only the leader (see `waiting`) reads.
//! 3. Nothing of `outgoing` is written before the handshake is over and, over TCP, keys are agreed on.
//! 4. Whether the socket is watched for writability changes only under `writing`, with what is left to write.
//! 5. Records are made and opened in the order in which they are written and read: under `writing` and `reading`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sparkray_common::ClusterToken;
use sparkray_common::sync::Mutex;
use sparkray_rpc::{
    Agreement, ClientHandshake, Frame, FrameDecoder, NOISE_MESSAGE_LEN, Negotiation, Opener, Protection,
    Reachability, Records, RpcError, SERVER_PROOF_LEN, Sealer, Securing, answer_negotiation,
    receive_with_descriptors, send_with_descriptor, take_socket_error,
};

/// Bytes that wait before a writer that need not hurry sends them.
const CORK_BYTES: usize = 32 * 1024;
/// An empty buffer keeps at most this much memory.
const KEPT_BYTES: usize = 64 * 1024;
/// Reads in a row before others have their turn.
const MAX_READS: usize = 16;

/// How far a connection is.
enum Phase {
    /// The kernel connects.
    Connecting(ClientHandshake),
    /// The hello left; bytes of the callee's proof so far.
    Proof(ClientHandshake, Vec<u8>),
    /// The own proof left.
    Verdict(Securing),
    /// The callee's part of the keys, so far.
    Negotiating(Negotiation, Vec<u8>),
    /// This end was called: the caller's part of the keys, so far.
    Called(ClusterToken, Agreement, Vec<u8>),
    /// Frames.
    Open,
}

struct Outgoing {
    bytes: Vec<u8>,
    /// Frames may leave: the handshake is over.
    open: bool,
    /// On its way to the thread that writes.
    sealer: Option<Sealer>,
    closed: bool,
}

struct Reading {
    phase: Phase,
    decoder: FrameDecoder,
    /// Over TCP, once keys are agreed on.
    opener: Option<Opener>,
}

/// Bytes on their way to the socket.
struct Writing {
    bytes: Vec<u8>,
    written: usize,
    /// Over TCP. `bytes` are records then, made of what is in `plain` for that moment.
    sealer: Option<Sealer>,
    plain: Vec<u8>,
    /// The socket is watched for writability.
    watched: bool,
}

impl Writing {
    /// Makes records of `bytes`.
    fn seal(&mut self) {
        let Some(sealer) = &mut self.sealer else { return };
        std::mem::swap(&mut self.bytes, &mut self.plain);
        self.bytes.clear();
        sealer.seal(&self.plain, &mut self.bytes);
        self.plain.clear();
        self.plain.shrink_to(KEPT_BYTES);
    }
}

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All is written, or the rest will be when the socket is writable.
    Done,
    /// The connection is broken.
    Broken,
}

pub(crate) struct Connection {
    socket: OwnedFd,
    peer: String,
    /// The kernel connects still.
    connecting: AtomicBool,
    outgoing: Mutex<Outgoing>,
    /// Bytes taken from `outgoing` that the socket has not taken yet.
    writing: Mutex<Writing>,
    reading: Mutex<Reading>,
    reachability: Mutex<Reachability>,
}

impl Connection {
    /// A connection that is still to be made.
    pub(crate) fn connecting(socket: OwnedFd, handshake: ClientHandshake, peer: String) -> Self {
        Self::new(socket, Phase::Connecting(handshake), peer)
    }

    /// A connection past the handshake, inside this node.
    pub(crate) fn established(socket: OwnedFd, peer: String) -> Self {
        Self::new(socket, Phase::Open, peer)
    }

    /// A connection that another process opened to this one; the raylet has gone through the handshake.
    pub(crate) fn called(socket: OwnedFd, agreement: Agreement, token: ClusterToken, peer: String) -> Self {
        match agreement.protection() {
            Protection::Plain => Self::established(socket, peer),
            Protection::Checked => {
                let connection = Self::established(socket, peer);
                connection.protect(&mut connection.reading.lock(), Records::checked());
                connection
            }
            Protection::Sealed => {
                let message = Vec::with_capacity(NOISE_MESSAGE_LEN);
                Self::new(socket, Phase::Called(token, agreement, message), peer)
            }
        }
    }

    fn new(socket: OwnedFd, phase: Phase, peer: String) -> Self {
        let open = matches!(phase, Phase::Open);
        let connecting = matches!(phase, Phase::Connecting(_));
        Self {
            socket,
            peer,
            connecting: AtomicBool::new(connecting),
            outgoing: Mutex::new(Outgoing {
                bytes: Vec::new(),
                open,
                sealer: None,
                closed: false,
            }),
            writing: Mutex::new(Writing {
                bytes: Vec::new(),
                written: 0,
                sealer: None,
                plain: Vec::new(),
                watched: connecting,
            }),
            reading: Mutex::new(Reading {
                phase,
                decoder: FrameDecoder::default(),
                opener: None,
            }),
            reachability: Mutex::new(Reachability::default()),
        }
    }

    /// From the next byte on, both directions are records.
    fn protect(&self, reading: &mut Reading, records: Records) {
        let Records { sealer, mut opener } = records;
        let mut early = Vec::new();
        reading.decoder.take_raw(usize::MAX, &mut early);
        opener.push(&early);
        reading.opener = Some(opener);
        self.outgoing.lock().sealer = Some(sealer);
    }

    /// Frames may leave and arrive.
    fn open(&self, reading: &mut Reading, records: Option<Records>) {
        if let Some(records) = records {
            self.protect(reading, records);
        }
        reading.phase = Phase::Open;
        self.outgoing.lock().open = true;
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether the socket must be watched for writability until it is connected.
    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting.load(Ordering::Acquire)
    }

    /// Whether the handshake was over, so that frames may have left.
    pub(crate) fn was_open(&self) -> bool {
        self.outgoing.lock().open
    }

    /// False: the other end cannot be reached any more, as far as the kernel can tell.
    pub(crate) fn is_reachable(&self, now: Instant) -> bool {
        // A connection that is being made has its own deadline.
        self.is_connecting() || self.reachability.lock().check(self.socket.as_fd(), now)
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Queues encoded frames: their buffer itself when nothing waits, and leaves an empty one for it. Returns whether
    /// enough waits that it should leave now.
    pub(crate) fn append(&self, frames: &mut Vec<u8>) -> bool {
        let mut outgoing = self.outgoing.lock();
        if outgoing.closed {
            return false;
        }
        if outgoing.bytes.is_empty() {
            std::mem::swap(&mut outgoing.bytes, frames);
        } else {
            outgoing.bytes.append(frames);
        }
        outgoing.bytes.len() >= CORK_BYTES
    }

    /// Writes what waits, as far as the socket takes it. `watch` says whether the socket is to be watched for
    /// writability, when that changes.
    pub(crate) fn flush(&self, watch: impl Fn(bool)) -> Flushed {
        loop {
            let Some(mut writing) = self.writing.try_lock() else {
                // The thread that writes looks again before it leaves.
                return Flushed::Done;
            };
            let Ok(blocked) = self.write_out(&mut writing) else {
                return Flushed::Broken;
            };
            if blocked != writing.watched && !self.is_connecting() {
                writing.watched = blocked;
                watch(blocked);
            }
            drop(writing);
            if blocked || !self.has_outgoing() {
                return Flushed::Done;
            }
        }
    }

    fn has_outgoing(&self) -> bool {
        let outgoing = self.outgoing.lock();
        outgoing.open && !outgoing.bytes.is_empty()
    }

    /// Whether the socket takes no more for now.
    fn write_out(&self, writing: &mut Writing) -> io::Result<bool> {
        loop {
            if writing.written == writing.bytes.len() {
                writing.bytes.clear();
                writing.bytes.shrink_to(KEPT_BYTES);
                writing.written = 0;
                let mut outgoing = self.outgoing.lock();
                if !outgoing.open || outgoing.bytes.is_empty() {
                    return Ok(false);
                }
                std::mem::swap(&mut writing.bytes, &mut outgoing.bytes);
                if let Some(sealer) = outgoing.sealer.take() {
                    writing.sealer = Some(sealer);
                }
                drop(outgoing);
                if writing.sealer.is_some() {
                    writing.seal();
                }
            }
            let rest = IoSlice::new(&writing.bytes[writing.written..]);
            match send_with_descriptor(self.socket.as_fd(), &[rest], None) {
                Ok(count) => writing.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket is writable: continues to connect. What waits is to be flushed then.
    pub(crate) fn on_writable(&self) -> Result<(), RpcError> {
        let mut reading = self.reading.lock();
        if let Phase::Connecting(handshake) = &reading.phase {
            let failed = |source| RpcError::Io {
                action: "connect to",
                peer: self.peer.clone(),
                source,
            };
            take_socket_error(self.socket.as_fd()).map_err(failed)?;
            self.write_handshake(handshake.hello()).map_err(failed)?;
            let Phase::Connecting(handshake) = std::mem::replace(&mut reading.phase, Phase::Open) else {
                unreachable!("the phase was checked above");
            };
            reading.phase = Phase::Proof(handshake, Vec::with_capacity(SERVER_PROOF_LEN));
            self.connecting.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// The parts of a handshake are small: a fresh socket takes them whole.
    fn write_handshake(&self, bytes: &[u8]) -> io::Result<()> {
        let written = send_with_descriptor(self.socket.as_fd(), &[IoSlice::new(bytes)], None)?;
        if written == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Reads what is there; whole frames go to `frames`. `Ok(false)`: the other side closed.
    pub(crate) fn on_readable(&self, frames: &mut Vec<Frame>) -> Result<bool, RpcError> {
        let mut reading = self.reading.lock();
        let reading = &mut *reading;
        for _ in 0..MAX_READS {
            let (slot_len, outcome) = self.read_some(reading);
            let read = match outcome {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(source) => {
                    return Err(RpcError::Io {
                        action: "read from",
                        peer: self.peer.clone(),
                        source,
                    });
                }
            };
            if !matches!(reading.phase, Phase::Open) {
                self.advance_handshake(reading)?;
            }
            if matches!(reading.phase, Phase::Open) {
                take_frames(reading, frames)?;
            }
            if read < slot_len {
                break;
            }
        }
        // Level-triggered epoll tells when there is more.
        Ok(true)
    }

    /// One read. Gives the room that there was, and what the socket said.
    fn read_some(&self, reading: &mut Reading) -> (usize, io::Result<usize>) {
        if let Some(opener) = &mut reading.opener {
            let slot = opener.read_slot();
            let slot_len = slot.len();
            let outcome = receive_with_descriptors(self.socket.as_fd(), slot, drop);
            opener.advance(*outcome.as_ref().unwrap_or(&0));
            return (slot_len, outcome);
        }
        let mut descriptors = Vec::new();
        let slot = reading.decoder.read_slot();
        let slot_len = slot.len();
        let outcome = receive_with_descriptors(self.socket.as_fd(), slot, |fd| descriptors.push(fd));
        reading.decoder.advance(slot_len, *outcome.as_ref().unwrap_or(&0));
        for descriptor in descriptors {
            reading.decoder.push_descriptor(descriptor);
        }
        (slot_len, outcome)
    }

    fn advance_handshake(&self, reading: &mut Reading) -> Result<(), RpcError> {
        loop {
            match &mut reading.phase {
                Phase::Connecting(_) | Phase::Open => return Ok(()),
                Phase::Proof(handshake, proof) => {
                    reading.decoder.take_raw(SERVER_PROOF_LEN - proof.len(), proof);
                    let Ok(whole) = <&[u8; SERVER_PROOF_LEN]>::try_from(proof.as_slice()) else {
                        return Ok(());
                    };
                    let (answer, agreement) =
                        handshake.answer(whole).ok_or_else(|| RpcError::WrongToken {
                            peer: self.peer.clone(),
                        })?;
                    let mut last = answer.to_vec();
                    let securing = Securing::begin(handshake.token(), &agreement, &mut last)?;
                    self.write_handshake(&last)
                        .map_err(|source| self.cannot_write(source))?;
                    reading.phase = Phase::Verdict(securing);
                }
                Phase::Verdict(_) => {
                    let mut verdict = Vec::with_capacity(1);
                    reading.decoder.take_raw(1, &mut verdict);
                    let Some(byte) = verdict.first() else {
                        return Ok(());
                    };
                    ClientHandshake::verdict(*byte).map_err(|refusal| RpcError::Refused {
                        peer: self.peer.clone(),
                        refusal,
                    })?;
                    let Phase::Verdict(securing) = std::mem::replace(&mut reading.phase, Phase::Open) else {
                        unreachable!("the phase was checked above");
                    };
                    match securing {
                        Securing::Done(records) => self.open(reading, records),
                        Securing::Negotiating(negotiation) => {
                            let answer = Vec::with_capacity(NOISE_MESSAGE_LEN);
                            reading.phase = Phase::Negotiating(negotiation, answer);
                        }
                    }
                }
                Phase::Negotiating(_, answer) => {
                    reading.decoder.take_raw(NOISE_MESSAGE_LEN - answer.len(), answer);
                    let Ok(whole) = <[u8; NOISE_MESSAGE_LEN]>::try_from(answer.as_slice()) else {
                        return Ok(());
                    };
                    let Phase::Negotiating(negotiation, _) =
                        std::mem::replace(&mut reading.phase, Phase::Open)
                    else {
                        unreachable!("the phase was checked above");
                    };
                    self.open(reading, Some(negotiation.finish(&whole)?));
                }
                Phase::Called(token, agreement, message) => {
                    reading
                        .decoder
                        .take_raw(NOISE_MESSAGE_LEN - message.len(), message);
                    let Ok(whole) = <&[u8; NOISE_MESSAGE_LEN]>::try_from(message.as_slice()) else {
                        return Ok(());
                    };
                    let (records, answer) = answer_negotiation(token, agreement, whole)?;
                    self.write_handshake(&answer)
                        .map_err(|source| self.cannot_write(source))?;
                    self.open(reading, Some(records));
                }
            }
        }
    }

    fn cannot_write(&self, source: io::Error) -> RpcError {
        RpcError::Io {
            action: "write to",
            peer: self.peer.clone(),
            source,
        }
    }

    /// Closes both directions; nothing more is queued.
    pub(crate) fn close(&self) {
        let mut outgoing = self.outgoing.lock();
        outgoing.closed = true;
        outgoing.bytes = Vec::new();
        // It may never have been connected.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

/// Takes the whole frames out of what was read.
fn take_frames(reading: &mut Reading, frames: &mut Vec<Frame>) -> Result<(), RpcError> {
    let Reading { decoder, opener, .. } = reading;
    if let Some(opener) = opener {
        while let Some(len) = opener.ready()? {
            let opened = opener.open(decoder.record_slot(len))?;
            decoder.advance(len, opened);
            // Between records, so that a large frame is known as such before its rest comes.
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        return Ok(());
    }
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
