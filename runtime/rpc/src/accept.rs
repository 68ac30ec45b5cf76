//! Listening, for tokio: each caller goes through the handshake before anybody else hears of it.
//!
//! Invariants:
//! 1. A caller that has not proved itself costs one small task, a descriptor and at most [`HANDSHAKE_DEADLINE`].
//! 2. At most [`MAX_HALF_OPEN`] such callers exist; further ones are closed at once.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::RpcError;
use crate::dial::{read_exact, write_all};
use crate::handshake::{CLIENT_PROOF_LEN, HELLO_LEN, Identity, Refusal, ServerHandshake, Target};
use crate::socket::{pass_socket_options, register};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const MAX_HALF_OPEN: usize = 1024;
const BACKLOG: u32 = 4096;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    inner: ListenerKind,
    name: String,
}

#[derive(Debug)]
enum ListenerKind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A caller that proved itself and was admitted.
#[derive(Debug)]
pub struct Accepted {
    /// The process it asked for.
    pub target: Target,
    /// The non-blocking socket, past the handshake.
    pub socket: OwnedFd,
    /// Its address, for logs.
    pub peer: String,
}

impl Listener {
    /// Listens on `host:port`; port 0 lets the kernel choose.
    pub async fn bind_tcp(host: &str, port: u16) -> Result<Self, RpcError> {
        let name = format!("{host}:{port}");
        let failed = |source| RpcError::io("listen on", &name, source);
        let address = tokio::net::lookup_host((host, port))
            .await
            .map_err(failed)?
            .next()
            .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(failed)?;
        // A restarted raylet takes its old port while connections that were handed on still use it.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self {
            inner: ListenerKind::Tcp(listener),
            name,
        })
    }

    /// Listens on an abstract Unix socket.
    pub fn bind_abstract(name: &str) -> Result<Self, RpcError> {
        let failed = |source| RpcError::io("listen on", format!("unix:@{name}"), source);
        let address = UnixAddress::from_abstract_name(name).map_err(failed)?;
        let listener = StdUnixListener::bind_addr(&address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self {
            inner: ListenerKind::Unix(listener),
            name: format!("unix:@{name}"),
        })
    }

    /// The TCP port; 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        match &self.inner {
            ListenerKind::Tcp(listener) => listener.local_addr().map_or(0, |address| address.port()),
            ListenerKind::Unix(_) => 0,
        }
    }

    async fn accept(&self) -> std::io::Result<(OwnedFd, String)> {
        match &self.inner {
            ListenerKind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((OwnedFd::from(stream.into_std()?), peer.to_string()))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((OwnedFd::from(stream.into_std()?), self.name.clone()))
            }
        }
    }
}

/// Accepts callers until `cancel`. `admit` says which targets are here; admitted callers go to `accepted`.
pub async fn accept_loop(
    listener: Listener,
    identity: Identity,
    cancel: CancellationToken,
    admit: impl Fn(Target) -> Result<(), Refusal> + Send + Sync + 'static,
    accepted: mpsc::Sender<Accepted>,
) {
    let half_open = Arc::new(Semaphore::new(MAX_HALF_OPEN));
    let context = Arc::new((identity, admit));
    loop {
        let outcome = tokio::select! {
            () = cancel.cancelled() => return,
            outcome = listener.accept() => outcome,
        };
        let (socket, peer) = match outcome {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(listener = listener.name, %error, "cannot accept a connection");
                // Out of descriptors: give others time to close some.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&half_open).try_acquire_owned() else {
            debug!(peer, "closed a connection: too many handshakes are under way");
            continue;
        };
        let context = Arc::clone(&context);
        let accepted = accepted.clone();
        let cancel = cancel.clone();
        tokio::spawn(async move {
            let shaken = tokio::select! {
                () = cancel.cancelled() => return,
                shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, shake_hands(socket, &context.0, &context.1)) => shaken,
            };
            drop(permit);
            match shaken {
                Ok(Ok(Some((target, socket)))) => {
                    // The receiver is gone only when the process ends.
                    let _ = accepted.send(Accepted { target, socket, peer }).await;
                }
                Ok(Ok(None)) => debug!(peer, "refused a connection"),
                Ok(Err(error)) => debug!(peer, %error, "handshake broke off"),
                Err(_) => debug!(peer, "handshake took too long"),
            }
        });
    }
}

async fn shake_hands(
    socket: OwnedFd,
    identity: &Identity,
    admit: &(impl Fn(Target) -> Result<(), Refusal> + Sync),
) -> std::io::Result<Option<(Target, OwnedFd)>> {
    use std::os::fd::AsFd;
    pass_socket_options(socket.as_fd());
    let socket = register(socket)?;
    let mut hello = [0; HELLO_LEN];
    read_exact(&socket, &mut hello).await?;
    let Some(handshake) = ServerHandshake::new(identity, hello) else {
        return Ok(None);
    };
    write_all(&socket, &handshake.proof()).await?;
    let mut proof = [0; CLIENT_PROOF_LEN];
    read_exact(&socket, &mut proof).await?;
    let outcome = handshake
        .finish(&proof)
        .and_then(|target| admit(target).map(|()| target));
    write_all(&socket, &[ServerHandshake::verdict(outcome.map(|_| ()))]).await?;
    match outcome {
        Ok(target) => Ok(Some((target, socket.into_inner()))),
        Err(_) => Ok(None),
    }
}
