//! The state, the journal and the streams: what is behind the one lock of the service.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use sparkray_common::{Metrics, NodeId};
use sparkray_proto::head_message::Message;
use sparkray_proto::{NodeMessage, RegisterNode, Registered, node_message};
use tokio::sync::watch;
use tracing::warn;

use super::metrics::JournalMetrics;
use super::session::{Attached, QUEUE, Session};
use crate::effects::Effect;
use crate::journal::Journal;
use crate::record::{Record, RecordNumber};
use crate::state::HeadState;

/// Records that may wait to become durable, and events whose effects may wait for them. While there are more, the head
/// stands still. All of them have room in a node's queue when they are let go.
pub(super) const BEHIND: usize = QUEUE / 4;

#[derive(Debug)]
pub(super) struct Locked {
    state: HeadState,
    journal: Box<dyn Journal>,
    durable: watch::Receiver<RecordNumber>,
    /// The last record that was appended: whoever saw the state, saw it with this one.
    last: RecordNumber,
    /// Effects of events, oldest first, each with the record that must be durable before.
    held: VecDeque<(RecordNumber, Vec<Effect>)>,
    sessions: HashMap<NodeId, Session>,
    last_stream: u64,
    /// Counts events after which somebody may wait for a placement group no more.
    settled_groups: watch::Sender<u64>,
    metrics: JournalMetrics,
}

/// How a node is to be answered that wants to attach.
pub(super) struct Registering {
    pub(super) answer: Registered,
    /// The node and the number of its stream, unless it is refused.
    pub(super) stream: Option<(NodeId, u64)>,
    /// Must be durable before the node is answered; `None`: all is.
    pub(super) after: Option<RecordNumber>,
}

impl Locked {
    pub(super) fn new(state: HeadState, journal: Box<dyn Journal>) -> Self {
        let durable = journal.durable();
        let last = *durable.borrow();
        Self {
            state,
            journal,
            durable,
            last,
            held: VecDeque::new(),
            sessions: HashMap::new(),
            last_stream: 0,
            settled_groups: watch::Sender::new(0),
            metrics: JournalMetrics::default(),
        }
    }

    /// The record that must be durable for the head to go on.
    pub(super) fn needed_to_run(&self) -> RecordNumber {
        let for_records = self.last.saturating_sub(BEHIND as RecordNumber);
        let oldest_too_many = self.held.len().checked_sub(BEHIND);
        let for_effects = oldest_too_many.and_then(|place| self.held.get(place));
        for_records.max(for_effects.map_or(0, |(after, _)| *after))
    }

    /// Changes when groups are created or removed.
    pub(super) fn settled_groups(&self) -> watch::Receiver<u64> {
        self.settled_groups.subscribe()
    }

    /// What this head has counted, as text.
    pub(super) fn render_metrics(&self) -> String {
        let mut metrics = Metrics::default();
        self.state.list_metrics(&mut metrics);
        metrics.gauge(
            "ray_gcs_streams",
            "Nodes that the head can tell something",
            self.sessions.len() as u64,
        );
        metrics.gauge(
            "ray_gcs_journal_waiting_records",
            "Records that the journal has not made durable yet",
            self.last.saturating_sub(*self.durable.borrow()),
        );
        metrics.gauge(
            "ray_gcs_journal_waiting_events",
            "Events whose consequences wait for the journal",
            self.held.len() as u64,
        );
        self.metrics.list(&mut metrics);
        metrics.render()
    }

    /// A client asks something.
    pub(super) fn ask<T>(
        &mut self,
        request: impl FnOnce(&mut HeadState, Instant) -> T,
    ) -> (T, Option<RecordNumber>) {
        self.metrics.asked();
        self.change(request)
    }

    /// Lets an event change the state. What it answers may leave when the returned record is durable; `None`: now.
    pub(super) fn change<T>(
        &mut self,
        event: impl FnOnce(&mut HeadState, Instant) -> T,
    ) -> (T, Option<RecordNumber>) {
        let now = Instant::now();
        let outcome = event(&mut self.state, now);
        self.journal_event();
        let after = self.last;
        let durable = self.carry_out(now);
        (outcome, (after > durable).then_some(after))
    }

