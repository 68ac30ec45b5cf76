//! What reaches the head and its memory: calls, its gateway, and the moments that are shared with it and the workers.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sparkray_common::{MomentClock, NodeId, PROVEN_STALL, SharedMoment};
use sparkray_proto::{FrameKind, HeadRequest};
use sparkray_rpc::{
    Endpoint, Frame, FrameReceiver, FrameSender, Identity, MomentReader, MomentWriter, RpcError, Target,
    clock_now, dial, frame_connection,
};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tracing::debug;

use super::link::call;
use super::stall::{ask_for_stall, stall_reply};
use crate::error::RayletError;
use crate::gateway::{Peers, next_frame};
use crate::input::{HeadEvent, Input};
use crate::tasks::Tasks;

/// How long a client's question to the head may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
const GATEWAY_DEADLINE: Duration = Duration::from_secs(10);

/// When the head runs on this node: the connection over which it gets the sockets of others, and the head's clock.
#[derive(Debug)]
pub(crate) struct HeadGateway {
    sender: FrameSender,
    clock: MomentReader,
}

/// The head, as far as this node reaches it.
#[derive(Debug)]
pub(crate) struct HeadSide {
    /// The present connection to the head.
    channel: watch::Receiver<Channel>,
    gateway: Option<HeadGateway>,
    /// Of the lease.
    clock: MomentClock,
    /// Workers read there when they must have ended.
    workers: MomentWriter,
    peers: Peers,
    inputs: mpsc::Sender<Input>,
    tasks: Tasks,
}

impl HeadSide {
    /// `workers_end_at`: told to workers until it is published anew.
    pub(crate) fn new(
        channel: watch::Receiver<Channel>,
        gateway: Option<HeadGateway>,
        workers_end_at: SharedMoment,
        peers: Peers,
        inputs: mpsc::Sender<Input>,
        tasks: Tasks,
    ) -> std::io::Result<Self> {
        let workers = MomentWriter::new("sparkray-lease")?;
        workers.write(workers_end_at);
        Ok(Self {
            channel,
            gateway,
            clock: workers_end_at.clock,
            workers,
            peers,
            inputs,
            tasks,
        })
    }

    /// Asks the head for a client.
    pub(crate) fn call(&self, client: FrameSender, correlation: u64, request: HeadRequest) {
        let channel = self.channel.borrow().clone();
        self.tasks.spawn(async move {
            let reply = call(channel, request, CALL_DEADLINE).await;
            if let Err(error) = client.send(Frame::new(FrameKind::HeadReply, correlation, &reply)) {
                debug!(%error, "a client did not wait for the head's answer");
            }
        });
    }

    /// Asks the head for a client's job. The answer goes to the loop.
    pub(crate) fn ask_for_job(&self, connection: u64, correlation: u64, request: HeadRequest) {
        let (channel, inputs) = (self.channel.borrow().clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let answer = HeadEvent::JobAnswered {
                connection,
                correlation,
                reply: Box::new(call(channel, request, CALL_DEADLINE).await),
            };
            // The receiver is gone only when the raylet ends.
            let _ = inputs.send(Input::Head(answer)).await;
        });
    }

    /// Passes a connection to the head.
    pub(crate) fn pass(&self, frame: Frame) {
        if let Some(gateway) = &self.gateway
            && let Err(error) = gateway.sender.send(frame)
        {
            debug!(%error, "cannot pass a connection to the head");
        }
    }

    /// The time by the lease's clock.
    pub(crate) fn clock(&self) -> Duration {
        clock_now(self.clock)
    }

    /// How long the head of this node provably has not run.
    pub(crate) fn stall(&self) -> Option<Duration> {
        let last_tick = self.gateway.as_ref()?.clock.read()?;
        let since = clock_now(last_tick.clock).saturating_sub(last_tick.at);
        (since >= PROVEN_STALL).then_some(since)
    }

    /// The answer to another raylet that asks for [`Self::stall`].
    pub(crate) fn stall_reply(&self, correlation: u64) -> Frame {
        stall_reply(correlation, self.stall().unwrap_or_default())
    }

    /// Asks the raylet of the head's node whether the head runs.
    pub(crate) fn ask_for_stall(&self, node: NodeId, address: String, asked: Duration) {
        let (peers, inputs) = (self.peers.clone(), self.inputs.clone());
        self.tasks
            .spawn(ask_for_stall(peers, node, address, self.clock, asked, inputs));
    }

    /// Tells workers when they must have ended.
    pub(crate) fn publish(&self, workers_end_at: SharedMoment) {
        self.workers.write(workers_end_at);
    }

    /// What workers read that from.
    pub(crate) fn share_lease(&self) -> std::io::Result<OwnedFd> {
        self.workers.share()
    }
}

/// Opens the gateway of a head on this node. The end of that connection is the end of the head.
pub(crate) async fn open_gateway(
    identity: &Identity,
    head: &Endpoint,
    inputs: mpsc::Sender<Input>,
    tasks: &Tasks,
) -> Result<HeadGateway, RayletError> {
    let socket = dial(identity, head, Target::HeadGateway, GATEWAY_DEADLINE).await?;
    let (sender, mut receiver) =
        frame_connection(socket).map_err(|error| RayletError::os("use the connection to the head", error))?;
    let name = head.to_string();
    let first = next_frame(&mut receiver, GATEWAY_DEADLINE, &name).await?;
    let clock = Some(first)
        .filter(|frame| frame.kind == FrameKind::HeadClock)
        .and_then(|frame| frame.descriptor)
        .ok_or_else(|| RpcError::BadFrame("the head did not share its clock".to_owned()))?;
    tasks.spawn(await_end(receiver, name, inputs));
    Ok(HeadGateway {
        sender,
        clock: MomentReader::new(clock),
    })
}

async fn await_end(mut receiver: FrameReceiver, head: String, inputs: mpsc::Sender<Input>) {
    // The head says nothing more here.
    let _ = receiver.next().await;
    let cause = format!("the head at {head} has ended");
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(Input::Head(HeadEvent::Lost { cause })).await;
}
