//! The journal: all records, in the order in which they changed the tables.
//!
//! Invariants:
//! 1. Records have consecutive numbers, the first is 1.
//! 2. What is appended together becomes durable together.
//! 3. What has become durable stays so, and the number never falls.

#[cfg(test)]
mod tests;

use tokio::sync::watch;

use crate::record::{Record, RecordNumber};

/// Keeps records, so that a head that starts can make its tables again. A journal that cannot keep what it took ends the
/// head: its tables are ahead of what will be found.
pub(crate) trait Journal: std::fmt::Debug + Send {
    /// Takes the records of one event, and says the number of the last one. They may become durable later.
    fn append(&mut self, records: Vec<Record>) -> RecordNumber;

    /// The number up to which all records are durable. Who holds the receiver is woken when the number grows.
    fn durable(&self) -> watch::Receiver<RecordNumber>;
}

/// A journal that lasts as long as the head. It counts the records and keeps none: nobody can read them when the head has
/// ended, and nobody has to before.
#[derive(Debug, Default)]
pub(crate) struct MemoryJournal {
    durable: watch::Sender<RecordNumber>,
}

impl Journal for MemoryJournal {
    fn append(&mut self, records: Vec<Record>) -> RecordNumber {
        let mut last = 0;
        self.durable.send_if_modified(|durable| {
            *durable += records.len() as RecordNumber;
            last = *durable;
            // Nobody can wait for a number that was not given out yet.
            false
        });
        last
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.durable.subscribe()
    }
}
