//! What the state leaves behind for others: effects for the code around it, events for the router, and the word that
//! something happened for which a thread may wait.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use sparkray_common::TaskId;
use sparkray_proto as proto;
use sparkray_rpc::{Agreement, Endpoint, Target};

use super::events::Event;
use super::ids::ConnId;
use crate::error::CoreError;
use crate::values::Fetched;

/// What the state wants done, beside sending frames.
#[derive(Debug)]
pub(crate) enum Effect {
    Open {
        conn: ConnId,
        endpoint: Endpoint,
        target: Target,
    },
    Close {
        conn: ConnId,
    },
    /// A socket that the raylet accepted for this process.
    Adopt {
        conn: ConnId,
        socket: OwnedFd,
        agreement: Agreement,
    },
    /// Work for the code that embeds the core worker.
    Notify(Notice),
}

/// Something that the embedding code wants to know.
#[derive(Debug)]
pub enum Notice {
    /// Output of workers.
    Log(Vec<proto::LogLine>),
    /// What waits though no node of the cluster can meet it.
    InfeasibleDemand(proto::InfeasibleDemand),
    /// The value of an object that was asked for by [`crate::CoreWorker::fetch_later`].
    Fetched(u64, Result<Fetched, CoreError>),
    /// An error value that nobody asked for is gone, and this many before it of which nothing was said.
    UnhandledError {
        /// The whole value.
        error: Bytes,
        /// How many.
        left_out: u64,
    },
    /// This process takes no more part in the cluster: it has left, its raylet is gone, or its job is over.
    Left,
    /// The function that runs is to end, unless it is over.
    Interrupt(TaskId),
    /// A call of this actor is to end, unless it is over.
    CancelMethod(TaskId),
    /// This process is to end at once.
    ForceExit,
    /// Calls arrived, or this worker is to end; only after [`crate::CoreWorker::announce_work`].
    Work,
}

/// What was decided and not carried out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    effects: Vec<Effect>,
    events: VecDeque<Event>,
    news: bool,
}

impl Outbox {
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        self.effects.push(Effect::Notify(notice));
    }

    /// Tells a part above. The router hands it on when the handler that runs is over.
    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Something happened for which a thread may wait.
    pub(super) fn news(&mut self) {
        self.news = true;
    }

    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.events.is_empty()
    }
}
