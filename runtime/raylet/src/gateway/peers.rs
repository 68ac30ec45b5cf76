//! Frame connections to the raylets of other nodes, kept for the next use.
//!
//! Invariants:
//! 1. A connection serves one exchange at a time, so that a slow transfer holds up no other, and TCP's own flow control
//!    is the back-pressure.
//! 2. Fetches and messages have connections of their own: fetches may wait long for room, messages must not.
//! 3. Nobody waits for a node that is known to be dead, not in an exchange either, and nobody dials it any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sparkray_common::sync::{Mutex, MutexGuard};
use sparkray_common::{NodeId, VERSION};
use sparkray_proto::{ClientKind, FrameKind, RegisterClient, RegisterClientReply};
use sparkray_rpc::{
    Endpoint, Frame, FrameReceiver, FrameSender, Identity, RpcError, Target, dial, frame_connection,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Dead nodes that are remembered; their ids are never used again.
const REMEMBERED_DEAD: usize = 1024;
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Objects, each as long as it takes.
    Fetches,
    /// Short messages.
    Messages,
}

impl Lane {
    /// Exchanges with one node at a time.
    fn width(self) -> usize {
        match self {
            Self::Fetches => 8,
            Self::Messages => 2,
        }
    }
}

#[derive(Debug)]
struct Peer {
    permits: Arc<Semaphore>,
    /// The node is dead.
    gone: CancellationToken,
    idle: Vec<(FrameSender, FrameReceiver)>,
}

#[derive(Debug, Default)]
struct Known {
    peers: HashMap<(NodeId, Lane), Peer>,
    dead: HashSet<NodeId>,
    /// Oldest first.
    dead_order: VecDeque<NodeId>,
}

/// Connections to other raylets; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    own: NodeId,
    identity: Identity,
    known: Arc<Mutex<Known>>,
}

/// One connection, for one exchange.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    node: NodeId,
    lane: Lane,
    /// To the other raylet.
    pub(crate) sender: FrameSender,
    /// From it.
    receiver: FrameReceiver,
    gone: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl PeerConnection {
    /// The next frame; the end of the connection, or of the node, is an error.
    pub(crate) async fn next(&mut self, deadline: Duration, peer: &str) -> Result<Frame, RpcError> {
        tokio::select! {
            () = self.gone.cancelled() => Err(RpcError::Closed),
            frame = next_frame(&mut self.receiver, deadline, peer) => frame,
        }
    }
}

impl Peers {
    pub(crate) fn new(own: NodeId, identity: Identity) -> Self {
        Self {
            own,
            identity,
            known: Arc::new(Mutex::new(Known::default())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// A connection to `node`: a kept one or a new one. Waits while many exchanges of this lane are under way, until
    /// the node is known to be dead. The caller must not hold another connection of the lane.
    pub(crate) async fn connect(
        &self,
        node: NodeId,
        address: &str,
        lane: Lane,
    ) -> Result<PeerConnection, RpcError> {
        let (permits, gone) = {
            let mut known = self.lock();
            if known.dead.contains(&node) {
                return Err(RpcError::Closed);
            }
            let peer = known.peers.entry((node, lane)).or_insert_with(|| Peer {
                permits: Arc::new(Semaphore::new(lane.width())),
                gone: CancellationToken::new(),
                idle: Vec::new(),
            });
            (Arc::clone(&peer.permits), peer.gone.clone())
        };
        let permit = permits.acquire_owned().await.map_err(|_| RpcError::Closed)?;
        while let Some((sender, receiver)) = self.take_idle(node, lane) {
            if !sender.is_closed() {
                return Ok(PeerConnection {
                    node,
                    lane,
                    sender,
                    receiver,
                    gone,
                    _permit: permit,
                });
            }
        }
        let (sender, receiver) = tokio::select! {
            () = gone.cancelled() => return Err(RpcError::Closed),
            dialed = self.dial(node, address) => dialed?,
        };
        Ok(PeerConnection {
            node,
            lane,
            sender,
            receiver,
            gone,
            _permit: permit,
        })
    }

    fn take_idle(&self, node: NodeId, lane: Lane) -> Option<(FrameSender, FrameReceiver)> {
        self.lock().peers.get_mut(&(node, lane))?.idle.pop()
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
        if let Some(peer) = self.lock().peers.get_mut(&(connection.node, connection.lane)) {
            peer.idle.push((connection.sender, connection.receiver));
        }
    }

    /// Whether a node is known to be dead.
    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.lock().dead.contains(&node)
    }

    /// Closes the connections to a node that died. Who uses one, waits for one, or asks for one later, hears that it is
    /// closed.
    pub(crate) fn forget(&self, node: NodeId) {
        let mut known = self.lock();
        for lane in [Lane::Fetches, Lane::Messages] {
            if let Some(peer) = known.peers.remove(&(node, lane)) {
                peer.permits.close();
                peer.gone.cancel();
            }
        }
        if known.dead.insert(node) {
            known.dead_order.push_back(node);
        }
        if known.dead_order.len() > REMEMBERED_DEAD
            && let Some(oldest) = known.dead_order.pop_front()
        {
            known.dead.remove(&oldest);
        }
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
            let mut connection = self.connect(node, address, Lane::Messages).await?;
            let outcome = match connection.sender.send(frame()) {
                Ok(()) => connection.next(deadline, address).await,
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
        let connection = self.connect(node, address, Lane::Messages).await?;
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
