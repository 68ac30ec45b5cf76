//! This node's lease: how long it may believe that the head counts on it, what ends with it, and what proves that the
//! head itself stands still. The decisions are in `sparkray_common::NodeLease`.
//!
//! The head is cut off, or it does not run: only in the first case does time count against this node. What proves the
//! second is the note of the head's last tick, in memory that it shares with the raylet of its node; the other nodes ask
//! that raylet.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sparkray_common::{MomentClock, NodeLease, PROVEN_STALL, SharedMoment};
use sparkray_proto::{FrameKind, HeadLost, HeadStall, HeadStallReply};
use sparkray_rpc::{Frame, MomentReader, MomentWriter, RpcError, clock_now};
use tracing::{debug, error};

use crate::error::RayletError;
use crate::input::Event;
use crate::raylet::Raylet;

/// When the head has acknowledged nothing for this long, its node is asked whether it runs.
const ASK_AFTER: Duration = Duration::from_millis(1500);
/// The next question follows the last answer after this time.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// The lease, and where others read it.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: MomentClock,
    granted: NodeLease,
    /// Workers read there when they must have ended.
    workers: MomentWriter,
    /// The head's last tick, when it runs on this node.
    head_clock: Option<MomentReader>,
    /// Address of the raylet of the head's node, when that is another one.
    head_address: Option<String>,
    asking: bool,
    next_question: Duration,
    ended: bool,
}

impl Lease {
    /// As granted at the registration, which was sent at `sent`.
    pub(crate) fn new(
        clock: MomentClock,
        granted: NodeLease,
        head_clock: Option<MomentReader>,
        head_address: Option<String>,
    ) -> std::io::Result<Self> {
        let lease = Self {
            clock,
            granted,
            workers: MomentWriter::new("sparkray-lease")?,
            head_clock,
            head_address,
            asking: false,
            next_question: Duration::ZERO,
            ended: false,
        };
        lease.tell_workers();
        Ok(lease)
    }

    /// The head has what was sent at `sent`.
    pub(crate) fn acknowledged(&mut self, sent: Duration) {
        self.granted.acknowledged(sent);
    }

    /// Nobody will take this node's place any more: it needs no lease.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.workers.write(SharedMoment {
            clock: self.clock,
            at: Duration::MAX,
        });
    }

    /// For a worker.
    pub(crate) fn share(&self) -> std::io::Result<OwnedFd> {
        self.workers.share()
    }

    fn tell_workers(&self) {
        self.workers.write(SharedMoment {
            clock: self.clock,
            at: self.granted.workers_end_at(),
        });
    }

    /// How long the head of this node provably has not run.
    fn head_stall(&self) -> Option<Duration> {
        let last_tick = self.head_clock.as_ref()?.read()?;
        let since = clock_now(last_tick.clock).saturating_sub(last_tick.at);
        (since >= PROVEN_STALL).then_some(since)
    }
}

impl Raylet {
    /// Ten times a second: ends this node before the head's patience with it may end.
    pub(crate) fn tend_lease(&mut self) {
        if self.head.lease.ended || self.failure.is_some() {
            return;
        }
        let lease = &mut self.head.lease;
        let now = clock_now(lease.clock);
        if let Some(stall) = lease.head_stall() {
            lease.granted.excuse(now.saturating_sub(stall), now);
        }
        if now >= lease.granted.fence_at() {
            return self.fence(now);
        }
        lease.tell_workers();
        self.ask_for_stall(now);
    }

    fn fence(&mut self, now: Duration) {
        let failure = RayletError::CutOff {
            node: self.node.node_id,
            head: self.head.name.clone(),
            seconds: self.head.lease.granted.age(now).as_secs_f64(),
        };
        error!(%failure, "this node ends");
        let lost = HeadLost {
            cause: failure.to_string(),
        };
        self.clients.broadcast(FrameKind::HeadLost, &lost);
        self.failure = Some(failure);
    }

    /// Asks the raylet of the head's node whether the head runs, when it is silent.
    fn ask_for_stall(&mut self, now: Duration) {
        let lease = &mut self.head.lease;
        if lease.asking || now < lease.next_question || lease.granted.age(now) < ASK_AFTER {
            return;
        }
        let Some(address) = lease.head_address.clone() else {
            return;
        };
        let Some(node) = self.view.at_address(&address) else {
            return;
        };
        lease.asking = true;
        let (peers, events, clock) = (self.peers.clone(), self.events.clone(), lease.clock);
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            let question = || Frame::new(FrameKind::HeadStall, 1, &HeadStall {});
            let answer = tokio::select! {
                () = cancel.cancelled() => return,
                answer = peers.ask(node, &address, question, ASK_DEADLINE) => answer,
            };
            let answered = clock_now(clock);
            let answer = answer.and_then(|frame| frame.decode::<HeadStallReply>());
            let answer = match answer {
                Ok(reply) => Some((answered, Duration::from_nanos(reply.stalled_nanos))),
                Err(error) => {
                    debug!(%error, "the raylet of the head's node does not say whether the head runs");
                    None
                }
            };
            // The receiver is gone only when the raylet ends.
            let _ = events.send(Event::HeadStall { asked: now, answer }).await;
        });
    }

    /// The answer: the head did not run at any time between `answered` less the stall and `asked`, whenever in between
    /// the other raylet looked.
    pub(crate) fn head_stall_answered(&mut self, asked: Duration, answer: Option<(Duration, Duration)>) {
        let lease = &mut self.head.lease;
        lease.asking = false;
        lease.next_question = clock_now(lease.clock) + ASK_INTERVAL;
        if let Some((answered, stall)) = answer {
            lease.granted.excuse(answered.saturating_sub(stall), asked);
        }
    }

    /// HeadStall.
    pub(crate) fn tell_head_stall(&self, connection: u64, frame: &Frame) -> Result<(), RpcError> {
        let _: HeadStall = frame.decode()?;
        let stall = self.head.lease.head_stall().unwrap_or_default();
        let reply = HeadStallReply {
            stalled_nanos: u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX),
        };
        self.clients
            .send(connection, FrameKind::HeadStallReply, frame.correlation, &reply);
        Ok(())
    }
}

/// By which clock a node's lease is measured: one that goes on while this machine is suspended, unless the head is on it
/// too and is suspended with it.
pub(crate) fn clock_beside(head_on_this_machine: bool) -> MomentClock {
    if head_on_this_machine {
        MomentClock::Monotonic
    } else {
        MomentClock::Boottime
    }
}
