//! What raylets have to do with each other: fetches of objects, and news of what was freed or is lost, as
//! `raylet::objects::{transfer, lost}` and `raylet::gateway::peers` have it.

use std::time::Duration;

use bytes::Bytes;
use sparkray_common::{ErrorCode, NodeId, ObjectId, VERSION, WorkerAddress, WorkerId};
use sparkray_object_store::{MappedRange, PullTicket, PushTicket};
use sparkray_proto::{
    ClientKind, Failure, FrameKind, FreeEntry, FreeObjects, HeadStall, HeadStallReply, LocationLost,
    ObjectChunk, ObjectLocation, PullObject, RegisterClient, RegisterClientReply, WorkerHello,
};
use sparkray_raylet::simulation::{Input, ObjectEffect};
use sparkray_rpc::{Frame, Target};
use tokio::sync::oneshot;

use crate::agenda::Event;
use crate::cluster::{Cluster, SECOND};
use crate::network::{End, Message};

/// Bytes of one chunk: small, so that objects have several.
const CHUNK: usize = 4 << 10;
/// No further attempt begins when nothing was heard of the object for so long.
const UNREACHABLE_PATIENCE: u64 = 9 * SECOND;
const ATTEMPT_PAUSE: u64 = SECOND / 2;
const CHUNK_DEADLINE: u64 = 30 * SECOND;
const TELL_DEADLINE: u64 = 10 * SECOND;
const ASK_DEADLINE: u64 = 2 * SECOND;

/// One connection to another raylet, for one thing.
#[derive(Debug)]
pub(crate) struct Exchange {
    node: NodeId,
    link: usize,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Fetch(PullTicket),
    Free(Vec<FreeEntry>),
    /// Whether the head runs; asked then.
    Stall(Duration),
}

/// A fetch of an object.
#[derive(Debug)]
pub(crate) struct Pull {
    object: ObjectId,
    locations: Vec<ObjectLocation>,
    /// The location that is asked.
    asked: usize,
    exchange: Option<u64>,
    /// What came before there was room.
    chunks: Vec<(u64, Bytes)>,
    size: u64,
    came: u64,
    asked_for_room: bool,
    range: Option<MappedRange>,
    heard: u64,
    reasons: String,
    unreachable: bool,
}

impl Cluster {
    pub(crate) fn carry_out_for_objects(&mut self, node: usize, effect: ObjectEffect) {
        match effect {
            ObjectEffect::Push {
                connection,
                correlation,
                object,
                source,
            } => {
                let mut sent = 0;
                while sent < source.size {
                    let chunk = source
                        .bytes
                        .read(sent, CHUNK)
                        .expect("objects in memory can be read");
                    let meta = ObjectChunk {
                        object_id: object.to_vec().into(),
                        failure: None,
                        size: source.size,
                        offset: sent,
                        owner: Some((&source.owner).into()),
                    };
                    sent += chunk.len() as u64;
                    // As on a wire: what becomes of the memory changes nothing of what was sent.
                    let chunk = Bytes::copy_from_slice(&chunk);
                    let frame = Frame::new(FrameKind::ObjectChunk, correlation, &meta).with_payload(chunk);
                    self.raylet_sends(node, connection, frame);
                }
                let (ticket, bytes) = (source.ticket, sent);
                let takes = self.random.between(50, 2_000);
                self.agenda.after(takes, Event::Pushed { node, ticket, bytes });
            }
            ObjectEffect::Pull {
                ticket,
                object,
                locations,
            } => {
                let pull = Pull {
                    object,
                    locations,
                    asked: 0,
                    exchange: None,
                    chunks: Vec::new(),
                    size: 0,
                    came: 0,
                    asked_for_room: false,
                    range: None,
                    heard: self.agenda.now,
                    reasons: String::new(),
                    unreachable: false,
                };
                self.nodes[node].pulls.insert(ticket, pull);
                self.ask_location(node, ticket);
            }
            // The answer comes as an effect.
            ObjectEffect::AwaitRoom { .. } => {}
            ObjectEffect::GiveRoom { ticket, room } => self.room_came(node, ticket, room),
            ObjectEffect::CancelPull { ticket } => {
                if self.nodes[node].pulls.contains_key(&ticket) {
                    let failure = Failure::new(ErrorCode::Cancelled, "nobody needs the object any more");
                    self.end_pull(node, ticket, Err(failure));
                }
            }
            ObjectEffect::ForgetPull { ticket } => {
                self.nodes[node].pulls.remove(&ticket);
            }
            ObjectEffect::Store(job) => {
                let takes = self.random.between(10, 3_000);
                self.agenda.after(takes, Event::StoreWork { node, job });
            }
            ObjectEffect::TellFreed {
                node: target,
                objects,
                ..
            } => {
                let frame = Frame::new(
                    FrameKind::FreeObjects,
                    0,
                    &FreeObjects {
                        objects: objects.clone(),
                    },
                );
                let exchange = self.call_raylet(node, target, Purpose::Free(objects), frame);
                self.agenda
                    .after(TELL_DEADLINE, Event::ExchangeTooLate { node, exchange });
            }
            ObjectEffect::TellLost { owner, objects } => self.tell_lost(node, &owner, objects),
            ObjectEffect::ForwardFeed { .. } | ObjectEffect::AskFeed { .. } => {
                panic!("no program of the simulation feeds blocks")
            }
        }
    }