    /// A node wants to attach.
    pub(super) fn register(&mut self, register: RegisterNode) -> Registering {
        let now = Instant::now();
        let outcome = self.state.attach(now, register);
        self.journal_event();
        let after = self.last;
        let mut answer = Registered::default();
        let stream = match outcome {
            Ok(node) => {
                let session = self.sessions.entry(node).or_default();
                answer.head_epoch = self.state.head_epoch();
                answer.received = session.received(*self.durable.borrow());
                answer.view = Some(self.state.view());
                self.last_stream += 1;
                Some((node, self.last_stream))
            }
            Err(failure) => {
                warn!(reason = failure.message, "refused a node");
                answer.failure = Some(failure);
                None
            }
        };
        // With the session, so that the node gets its first messages.
        let durable = self.carry_out(now);
        Registering {
            answer,
            stream,
            after: (after > durable).then_some(after),
        }
    }

    /// Takes what came over a stream; `false` when it is not the node's any more.
    pub(super) fn take_message(&mut self, attached: &Attached, message: NodeMessage) -> bool {
        let now = Instant::now();
        let node = attached.node;
        let Some(session) = self.sessions.get_mut(&node) else {
            return false;
        };
        if !session.hears(attached, message.received) {
            return false;
        }
        if let Some(node_message::Message::Heartbeat(heartbeat)) = message.message {
            // The dead are not answered, also while their death is not durable: they would go on.
            if self.state.heard(now, node) {
                session.answer_heartbeat(heartbeat, *self.durable.borrow());
            }
            return true;
        }
        let sequence = message.sequence;
        match session.takes_message(sequence) {
            Ok(false) => return true,
            Ok(true) => {}
            Err(gap) => {
                // It attaches again, and sends what is missing.
                warn!(node_id = %node, %gap, "ended a stream that skips messages");
                session.forget_stream();
                return false;
            }
        }
        if let Err(error) = self.state.node_message(now, node, message) {
            warn!(node_id = %node, %error, "ignored a message that breaks the protocol");
        }
        self.journal_event();
        if let Some(session) = self.sessions.get_mut(&node) {
            session.took(sequence, self.last);
        }
        self.carry_out(now);
        true
    }

    /// Whether this is the stream that its node has confirmed last.
    pub(super) fn is_read(&self, attached: &Attached) -> bool {
        let session = self.sessions.get(&attached.node);
        session.is_some_and(|session| session.reads(attached))
    }

    /// Ends all streams.
    pub(super) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Carries out the effects of all events whose records are durable; the death of a node that does not read makes new
    /// ones. Returns the record up to which all is done.
    pub(super) fn carry_out(&mut self, now: Instant) -> RecordNumber {
        loop {
            self.journal_event();
            let durable = *self.durable.borrow();
            let is_durable = |(after, _): &mut (RecordNumber, Vec<Effect>)| *after <= durable;
            let Some((_, effects)) = self.held.pop_front_if(is_durable) else {
                return durable;
            };
            self.send(now, effects, durable);
        }
    }

    /// Appends what an event has changed, and holds back what it asks for.
    fn journal_event(&mut self) {
        let records = self.state.take_records();
        if records.iter().any(Record::settles_a_group) {
            self.settled_groups.send_modify(|count| *count += 1);
        }
        if !records.is_empty() {
            self.metrics.appended(records.len());
            self.last = self.journal.append(records);
        }
        let effects = self.state.take_effects();
        if !effects.is_empty() {
            self.held.push_back((self.last, effects));
        }
    }

    /// Gives one event's messages to the sessions: those for one node together.
    fn send(&mut self, now: Instant, effects: Vec<Effect>, durable: RecordNumber) {
        let mut batches: HashMap<NodeId, Vec<Message>> = HashMap::new();
        for effect in effects {
            match effect {
                Effect::Send { node, message } => {
                    if let Some(session) = self.sessions.get_mut(&node)
                        && session.has_room_for(node, &message)
                    {
                        batches.entry(node).or_default().push(message);
                    }
                }
                Effect::Detach { node } => {
                    if let Some(session) = self.sessions.remove(&node) {
                        session.end(batches.remove(&node).unwrap_or_default(), durable);
                    }
                }
            }
        }
        for (node, batch) in batches {
            if let Some(session) = self.sessions.get_mut(&node)
                && let Err(cause) = session.send(batch, durable)
            {
                self.state.detach(now, node, cause);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn last(&self) -> RecordNumber {
        self.last
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> &HeadState {
        &self.state
    }

    #[cfg(test)]
    pub(super) fn has_session(&self, node: NodeId) -> bool {
        self.sessions.contains_key(&node)
    }
}
