//! What parts decide leaves them here: events for other parts, effects for the outside.
//!
//! Invariants:
//! 1. A part calls no other part that may call it: it pushes an [`Event`], which the router hands on once the part has
//!    returned. So nobody's handler runs in the middle of another's change.
//! 2. Events are drained until none is left, then the effects leave, each kind in the order in which it was pushed.
//!    Both queues are empty before the next input, so they hold no more than what one input asks for.

mod effect;
mod event;

use std::collections::VecDeque;

use prost::Message;
use sparkray_proto::{FrameKind, node_message};
use sparkray_rpc::Frame;

pub use effect::{Birth, Effect, HeadEffect, ObjectEffect};
pub(crate) use event::Event;

/// Both queues.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    events: VecDeque<Event>,
    effects: VecDeque<Effect>,
}

impl Outbox {
    /// Something happened that other parts have to know.
    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Something is to be done outside.
    pub(crate) fn effect(&mut self, effect: impl Into<Effect>) {
        self.effects.push_back(effect.into());
    }

    /// The oldest event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The oldest effect.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Sends a message over a connection.
    pub(crate) fn send<M: Message>(
        &mut self,
        connection: u64,
        kind: FrameKind,
        correlation: u64,
        message: &M,
    ) {
        let frame = Frame::new(kind, correlation, message);
        self.effect(Effect::Send { connection, frame });
    }

    /// Sends a message to every client of this node that has a use for notices.
    pub(crate) fn notify<M: Message>(&mut self, kind: FrameKind, message: &M) {
        let meta = message.encode_to_vec().into();
        self.event(Event::Notify { kind, meta });
    }

    /// Tells the head. What cannot be told any more is lost with the head.
    pub(crate) fn tell_head(&mut self, message: node_message::Message) {
        self.event(Event::TellHead(Box::new(message)));
    }

    /// Something changed that can matter to waiting requests.
    pub(crate) fn schedule(&mut self) {
        self.event(Event::LeasesChanged);
    }
}