    pub(crate) fn pushed(&mut self, node: usize, ticket: PushTicket, bytes: u64) {
        let outcome = Ok(bytes);
        self.input(node, Input::PushEnded { ticket, outcome });
    }

    /// Calls another raylet, registers and says something.
    fn call_raylet(&mut self, node: usize, target: NodeId, purpose: Purpose, frame: Frame) -> u64 {
        let found = &mut self.nodes[node];
        found.last_exchange += 1;
        let exchange = found.last_exchange;
        let (host, own) = (found.host, found.id);
        let there = self.node_of(target).map_or(host, |node| self.nodes[node].host);
        let ends = [End::Exchange(node, exchange), End::Door(there)];
        let link = self.network.link(ends, [host, there]);
        let register = RegisterClient {
            kind: ClientKind::Remote.into(),
            pid: 1,
            sparkray_version: VERSION.to_owned(),
            node_id: own.to_vec().into(),
            ..RegisterClient::default()
        };
        let register = Frame::new(FrameKind::RegisterClient, 1, &register);
        let knock = Message::Knock(Target::Raylet(target));
        for message in [knock, Message::Frame(register), Message::Frame(frame)] {
            self.network.send(&mut self.agenda, link, 1, message);
        }
        let entry = Exchange {
            node: target,
            link,
            purpose,
        };
        self.nodes[node].exchanges.insert(exchange, entry);
        exchange
    }

    /// Asks the raylet of the head's node whether the head runs.
    pub(crate) fn ask_for_stall(&mut self, node: usize, target: NodeId, asked: Duration) {
        let frame = Frame::new(FrameKind::HeadStall, 1, &HeadStall {});
        let exchange = self.call_raylet(node, target, Purpose::Stall(asked), frame);
        self.agenda
            .after(ASK_DEADLINE, Event::ExchangeTooLate { node, exchange });
    }

    /// An owner on another node hears which copies are gone here, over a connection that is closed behind that.
    fn tell_lost(&mut self, node: usize, owner: &WorkerAddress, objects: Vec<ObjectId>) {
        let found = &self.nodes[node];
        let (host, own) = (found.host, found.id);
        let there = self
            .node_of(owner.node_id)
            .map_or(host, |node| self.nodes[node].host);
        let me = WorkerAddress {
            node_id: own,
            worker_id: WorkerId::NIL,
            node_address: found.address.clone(),
        };
        let hello = WorkerHello {
            address: Some((&me).into()),
            ..WorkerHello::default()
        };
        let link = self
            .network
            .link([End::Exchange(node, 0), End::Door(there)], [host, there]);
        let knock = Message::Knock(Target::Worker(owner.node_id, owner.worker_id));
        self.network.send(&mut self.agenda, link, 1, knock);
        let hello = Frame::new(FrameKind::WorkerHello, 0, &hello);
        self.network
            .send(&mut self.agenda, link, 1, Message::Frame(hello));
        for object in objects {
            let lost = LocationLost {
                object_id: object.to_vec().into(),
                node_id: own.to_vec().into(),
            };
            let frame = Frame::new(FrameKind::LocationLost, 0, &lost);
            self.network
                .send(&mut self.agenda, link, 1, Message::Frame(frame));
        }
        self.network.hang_up(&mut self.agenda, link, 0);
    }

