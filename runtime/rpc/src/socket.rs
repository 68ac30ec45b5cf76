//! Addresses, and bytes with descriptors over sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors that one read takes in.
pub const MAX_DESCRIPTORS: usize = 64;

/// Where a process listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    /// Name of an abstract Unix socket, without the leading NUL.
    Abstract(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => formatter.write_str(address),
            Self::Abstract(name) => write!(formatter, "unix:@{name}"),
        }
    }
}

/// Begins to connect. The socket is non-blocking: it is connected once it is writable and
/// [`take_socket_error`] gives none. A host name is resolved, which may block.
pub fn connect_nonblocking(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match endpoint {
        Endpoint::Abstract(name) => {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
            // A Unix socket connects at once or, when the listener's queue is full, says EAGAIN.
            rustix::net::connect(&socket, &address)?;
            Ok(socket)
        }
        Endpoint::Tcp(address) => {
            let resolved = address
                .to_socket_addrs()?
                .next()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host name has no address"))?;
            let family = if resolved.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
            pass_socket_options(socket.as_fd());
            match rustix::net::connect(&socket, &resolved) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Hands a non-blocking socket, or another descriptor that can be polled, to tokio.
#[allow(unsafe_code)]
pub fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, and nothing of ours replaces an `OwnedFd`'s descriptor.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// The outcome of a non-blocking connect.
pub fn take_socket_error(socket: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::net::sockopt::socket_error(socket)? {
        Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A TCP connection on which nothing is under way is probed after this silence, this often, so many times.
const PROBE_AFTER: Duration = Duration::from_secs(4);
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBES: u32 = 4;

/// Sets what every TCP socket of ours has: no delay of small messages, and keep-alive probes, so that a host that
/// vanished is noticed within [`crate::SILENCE`] after the first of them. Does nothing to Unix sockets.
///
/// While data is under way there are no probes: see [`crate::Reachability`].
pub fn pass_socket_options(socket: BorrowedFd<'_>) {
    // Failure means that it is not a TCP socket, which needs neither.
    let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
    let _ = rustix::net::sockopt::set_socket_keepalive(socket, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(socket, PROBE_AFTER);
    let _ = rustix::net::sockopt::set_tcp_keepintvl(socket, PROBE_EVERY);
    let _ = rustix::net::sockopt::set_tcp_keepcnt(socket, PROBES);
}

/// Writes from `parts`, with a descriptor beside the first byte. Returns the bytes written.
pub fn send_with_descriptor(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors;
    if let Some(descriptor) = descriptor {
        descriptors = [descriptor];
        assert!(
            control.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "the space holds one descriptor"
        );
    }
    Ok(rustix::net::sendmsg(
        socket,
        parts,
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

/// Reads into `slot`; descriptors that came along go to `take`. Returns the bytes read, 0 at the end.
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    slot: &mut [u8],
    mut take: impl FnMut(OwnedFd),
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(slot)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                take(descriptor);
            }
        }
    }
    Ok(received.bytes)
}
