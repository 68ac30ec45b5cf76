//! HTTP/2 over connections that went through the handshake.

use sparkray_common::sync::Mutex;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use crate::RpcError;
use crate::dial::dial;
use crate::handshake::{Identity, Target};
use crate::secured_socket::SecuredSocket;
use crate::socket::{Endpoint, register};
use crate::tonic_records::TonicRecords;

const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// A side that was silent for so long is asked for a sign of life,
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// and has this much time for it: after a cut of 5 s the kernel's repetition of the question comes in time.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// A channel that connects when it is first used, and again when the connection broke. Every connection goes
/// through the handshake.
pub fn tonic_channel(identity: Identity, endpoint: Endpoint, target: Target) -> Channel {
    let shared = Arc::new((identity, endpoint));
    let connector = tower::service_fn(move |_: Uri| {
        let shared = Arc::clone(&shared);
        async move {
            let socket = dial(&shared.0, &shared.1, target, DIAL_DEADLINE)
                .await
                .map_err(io::Error::other)?;
            io::Result::Ok(TokioIo::new(TonicSocket::new(socket)?))
        }
    });
    // The name is not used: the connector knows where to go.
    TonicEndpoint::from_static("http://sparkray.invalid")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Connects at once, and never again: the channel has one connection, which ends when the other side ends it or the last
/// clone is dropped. Nothing closes it because of a silence.
pub async fn connect_tonic(
    identity: &Identity,
    endpoint: &Endpoint,
    target: Target,
    deadline: Duration,
) -> Result<Channel, RpcError> {
    let failed = |source| RpcError::io("use the connection to", endpoint, source);
    let socket = dial(identity, endpoint, target, deadline).await?;
    let socket = Arc::new(Mutex::new(Some(TonicSocket::new(socket).map_err(failed)?)));
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.lock().take();
        std::future::ready(
            socket
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    Ok(TonicEndpoint::from_static("http://sparkray.invalid").connect_with_connector_lazy(connector))
}

/// Connections past the handshake, as a tonic server takes them.
pub fn tonic_incoming(sockets: mpsc::Receiver<SecuredSocket>) -> impl Stream<Item = io::Result<TonicSocket>> {
    ReceiverStream::new(sockets).map(TonicSocket::new)
}

/// A TCP or Unix socket that may have come from another process, and what protects it.
#[derive(Debug)]
pub struct TonicSocket {
    socket: AsyncFd<OwnedFd>,
    records: Option<TonicRecords>,
    end: watch::Sender<bool>,
}

/// The connection over which a request came; a server finds it among the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    end: watch::Receiver<bool>,
    local_ip: Option<IpAddr>,
}

impl ConnectionInfo {
    /// Waits for the end of the connection. True: the other side closed it, or its process ended. False: it broke, which
    /// the network may have done, or this side gave it up.
    pub async fn ended_by_peer(mut self) -> bool {
        self.end.wait_for(|ended| *ended).await.is_ok()
    }

    /// The address of this machine at which the other side reached it; `None` over a Unix socket.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.local_ip
    }
}

impl TonicSocket {
    /// Takes a connected socket. Must be called inside tokio.
    pub fn new(socket: impl Into<SecuredSocket>) -> io::Result<Self> {
        let SecuredSocket { socket, records } = socket.into();
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: register(socket)?,
            records: records.map(TonicRecords::new),
            end: watch::Sender::new(false),
        })
    }
}

/// A reset on one machine is the end of the process at the other side; one from the network may come from anybody.
fn is_end(socket: &OwnedFd, outcome: &io::Result<usize>) -> bool {
    match outcome {
        Ok(read) => *read == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset && is_on_this_machine(socket),
    }
}

/// Reads; `end` learns of the end of the other side.
fn poll_read_socket(
    socket: &AsyncFd<OwnedFd>,
    end: &watch::Sender<bool>,
    context: &mut Context<'_>,
    slot: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(socket.poll_read_ready(context))?;
        let outcome = guard.try_io(|socket| Ok(rustix::io::read(socket, &mut *slot)?));
        if let Ok(outcome) = &outcome
            && is_end(socket.get_ref(), outcome)
        {
            end.send_replace(true);
        }
        match outcome {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(outcome) => return Poll::Ready(outcome),
            Err(_would_block) => {}
        }
    }
}

fn poll_write_socket(
    socket: &AsyncFd<OwnedFd>,
    context: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(socket.poll_write_ready(context))?;
        let attempt = guard.try_io(|socket| {
            use std::os::fd::AsFd;
            crate::socket::send_with_descriptor(socket.as_fd(), parts, None)
        });
        match attempt {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(outcome) => return Poll::Ready(outcome),
            Err(_would_block) => {}
        }
    }
}

fn ip_of(address: rustix::net::SocketAddrAny) -> Option<IpAddr> {
    SocketAddr::try_from(address).ok().map(|address| address.ip())
}

fn is_on_this_machine(socket: &OwnedFd) -> bool {
    let Ok(own) = rustix::net::getsockname(socket) else {
        return false;
    };
    if own.address_family() == rustix::net::AddressFamily::UNIX {
        return true;
    }
    let own = ip_of(own);
    let peer = rustix::net::getpeername(socket).ok().flatten().and_then(ip_of);
    own.is_some_and(|own| own.is_loopback()) || (own.is_some() && own == peer)
}

impl Connected for TonicSocket {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo {
            end: self.end.subscribe(),
            local_ip: rustix::net::getsockname(self.socket.get_ref())
                .ok()
                .and_then(ip_of),
        }
    }
}

impl AsyncRead for TonicSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, records, end } = self.get_mut();
        if let Some(records) = records {
            return records.poll_read(buffer, |slot| poll_read_socket(socket, end, context, slot));
        }
        let read = ready!(poll_read_socket(
            socket,
            end,
            context,
            buffer.initialize_unfilled()
        ))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl TonicSocket {
    /// Writes what records have taken before.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, records, .. } = self;
        match records {
            Some(records) => {
                records.poll_drain(|bytes| poll_write_socket(socket, context, &[IoSlice::new(bytes)]))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for TonicSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, records, .. } = self.get_mut();
        match records {
            Some(records) => records.poll_write(parts, |bytes| {
                poll_write_socket(socket, context, &[IoSlice::new(bytes)])
            }),
            None => poll_write_socket(socket, context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        match rustix::net::shutdown(this.socket.get_ref(), rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
