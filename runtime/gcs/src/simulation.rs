//! For the simulator (`tests/simulation`), which stands for streams, journal and clock: the head's state machine as it is.
//! Not part of the crate's interface. It is compiled always, because a cargo feature would have tests and product compile
//! this crate twice.

use std::time::Instant;

use sparkray_common::NodeId;
use sparkray_proto::{ClusterView, Failure, HeadReply, HeadRequest, MessageError, NodeMessage, RegisterNode};

pub use crate::effects::Effect;
use crate::state::HeadState;
use crate::tables::Tables;

/// A head without streams. Its journal is durable at once.
#[derive(Debug)]
pub struct Head(HeadState);

impl Head {
    /// A head that begins.
    pub fn new(now: Instant, head_epoch: u64) -> Self {
        Self(HeadState::new(now, head_epoch, 1, Tables::default()))
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        drop(self.0.take_records());
        self.0.take_effects()
    }

    /// A node wants to join, or to go on over another stream.
    pub fn attach(&mut self, now: Instant, request: RegisterNode) -> Result<NodeId, Failure> {
        self.0.attach(now, request)
    }

    /// All nodes, for one that attaches.
    pub fn view(&self) -> ClusterView {
        self.0.view()
    }

    /// A node shows that it is alive; `false` when it is not part of the cluster and must not hear otherwise.
    pub fn heard(&mut self, now: Instant, node: NodeId) -> bool {
        self.0.heard(now, node)
    }

    /// A node says something.
    pub fn node_message(
        &mut self,
        now: Instant,
        node: NodeId,
        message: NodeMessage,
    ) -> Result<(), MessageError> {
        self.0.node_message(now, node, message)
    }

    /// A node is dead, with all its processes.
    pub fn detach(&mut self, now: Instant, node: NodeId, cause: &str) {
        self.0.detach(now, node, cause);
    }

    /// Answers a client's request.
    pub fn request(&mut self, now: Instant, request: HeadRequest) -> HeadReply {
        self.0.request(now, request)
    }

    /// Time passes. Called ten times a second.
    pub fn tick(&mut self, now: Instant) {
        self.0.tick(now);
    }
}
