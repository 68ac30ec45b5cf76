//! HTTP/2 over connections that went through the handshake.

use std::io::{self, IoSlice};
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
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use crate::dial::dial;
use crate::handshake::{Identity, Target};
use crate::socket::{Endpoint, register};

const DIAL_DEADLINE: Duration = Duration::from_secs(5);

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
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Sockets past the handshake, as a tonic server takes them.
pub fn tonic_incoming(sockets: mpsc::Receiver<OwnedFd>) -> impl Stream<Item = io::Result<TonicSocket>> {
    ReceiverStream::new(sockets).map(TonicSocket::new)
}

/// A TCP or Unix socket that may have come from another process.
#[derive(Debug)]
pub struct TonicSocket {
    socket: AsyncFd<OwnedFd>,
}

impl TonicSocket {
    /// Takes a connected socket. Must be called inside tokio.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket: register(socket)?,
        })
    }
}

impl Connected for TonicSocket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for TonicSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|socket| Ok(rustix::io::read(socket, &mut *unfilled)?)) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
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
        loop {
            let mut guard = ready!(self.socket.poll_write_ready(context))?;
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

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