    /// Something comes from another raylet.
    pub(crate) fn exchange_hears(&mut self, node: usize, exchange: u64, message: Message) {
        let Some(found) = self.nodes[node].exchanges.get(&exchange) else {
            return;
        };
        let target = found.node;
        match message {
            Message::Frame(frame) if frame.kind == FrameKind::RegisterClientReply => {
                let reply: RegisterClientReply = frame.decode().expect("a raylet's answer");
                assert!(reply.failure.is_none(), "a raylet is refused: {reply:?}");
                if matches!(found.purpose, Purpose::Free(_)) {
                    self.end_exchange(node, exchange);
                    self.tell_frees(node, target, Vec::new());
                }
            }
            Message::Frame(frame) => match found.purpose {
                Purpose::Fetch(ticket) => self.chunk_came(node, ticket, &frame),
                Purpose::Stall(asked) => {
                    self.end_exchange(node, exchange);
                    let reply: HeadStallReply = frame.decode().expect("a raylet's answer");
                    let stall = Duration::from_nanos(reply.stalled_nanos);
                    self.agenda.after(
                        0,
                        Event::StallAnswered {
                            node,
                            asked,
                            stall: Some(stall),
                        },
                    );
                }
                Purpose::Free(_) => {}
            },
            Message::Closed { cause, .. } => {
                let found = self.nodes[node].exchanges.remove(&exchange);
                match found.map(|found| found.purpose) {
                    Some(Purpose::Free(left)) => self.tell_frees(node, target, left),
                    Some(Purpose::Fetch(ticket)) => {
                        let is_dead = cause.unused || self.nodes[node].dead.contains(&target);
                        self.location_failed(node, ticket, &cause.message, !is_dead);
                    }
                    Some(Purpose::Stall(asked)) => {
                        let stall = None;
                        self.agenda.after(0, Event::StallAnswered { node, asked, stall });
                    }
                    None => {}
                }
            }
            other => panic!("a raylet says no {other:?} to another"),
        }
    }

    fn end_exchange(&mut self, node: usize, exchange: u64) {
        if let Some(found) = self.nodes[node].exchanges.remove(&exchange) {
            self.network.hang_up(&mut self.agenda, found.link, 0);
        }
    }

    pub(crate) fn exchange_too_late(&mut self, node: usize, exchange: u64) {
        if self.nodes[node].exchanges.contains_key(&exchange) {
            let link = self.nodes[node].exchanges[&exchange].link;
            self.exchange_hears(node, exchange, crate::network::reset("it did not answer in time"));
            self.network.hang_up(&mut self.agenda, link, 0);
        }
    }

    /// What became of news of freed objects is told when the present input is over.
    fn tell_frees(&mut self, node: usize, target: NodeId, left: Vec<FreeEntry>) {
        self.agenda.after(0, Event::FreesTold { node, target, left });
    }

    pub(crate) fn frees_told(&mut self, node: usize, target: NodeId, left: Vec<FreeEntry>) {
        self.input(node, Input::FreesTold { node: target, left });
    }

    /// A node is known to be dead: who uses a connection to it hears that.
    pub(crate) fn forget_peer(&mut self, node: usize, dead: NodeId) {
        self.nodes[node].dead.insert(dead);
        let over: Vec<u64> = self.nodes[node]
            .exchanges
            .iter()
            .filter(|(_, exchange)| exchange.node == dead)
            .map(|(number, _)| *number)
            .collect();
        for exchange in over {
            self.agenda.after(0, Event::ExchangeTooLate { node, exchange });
        }
    }

    // ---- fetches -------------------------------------------------------------------------------------------

