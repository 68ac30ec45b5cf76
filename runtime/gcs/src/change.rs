//! One event at work: it reads the tables, and changes them by records alone.
//!
//! A record is applied as soon as it is made, because the next decision of the same event builds on it. All records of an
//! event go to the journal together before anybody outside learns of one of them, so that after a start of the head an
//! event has happened as a whole or not at all.

use std::time::Instant;

use sparkray_common::ActorId;
use sparkray_proto::head_message::Message;

use crate::effects::Effects;
use crate::live::Live;
use crate::placement::Candidate;
use crate::record::Record;
use crate::tables::Tables;

/// What a command works with.
pub(crate) struct Change<'a> {
    now: Instant,
    tables: &'a mut Tables,
    records: &'a mut Vec<Record>,
    pub(crate) live: &'a mut Live,
    pub(crate) effects: &'a mut Effects,
}

impl<'a> Change<'a> {
    /// An event that happens now.
    pub(crate) fn new(
        now: Instant,
        tables: &'a mut Tables,
        records: &'a mut Vec<Record>,
        live: &'a mut Live,
        effects: &'a mut Effects,
    ) -> Self {
        Self {
            now,
            tables,
            records,
            live,
            effects,
        }
    }

    /// The time of the event.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The tables, with all that this event has changed so far.
    pub(crate) fn tables(&self) -> &Tables {
        self.tables
    }

    /// The tables beside the present.
    pub(crate) fn tables_and_live(&mut self) -> (&Tables, &mut Live) {
        (self.tables, self.live)
    }

    /// The living nodes as placement sees them.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        self.live.nodes.candidates(self.tables)
    }

    /// Makes a decision real. It has been checked.
    pub(crate) fn commit(&mut self, record: Record) {
        self.tables.apply(&record);
        self.live.follow(self.now, &record, self.tables);
        self.records.push(record);
    }

    /// Asks for the same message to all living nodes.
    pub(crate) fn send_to_all(&mut self, message: &Message) {
        for node in self.tables.nodes.living_ids() {
            self.effects.send(node, message.clone());
        }
    }

    /// Tells those who watch an actor how it is now.
    pub(crate) fn publish(&mut self, id: ActorId) {
        let Some(actor) = self.tables.actors.get(id) else {
            return;
        };
        for node in &actor.watchers {
            self.effects.send(*node, Message::Actor(actor.update()));
        }
    }
}
