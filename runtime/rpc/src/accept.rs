//! Listening, for tokio: each caller goes through the handshake before anybody else hears of it.
//!
//! Invariants:
//! 1. A caller that has not proved itself costs one small task, a descriptor and at most [`HANDSHAKE_DEADLINE`].
//! 2. Only so many such callers exist, and the oldest goes first (see [`HalfOpen`]).
//! 3. Nobody of another uid gets past accept on a Unix socket: abstract names have no permissions.

use sparkray_common::sync::Mutex;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::RpcError;
use crate::agreement::{Agreement, Protection};
use crate::exact_io::{read_exact, write_all};
use crate::half_open::{HalfOpen, Origin};
use crate::handshake::{CLIENT_PROOF_LEN, HELLO_LEN, Identity, ServerHandshake, Target};
use crate::refusal::Refusal;
use crate::secured_socket::{SecuredSocket, take_over};
use crate::socket::{pass_socket_options, register};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const BACKLOG: u32 = 4096;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    inner: ListenerKind,
    name: String,
    protection: Protection,
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
    /// Past the handshake. Where another process than this one was asked for (a worker, or over TCP the head), the
    /// socket is to be handed on to it, with the agreement: keys are negotiated there.
    pub socket: SecuredSocket,
    /// For that.
    pub agreement: Agreement,
    /// Its address, for logs.
    pub peer: String,
}

/// Whether those who come for `target` over TCP are served by the process that accepts them.
fn is_served_here(target: Target) -> bool {
    matches!(target, Target::Raylet(_) | Target::Manager)
}

impl Listener {
    /// Listens on `host:port`; port 0 lets the kernel choose. `protection` is that of its connections.
    pub async fn bind_tcp(host: &str, port: u16, protection: Protection) -> Result<Self, RpcError> {
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
            protection,
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
            protection: Protection::Plain,
        })
    }

    /// The TCP port; 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        match &self.inner {
            ListenerKind::Tcp(listener) => listener.local_addr().map_or(0, |address| address.port()),
            ListenerKind::Unix(_) => 0,
        }
    }

    /// The next caller; `None` for one that is not let in.
    pub(crate) async fn accept(&self) -> std::io::Result<Option<(OwnedFd, Origin, String)>> {
        match &self.inner {
            ListenerKind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let socket = OwnedFd::from(stream.into_std()?);
                Ok(Some((socket, Some(peer.ip()), peer.to_string())))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let caller = stream.peer_cred()?;
                if caller.uid() != rustix::process::geteuid().as_raw() {
                    debug!(uid = caller.uid(), "closed a connection of another user");
                    return Ok(None);
                }
                Ok(Some((OwnedFd::from(stream.into_std()?), None, self.name.clone())))
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
    let half_open = Arc::new(Mutex::new(HalfOpen::default()));
    let context = Arc::new((identity, admit));
    loop {
        let outcome = tokio::select! {
            () = cancel.cancelled() => return,
            outcome = listener.accept() => outcome,
        };
        let (socket, origin, peer) = match outcome {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(error) => {
                warn!(listener = listener.name, %error, "cannot accept a connection");
                // Out of descriptors: give others time to close some.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let protection = listener.protection;
        let context = Arc::clone(&context);
        let accepted = accepted.clone();
        let cancel = cancel.clone();
        let leaving = Arc::clone(&half_open);
        let mut callers = half_open.lock();
        let number = callers.number();
        // The lock is held until the task is in the table: it cannot leave before.
        let task = tokio::spawn(async move {
            let shaken = tokio::select! {
                () = cancel.cancelled() => return,
                shaken = tokio::time::timeout(
                    HANDSHAKE_DEADLINE,
                    shake_hands(socket, protection, &context.0, &context.1),
                ) => shaken,
            };
            leaving.lock().remove(origin, number);
            match shaken {
                Ok(Ok(Some((target, socket, agreement)))) => {
                    let arrival = Accepted {
                        target,
                        socket,
                        agreement,
                        peer,
                    };
                    // The receiver is gone only when the process ends.
                    let _ = accepted.send(arrival).await;
                }
                Ok(Ok(None)) => debug!(peer, "refused a connection"),
                Ok(Err(error)) => debug!(peer, %error, "handshake broke off"),
                Err(_) => debug!(peer, "handshake took too long"),
            }
        });
        if callers.add(origin, number, task.abort_handle()) {
            debug!(
                "closed the oldest connection of those that have not proved themselves: there were too many"
            );
        }
    }
}

async fn shake_hands(
    socket: OwnedFd,
    protection: Protection,
    identity: &Identity,
    admit: &(impl Fn(Target) -> Result<(), Refusal> + Sync),
) -> Result<Option<(Target, SecuredSocket, Agreement)>, RpcError> {
    use std::os::fd::AsFd;
    let failed = |source| RpcError::io("shake hands with", "a peer", source);
    pass_socket_options(socket.as_fd());
    let socket = register(socket).map_err(failed)?;
    let mut hello = [0; HELLO_LEN];
    read_exact(&socket, &mut hello).await.map_err(failed)?;
    let Some(handshake) = ServerHandshake::new(identity, hello, protection) else {
        return Ok(None);
    };
    write_all(&socket, &handshake.proof()).await.map_err(failed)?;
    let mut proof = [0; CLIENT_PROOF_LEN];
    read_exact(&socket, &mut proof).await.map_err(failed)?;
    let outcome = handshake
        .finish(&proof)
        .and_then(|target| admit(target).map(|()| target));
    let verdict = ServerHandshake::verdict(outcome.map(|_| ()));
    write_all(&socket, &[verdict]).await.map_err(failed)?;
    let Ok(target) = outcome else {
        return Ok(None);
    };
    let (socket, agreement) = (socket.into_inner(), handshake.agreement());
    let socket = if is_served_here(target) {
        take_over(socket, &agreement, &identity.token, HANDSHAKE_DEADLINE).await?
    } else {
        SecuredSocket::from(socket)
    };
    Ok(Some((target, socket, agreement)))
}
