//! One connection of frames, driven by the reactor.
//!
//! Invariants:
//! 1. Bytes are appended to `outgoing` under the state's lock, so frames leave in the order of decisions.
//! 2. Only the thread that holds `writing` writes; only the leader (see `waiting`) reads.
//! 3. Nothing of `outgoing` is written before the handshake is over.
//! 4. Whether the socket is watched for writability changes only under `writing`, with what is left to write.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use sparkray_rpc::{
    ClientHandshake, Frame, FrameDecoder, Reachability, RpcError, SERVER_PROOF_LEN, receive_with_descriptors,
    send_with_descriptor, take_socket_error,
};

/// Bytes that wait before a writer that need not hurry sends them.
const CORK_BYTES: usize = 32 * 1024;
/// An empty buffer keeps at most this much memory.
const KEPT_BYTES: usize = 64 * 1024;
/// Reads in a row before others have their turn.
const MAX_READS: usize = 16;

/// How far an outgoing connection is.
enum Phase {
    /// The kernel connects.
    Connecting(ClientHandshake),
    /// The hello left; bytes of the callee's proof so far.
    Proof(ClientHandshake, Vec<u8>),
    /// The own proof left.
    Verdict,
    /// Frames.
    Open,
}

struct Outgoing {
    bytes: Vec<u8>,
    /// Frames may leave: the handshake is over.
    open: bool,
    closed: bool,
}

struct Reading {
    phase: Phase,
    decoder: FrameDecoder,
}

/// Bytes on their way to the socket.
struct Writing {
    bytes: Vec<u8>,
    written: usize,
    /// The socket is watched for writability.
    watched: bool,
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

    /// A connection past the handshake.
    pub(crate) fn established(socket: OwnedFd, peer: String) -> Self {
        Self::new(socket, Phase::Open, peer)
    }

    fn new(socket: OwnedFd, phase: Phase, peer: String) -> Self {
        let open = matches!(phase, Phase::Open);
        Self {
            socket,
            peer,
            connecting: AtomicBool::new(!open),
            outgoing: Mutex::new(Outgoing {
                bytes: Vec::new(),
                open,
                closed: false,
            }),
            writing: Mutex::new(Writing {
                bytes: Vec::new(),
                written: 0,
                watched: !open,
            }),
            reading: Mutex::new(Reading {
                phase,
                decoder: FrameDecoder::default(),
            }),
            reachability: Mutex::new(Reachability::default()),
        }
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

    /// Queues an encoded frame. Returns whether enough waits that it should leave now.
    pub(crate) fn append(&self, frame: &[u8]) -> bool {
        let mut outgoing = self.outgoing.lock();
        if outgoing.closed {
            return false;
        }
        outgoing.bytes.extend_from_slice(frame);
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
            let Phase::Connecting(handshake) = std::mem::replace(&mut reading.phase, Phase::Verdict) else {
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
            let mut descriptors = Vec::new();
            let slot = reading.decoder.read_slot();
            let slot_len = slot.len();
            let outcome = receive_with_descriptors(self.socket.as_fd(), slot, |fd| descriptors.push(fd));
            reading.decoder.advance(slot_len, *outcome.as_ref().unwrap_or(&0));
            for descriptor in descriptors {
                reading.decoder.push_descriptor(descriptor);
            }
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
                while let Some(frame) = reading.decoder.next_frame()? {
                    frames.push(frame);
                }
            }
            if read < slot_len {
                break;
            }
        }
        // Level-triggered epoll tells when there is more.
        Ok(true)
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
                    let answer = handshake.answer(whole).ok_or_else(|| RpcError::WrongToken {
                        peer: self.peer.clone(),
                    })?;
                    self.write_handshake(&answer).map_err(|source| RpcError::Io {
                        action: "write to",
                        peer: self.peer.clone(),
                        source,
                    })?;
                    reading.phase = Phase::Verdict;
                }
                Phase::Verdict => {
                    let mut verdict = Vec::with_capacity(1);
                    reading.decoder.take_raw(1, &mut verdict);
                    let Some(byte) = verdict.first() else {
                        return Ok(());
                    };
                    ClientHandshake::verdict(*byte).map_err(|refusal| RpcError::Refused {
                        peer: self.peer.clone(),
                        refusal,
                    })?;
                    reading.phase = Phase::Open;
                    self.outgoing.lock().open = true;
                }
            }
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

#[cfg(test)]
mod tests;
