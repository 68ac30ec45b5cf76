//! A raylet's side of its streams to the head, as `raylet::head::link` has it: one stream after the other, and what the head
//! has not acknowledged is sent again.

use std::time::Duration;

use sparkray_common::{ErrorCode, VERSION};
use sparkray_proto::{
    Failure, FrameKind, HeadMessage, HeadReply, HeadRequest, Heartbeat, NodeMessage, RegisterNode,
    Registered, head_message, node_message,
};
use sparkray_raylet::simulation::{Conversation, HeadEvent, Input};
use sparkray_rpc::Frame;

use crate::agenda::Event;
use crate::cluster::{Cluster, SECOND};
use crate::head::EPOCH;
use crate::network::{End, Message};

/// The head's answer to a registration is waited for so long.
const ANSWER_DEADLINE: u64 = 5 * SECOND;
/// A head that has acknowledged nothing for this long is asked for another stream.
const SILENCE: u64 = 2 * SECOND;
/// How long a client's question to the head may take.
const CALL_DEADLINE: u64 = 30 * SECOND;

/// A stream that is being made.
#[derive(Debug)]
struct Attempt {
    link: usize,
    began: u64,
}

/// A raylet's streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    conversation: Conversation,
    /// The stream that was confirmed last.
    current: Option<usize>,
    /// Earlier ones, until the head has answered over the current one.
    held: Vec<usize>,
    /// When the newest acknowledged message was sent.
    acknowledged: u64,
    attempt: Option<Attempt>,
}

impl Cluster {
    /// Begins another stream.
    pub(crate) fn attach(&mut self, node: usize) {
        let ends = [End::Stream(node), End::Head];
        let hosts = [self.nodes[node].host, self.head.host];
        let link = self.network.link(ends, hosts);
        let found = &mut self.nodes[node];
        let register = RegisterNode {
            node_id: found.id.to_vec().into(),
            address: found.address.clone(),
            total: Some((&found.resources).into()),
            hostname: format!("host{}", found.host),
            sparkray_version: VERSION.to_owned(),
            pid: 1,
            head_epoch: EPOCH,
            ..RegisterNode::default()
        };
        found.streams.attempt = Some(Attempt {
            link,
            began: self.agenda.now,
        });
        let message = NodeMessage {
            message: Some(node_message::Message::Register(register)),
            ..NodeMessage::default()
        };
        self.network
            .send(&mut self.agenda, link, 1, Message::ToHead(message));
        self.agenda.after(ANSWER_DEADLINE, Event::TooLate { link });
    }

    pub(crate) fn heartbeat(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.agenda.after(SECOND / 2, Event::Heartbeat { node });
        self.send_heartbeat(node);
        self.seek(node);
    }

    fn send_heartbeat(&mut self, node: usize) {
        let streams = &self.nodes[node].streams;
        let Some(link) = streams.current else { return };
        let heartbeat = Heartbeat {
            sent_nanos: self.agenda.now * 1000,
        };
        let message = Message::ToHead(NodeMessage {
            message: Some(node_message::Message::Heartbeat(heartbeat)),
            sequence: 0,
            received: streams.conversation.received(),
        });
        self.network.send(&mut self.agenda, link, 1, message);
    }

    /// Begins an attempt when the head cannot be heard and none is under way.
    fn seek(&mut self, node: usize) {
        let streams = &self.nodes[node].streams;
        let silence = self.agenda.now.saturating_sub(streams.acknowledged);
        if streams.attempt.is_none() && (streams.current.is_none() || silence >= SILENCE) {
            self.attach(node);
        }
    }

    /// What the raylet has to say leaves.
    pub(crate) fn give_to_head(&mut self, node: usize) {
        let found = &mut self.nodes[node];
        let Some(raylet) = &mut found.raylet else { return };
        let streams = &mut found.streams;
        while let Some(message) = raylet.next_to_head() {
            streams.conversation.keep(message);
        }
        let Some(link) = streams.current else { return };
        while let Some(message) = streams.conversation.next_to_give() {
            streams.conversation.gave();
            self.network
                .send(&mut self.agenda, link, 1, Message::ToHead(message));
        }
    }

    /// Something comes over one of the streams.
    pub(crate) fn stream_hears(&mut self, node: usize, link: usize, message: Message) {
        if !self.nodes[node].is_alive() {
            return;
        }
        match message {
            Message::FromHead(message) => self.take_from_head(node, link, message),
            Message::Closed { .. } => self.stream_closed(node, link),
            other => panic!("the head sends no {other:?}"),
        }
    }

