//! What carries effects out: sockets, processes, files and tasks. Decides nothing.

use std::sync::Arc;

use sparkray_rpc::Frame;
use tracing::warn;

use crate::gateway::{Connections, Peers, Routes};
use crate::head::HeadSide;
use crate::input::Input;
use crate::node_info::NodeInfo;
use crate::objects::Transfers;
use crate::outbox::{Effect, HeadEffect, ObjectEffect};
use crate::workers::{Births, kill, kill_orphans, reap_all};

/// Everything outside of the parts that decide.
pub(crate) struct Io {
    pub(crate) node: Arc<NodeInfo>,
    pub(crate) connections: Connections,
    pub(crate) routes: Arc<Routes>,
    pub(crate) peers: Peers,
    pub(crate) births: Births,
    pub(crate) transfers: Transfers,
    pub(crate) head: HeadSide,
}

impl Io {
    /// Carries one effect out. What shows at once is the next input.
    pub(crate) fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Serve { connection, socket } => {
                let error = self.connections.serve(connection, socket).err()?;
                warn!(connection, %error, "cannot serve a connection");
                let cause = error.to_string();
                return Some(Input::Closed { connection, cause });
            }
            Effect::Send { connection, frame } => self.connections.send(connection, frame),
            Effect::SendAll { connection, frames } => self.connections.send_all(connection, frames),
            Effect::SendWithLease { connection, frame } => self.send_with_lease(connection, frame),
            Effect::SendLog { connection, batch } => {
                self.connections.send_log(connection, batch, &self.node);
            }
            Effect::SendIfRead { connection, frame } => self.connections.send_if_read(connection, frame),
            Effect::Close { connection } => self.connections.close(connection),
            Effect::Drain { connection } => self.connections.drain(connection),
            Effect::WatchProcess { connection, pid } => self.connections.watch_process(connection, pid),
            Effect::AwaitProcess { connection } => return self.connections.await_process(connection),
            Effect::Release { connection } => self.connections.release(connection),
            Effect::OpenRoute { worker } => self.routes.add(worker),
            Effect::CloseRoute { worker } => self.routes.remove(worker),
            Effect::CloseHeadRoute => self.routes.head_ended(),
            Effect::ForgetPeer { node } => self.peers.forget(node),
            Effect::Fork { births } => {
                let connections = &mut self.connections;
                return self
                    .births
                    .fork(births, |connection, socket| connections.serve(connection, socket));
            }
            Effect::EndZygote { zygote } => self.births.end_zygote(zygote),
            Effect::Kill { pid } => kill(pid),
            Effect::KillLater { worker, grace } => self.births.kill_later(worker, grace),
            Effect::KillOrphans { gone, known } => kill_orphans(self.node.node_id, &gone, &known),
            Effect::Object(effect) => return self.carry_out_for_objects(effect),
            Effect::Head(effect) => self.carry_out_for_head(effect),
        }
        None
    }

    fn carry_out_for_objects(&mut self, effect: ObjectEffect) -> Option<Input> {
        match effect {
            ObjectEffect::Push {
                connection,
                correlation,
                object,
                source,
            } => match self.connections.sender(connection) {
                Some(sender) => self.transfers.push(sender, correlation, object, source),
                None => {
                    let (ticket, outcome) = (source.ticket, Ok(0));
                    return Some(Input::PushEnded { ticket, outcome });
                }
            },
            ObjectEffect::Pull {
                ticket,
                object,
                locations,
            } => self.transfers.pull(ticket, object, locations),
            ObjectEffect::AwaitRoom { ticket, room } => self.transfers.await_room(ticket, room),
            ObjectEffect::GiveRoom { ticket, room } => self.transfers.give_room(ticket, room),
            ObjectEffect::CancelPull { ticket } => self.transfers.cancel_pull(ticket),
            ObjectEffect::ForgetPull { ticket } => self.transfers.forget_pull(ticket),
            ObjectEffect::Store(job) => self.transfers.start(job),
            ObjectEffect::ForwardFeed {
                connection,
                correlation,
                nodes,
                message,
            } => {
                let client = self.connections.sender(connection)?;
                self.transfers.forward_feed(client, correlation, nodes, message);
            }
            ObjectEffect::AskFeed { feed, owner } => self.transfers.ask_feed(feed, owner),
            ObjectEffect::TellFreed {
                node,
                address,
                objects,
            } => self.transfers.tell_freed(node, address, objects),
            ObjectEffect::TellLost { owner, objects } => self.transfers.tell_lost(owner, objects),
        }
        None
    }

    fn carry_out_for_head(&self, effect: HeadEffect) {
        match effect {
            HeadEffect::Call {
                connection,
                correlation,
                request,
            } => {
                if let Some(client) = self.connections.sender(connection) {
                    self.head.call(client, correlation, request);
                }
            }
            HeadEffect::AskForJob {
                connection,
                correlation,
                request,
            } => self.head.ask_for_job(connection, correlation, request),
            HeadEffect::Pass { frame } => self.head.pass(frame),
            HeadEffect::AskStall { node, address, asked } => self.head.ask_for_stall(node, address, asked),
            HeadEffect::TellStall {
                connection,
                correlation,
            } => self
                .connections
                .send(connection, self.head.stall_reply(correlation)),
            HeadEffect::PublishLease(workers_end_at) => self.head.publish(workers_end_at),
        }
    }

    /// With this node's lease, by which the worker knows when it must have ended.
    fn send_with_lease(&self, connection: u64, frame: Frame) {
        let frame = match self.head.share_lease() {
            Ok(lease) => frame.with_descriptor(lease),
            Err(error) => {
                warn!(%error, "cannot share this node's lease with a worker");
                frame
            }
        };
        self.connections.send(connection, frame);
    }

    /// Collects the children that have ended.
    pub(crate) fn reap_children(&self) -> Option<Input> {
        self.births
            .has_zygotes()
            .then(|| Input::ChildrenEnded(reap_all()))
    }

    /// The time, and how long the head of this node has not run.
    pub(crate) fn tick(&self) -> Input {
        Input::Tick {
            clock: self.head.clock(),
            head_stall: self.head.stall(),
        }
    }
}
