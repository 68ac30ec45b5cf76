//! What the head's state asks its surroundings to do.

use sparkray_common::NodeId;
use sparkray_proto::head_message::Message;

/// One thing to do, in the order in which the state asked for it.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "effects live for one event, and nearly all are messages"
)]
pub enum Effect {
    /// Send a message on the node's stream.
    Send { node: NodeId, message: Message },
    /// End the node's stream: the node is dead to this head.
    Detach { node: NodeId },
}

/// Effects that have not been carried out.
#[derive(Debug, Default)]
pub(crate) struct Effects(Vec<Effect>);

impl Effects {
    /// Asks for a message to one node.
    pub(crate) fn send(&mut self, node: NodeId, message: Message) {
        self.0.push(Effect::Send { node, message });
    }

    /// Asks for the end of a node's stream.
    pub(crate) fn detach(&mut self, node: NodeId) {
        self.0.push(Effect::Detach { node });
    }

    /// All effects since the last call.
    pub(crate) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.0)
    }
}
