//! The head, and its side of the streams of nodes, as `gcs::service` has it: messages are numbered and kept until they are
//! acknowledged, over however many streams.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sparkray_common::{NodeId, PROVEN_STALL};
use sparkray_gcs::simulation::{Effect, Head};
use sparkray_proto::{HeadMessage, NodeMessage, RegisterNode, Registered, head_message, node_message};
use sparkray_raylet::simulation::{HeadEvent, Input};
use sparkray_rpc::{Inbox, Outbox};

use crate::agenda::Event;
use crate::cluster::{Cluster, TICK};
use crate::network::{End, Message};

pub(crate) const EPOCH: u64 = 1;

/// What was said between the head and one node that is alive.
#[derive(Debug, Default)]
struct Session {
    outbox: Outbox<HeadMessage>,
    inbox: Inbox,
    /// The stream that the node has confirmed last: later links have greater numbers.
    stream: Option<usize>,
}

pub(crate) struct HeadSide {
    pub(crate) head: Head,
    pub(crate) host: usize,
    /// It is stopped, as by SIGSTOP.
    pub(crate) stopped: bool,
    sessions: BTreeMap<NodeId, Session>,
    /// The node that registered over a link.
    streams: BTreeMap<usize, NodeId>,
    last_tick: u64,
}

fn unnumbered(message: head_message::Message, received: u64) -> Message {
    Message::FromHead(HeadMessage {
        message: Some(message),
        sequence: 0,
        received,
    })
}

impl HeadSide {
    pub(crate) fn new(host: usize, now: Instant) -> Self {
        Self {
            head: Head::new(now, EPOCH),
            host,
            stopped: false,
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_tick: 0,
        }
    }

    pub(crate) fn runs(&self) -> bool {
        !self.stopped
    }

    /// How long it provably has not run, as the raylet of its node sees it.
    pub(crate) fn stall(&self, now: u64) -> Option<Duration> {
        let since = Duration::from_micros(now.saturating_sub(self.last_tick));
        (self.last_tick > 0 && since >= PROVEN_STALL).then_some(since)
    }
}

impl Cluster {
    pub(crate) fn head_tick(&mut self) {
        if self.head.stopped {
            return;
        }
        self.agenda.after(TICK, Event::HeadTick);
        self.head.last_tick = self.agenda.now;
        let now = self.agenda.instant();
        self.head.head.tick(now);
        self.carry_out_head();
    }

    pub(crate) fn stop_head(&mut self) {
        self.say(|| "the head is stopped".to_owned());
        self.head.stopped = true;
    }

    /// The head's process ends, and every raylet is told so.
    pub(crate) fn end_head(&mut self) {
        self.say(|| "the head ends".to_owned());
        // Actors that nobody finds any more.
        self.losses.processes += 1;
        self.head.stopped = true;
        for link in 0..self.network.links.len() {
            if self.network.links[link].ends[1] == End::Head {
                self.network.hang_up(&mut self.agenda, link, 1);
            }
        }
        for node in 0..self.nodes.len() {
            let cause = "the head has ended".to_owned();
            self.input(node, Input::Head(HeadEvent::Lost { cause }));
        }
    }

    pub(crate) fn head_continues(&mut self) {
        self.say(|| "the head continues".to_owned());
        self.head.stopped = false;
        self.agenda.after(0, Event::HeadTick);
        for link in 0..self.network.links.len() {
            if self.network.links[link].ends[1] == End::Head {
                self.network.deliver_waiting(&mut self.agenda, link);
            }
        }
    }

    /// Something arrives at the head.
    pub(crate) fn head_hears(&mut self, link: usize, message: Message) {
        let now = self.agenda.instant();
        match message {
            Message::ToHead(message) => self.head_takes(link, message),
            Message::Question(request) => {
                let reply = self.head.head.request(now, request);
                self.carry_out_head();
                self.network
                    .send(&mut self.agenda, link, 0, Message::Answer(reply));
            }
            Message::Closed { by_peer, .. } => {
                let node = self.head.streams.remove(&link);
                let node = node.filter(|node| {
                    let session = self.head.sessions.get(node);
                    session.is_some_and(|session| session.stream == Some(link))
                });
                if let Some(node) = node.filter(|_| by_peer) {
                    self.say(|| format!("head: node {node} ended its stream"));
                    let cause = "its raylet ended its connection to the head";
                    self.head.head.detach(now, node, cause);
                    self.carry_out_head();
                }
            }
            other => panic!("the head takes no {other:?}"),
        }
    }

    fn head_takes(&mut self, link: usize, message: NodeMessage) {
        let now = self.agenda.instant();
        if let Some(node_message::Message::Register(register)) = message.message {
            self.head_registers(link, register);
            return;
        }
        let head = &mut self.head;
        let Some(node) = head.streams.get(&link).copied() else {
            return;
        };
        let Some(session) = head.sessions.get_mut(&node) else {
            return;
        };
        if session.stream.is_some_and(|stream| stream > link) {
            return;
        }
        if session.stream != Some(link) {
            session.stream = Some(link);
            for missing in session.outbox.after(message.received) {
                let message = Message::FromHead(missing);
                self.network.send(&mut self.agenda, link, 0, message);
            }
        }
        session.outbox.acknowledge(message.received);
        if let Some(node_message::Message::Heartbeat(heartbeat)) = message.message {
            // The dead are not answered.
            if head.head.heard(now, node) {
                let reply = head_message::Message::HeartbeatReply(heartbeat);
                let message = unnumbered(reply, session.inbox.received());
                self.network.send(&mut self.agenda, link, 0, message);
            }
            return;
        }
        match session.inbox.takes(message.sequence) {
            Ok(false) => return,
            Ok(true) => {}
            Err(_) => {
                session.stream = None;
                self.network.hang_up(&mut self.agenda, link, 1);
                return;
            }
        }
        let taken = head.head.node_message(now, node, message);
        assert!(taken.is_ok(), "a raylet breaks the protocol: {taken:?}");
        self.carry_out_head();
    }

    fn head_registers(&mut self, link: usize, register: RegisterNode) {
        let mut answer = Registered::default();
        match self.head.head.attach(self.agenda.instant(), register) {
            Ok(node) => {
                let session = self.head.sessions.entry(node).or_default();
                answer.head_epoch = EPOCH;
                answer.received = session.inbox.received();
                answer.view = Some(self.head.head.view());
                self.head.streams.insert(link, node);
            }
            Err(failure) => answer.failure = Some(failure),
        }
        self.carry_out_head();
        let message = unnumbered(head_message::Message::Registered(answer), 0);
        self.network.send(&mut self.agenda, link, 0, message);
    }

    /// Sends what the state asks for.
    pub(crate) fn carry_out_head(&mut self) {
        for effect in self.head.head.take_effects() {
            match effect {
                Effect::Send { node, message } => {
                    let Some(session) = self.head.sessions.get_mut(&node) else {
                        continue;
                    };
                    let message = HeadMessage {
                        message: Some(message),
                        sequence: session.outbox.next(),
                        received: session.inbox.received(),
                    };
                    session.outbox.keep(vec![message.clone()]);
                    if let Some(stream) = session.stream {
                        let message = Message::FromHead(message);
                        self.network.send(&mut self.agenda, stream, 0, message);
                    }
                }
                Effect::Detach { node } => {
                    self.say(|| format!("head: node {node} is dead"));
                    let session = self.head.sessions.remove(&node);
                    if let Some(stream) = session.and_then(|session| session.stream) {
                        self.network.hang_up(&mut self.agenda, stream, 1);
                    }
                }
            }
        }
    }
}
