//! A connection of frames on a blocking socket, for JVM threads and tools. It stays inside a node: Unix sockets only.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::RpcError;
use crate::agreement::Protection;
use crate::frame::{Frame, FrameDecoder};
use crate::handshake::{ClientHandshake, Identity, SERVER_PROOF_LEN, Target};
use crate::socket::{
    Endpoint, connect_nonblocking, receive_with_descriptors, send_with_descriptor, take_socket_error,
};

/// A connection of frames. `&self` methods may be called by several threads, if only one receives at a time and
/// senders take turns.
#[derive(Debug)]
pub struct BlockingConnection {
    socket: OwnedFd,
    decoder: FrameDecoder,
    peer: String,
}

impl BlockingConnection {
    /// Connects and goes through the handshake.
    pub fn dial(
        identity: &Identity,
        endpoint: &Endpoint,
        target: Target,
        deadline: Duration,
    ) -> Result<Self, RpcError> {
        let peer = endpoint.to_string();
        let until = Instant::now() + deadline;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::TimedOut => RpcError::Deadline {
                peer: peer.clone(),
                seconds: deadline.as_secs_f64(),
            },
            _ => RpcError::io("connect to", &peer, source),
        };
        let socket = connect_nonblocking(endpoint).map_err(failed)?;
        wait(socket.as_fd(), PollFlags::OUT, until).map_err(failed)?;
        take_socket_error(socket.as_fd()).map_err(failed)?;
        let handshake = ClientHandshake::new(identity, target);
        write_all(socket.as_fd(), handshake.hello(), until).map_err(failed)?;
        let mut proof = [0; SERVER_PROOF_LEN];
        read_exact(socket.as_fd(), &mut proof, until).map_err(failed)?;
        let (answer, agreement) = handshake
            .answer(&proof)
            .ok_or_else(|| RpcError::WrongToken { peer: peer.clone() })?;
        if agreement.protection() != Protection::Plain {
            return Err(RpcError::NotSecure(format!(
                "{peer} is on another node, which this kind of connection does not reach"
            )));
        }
        write_all(socket.as_fd(), &answer, until).map_err(failed)?;
        let mut verdict = [0];
        read_exact(socket.as_fd(), &mut verdict, until).map_err(failed)?;
        ClientHandshake::verdict(verdict[0]).map_err(|refusal| RpcError::Refused {
            peer: peer.clone(),
            refusal,
        })?;
        Ok(Self {
            socket,
            decoder: FrameDecoder::default(),
            peer,
        })
    }

    /// A second handle of the connection that only sends, while another thread receives.
    pub fn sender(&self) -> io::Result<BlockingSender> {
        Ok(BlockingSender {
            socket: self.socket.try_clone()?,
            peer: self.peer.clone(),
        })
    }

    /// The non-blocking socket, for another driver of frames. Nothing may have been received.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends one frame, waiting while the other side does not read.
    pub fn send(&self, frame: &Frame) -> Result<(), RpcError> {
        send_frame(self.socket.as_fd(), frame).map_err(|source| RpcError::io("write to", &self.peer, source))
    }

    /// The next frame; `None` when the other side closed. Fails with `Deadline` when none came until then.
    pub fn receive(&mut self, deadline: Instant) -> Result<Option<Frame>, RpcError> {
        let begin = Instant::now();
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            if let Err(error) = wait(self.socket.as_fd(), PollFlags::IN, deadline) {
                return Err(match error.kind() {
                    io::ErrorKind::TimedOut => RpcError::Deadline {
                        peer: self.peer.clone(),
                        seconds: begin.elapsed().as_secs_f64(),
                    },
                    _ => RpcError::io("read from", &self.peer, error),
                });
            }
            let mut descriptors = Vec::new();
            let slot = self.decoder.read_slot();
            let slot_len = slot.len();
            let outcome = receive_with_descriptors(self.socket.as_fd(), slot, |fd| descriptors.push(fd));
            self.decoder.advance(slot_len, *outcome.as_ref().unwrap_or(&0));
            for descriptor in descriptors {
                self.decoder.push_descriptor(descriptor);
            }
            match outcome {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(RpcError::io("read from", &self.peer, error)),
            }
        }
    }
}

/// The sending half of a [`BlockingConnection`]. Senders take turns.
#[derive(Debug)]
pub struct BlockingSender {
    socket: OwnedFd,
    peer: String,
}

impl BlockingSender {
    /// Sends one frame, waiting while the other side does not read.
    pub fn send(&self, frame: &Frame) -> Result<(), RpcError> {
        send_frame(self.socket.as_fd(), frame).map_err(|source| RpcError::io("write to", &self.peer, source))
    }
}

/// Writes one whole frame to a non-blocking socket.
fn send_frame(socket: BorrowedFd<'_>, frame: &Frame) -> io::Result<()> {
    let mut head = frame.header().encode().to_vec();
    head.extend_from_slice(&frame.meta);
    let total = head.len() + frame.payload.len();
    let mut descriptor = frame.descriptor.as_ref().map(AsFd::as_fd);
    let mut written = 0;
    // A peer of ours reads always; a minute without room means that it hangs.
    let patience = Duration::from_mins(1);
    while written < total {
        let head_rest = &head[written.min(head.len())..];
        let payload_rest = &frame.payload[written.saturating_sub(head.len())..];
        match send_with_descriptor(
            socket,
            &[IoSlice::new(head_rest), IoSlice::new(payload_rest)],
            descriptor,
        ) {
            Ok(count) => {
                descriptor = None;
                written += count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::OUT, Instant::now() + patience)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(socket: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(socket, flags)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn write_all(socket: BorrowedFd<'_>, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_exact(socket: BorrowedFd<'_>, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(socket, &mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(rustix::io::Errno::AGAIN) => wait(socket, PollFlags::IN, deadline)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