    /// Asks the location whose turn it is; when none is left, the attempt has failed.
    fn ask_location(&mut self, node: usize, ticket: PullTicket) {
        let own = &self.nodes[node];
        let Some(pull) = own.pulls.get(&ticket) else {
            return;
        };
        let Some(location) = pull.locations.get(pull.asked) else {
            self.attempt_failed(node, ticket);
            return;
        };
        let target = NodeId::from_slice(&location.node_id).expect("a node's id");
        if own.dead.contains(&target) {
            self.location_failed(node, ticket, "the node is dead", false);
            return;
        }
        let request = PullObject {
            object_id: pull.object.to_vec().into(),
        };
        let frame = Frame::new(FrameKind::PullObject, 2, &request);
        let exchange = self.call_raylet(node, target, Purpose::Fetch(ticket), frame);
        if let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) {
            pull.exchange = Some(exchange);
            pull.chunks.clear();
            pull.came = 0;
        }
        self.agenda
            .after(CHUNK_DEADLINE, Event::ExchangeTooLate { node, exchange });
    }

    fn location_failed(&mut self, node: usize, ticket: PullTicket, reason: &str, unreachable: bool) {
        if let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) {
            pull.exchange = None;
            pull.reasons.push_str(reason);
            pull.reasons.push_str("; ");
            pull.unreachable |= unreachable;
            pull.asked += 1;
            self.ask_location(node, ticket);
        }
    }

    fn attempt_failed(&mut self, node: usize, ticket: PullTicket) {
        let now = self.agenda.now;
        let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) else {
            return;
        };
        if pull.unreachable && now < pull.heard + UNREACHABLE_PATIENCE {
            (pull.asked, pull.unreachable) = (0, false);
            self.agenda
                .after(ATTEMPT_PAUSE, Event::RetryPull { node, ticket });
            return;
        }
        let code = if pull.unreachable {
            ErrorCode::FetchTimedOut
        } else {
            ErrorCode::ObjectLost
        };
        let failure = Failure::new(code, pull.reasons.clone());
        self.end_pull(node, ticket, Err(failure));
    }

    pub(crate) fn retry_pull(&mut self, node: usize, ticket: PullTicket) {
        self.ask_location(node, ticket);
    }

    fn chunk_came(&mut self, node: usize, ticket: PullTicket, frame: &Frame) {
        let now = self.agenda.now;
        let chunk: ObjectChunk = frame.decode().expect("a chunk");
        let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) else {
            return;
        };
        pull.heard = now;
        if let Some(failure) = chunk.failure {
            if let Some(exchange) = pull.exchange.take() {
                self.end_exchange(node, exchange);
            }
            self.location_failed(node, ticket, &failure.message, false);
            return;
        }
        pull.size = chunk.size;
        pull.chunks.push((chunk.offset, frame.payload.clone()));
        if !std::mem::replace(&mut pull.asked_for_room, true) {
            let owner = WorkerAddress::try_from(&chunk.owner.expect("an owner")).expect("an owner's address");
            let (room, _) = oneshot::channel();
            let size = chunk.size;
            self.input(
                node,
                Input::PullNeedsRoom {
                    ticket,
                    size,
                    owner,
                    room,
                },
            );
        } else {
            self.write_chunks(node, ticket);
        }
    }

    fn room_came(&mut self, node: usize, ticket: PullTicket, room: Result<MappedRange, Failure>) {
        let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) else {
            return;
        };
        match room {
            Ok(range) => {
                pull.range = Some(range);
                self.write_chunks(node, ticket);
            }
            Err(failure) => self.end_pull(node, ticket, Err(failure)),
        }
    }

    fn write_chunks(&mut self, node: usize, ticket: PullTicket) {
        let Some(pull) = self.nodes[node].pulls.get_mut(&ticket) else {
            return;
        };
        let Some(range) = &mut pull.range else { return };
        for (offset, bytes) in pull.chunks.drain(..) {
            assert_eq!(offset, pull.came, "chunks come in order");
            let start = offset as usize;
            range.as_mut_slice()[start..start + bytes.len()].copy_from_slice(&bytes);
            pull.came += bytes.len() as u64;
        }
        if pull.came == pull.size {
            let range = pull.range.take().expect("it was written to");
            self.end_pull(node, ticket, Ok(range));
        }
    }

    /// The outcome is told as soon as nobody writes to the range any more: at once.
    fn end_pull(&mut self, node: usize, ticket: PullTicket, outcome: Result<MappedRange, Failure>) {
        let Some(pull) = self.nodes[node].pulls.remove(&ticket) else {
            return;
        };
        if let Some(exchange) = pull.exchange {
            self.end_exchange(node, exchange);
        }
        let object = pull.object;
        drop(pull);
        self.say(|| {
            format!(
                "node {node}: fetch of {object} ended: {:?}",
                outcome.as_ref().err()
            )
        });
        self.agenda.after(
            0,
            Event::PullEnded {
                node,
                ticket,
                object,
                outcome: Box::new(outcome),
            },
        );
    }

    pub(crate) fn pull_ended(
        &mut self,
        node: usize,
        ticket: PullTicket,
        object: ObjectId,
        outcome: Result<MappedRange, Failure>,
    ) {
        // For a histogram.
        let took = Duration::ZERO;
        let input = Input::PullEnded {
            ticket,
            object,
            outcome,
            took,
        };
        self.input(node, input);
    }
}