    fn stream_closed(&mut self, node: usize, link: usize) {
        let streams = &mut self.nodes[node].streams;
        if streams
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.link == link)
        {
            streams.attempt = None;
        } else if streams.current == Some(link) {
            streams.current = None;
        } else {
            return;
        }
        if self.nodes[node].is_up() {
            self.seek(node);
        }
    }

    fn take_from_head(&mut self, node: usize, link: usize, message: HeadMessage) {
        let streams = &mut self.nodes[node].streams;
        if let Some(attempt) = streams.attempt.take_if(|attempt| attempt.link == link) {
            if let Some(head_message::Message::Registered(registered)) = message.message {
                self.attached(node, &attempt, registered);
            }
            return;
        }
        if streams.current != Some(link) {
            return;
        }
        streams.conversation.acknowledge(message.received);
        let event = match message.message {
            None | Some(head_message::Message::Registered(_)) => return,
            Some(head_message::Message::HeartbeatReply(heartbeat)) => {
                let sent = Duration::from_nanos(heartbeat.sent_nanos);
                streams.acknowledged = streams.acknowledged.max(heartbeat.sent_nanos / 1000);
                for link in std::mem::take(&mut streams.held) {
                    self.network.hang_up(&mut self.agenda, link, 0);
                }
                HeadEvent::Acknowledged { sent }
            }
            Some(content) => match streams.conversation.takes(message.sequence) {
                Ok(true) => HeadEvent::Message(Box::new(content)),
                Ok(false) => return,
                Err(_) => {
                    streams.held.extend(streams.current.take());
                    return;
                }
            },
        };
        self.input(node, Input::Head(event));
    }

    fn attached(&mut self, node: usize, attempt: &Attempt, registered: Registered) {
        if let Some(failure) = registered.failure {
            self.network.hang_up(&mut self.agenda, attempt.link, 0);
            if self.nodes[node].is_up() {
                self.input(node, Input::Head(HeadEvent::Refused(failure)));
            } else {
                self.node_ends(node, "the head refuses it");
            }
            return;
        }
        let is_new = !self.nodes[node].is_up();
        let streams = &mut self.nodes[node].streams;
        streams.held.extend(streams.current.take());
        streams.conversation.begin_stream(registered.received);
        streams.acknowledged = streams.acknowledged.max(attempt.began);
        streams.current = Some(attempt.link);
        if is_new {
            self.raylet_begins(node, attempt.began, &registered.view.unwrap_or_default());
        } else {
            let sent = Duration::from_micros(attempt.began);
            self.input(node, Input::Head(HeadEvent::Acknowledged { sent }));
        }
        self.send_heartbeat(node);
        self.give_to_head(node);
    }

    // ---- questions of clients ------------------------------------------------------------------------------

    pub(crate) fn ask_head(&mut self, end: End, request: HeadRequest) {
        let End::Question { node, .. } = end else { return };
        let hosts = [self.nodes[node].host, self.head.host];
        let link = self.network.link([end, End::Head], hosts);
        self.network
            .send(&mut self.agenda, link, 1, Message::Question(request));
        self.agenda.after(CALL_DEADLINE, Event::TooLate { link });
    }

    /// An attempt to attach, or a question, has waited long enough.
    pub(crate) fn too_late(&mut self, link: usize) {
        match self.network.links[link].ends[0] {
            End::Stream(node) => {
                let streams = &mut self.nodes[node].streams;
                let late = streams.attempt.take_if(|attempt| attempt.link == link);
                if late.is_some() {
                    self.network.hang_up(&mut self.agenda, link, 0);
                }
            }
            end @ End::Question { .. } if self.network.is_open(link, 0) => {
                self.question_answered(link, end, crate::network::reset("the head did not answer"));
            }
            _ => {}
        }
    }

    pub(crate) fn question_answered(&mut self, link: usize, end: End, message: Message) {
        let End::Question {
            node,
            connection,
            correlation,
            begins_job,
        } = end
        else {
            return;
        };
        let reply = match message {
            Message::Answer(reply) => reply,
            Message::Closed { cause, .. } => {
                // An actor that the head was to make is none.
                self.losses.processes += 1;
                self.losses.questions += 1;
                HeadReply {
                    failure: Some(Failure::new(ErrorCode::Unavailable, cause.message)),
                    reply: None,
                }
            }
            other => panic!("no answer to a question: {other:?}"),
        };
        self.network.hang_up(&mut self.agenda, link, 0);
        if begins_job {
            let reply = Box::new(reply);
            let answered = HeadEvent::JobAnswered {
                connection,
                correlation,
                reply,
            };
            self.input(node, Input::Head(answered));
        } else {
            let frame = Frame::new(FrameKind::HeadReply, correlation, &reply);
            self.raylet_sends(node, connection, frame);
        }
    }
}
