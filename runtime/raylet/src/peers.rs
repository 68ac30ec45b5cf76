//! Frame connections to the raylets of other nodes, kept for the next use.
//!
//! A connection serves one exchange at a time, so that a slow transfer holds up no other, and TCP's own flow control
//! is the back-pressure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sparkray_common::{NodeId, VERSION};
use sparkray_proto::{ClientKind, FrameKind, RegisterClient, RegisterClientReply};
use sparkray_rpc::{
    Endpoint, Frame, FrameReceiver, FrameSender, Identity, RpcError, Target, dial, frame_connection,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Exchanges with one node at a time.
const PER_NODE: usize = 8;
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Peer {
    permits: Arc<Semaphore>,
    idle: Vec<(FrameSender, FrameReceiver)>,
}

/// Connections to other raylets; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    own: NodeId,
    identity: Identity,
    nodes: Arc<Mutex<HashMap<NodeId, Peer>>>,
}

/// One connection, for one exchange.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    node: NodeId,
    /// To the other raylet.
    pub(crate) sender: FrameSender,
    /// From it.
    pub(crate) receiver: FrameReceiver,
    _permit: OwnedSemaphorePermit,
}

impl Peers {
    pub(crate) fn new(own: NodeId, identity: Identity) -> Self {
        Self {
            own,
            identity,
            nodes: Arc::new(Mutex::new(HashMap::new())),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Peer>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `node`: a kept one or a new one. Waits while many exchanges with it are under way.
    pub(crate) async fn connect(&self, node: NodeId, address: &str) -> Result<PeerConnection, RpcError> {
        let permits = {
            let mut peers = self.lock();
            let peer = peers.entry(node).or_insert_with(|| Peer {
                permits: Arc::new(Semaphore::new(PER_NODE)),
                idle: Vec::new(),
            });
            Arc::clone(&peer.permits)
        };
        let permit = permits.acquire_owned().await.map_err(|_| RpcError::Closed)?;
        while let Some((sender, receiver)) = self.take_idle(node) {
            if !sender.is_closed() {
                return Ok(PeerConnection {
                    node,
                    sender,
                    receiver,
                    _permit: permit,
                });
            }
        }
        let (sender, receiver) = self.dial(node, address).await?;
        Ok(PeerConnection {
            node,
            sender,
            receiver,
            _permit: permit,
        })
    }

    fn take_idle(&self, node: NodeId) -> Option<(FrameSender, FrameReceiver)> {
        self.lock().get_mut(&node)?.idle.pop()
    }

    async fn dial(&self, node: NodeId, address: &str) -> Result<(FrameSender, FrameReceiver), RpcError> {
        let endpoint = Endpoint::Tcp(address.to_owned());
        let socket = dial(&self.identity, &endpoint, Target::Raylet(node), DIAL_DEADLINE).await?;
        let failed = |source| RpcError::Io {
            action: "use the connection to",
            peer: address.to_owned(),
            source,
        };
        let (sender, mut receiver) = frame_connection(socket).map_err(failed)?;
        let register = RegisterClient {
            kind: ClientKind::Remote.into(),
            pid: std::process::id(),
            sparkray_version: VERSION.to_owned(),
            node_id: self.own.to_vec().into(),
            ..RegisterClient::default()
        };
        sender.send(Frame::new(FrameKind::RegisterClient, 1, &register))?;
        let reply = next_frame(&mut receiver, DIAL_DEADLINE, address).await?;
        let reply: RegisterClientReply = reply.decode()?;
        match reply.failure {
            None => Ok((sender, receiver)),
            Some(failure) => Err(failed(std::io::Error::other(failure.message))),
        }
    }

    /// Keeps a connection whose exchange is complete.
    pub(crate) fn give_back(&self, connection: PeerConnection) {
        if let Some(peer) = self.lock().get_mut(&connection.node) {
            peer.idle.push((connection.sender, connection.receiver));
        }
    }

    /// Closes the kept connections to a node that died.
    pub(crate) fn forget(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// One request and its answer.
    pub(crate) async fn ask(
        &self,
        node: NodeId,
        address: &str,
        frame: impl Fn() -> Frame,
        deadline: Duration,
    ) -> Result<Frame, RpcError> {
        // A kept connection may have been closed by the other side meanwhile: then a second one is made.
        let mut attempts = 2;
        loop {
            attempts -= 1;
            let mut connection = self.connect(node, address).await?;
            let outcome = match connection.sender.send(frame()) {
                Ok(()) => next_frame(&mut connection.receiver, deadline, address).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(reply) => {
                    self.give_back(connection);
                    return Ok(reply);
                }
                Err(RpcError::Closed) if attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends without an answer.
    pub(crate) async fn tell(&self, node: NodeId, address: &str, frame: Frame) -> Result<(), RpcError> {
        let connection = self.connect(node, address).await?;
        connection.sender.send_wait(frame).await?;
        self.give_back(connection);
        Ok(())
    }
}

/// The next frame; the end of the connection is an error here.
pub(crate) async fn next_frame(
    receiver: &mut FrameReceiver,
    deadline: Duration,
    peer: &str,
) -> Result<Frame, RpcError> {
    match tokio::time::timeout(deadline, receiver.next()).await {
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) => Err(RpcError::Closed),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(RpcError::Deadline {
            peer: peer.to_owned(),
            seconds: deadline.as_secs_f64(),
        }),
    }
}
